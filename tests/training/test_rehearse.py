"""A rehearsal finds what would end a run, touches nothing, and its twin is the model in small."""

import functools
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace
from typing import IO, Any

import pytest
import torch
import yaml
from planted import PLANTED, Planted, Work, planted
from published import PUBLISHED, write_published
from runs import Tree, config_of, flux_tree, merged

from finetrainers.config import ModelConfig
from finetrainers.distributed.layout import Layout
from finetrainers.errors import ModelError
from finetrainers.models import Model, open_model
from finetrainers.training.output_size import exported_bytes, num_checkpoints, num_exported
from finetrainers.training.plan.encoders import text_passes
from finetrainers.training.rehearse import worker, workers
from finetrainers.training.rehearse.run import Rehearsing, rehearse
from finetrainers.training.rehearse.shrink import Widths, small_denoiser, small_encoder
from finetrainers.training.rehearse.twin import FIRST_STEPS, MAX_HELD_OUT, share, twin_config, twin_tree
from finetrainers.training.rehearse.twin_model import write_twin
from finetrainers.training.rehearse.workers import Workers
from finetrainers.training.run import train


def errors_of(work: Work, **how: Any) -> list[str]:
    file = work.root / "config.yaml"
    file.write_text(yaml.safe_dump(work.tree))
    return rehearse(file, how=Rehearsing(processes=work.processes, free=work.free, **how)).errors


def contents(root: Path) -> dict[str, tuple[int, float]]:
    return {str(f.relative_to(root)): (f.stat().st_size, f.stat().st_mtime) for f in root.rglob("*") if f.is_file()}


QUICK = [error for error in PLANTED if not error.twin]


def marks_of(error: Planted) -> list[pytest.MarkDecorator]:
    return [pytest.mark.distributed if error.kind == "processes" else pytest.mark.long] * error.is_long


TWIN = [pytest.param(error, marks=marks_of(error), id=error.name) for error in PLANTED if error.twin]
LATE = [
    error for error in PLANTED if error.trains and (error.before is not None or error.where not in ("start", "planning"))
]
"""Those that ``train`` does not find by checks that others test, or that it used to find late."""


@pytest.mark.parametrize("error", QUICK, ids=lambda error: error.name)
def test_a_planted_error_is_found_before_the_twin_is_built(error: Planted, work: Work) -> None:
    with planted(error, work):
        found = errors_of(work, with_twin=False)
    assert len(found) == 1, found
    assert re.search(error.message, found[0], re.DOTALL), found


@pytest.mark.parametrize("error", TWIN)
def test_a_planted_error_is_found_by_the_twin(error: Planted, work: Work) -> None:
    with planted(error, work):
        found = errors_of(work)
    assert len(found) == 1, found
    assert re.search(error.message, found[0], re.DOTALL), found


def test_there_are_forty_planted_errors_of_all_kinds() -> None:
    assert len({error.name for error in PLANTED}) == len(PLANTED) >= 40
    assert {error.kind for error in PLANTED} == {"config", "data", "model", "disk", "permissions", "processes"}


def table_rows() -> list[str]:
    """Of docs/measured_rehearse.md."""
    rows = []
    for error in PLANTED:
        before = "" if error.before is None else f" (was: {error.before})"
        rows.append(f"| {error.kind} | {error.name} | {error.where}{before} | {'twin' if error.twin else 'checks'} |")
    return rows


def test_the_table_of_the_docs_is_the_list() -> None:
    page = (Path(__file__).parents[2] / "docs" / "measured_rehearse.md").read_text()
    found = [line for line in page.splitlines() if re.match(r"\| (config|data|model|disk|permissions|processes) \|", line)]
    assert found == table_rows()


@pytest.mark.long
@pytest.mark.parametrize("error", LATE, ids=lambda error: error.name)
def test_a_planted_error_ends_a_run_where_the_table_says(error: Planted, work: Work) -> None:
    """None of them is one that a run would have lived with."""
    with planted(error, work), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checkpoints that are passed over
        with pytest.raises(Exception):  # noqa: B017, PT011  # those of the user's own code are of any kind
            train(config_of(work.tree))
    assert where_it_ended(Path(work.tree["output_dir"])) == error.where


def where_it_ended(run: Path) -> str:
    """The stage that came after the last one that is recorded; of a run that went on, of its last start."""
    if not (run / "events.jsonl").is_file():
        return "start"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    begun = max((number + 1 for number, event in enumerate(events) if event["event"] == "end"), default=0)
    if begun == len(events):
        return "start"
    done = [event["stage"] for event in events[begun:] if event["event"] == "stage"]
    stages = ("planning", "encoding", "loading", "first step")
    return next((stage for stage in stages if stage not in done), "end")


def test_a_run_that_would_train_is_rehearsed_whole_and_nothing_of_the_user_is_touched(
    work: Work, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")  # of this test alone: others rehearse at the same time
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    work.prompts({"prompt": "a red ball", "num_inference_steps": 30})
    validation = {"held_out": 0.3, "every": 100, "patience": 3, "min_delta": 0.01}
    work.change(validation=validation, train={"steps": 1000, "ema_decay": 0.9}, checkpoint={"keep_best": True})
    file = work.root / "config.yaml"
    file.write_text(yaml.safe_dump(work.tree))
    before = contents(work.root)
    findings = rehearse(file)
    assert findings.errors == []
    assert contents(work.root) == before
    assert not list(temporary.glob("finetrainers-rehearse-*"))
    names = [
        part.name.partition(" ")[2].split(" ")[0].rstrip(",") for part in findings.parts if part.name.startswith("twin: ")
    ]
    assert names == ["its", "its", "encode", "train", "resume", "load"]
    assert findings.lines()[-1].startswith("OK")
    assert findings.report()["ok"]


def test_a_run_that_encodes_on_the_fly_is_rehearsed_without_a_stage_that_it_does_not_have(work: Work) -> None:
    work.change(cache={"encode": "on_the_fly", "max_gb": 1.0})
    file = work.root / "config.yaml"
    file.write_text(yaml.safe_dump(work.tree))
    findings = rehearse(file)
    assert findings.errors == []
    names = [part.name for part in findings.parts]
    assert "twin: encode" not in names
    assert any(name.startswith("twin: load the weights") for name in names)


def test_all_errors_that_do_not_hide_each_other_are_told_at_once(work: Work) -> None:
    work.change(output_dir=str(work.root / "data"), parallel={"replicate": 3}, tuning={"targets": ["none"]})
    found = errors_of(work)
    assert [error.split(":")[0] for error in found] == ["train.batch_size", "output_dir", "tuning.targets"]


def test_the_command_prints_json_and_ends_with_the_status_of_a_user_error(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    from finetrainers.cli import main

    work.change(tuning={"targets": ["none"]})
    (work.root / "c.yaml").write_text(yaml.safe_dump(work.tree))
    status = main(["rehearse", str(work.root / "c.yaml"), "--json", "--disk", "1GB", "seed=5"])
    report = json.loads(capsys.readouterr().out)
    assert (status, report["ok"]) == (2, False)
    assert [part["name"] for part in report["parts"] if part["errors"]] == ["data and prompts"]


def test_a_caption_that_is_cut_is_told_and_is_no_error(work: Work) -> None:
    (work.data / "01.txt").write_text("a red ball " * 30)
    (work.root / "c.yaml").write_text(yaml.safe_dump(work.tree))
    findings = rehearse(work.root / "c.yaml", how=Rehearsing(with_twin=False))
    assert findings.errors == []
    assert "1 captions are longer than model.max_sequence_length (16 tokens)" in findings.warnings[0]


# -- twins ------------------------------------------------------------------------------------------------------------

MODELS = {
    "flux": ("flux", "dev"), "ltx_video": ("ltx_video", "0.9.0"), "wan": ("wan", "2.1-t2v"), "wan i2v": ("wan", "2.1-i2v"),
    "hunyuan_video": ("hunyuan_video", "t2v"), "cogvideox": ("cogvideox", "5b"), "cogview4": ("cogview4", "6b"),
}  # fmt: skip


@pytest.fixture(scope="module")
def published(tiny: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model by its published config files, without weights."""
    root = tmp_path_factory.mktemp("published")

    @functools.cache
    def make(name: str) -> Path:
        return write_published(tiny(*MODELS[name]), root / name.replace(" ", "-"), PUBLISHED[name])

    return make


LONG = [pytest.param(name, marks=[pytest.mark.long] * (name not in ("flux", "ltx_video"))) for name in MODELS]


@pytest.mark.parametrize("name", LONG)
def test_a_twin_is_small_and_keeps_what_decides_sizes_and_tasks(
    name: str, published: Callable[[str], Path], tmp_path: Path
) -> None:
    real = open_model(ModelConfig(path=str(published(name))))
    twin = open_model(ModelConfig(path=str(write_twin(real, tmp_path / "twin"))))
    assert sum(file.stat().st_size for file in (tmp_path / "twin").rglob("*.safetensors")) < 200 * 10**6
    assert (twin.task, twin.pipeline_class, twin.max_length) == (real.task, real.pipeline_class, real.max_length)
    assert twin.adapter.grid == real.adapter.grid
    assert twin.adapter.training == real.adapter.training
    assert [type(module) for module in kinds_of(twin)] == [type(module) for module in kinds_of(real)]


def kinds_of(model: Model) -> list[Any]:
    """One module of each kind that a denoiser is made of."""
    return list({type(module): module for module in model.pretrained.shell("transformer").modules()}.values())


def test_widths_that_are_equal_stay_equal_and_others_differ() -> None:
    encoders = [{"d_model": 4096}, {"hidden_size": 768, "projection_dim": 768}, {"text_config": {"hidden_size": 1024}}]
    widths = Widths.of(encoders)
    assert len({widths(4096), widths(768), widths(1024)}) == 3
    small = small_denoiser(
        {
            "num_attention_heads": 32, "attention_head_dim": 128, "text_embed_dim": 4096, "cross_attention_dim": 4096,
            "pooled_projection_dim": 768, "in_channels": 4096, "num_layers": 40,
        },
        widths,
    )  # fmt: skip
    assert small["text_embed_dim"] == widths(4096)
    assert small["pooled_projection_dim"] == small_encoder(encoders[1], widths)["hidden_size"]
    assert small["cross_attention_dim"] == 2 * 128
    assert (small["in_channels"], small["attention_head_dim"], small["num_layers"]) == (4096, 128, 2)


def test_the_width_of_two_encoders_together_is_that_of_the_small_ones() -> None:
    """Pooled prompts of Stable Diffusion 3 are as wide as both CLIPs; a denoiser that is as wide by itself stays its own."""
    encoders = [{"hidden_size": 768}, {"hidden_size": 1280}, {"d_model": 4096}]
    widths = Widths.of(encoders)
    both = small_encoder(encoders[0], widths)["hidden_size"] + small_encoder(encoders[1], widths)["hidden_size"]
    sizes = {"num_attention_heads": 32, "attention_head_dim": 64, "pooled_projection_dim": 2048, "cross_attention_dim": 2048}
    assert small_denoiser(sizes | {"num_attention_heads": 24}, widths)["pooled_projection_dim"] == both
    assert small_denoiser(sizes, widths)["cross_attention_dim"] == 2 * 64


@pytest.mark.parametrize("held_out", [{"held_out": 0.3, "patience": 3, "min_delta": 0.01, "max_items": 40}, {}])
def test_a_twin_validates_little_and_keeps_what_follows_from_it(tiny_flux: Path, held_out: Tree) -> None:
    """The configuration is checked as a user's is: a key that had lost what it needs would be refused."""
    validation = {**held_out, "every": 50, "items": 500, "noise_levels": 16}
    tree = flux_tree(
        tiny_flux, Path("/data"), Path("/root"), validation=validation, checkpoint={"keep_best": bool(held_out)}
    )
    config = config_of(tree)
    twin = twin_tree(config, open_model(config.model), (Path("/run"), Path("/cache")), leave_out=lambda _: None)
    found = twin_config(twin).validation
    assert (found.every, found.items, found.noise_levels) == (FIRST_STEPS, MAX_HELD_OUT, 2)
    assert found.max_items == (MAX_HELD_OUT if held_out else config.validation.max_items)
    assert found.patience == config.validation.patience


def test_what_the_processes_of_a_twin_became_ends_with_the_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe of the worker ends with the last process that holds it: it is waited for."""
    program = tmp_path / "worker"
    program.write_text("#!/bin/sh\nsleep 5 &\necho begun\nwait\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with Workers(1, tmp_path) as own:
        assert own._process.stdout is not None
        assert own._process.stdout.readline() == "begun\n"
        ended = time.monotonic()
    assert time.monotonic() - ended < 4


def test_an_unknown_class_of_a_component_is_named(tiny_flux: Path, tmp_path: Path) -> None:
    config = config_of(flux_tree(tiny_flux, tmp_path / "data", tmp_path))
    model = open_model(config.model)
    index = {**model.pretrained.index, "text_encoder": ["transformers", "NoSuchModel"]}
    model = replace(model, pretrained=replace(model.pretrained, index=index))
    with pytest.raises(ModelError, match=r"text_encoder: transformers\.NoSuchModel of model_index\.json cannot be imported"):
        write_twin(model, tmp_path / "twin")
    with pytest.raises(ModelError, match=r"text_encoder: transformers\.NoSuchModel of model_index\.json cannot be imported"):
        list(text_passes(config, model))


def test_what_is_kept_and_exported_is_counted() -> None:
    """Adapters as their float32 masters, once more for each program; the best step besides, and a save for each."""
    sections = {
        "train": {"steps": 100},
        "checkpoint": {"every": 10, "keep": 2, "export": ["comfyui", "kohya"]},
        "validation": {"every": 15, "held_out": 0.1},
    }
    tree = flux_tree(Path("/model"), Path("/data"), Path("/root"), **sections)
    plain, best = config_of(tree), config_of(merged(tree, {"checkpoint": {"keep_best": True}}))
    assert [(num_checkpoints(own), num_exported(own)) for own in (plain, best)] == [(3, 10), (4, 13)]
    newest = config_of(merged(tree, {"checkpoint": {"keep_best": True, "keep_weights": 3}}))
    assert num_exported(newest) == 5
    model = SimpleNamespace(dtype=torch.bfloat16)
    assert exported_bytes(plain, model, trained=10, whole=100) == 10 * (4 + 2 + 2)
    full = config_of({**tree, "tuning": {"kind": "full"}, "checkpoint": {}})
    assert exported_bytes(full, model, trained=10, whole=100) == 100 * 2


class ForkedWorker:
    """What ``Workers`` takes for a worker that ``subprocess.Popen`` has started: a fork, which has imported all it needs."""

    def __init__(self, words: list[str], *, stderr: IO[str], **options: Any) -> None:
        assert words == [sys.executable, "-m", worker.__name__]
        assert options == {"stdin": PIPE, "stdout": PIPE, "text": True, "start_new_session": True}
        (orders, tell), (hear, answers) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                os.dup2(stderr.fileno(), 2)
                os.close(tell)
                sys.stdin, sys.stdout = os.fdopen(orders), os.fdopen(answers, "w")
                worker.main()
            finally:
                os._exit(0)
        os.close(orders)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(tell, "w"), os.fdopen(hear)

    def communicate(self) -> None:
        """Wait for its end."""
        os.waitpid(self.pid, 0)
        self.stdin.close()
        self.stdout.close()


@pytest.mark.distributed
def test_a_run_on_many_devices_is_rehearsed_on_two_processes(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "subprocess", SimpleNamespace(Popen=ForkedWorker, PIPE=PIPE))
    work.change(parallel={"shard": 2, "context": 2}, train={"batch_size": 4, "micro_batch_size": 2})
    (work.root / "c.yaml").write_text(yaml.safe_dump(work.tree))
    findings = rehearse(work.root / "c.yaml")
    assert findings.errors == []
    assert [part.name for part in findings.parts if "2 processes" in part.name]


def test_the_axes_of_a_run_take_turns() -> None:
    tree = {"train": {"batch_size": 2}, "parallel": {"shard": 4, "context": 2, "offload": True, "reshard": 4}}
    first, second = (share(tree, Layout(1, 4, 2), turn) for turn in (0, 1))
    assert first["parallel"] == {"offload": True, "shard": 2}
    assert second["parallel"] == {"context": 2}
    assert first["train"] == second["train"] == {"batch_size": 4}
    assert tree["train"]["batch_size"] == 2
