"""The command line: what it prints, how fast, and with which exit status it ends."""

import json
import logging
import os
import re
import resource
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml

import finetrainers
from finetrainers.cli import entry
from finetrainers.cli.entry import main
from finetrainers.cli.following import _request, tell_after_training
from finetrainers.cli.status import DONE, INTERNAL_ERROR, INTERRUPTED, STOPPED_AT_ONCE, USER_ERROR
from finetrainers.compat.packages import import_quietly
from finetrainers.config import Config
from finetrainers.data.cache.leases import Lease
from finetrainers.data.cache.store import Cache, make_key
from finetrainers.distributed.ending import Program
from finetrainers.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    ModelError,
    NonFiniteError,
    StoppedAtOnceError,
)
from finetrainers.training.finish import Result

HELP_CPU_SECONDS = 0.3
"""What `finetrainers --help` may take."""
HEAVY = ("torch", "diffusers", "transformers", "peft", "numpy", "pyarrow", "av", "PIL", "safetensors", "datasets")
CONFIG = "output_dir: run\nmodel: {path: m}\ndata: [{path: d, buckets: [[1, 64, 64]]}]\n"


def run_python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Config]]:
    """Take the place of training and encoding; hold what they were called with."""
    from finetrainers.training import run as training

    seen: list[tuple[str, Config]] = []

    def train(config: Config) -> Result:
        seen.append(("train", config))
        return Result(Path("run"), Path("run/weights/step-000004"), 4, {"stopped_by": "steps"})

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "encode", lambda config: seen.append(("encode", config)))
    return seen


# -- quick commands ---------------------------------------------------------------------------------------------------


def test_help_takes_little_cpu_time() -> None:
    """CPU time of a process does not depend on what else the machine does; the least of some is without disturbance."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_python("-m", "finetrainers", "--help").returncode == DONE
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < HELP_CPU_SECONDS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("launch --gpus x", "--gpus: 'x' is not a count; give 1 or more"),
        ("launch --cpu 0", "--cpu: '0' is not a count; give 1 or more"),
        ("launch --cpu 1 --max-restarts -1", "--max-restarts: '-1' is not a count; give 0 or more"),
        ("bench --steps 1.5", "--steps: '1.5' is not a count; give 1 or more"),
        ("bench --warmup 0", "--warmup: '0' is not a count; give 1 or more"),
        ("check --processes x", "--processes: 'x' is not a count; give 1 or more"),
        ("rehearse --processes x", "--processes: 'x' is not a count; give 1 or more"),
        ("data inspect --sample -1", "--sample: '-1' is not a count; give 0 or more"),
    ],
)
def test_counts_are_refused_with_the_way_out(words: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert f"{message}, or leave the option out" in capsys.readouterr().err


def test_a_warning_of_ours_is_said_in_words_and_one_of_a_library_as_python_does() -> None:
    own, library = entry.__file__, torch.__file__
    assert entry.format_warning("mind", UserWarning, own, 7) == "warning: mind\n"
    for category, place in ((UserWarning, library), (DeprecationWarning, own)):
        assert f"{place}:7: {category.__name__}: mind" in entry.format_warning("mind", category, place, 7)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["bench", "--help"],
        ["check", "--help"],
        ["rehearse", "--help"],
        ["launch", "--help"],
        ["quickstart", "--help"],
        ["train", "nowhere.yaml"],
        ["data", "prepare", "--help"],
        ["data", "prepare", "nowhere.yaml"],
        ["schema"],
    ],
)
def test_quick_commands_import_no_heavy_library(arguments) -> None:
    program = f"""
        import sys
        from finetrainers.cli import main
        try:
            main({arguments!r})
        except SystemExit:
            pass
        print("imported:", [name for name in {HEAVY!r} if name in sys.modules])
    """
    assert run_python("-c", textwrap.dedent(program)).stdout.endswith("imported: []\n")


def test_imports_are_not_searched_for_garbage_in_a_process_that_is_ours() -> None:
    """What they leave is passed over afterwards, too; in a process of others nothing is changed."""
    program = """
        import gc
        from finetrainers.cli.imports import uncollected
        from finetrainers.distributed.ending import Program
        before = gc.get_freeze_count()  # Python 3.12 begins with some
        for Program.is_ours in (False, True):
            with uncollected():
                within = gc.isenabled()
            print(within, gc.isenabled(), gc.get_freeze_count() > before)
    """
    assert run_python("-c", textwrap.dedent(program)).stdout == "True True False\nFalse True True\n"


@pytest.mark.parametrize("place", ["finetrainers.cli.entry", "torch"])
def test_ctrl_c_in_the_middle_of_an_import_ends_with_one_line(place: str) -> None:
    """Of the first ones, and of those of a command: whatever else the exception would become there."""
    program = f"""
        import importlib.abc, os, signal, sys

        class Pressed(importlib.abc.MetaPathFinder):
            def find_spec(self, name, *_):
                if name == {place!r}:
                    try:
                        os.kill(os.getpid(), signal.SIGINT)
                    except KeyboardInterrupt:
                        raise RuntimeError("made of it by a library") from None

        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.meta_path.insert(0, Pressed())
        sys.argv = ["finetrainers", "models", "tiny", "flux", "/nowhere"]
        from finetrainers.__main__ import start
        start()
    """
    result = run_python("-c", textwrap.dedent(program))
    assert (result.returncode, result.stderr) == (STOPPED_AT_ONCE, "\nfinetrainers: stopped\n")


def test_ctrl_c_that_a_library_makes_an_error_of_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("made of it by a library")

    monkeypatch.setattr("finetrainers.cli.commands.run_schema", fail)
    with pytest.raises(RuntimeError):
        main(["schema"])
    monkeypatch.setattr(Program, "is_interrupted", True)
    assert main(["schema"]) == STOPPED_AT_ONCE
    assert capsys.readouterr().err == "finetrainers: stopped\n"


def test_the_module_is_the_program() -> None:
    result = run_python("-m", "finetrainers", "--version")
    assert (result.returncode, result.stdout) == (DONE, f"finetrainers {finetrainers.__version__}\n")


def test_help_names_all_commands_and_statuses() -> None:
    text = run_python("-m", "finetrainers", "--help").stdout
    commands = (
        "train encode init launch check bench plan rehearse sample export quickstart models schema cache data migrate "
    )
    commands += "examples ui report diff reproduce"
    assert re.findall(r"^    (\w+)\s", text, re.MULTILINE) == commands.split()
    assert re.findall(r"[:;]\s(\d)\s", text[text.index("exit status") :]) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [("trian a.yaml", "train"), ("inspect a.yaml", "data inspect"), ("a.yaml", "train a.yaml"), ("xyz", None)],
)
def test_a_command_that_there_is_not_is_answered_with_the_one_that_is_meant(words, meant, capsys) -> None:
    assert main(words.split()) == USER_ERROR
    told = capsys.readouterr().err
    hint = "" if meant is None else f"; did you mean `finetrainers {meant}`?"
    assert " ".join(told.split()) == (
        f"finetrainers: there is no command {words.split()[0]!r}{hint}" + "; finetrainers --help lists all"
    )


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in `finetrainers train --help | head -1`."""
    command = f"{sys.executable} -m finetrainers train --help | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300, check=False)
    assert (result.stdout.split(":")[0], result.stderr) == ("usage", "")


def test_the_status_is_the_same_where_nobody_reads_the_message() -> None:
    """As after the terminal was closed, or where the reader of a pipe was stopped by the same Ctrl-C."""
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [sys.executable, "-m", "finetrainers", "train", "nowhere.yaml"]
    assert subprocess.run(arguments, stderr=writer, timeout=300, check=False).returncode == USER_ERROR
    os.close(writer)


def test_the_schema_is_valid_and_tells_right_from_wrong(capsys) -> None:
    assert main(["schema"]) == DONE
    schema = json.loads(capsys.readouterr().out)
    jsonschema.validators.validator_for(schema).check_schema(schema)
    right = {"output_dir": "r", "model": {"path": "m"}, "data": [{"path": "d", "buckets": [[1, 64, 64]]}]}
    jsonschema.validate(right, schema)
    for wrong in ({"seed": "x"}, {"train": {"stepz": 1}}, {"tuning": {"kind": "lora", "rank": 0}}, {"model": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**right, **wrong}, schema)
    assert schema["$defs"]["TrainConfig"]["properties"]["steps"]["description"].startswith("Optimizer steps to run.")


# -- exit status ------------------------------------------------------------------------------------------------------


def test_train_prints_where_the_weights_are(config_file, calls, capsys) -> None:
    assert main(["train", str(config_file), "train.steps=5", "--seed", "9", "--push_to_hub"]) == DONE
    ((command, config),) = calls
    assert (command, config.train.steps, config.seed, config.push_to_hub) == ("train", 5, 9, True)
    assert capsys.readouterr().out == "run/weights/step-000004\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--train.steps", "5", "CONFIG", "--data.0.caption_prefix", "foo=bar"],
        ["--data.0.caption_prefix", "foo=bar", "train.steps=5", "CONFIG"],
        ["CONFIG", "--data.0.caption_prefix=foo=bar", "--train.steps=5"],
    ],
    ids=" ".join,
)
def test_overrides_stand_before_or_after_the_file(config_file, calls, words) -> None:
    assert main(["train", *(str(config_file) if word == "CONFIG" else word for word in words)]) == DONE
    ((_, config),) = calls
    assert (config.train.steps, config.data[0].caption_prefix) == (5, "foo=bar")


def test_overrides_without_a_file_say_so(calls, capsys) -> None:
    assert main(["train", "--train.steps", "5"]) == USER_ERROR
    assert "train: no configuration file is among '--train.steps 5'; give CONFIG" in capsys.readouterr().err
    assert not calls


def test_encode_takes_the_same_configuration(config_file, calls) -> None:
    assert main(["encode", str(config_file), "seed=9"]) == DONE
    assert [(command, config.seed) for command, config in calls] == [("encode", 9)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("train.device: 'x' cannot be used"), USER_ERROR),
        (DataError("data: 3 bad samples"), USER_ERROR),
        (ModelError("no model_index.json"), USER_ERROR),
        (CheckpointError("all checkpoints are damaged"), USER_ERROR),
        (NonFiniteError("step 3: the loss is not finite"), USER_ERROR),
        (Interrupted("stopped by SIGTERM while training"), INTERRUPTED),
        (StoppedAtOnceError("stopped; the checkpoint of step 5 is kept"), STOPPED_AT_ONCE),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.usefixtures("calls")
def test_an_error_on_purpose_is_one_message_and_its_status(config_file, monkeypatch, capsys, error, status) -> None:
    def fail(_config: Config) -> None:
        raise error

    monkeypatch.setattr("finetrainers.training.run.train", fail)
    assert main(["train", str(config_file)]) == status
    assert capsys.readouterr().err.splitlines() == [f"finetrainers: {error}"]


def test_a_message_is_broken_between_words_where_a_terminal_has_no_room(monkeypatch) -> None:
    path = "/a/folder/" + "of-a-long-name/" * 8
    message = f"finetrainers: stopped while training, after step 71; start the same command again to go on\n  {path} stays"
    assert entry.folded(message) == message, "what is no terminal gets whole lines"
    monkeypatch.setattr(entry, "is_terminal", lambda: True)
    for width in (60, 80):
        monkeypatch.setattr(entry, "columns", lambda width=width, **_: width)
        lines = entry.folded(message).split("\n")
        assert " ".join(lines).split() == message.split()
        assert [line.strip() for line in lines if len(line) >= width] == [path], "a path stays in one piece"
    for width in (20, 0):
        monkeypatch.setattr(entry, "columns", lambda width=width, **_: width)
        assert entry.folded(message) == message, "a narrow terminal breaks lines better itself, an unknown one may be wide"


@pytest.mark.usefixtures("calls")
def test_ctrl_c_where_nobody_listens_yet_is_one_line(config_file, monkeypatch, capsys) -> None:
    """Such as while libraries are imported."""

    def press(_config: Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("finetrainers.training.run.train", press)
    assert main(["train", str(config_file)]) == STOPPED_AT_ONCE == 130
    assert capsys.readouterr().err.splitlines() == ["finetrainers: stopped"]


def test_an_error_of_ours_has_a_traceback_and_status_1(config_file, tmp_path) -> None:
    program = f"""
        import sys, types
        from finetrainers import cli
        def fail(config):
            raise RuntimeError("a defect")
        cli.commands.quiet_libraries = lambda: None
        sys.modules["finetrainers.training.run"] = types.SimpleNamespace(train=fail, encode=fail)
        raise SystemExit(cli.main(["train", {str(config_file)!r}]))
    """
    result = run_python("-c", textwrap.dedent(program))
    assert result.returncode == INTERNAL_ERROR
    assert "Traceback" in result.stderr
    assert "RuntimeError: a defect" in result.stderr


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["train.stepz=5"], "train.stepz: there is no such key; did you mean 'steps'?"),
        (["--train.steps", "many"], "train.steps: Input should be a valid integer, not 'many'"),
    ],
)
def test_a_wrong_key_is_one_readable_message_and_status_2(config_file, overrides, line) -> None:
    result = run_python("-m", "finetrainers", "train", str(config_file), *overrides)
    assert (result.returncode, result.stdout) == (USER_ERROR, "")
    assert result.stderr == f"finetrainers: the command line is not valid:\n  {line}\n"


def test_a_file_is_blamed_for_its_own_keys_alone(tmp_path, capsys) -> None:
    """A trial that was meant is told of check, whatever command it was asked of."""
    tree = {"output_dir": "run", "model": {"path": "m"}, "data": [{"path": "d", "buckets": [[1, 64, 64]]}]}
    tree = {"output_dir": "run", "model": {"path": "m"}, "data": [{"path": "d", "buckets": [[1, 64, 64]]}]}
    (tmp_path / "c.yaml").write_text(json.dumps({**tree, "tuning": {"kind": "lora", "rnk": 4}}))
    file = str(tmp_path / "c.yaml")
    assert main(["train", "--dry-run", file, "--dry-run", "train.steps=-1"]) == USER_ERROR
    first, own, second, option, value = capsys.readouterr().err.splitlines()
    assert (first, second) == (f"finetrainers: {file} is not valid:", "the command line is not valid:")
    assert own.startswith("  tuning.rnk: there is no such key")
    assert option.startswith("  dry-run: there is no such key; finetrainers check CONFIG ")
    assert value.startswith("  train.steps: ")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file"),
        (["cache", "show", "nowhere"], "there is no folder nowhere; name the cache.path"),
        (["sample", "nowhere", "--prompt", "x"], "there is no folder nowhere (from "),
        (["models", "tiny", "fluxx", "nowhere"], "'fluxx'"),
    ],
)
def test_a_wrong_argument_names_itself(arguments, part, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("finetrainers: ")
    assert part in line
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["cache"],
        ["cache", "prune"],
        ["sample", "run"],
    ],
)
def test_what_argparse_refuses_is_status_2_as_well(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == USER_ERROR
    assert "usage: finetrainers" in capsys.readouterr().err


def test_train_without_a_configuration_shows_what_it_takes(capsys) -> None:
    assert main(["train"]) == USER_ERROR
    without = capsys.readouterr().out
    assert main(["train", "-h"]) == DONE
    assert capsys.readouterr().out == without
    clip = "train.clip_norm  (float; > 0; default 1.0)\n      Gradient clipping: largest norm of the whole gradient"
    assert clip in without


# -- models -----------------------------------------------------------------------------------------------------------


def test_models_lists_families_with_tasks_and_tuning(capsys) -> None:
    assert main(["models", "--json"]) == DONE
    families = {family["family"]: family for family in json.loads(capsys.readouterr().out)}
    assert families["flux"]["tasks"] == ["text-to-image", "image-to-image"]
    assert families["flux"]["pipelines"] == {"text-to-image": "FluxPipeline", "image-to-image": "FluxKontextPipeline"}
    assert families["ltx_video"]["tasks"] == ["text-to-video", "image-to-video", "first-last-frame-to-video"]
    assert set(families) == {"cogvideox", "cogview4", "flux", "hunyuan_video", "ltx_video", "wan"}
    assert families["flux"]["variants"] == ["dev", "schnell", "kontext"]
    assert all(len(family["variants"]) > 0 for family in families.values())
    assert all(set(family["tuning"]) == set(kinds_of("tuning")) for family in families.values())
    assert all(set(family["conditioning"]) == set(kinds_of("conditioning")) for family in families.values())
    assert main(["models"]) == DONE
    text = capsys.readouterr().out
    assert all(f"{name}: {family['description']}\n" in text for name, family in families.items())


def kinds_of(section: str) -> list[str]:
    """The kinds that the configuration takes, from its schema."""
    schema = Config.model_json_schema()

    def places(definition: dict) -> list[str]:
        if "$ref" in definition:
            return [definition["$ref"]]
        return [place for option in definition.get("oneOf", [definition.get("items")]) for place in places(option)]

    found = dict.fromkeys(places(schema["properties"][section]))  # alone, and again as an item of a list
    return [schema["$defs"][place.rpartition("/")[2]]["properties"]["kind"]["const"] for place in found]


@pytest.mark.long
def test_optional_packages_say_nothing_of_themselves(tmp_path: Path) -> None:
    """torchao and bitsandbytes, of kernels that this machine has no use for, where diffusers imports them."""
    folder = tmp_path / "flux"
    result = run_python("-m", "finetrainers", "models", "tiny", "flux", str(folder))
    assert (result.returncode, result.stderr) == (DONE, f"making a tiny flux in {folder}, which can take half a minute\n")


def test_what_a_library_sets_while_it_is_imported_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As diffusers does: else it would warn of what the environment has asked it to be silent about."""
    logger = logging.getLogger("diffusers")
    before = logger.level
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "loud_one.py").write_text("import logging; logging.getLogger('diffusers').setLevel(logging.ERROR)")
    (tmp_path / "loud_two.py").write_text("")
    try:
        for module, level in (("loud_one", logging.ERROR), ("loud_two", logging.WARNING)):
            logger.setLevel(logging.WARNING)
            import_quietly(module)
            assert logger.level == level
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize(
    ("words", "longer"),
    [
        (["c.yaml"], "c.yaml train.steps=80"),
        (["c.yaml", "train.steps=40", "seed=1"], "c.yaml seed=1 train.steps=80"),
        (["c.yaml", "--train.steps", "40", "--seed", "1"], "c.yaml --seed 1 train.steps=80"),
        (["c.yaml", "checkpoint.resume=20"], "c.yaml train.steps=80 checkpoint.resume=latest"),
        (["c.yaml", "--checkpoint.resume", "20", "--seed=1"], "c.yaml --seed=1 train.steps=80 checkpoint.resume=latest"),
    ],
)
def test_a_run_that_is_done_is_followed_by_commands_that_can_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], longer: str
) -> None:
    """To draw what its validation drew, and to train twice as long with the same settings."""
    config = Config.model_validate({**yaml.safe_load(CONFIG), "output_dir": str(tmp_path), "train": {"steps": 40}})
    if "resume" in longer:
        config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"resume": 20})})
    folder = tmp_path / "validation" / "step-000040"
    folder.mkdir(parents=True)
    (folder / "validation.json").write_text('{"prompts": [{"prompt": "a red one"}]}')
    result = Result(tmp_path, tmp_path / "weights", 40, {"stopped_by": "steps"})
    tell_after_training(config, words, result)
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'weights'}\n"
    assert err.splitlines() == [
        f"sample   finetrainers sample {tmp_path} --prompt 'a red one'",
        f"continue finetrainers train {longer}",
    ]


@pytest.mark.parametrize(
    ("drawn", "task", "sections", "words"),
    [
        (None, "text-to-image", {}, "--prompt ..."),
        (None, "image-to-video", {}, "--prompt ... --image FILE"),
        (None, "first-last-frame-to-video", {}, "--prompt ... --image FILE --last-image FILE"),
        (None, "text-to-image", {"kind": "channel_concat", "signal": "canny"}, "--prompt ... --control FILE"),
        (None, "text-to-image", {"kind": "references"}, "--prompt ... --reference FILE"),
        ({"image": None}, "image-to-video", {}, "--prompt a"),
        (
            {"image": "/i i.png", "last_image": "/l.png"},
            "image-to-video",
            {},
            "--prompt a --image '/i i.png' --last-image /l.png",
        ),
        ({"control": "/c.png"}, "text-to-image", {}, "--prompt a --control /c.png"),
        ({"references": ["/a.png", "/b.png"]}, "text-to-image", {}, "--prompt a --reference /a.png --reference /b.png"),
    ],
)
def test_the_command_that_draws_has_the_pictures_of_its_prompt(
    tmp_path: Path, drawn: dict[str, Any] | None, task: str, sections: dict[str, Any], words: str
) -> None:
    tree = {**yaml.safe_load(CONFIG), "output_dir": str(tmp_path), **({"conditioning": sections} if sections else {})}
    config = Config.model_validate(tree)
    (tmp_path / "events.jsonl").write_text(json.dumps({"v": 1, "event": "run", "task": task}) + "\n")
    if drawn is not None:
        folder = tmp_path / "validation" / "step-000040"
        folder.mkdir(parents=True)
        (folder / "validation.json").write_text(json.dumps({"prompts": [{"prompt": "a", **drawn}]}))
    assert shlex.join(_request(config, Result(tmp_path, tmp_path / "weights", 40, {}))) == words


def test_models_tiny_writes_a_pipeline(tmp_path: Path, capsys) -> None:
    assert main(["models", "tiny", "flux", str(tmp_path / "flux")]) == DONE
    assert capsys.readouterr().out == f"{tmp_path / 'flux'}\n"
    assert json.loads((tmp_path / "flux" / "model_index.json").read_text())["_class_name"] == "FluxPipeline"


# -- cache ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Six items of about a kilobyte; number 0 is the least recently used."""
    cache = Cache(tmp_path / "cache")
    for number in range(6):
        kind, key = ("latents", "text")[number % 2], make_key(number)
        cache.write(kind, key, {"x": torch.full((256,), float(number))}, {"number": str(number)})
        os.utime(cache.file(kind, key), (1e9 + number, 1e9 + number))
    return cache


def numbers_in(cache: Cache) -> list[int]:
    return sorted(int(cache.read(entry.kind, entry.key)[1]["number"]) for entry in cache.entries())


def run_cache(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    status = main(["cache", *map(str, arguments)])
    return status, capsys.readouterr().out


def test_cache_show_counts_items(cache: Cache, capsys) -> None:
    assert run_cache(capsys, "show", cache.root) == (DONE, "latents: 3 items, 0.000 GB\ntext: 3 items, 0.000 GB\n")


def test_cache_prune_keeps_what_living_runs_need_and_says_so(cache: Cache, capsys) -> None:
    with closing(Lease(cache.root)) as lease:
        lease.renew()
        for entry in list(cache.entries())[:2]:
            assert cache.has(entry.kind, entry.key)
        status, said = run_cache(capsys, "prune", "--max-gb", "0", cache.root)
    assert status == DONE
    assert "removed 4 items" in said
    assert "kept 2 items, 0.000 GB, that living runs need" in said
    assert len(numbers_in(cache)) == 2


def test_cache_show_takes_the_folder_cache_by_default(cache: Cache, capsys, monkeypatch) -> None:
    monkeypatch.chdir(cache.root.parent)
    assert run_cache(capsys, "show")[1].startswith("latents: 3 items")


def flip_a_bit(file: Path, place: int) -> None:
    contents = bytearray(file.read_bytes())
    contents[place] ^= 1
    file.write_bytes(contents)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda file: os.truncate(file, 700),
    "empty": lambda file: os.truncate(file, 0),
    "one bit of a number": lambda file: flip_a_bit(file, -5),
    "one bit of the header": lambda file: flip_a_bit(file, 3),
    "another format": lambda file: file.write_bytes(b"\x89PNG" * 99),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_cache_verify_finds_and_removes_what_is_damaged(cache: Cache, capsys, kind: str) -> None:
    key = make_key(3)
    DAMAGES[kind](cache.file("text", key))
    status, text = run_cache(capsys, "verify", cache.root)
    assert status == USER_ERROR
    assert text == f"removed {cache.file('text', key)}: damaged\n5 items are whole, 1 were damaged\n"
    assert numbers_in(cache) == [0, 1, 2, 4, 5]
    assert run_cache(capsys, "verify", cache.root) == (DONE, "5 items are whole, 0 were damaged\n")


@pytest.mark.parametrize("action", [["verify"], ["prune", "--max-gb", "1"]], ids=lambda words: words[0])
def test_cache_verify_and_prune_remove_what_killed_runs_left(cache: Cache, capsys, action: list[str]) -> None:
    old, new = (cache.file("text", make_key(3)).with_name(f".{name}.tmp") for name in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"a half")
    os.utime(old, (1e9, 1e9))
    assert run_cache(capsys, *action, cache.root)[0] == DONE
    assert (old.exists(), new.exists()) == (False, True)  # the new one may be of a run that is at it now


def test_cache_prune_removes_the_least_recently_used_first(cache: Cache, capsys) -> None:
    cache.has("latents", make_key(0))  # a run looks whether it is there: now it is the most recently used
    sizes = [entry.bytes for entry in cache.entries()]
    status, text = run_cache(capsys, "prune", cache.root, "--max-gb", f"{(sum(sizes) - 3 * min(sizes)) / 1e9:.12f}")
    assert status == DONE
    assert text.startswith("removed 3 items")
    assert numbers_in(cache) == [0, 4, 5]


def test_cache_prune_leaves_what_fits(cache: Cache, capsys) -> None:
    assert run_cache(capsys, "prune", cache.root, "--max-gb", "1")[1].startswith("removed 0 items")
    assert numbers_in(cache) == [0, 1, 2, 3, 4, 5]
    run_cache(capsys, "prune", cache.root, "--max-gb", "0")
    assert numbers_in(cache) == []


def test_a_sample_that_is_there_already_is_said_not_to_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.png", tmp_path / "new.png"
    old.touch()
    os.utime(old, (0, 0))
    new.touch()

    def draw(*_: object, **__: object) -> list[Path]:
        os.utime(new)
        return [old, new]

    monkeypatch.setattr("finetrainers.sampling.sample.sample_run", draw)
    assert main(["sample", str(tmp_path), "--prompt", "a cat"]) == 0
    told = capsys.readouterr()
    assert told.out.split() == [str(old), str(new)]
    assert told.err == "old.png is there already, of the same request: not generated again\n"
