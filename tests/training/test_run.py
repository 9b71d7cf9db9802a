"""A run's directory and its life: one holder, one configuration, paths that hold from anywhere, signals."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetrainers.cli.entry import main
from finetrainers.cli.status import USER_ERROR
from finetrainers.config import Config, dump_config, load_config, parse_config
from finetrainers.config.run import FIXED
from finetrainers.errors import ConfigError, Interrupted, StoppedAtOnceError
from finetrainers.training.directory import run_directory, save_config
from finetrainers.training.paths import absolute
from finetrainers.training.signals import STOPPING, StopSignals

DATA = {"path": "clips", "buckets": [[9, 64, 64]], "caption_prefix": "CRUSH"}
TREE: dict[str, Any] = {
    "output_dir": "runs/x",
    "model": {"path": "user/model"},
    "data": [DATA],
    "tuning": {"rank": 64, "alpha": 64},
    "optimizer": {"name": "adamw", "lr": 5e-5},
    "validation": {"held_out": 0.1},
}


def config_with(**changes: Any) -> Config:
    """The configuration above; ``train__steps=5`` changes train.steps."""
    tree = copy.deepcopy(TREE)
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        node = tree
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        node[leaf] = value
    return parse_config(tree)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- absolute ---------------------------------------------------------------------------------------------------------


def test_all_local_paths_become_absolute(folder: Path) -> None:
    for name in ("model", "vae"):
        (folder / name).mkdir()
    config = absolute(
        config_with(
            model={
                "path": "model",
                "adapter": "code/mine.py:Mine",
                "components": {
                    "vae": {"path": "vae"},
                    "transformer": {"path": "user/other"},
                    "tokenizer": {"dtype": "float32"},
                },
            },
            validation={"data": [{**DATA, "path": "held/out"}], "prompts": "prompts.json"},
            cache={"path": "../cache"},
        )
    )
    assert config.output_dir == folder / "runs/x"
    assert config.model.path == str(folder / "model")
    assert config.model.adapter == f"{folder}/code/mine.py:Mine"
    assert {name: c.path for name, c in config.model.components.items()} == {
        "vae": str(folder / "vae"),
        "transformer": "user/other",
        "tokenizer": None,
    }
    assert config.data[0].path == str(folder / "clips")
    assert config.validation.data[0].path == str(folder / "held/out")
    assert config.validation.prompts == folder / "prompts.json"
    assert config.cache.path == folder / "../cache"


def test_models_in_the_home_folder_are_found(folder: Path, monkeypatch) -> None:
    """~/flux is a folder, and no id on the Hub."""
    monkeypatch.setenv("HOME", str(folder / "home"))
    for name in ("flux", "vae"):
        (folder / "home" / name).mkdir(parents=True)
    model = {"path": "~/flux", "components": {"vae": {"path": "~/vae"}, "transformer": {"path": "~/nowhere"}}}
    config = absolute(config_with(model=model, data=[{**DATA, "path": "~/clips"}]))
    assert config.model.path == str(folder / "home/flux")
    assert config.model.components["vae"].path == str(folder / "home/vae")
    assert config.model.components["transformer"].path == "~/nowhere"
    assert config.data[0].path == str(folder / "home/clips")
    with pytest.raises(ConfigError, match=r"model\.revision: 'main' has no effect: ~/flux is a local folder"):
        config_with(model={"path": "~/flux", "revision": "main"})


def test_the_home_folder_of_nobody_is_an_error() -> None:
    absolute(config_with(model={"path": "~nobody-of-that-name/flux"}))  # opening it says that it is not there
    with pytest.raises(ConfigError, match="~nobody-of-that-name/clips: there is no such home folder"):
        absolute(config_with(data=[{**DATA, "path": "~nobody-of-that-name/clips"}]))


def test_the_number_of_views_is_written_out(folder: Path) -> None:
    """A later version may encode more by default: a run that goes on must not change."""
    config = absolute(config_with(data=[{**DATA, "horizontal_flip": True}, DATA]))
    assert [data.views for data in config.data] == [4, None]
    assert absolute(config) == config


def test_an_id_on_the_hub_stays_and_so_does_what_is_no_path(folder: Path) -> None:
    config = config_with(seed=7, train__clip_norm=float("inf"))
    found, expected = (yaml.safe_load(dump_config(c)) for c in (absolute(config), config))
    expected["output_dir"] = str(folder / "runs/x")
    expected["data"][0]["path"] = str(folder / "clips")
    expected["cache"]["path"] = str(folder / "cache")
    assert found == expected


def test_absolute_paths_stay_from_any_folder(folder: Path, monkeypatch) -> None:
    once = absolute(config_with())
    monkeypatch.chdir("/")
    assert absolute(once) == once


def test_the_saved_configuration_gives_the_run_from_any_folder(folder: Path, monkeypatch) -> None:
    config = absolute(config_with(objective__noise_levels="uniform", tuning={"kind": "full"}))
    with run_directory(config) as directory:
        saved = directory / "config.yaml"
    monkeypatch.chdir("/")
    assert absolute(load_config(saved)) == config
    with run_directory(absolute(load_config(saved))):
        pass


def test_a_step_to_go_back_to_is_of_one_start_alone(folder: Path) -> None:
    """The saved configuration goes on from the latest checkpoint, or it would undo what came after each time."""
    with run_directory(config_with(checkpoint={"resume": 3})) as directory:
        assert load_config(directory / "config.yaml") == config_with()


# -- run_directory ----------------------------------------------------------------------------------------------------


def test_a_second_holder_is_refused_until_the_first_is_gone() -> None:
    with run_directory(config_with()) as directory:
        said = "output_dir: runs/x is in use by another process; stop it, or take another directory"
        with pytest.raises(ConfigError, match=said), run_directory(config_with()):
            pass
        assert directory.is_dir()
    with run_directory(config_with()):
        pass


def test_another_directory_is_free() -> None:
    with run_directory(config_with()), run_directory(config_with(output_dir="runs/y")):
        pass


def test_a_killed_holder_leaves_the_directory_free(folder: Path) -> None:
    (folder / "config.yaml").write_text(dump_config(config_with()))
    program = """
        import time
        from finetrainers.config import load_config
        from finetrainers.training.directory import run_directory
        with run_directory(load_config("config.yaml")):
            print("held", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="in use by another process"), run_directory(config_with()):
            pass
        holder.kill()
    with run_directory(config_with()):
        pass


def begin(config: Config) -> Path:
    """Leave a run that has a checkpoint, and so could be continued."""
    with run_directory(config) as directory:
        (directory / "checkpoints" / "step-000001").mkdir(parents=True)
    return directory


def test_a_run_that_never_got_to_a_checkpoint_may_change_in_everything() -> None:
    with run_directory(config_with()):
        pass
    with run_directory(config_with(seed=7, tuning={"kind": "full"})) as directory:
        assert load_config(directory / "config.yaml").seed == 7


CONTROL = {"kind": "channel_concat", "signal": "gray", "probability": 0.7}
GIVEN = {"kind": "given_frames", "frames": "random", "probability": 0.9}
FIXED_CHANGES = {  # of each key in FIXED: the change, and how the message names it
    "seed": ({"seed": 7}, "seed: 42 -> 7"),
    "model": ({"model__dtype": "float32"}, "model.dtype: 'bfloat16' -> 'float32'"),
    "data": ({"data__0__caption_prefix": "DOG"}, "data.0.caption_prefix: 'CRUSH' -> 'DOG'"),
    "conditioning": (
        {"conditioning": {"kind": "channel_concat", "signal": "gray"}},
        "conditioning.kind: 'none' -> 'channel_concat'",
    ),
    "tuning": ({"tuning__rank": 8}, "tuning.rank: 64 -> 8"),
    "objective": ({"objective__shift": 3.0}, "objective.shift: 'auto' -> 3.0"),
    "optimizer": ({"optimizer__lr": 1e-3}, "optimizer.lr: 5e-05 -> 0.001"),
    "schedule": ({"schedule__warmup_steps": 5}, "schedule.warmup_steps: 0 -> 5"),
    "train.batch_size": ({"train__batch_size": 2}, "train.batch_size: 1 -> 2"),
    "train.ema_decay": ({"train__ema_decay": 0.9}, "train.ema_decay: null -> 0.9"),
    "memory.weights": ({"memory__weights": "fp8_e4m3"}, "memory.weights: 'none' -> 'fp8_e4m3'"),
    "memory.text_encoder_weights": (
        {"memory__text_encoder_weights": "fp8_e5m2"},
        "memory.text_encoder_weights: 'none' -> 'fp8_e5m2'",
    ),
    "validation.held_out": ({"validation__held_out": 0.2}, "validation.held_out: 0.1 -> 0.2"),
    "validation.data": ({"validation": {"data": [DATA]}}, "validation.data: [] -> [{"),
}


def test_each_fixed_key_is_tried_below() -> None:
    assert tuple(FIXED_CHANGES) == FIXED


@pytest.mark.parametrize("key", [key for key, (change, _) in FIXED_CHANGES.items() if change])
def test_a_change_that_makes_it_another_run_is_refused_with_both_values(key: str) -> None:
    change, said = FIXED_CHANGES[key]
    directory = begin(config_with())
    saved = (directory / "config.yaml").read_text()
    with pytest.raises(ConfigError) as error, run_directory(config_with(**change)):
        pass
    first, *lines, last = str(error.value).splitlines()
    assert first == "output_dir: runs/x holds a run with other settings:"
    assert any(line.strip().startswith(said) for line in lines)
    assert last == "Give the old values to continue it, or choose another output_dir"
    assert (directory / "config.yaml").read_text() == saved


def test_changed_settings_can_begin_from_the_weights_where_these_fit() -> None:
    directory = begin(config_with())
    for step in (500, 1000):
        (directory / "weights" / f"step-{step:06d}").mkdir(parents=True)
    (directory / "weights" / "step-002000-backup").mkdir()  # of the user's
    said = "or choose another output_dir, which can begin from these weights: tuning.start_from=runs/x/weights/step-001000"
    with pytest.raises(ConfigError, match=f"{said}$"), run_directory(config_with(optimizer__lr=1e-3)):
        pass
    with pytest.raises(ConfigError, match=f"{said}$"), run_directory(config_with(conditioning=GIVEN)):
        pass
    for change in ({"tuning__rank": 8}, {"conditioning": CONTROL}, {"conditioning": [GIVEN, CONTROL]}):
        with pytest.raises(ConfigError, match="or choose another output_dir$"), run_directory(config_with(**change)):
            pass


def test_a_run_from_before_fps_was_auto_is_told_which_value_to_give() -> None:
    """Its saved configuration says null, which a file of today without the key does not mean."""
    begin(config_with(data=[{**DATA, "fps": None}]))
    with (
        pytest.raises(ConfigError, match=r"\n  data\.0\.fps: null -> 'auto'\nGive the old values"),
        run_directory(config_with()),
    ):
        pass
    with run_directory(config_with(data=[{**DATA, "fps": None}])):
        pass


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"kind": "none"}, []),
        ({"kind": "none"}, [{"kind": "given_frames"}]),
        (CONTROL, [CONTROL]),
        ([CONTROL, {"kind": "none"}], CONTROL),
        ([CONTROL, GIVEN], [GIVEN, CONTROL]),
    ],
)
def test_conditions_are_the_same_in_whatever_form_they_are_written(before: Any, after: Any) -> None:
    for first, second in ((before, after), (after, before)):
        directory = begin(config_with(output_dir=f"runs/{first is before}", conditioning=first))
        with run_directory(config_with(output_dir=str(directory), conditioning=second)):
            pass


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (CONTROL, {"kind": "none"}, ["conditioning.kind: 'channel_concat' -> 'none'"]),
        (CONTROL, {**CONTROL, "signal": "blur"}, ["conditioning.signal: 'gray' -> 'blur'"]),
        (CONTROL, [{"kind": "none"}, {**CONTROL, "probability": 1.0}], ["conditioning.1.probability: 0.7 -> 1.0"]),
        (
            CONTROL,
            [GIVEN],
            ["0.frames: 'auto' -> 'random'", "0.probability: null -> 0.9", "g.kind: 'channel_concat' -> 'none'"],
        ),
        ([GIVEN, CONTROL], CONTROL, ["conditioning.0.frames: 'random' -> 'auto'", "0.probability: 0.9 -> null"]),
        ([GIVEN], [{**GIVEN, "probability": 0.5}], ["conditioning.0.probability: 0.9 -> 0.5"]),
    ],
)
def test_a_changed_condition_is_named_as_it_is_written(before: Any, after: Any, lines: list[str]) -> None:
    begin(config_with(conditioning=before))
    with pytest.raises(ConfigError) as error, run_directory(config_with(conditioning=after)):
        pass
    said = str(error.value).splitlines()[1:-1]
    assert len(said) == len(lines)
    assert all(found.endswith(line) for found, line in zip(said, lines, strict=True))


@pytest.mark.parametrize(
    ("objective", "conditioning", "today"),
    [
        ({"given_frames": "auto", "first_frame_probability": None}, {"kind": "none"}, {"kind": "none"}),
        ({"given_frames": "random", "first_frame_probability": 0.9}, {"kind": "none"}, GIVEN),
        (
            {"given_frames": "auto", "first_frame_probability": None},
            {"kind": "channel_concat", "signal": "gray", "dropout": 0.3},
            CONTROL,
        ),
        ({"given_frames": "none"}, CONTROL, [CONTROL, {"kind": "given_frames", "frames": "none"}]),
    ],
)
def test_a_run_from_before_given_frames_were_conditions_goes_on(objective: Any, conditioning: Any, today: Any) -> None:
    directory = begin(config_with(conditioning=today))
    file = directory / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**tree, "objective": tree["objective"] | objective, "conditioning": conditioning}))
    (directory / "events.jsonl").write_text(EVENT)
    assert load_config(file) == config_with(conditioning=today)  # as `train runs/x/config.yaml` reads it
    with run_directory(config_with(conditioning=today)):
        pass


def test_all_changed_keys_are_named_at_once() -> None:
    begin(config_with())
    two = [DATA, {**DATA, "path": "more"}]
    with pytest.raises(ConfigError) as error, run_directory(config_with(seed=7, tuning={"kind": "full"}, data=two)):
        pass
    names = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:-1]]
    assert names[:2] == ["seed", "data"]
    assert {"tuning.kind", "tuning.rank"} <= set(names)


@pytest.mark.parametrize(
    "change",
    [
        {"train__steps": 2000},
        {"train__batch_size": 1, "train__micro_batch_size": 1},
        {"train__gradient_checkpointing": True},
        {"train__clip_norm": 0.5},
        {"train__device": "cpu"},
        {"loader__workers": 0},
        {"loader__prefetch": 5},
        {"cache__max_gb": 1.0},
        {"cache": {"encode": "on_the_fly", "max_gb": 1.0}},
        {"checkpoint__every": 5},
        {"validation__every": 5},
        {"validation__prompts": "prompts.json"},
        {"track__tensorboard": True},
        {"memory__vae_tiling": True},
        {"attention__validate": "sage_hub"},
        {"push_to_hub": True},
        {"optimizer": {"lr": 5e-5}},  # the same, by default
        {"optimizer__lr": 0.00005},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_changes_go_on_and_are_saved_once_the_run_does(change) -> None:
    begin(config_with())
    with run_directory(config_with(**change)) as directory:
        assert load_config(directory / "config.yaml") == config_with()
        save_config(config_with(**change))
        assert load_config(directory / "config.yaml") == config_with(**change)


# -- folders of others ------------------------------------------------------------------------------------------------

EVENT = '{"v": 1, "time": 0.5, "event": "run"}\n'


def contents(folder: Path) -> dict[str, str | None]:
    return {str(f.relative_to(folder)): f.read_text() if f.is_file() else None for f in sorted(folder.rglob("*"))}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    "files",
    [
        {"validation/holiday.png": "x", "config.yaml": "mine: true\n"},
        {"config.yaml": dump_config(config_with())},  # as a user writes it, beside where the run is to be
        {"config.yaml": dump_config(config_with()), "events.jsonl": '{"time": 0.5, "event": "run"}\n'},
        {"config.yaml": "mine: true\n", "events.jsonl": EVENT},
        {"config.yaml": ": [", "events.jsonl": "{"},
        {"checkpoints/step-000001/x": "x"},
        {".finetrainers": "mine", "thesis.tex": "years of work"},
    ],
    ids="+".join,
)
def test_a_folder_that_no_run_made_is_refused_and_left_as_it_is(files: dict[str, str]) -> None:
    directory = Path("runs/x")
    write(directory, files)
    before = contents(directory)
    names = ", ".join(sorted({name.partition("/")[0] for name in files}))
    said = f"output_dir: runs/x is a folder that no run made; it holds {names}. Name a new folder"
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"), run_directory(config_with()):
        pass
    assert contents(directory) == before


def test_five_of_many_things_are_named() -> None:
    write(Path("runs/x"), {f"{letter}.txt": "" for letter in "gfedcba"})
    said = r"it holds a\.txt, b\.txt, c\.txt, d\.txt, e\.txt and 2 more\. Name a new folder"
    with pytest.raises(ConfigError, match=said), run_directory(config_with()):
        pass


@pytest.mark.parametrize("names", [[], [".lock"], [".lock", "..finetrainers.tmp"]], ids=len)
def test_what_a_run_leaves_that_was_killed_at_its_first_moment_is_an_empty_folder(names: list[str]) -> None:
    Path("runs/x").mkdir(parents=True)
    write(Path("runs/x"), dict.fromkeys(names, ""))
    with run_directory(config_with()) as directory:
        assert json.loads((directory / ".finetrainers").read_text()) == {"version": 1}


def test_a_run_of_a_version_that_set_no_mark_goes_on_and_gets_one() -> None:
    write(
        Path("runs/x"), {"config.yaml": dump_config(config_with()), "events.jsonl": EVENT, "checkpoints/step-000001/x": ""}
    )
    with pytest.raises(ConfigError, match="holds a run with other settings"), run_directory(config_with(seed=7)):
        pass
    assert not Path("runs/x/.finetrainers").exists()
    with run_directory(config_with()) as directory:
        assert (directory / ".finetrainers").is_file()
        (directory / "events.jsonl").unlink()
    with run_directory(config_with()):
        pass


def test_a_run_without_a_checkpoint_sets_aside_what_was_validated() -> None:
    """A baseline that is there may be of other settings; what else lies there is the user's."""
    with run_directory(config_with()) as directory:
        write(directory, {"validation/step-000000/00.png": "drawn", "validation/best/00.png": "chosen"})
    with run_directory(config_with(seed=7)):
        assert contents(directory / "validation") == {"best": None, "best/00.png": "chosen"}
        assert (directory / "set-aside/0/validation/step-000000/00.png").read_text() == "drawn"


def test_a_run_with_checkpoints_keeps_what_was_validated() -> None:
    write(begin(config_with()), {"validation/step-000000/00.png": "drawn"})
    with run_directory(config_with()) as directory:
        assert (directory / "validation/step-000000/00.png").is_file()
        assert not (directory / "set-aside").exists()


# -- one process ------------------------------------------------------------------------------------------------------


ONE_OF_TWO = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}


def test_one_of_several_processes_is_refused_where_one_does_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ONE_OF_TWO.items():
        monkeypatch.setenv(name, value)
    (folder / "config.yaml").write_text(dump_config(config_with()))
    for command in (["quickstart"], ["bench", "config.yaml"]):
        assert main(command) == USER_ERROR
        said = capsys.readouterr().err.splitlines()[-1]
        assert re.search(
            r"^finetrainers: this command works in one process .* a launcher has started 2: start it once", said
        )
    assert [file.name for file in folder.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("command", ["train", "encode"])
def test_variables_of_a_launcher_that_do_not_fit_are_one_sentence(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**ONE_OF_TWO, "RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    (folder / "config.yaml").write_text(dump_config(config_with()))
    assert main([command, "config.yaml"]) == USER_ERROR
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("finetrainers: ")]
    assert "RANK is 2 and WORLD_SIZE is 2" in said
    assert [file.name for file in folder.iterdir()] == ["config.yaml"]


def test_a_run_that_is_started_once_more_waits_for_its_former_process(folder: Path) -> None:
    """torchrun starts it anew while others of it may still be ending; whoever starts it by hand is told at once."""
    held = threading.Event()

    def hold() -> None:
        with run_directory(config_with()):
            held.set()
            time.sleep(0.5)

    former = threading.Thread(target=hold)
    former.start()
    assert held.wait(10)
    with pytest.raises(ConfigError, match="in use by another process"), run_directory(config_with()):
        pass
    with run_directory(config_with(), attempt=1):
        assert not former.join(10)


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """As in a terminal, also where the tests run in the background of a shell, which ignores some signals."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_asks_to_stop_where_the_run_can(number: signal.Signals) -> None:
    signals, before = StopSignals(kept="x"), signal.getsignal(number)
    with signals.installed():
        assert signal.getsignal(number) != before  # else the signal would end the tests
        signals.raise_if_received("training")
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=rf"^stopped by {number.name}.* while training; start the same command again"):
            signals.raise_if_received("training")
    assert signal.getsignal(number) == before


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_second_ctrl_c_stops_at_once_and_says_what_is_kept(capfd) -> None:
    signals = StopSignals(kept="there is no checkpoint yet")
    with signals.installed():
        os.kill(os.getpid(), signal.SIGTERM)
        press_ctrl_c()  # the first: what SIGTERM asked for goes on
        assert "Ctrl-C again stops at once" in capfd.readouterr().err
        signals.kept = "the checkpoint of step 5 is kept"
        with pytest.raises(StoppedAtOnceError, match="^stopped; the checkpoint of step 5 is kept$"):
            press_ctrl_c()


def test_where_nothing_has_to_be_saved_the_first_signal_stops(capfd) -> None:
    signals = StopSignals(kept="what has been generated is kept", at_once="generating")
    with signals.installed():
        with pytest.raises(Interrupted, match=r"^stopped by SIGINT \(Ctrl-C\) while generating; start the same command"):
            press_ctrl_c()
        with pytest.raises(StoppedAtOnceError, match="^stopped; what has been generated is kept$"):
            press_ctrl_c()


def test_a_signal_that_is_ignored_stays_so() -> None:
    """nohup ignores SIGHUP, so that a closed terminal does not stop the run."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = StopSignals(kept="x")
    with signals.installed():
        os.kill(os.getpid(), signal.SIGHUP)
        signals.raise_if_received("training")
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with StopSignals(kept="x").installed():
            assert signal.getsignal(signal.SIGTERM) != before
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_in_a_thread_listens_to_no_signals() -> None:
    """Only the main thread can: a notebook or a server that trains in a thread goes on working."""
    before, entered = signal.getsignal(signal.SIGTERM), []

    def body() -> None:
        with StopSignals(kept="x").installed():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert entered == [before]
