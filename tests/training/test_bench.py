"""``finetrainers bench``: what it needs, what its figures mean, and what a comparison makes of sets that fail."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from runs import Tree, config_of, merged
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.config import Config, load_config
from finetrainers.errors import ConfigError
from finetrainers.memory.attention_calls import Call
from finetrainers.memory.attention_choice import Trial
from finetrainers.models import open_model
from finetrainers.training.bench import clock, compare as comparing, run as running, settle
from finetrainers.training.bench.clock import Moments, phases_timed
from finetrainers.training.bench.compare import BUILT_IN, compare, read_sets
from finetrainers.training.bench.figures import Comparison, Product, Result, SetResult
from finetrainers.training.bench.operations import _bare, step_tflop
from finetrainers.training.bench.run import Measuring, bench
from finetrainers.training.bench.table import comparison_table, result_table
from finetrainers.training.fit import choice as fitting

CPU = torch.device("cpu")
FULL = {"kind": "full"}
GRAY = {"kind": "channel_concat", "signal": "gray"}
VIDEO, IMAGE = (9, 64, 64), (1, 64, 64)
CASES: dict[str, tuple[str, str, tuple[int, int, int], Tree]] = {
    "cogvideox": ("cogvideox", "5b", VIDEO, {"conditioning": GRAY}),
    "cogview4": ("cogview4", "6b", IMAGE, {"tuning": FULL}),
    "flux": ("flux", "dev", IMAGE, {"train": {"gradient_checkpointing": True}}),
    "kontext": ("flux", "kontext", IMAGE, {"conditioning": {"kind": "references", "pixels": 4096, "step": 16}}),
    "hunyuan_video": ("hunyuan_video", "t2v", VIDEO, {}),
    "ltx_video": ("ltx_video", "0.9.0", VIDEO, {"tuning": FULL, "train": {"ema_decay": 0.9}}),
    "wan": ("wan", "2.1-t2v", VIDEO, {}),
    "wan experts": ("wan", "2.2-t2v-a14b", VIDEO, {}),
}


def quiet(_: str) -> None:
    """Take messages."""


def configs_alone(model: Path, directory: Path) -> Path:
    """A copy of what a bench with random weights may read of a model."""
    parts = [f"{part}/{name}.json" for part in ("transformer", "transformer_2", "vae") for name in ("config",)]
    for name in ("model_index.json", "scheduler/scheduler_config.json", *parts):
        if (model / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(model / name, directory / name)
    return directory


def tree_of(model: Path, root: Path, size: tuple[int, int, int] = IMAGE, **sections: Any) -> Tree:
    """A run whose data is not there."""
    tree = {
        "output_dir": str(root / "run"),
        "model": {"path": str(model), "dtype": "float32", **({"max_sequence_length": 16} if size == IMAGE else {})},
        "data": [{"path": str(root / "no data"), "buckets": [list(size)]}],
        "tuning": {"kind": "lora", "rank": 2, "alpha": 64},
        "optimizer": {"lr": 1e-4},
        "train": {"batch_size": 2, "micro_batch_size": 1, "device": "cpu"},
        "cache": {"path": str(root / "cache")},
    }
    return merged(tree, sections)


@pytest.fixture(scope="module")
def flux(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configs of a tiny FLUX.1."""
    return configs_alone(tiny_flux, tmp_path_factory.mktemp("bench") / "flux")


@pytest.fixture
def config_file(flux: Path, tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree_of(flux, tmp_path)))
    return file


# -- what it needs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_random_weights_need_the_configs_of_a_model_and_nothing_else(
    name: str, tiny: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """No weights, tokenizers, encoders, data or cache; and nothing is written."""
    family, variant, size, sections = CASES[name]
    model = configs_alone(tiny(family, variant), tmp_path / "model")
    config = config_of(tree_of(model, tmp_path, size, **sections))
    result = bench(config, Measuring(steps=1, warmup=1, has_random_weights=True, say=quiet))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    tree = json.loads(result.model_dump_json())
    jsonschema.validate(tree, Result.model_json_schema())
    assert (tree["v"], tree["family"], tree["weights"]) == (1, family, "random")
    (own,) = result.buckets
    assert own.tokens == open_model(config.model).adapter.grid.num_tokens(size)
    assert own.tokens_per_second == pytest.approx(2 * own.tokens / own.seconds.step)
    assert own.tflop > 0
    assert own.share == pytest.approx(own.tflop / own.seconds.step / result.product.tflops)
    assert own.memory.process > 2**27
    assert own.memory.allocated is None


def test_stored_weights_are_those_of_the_model(flux: Path, tiny_flux: Path, tmp_path: Path) -> None:
    once = Measuring(steps=1, warmup=1, say=quiet)
    assert bench(config_of(tree_of(tiny_flux, tmp_path)), once).weights == "stored"
    with pytest.raises(Exception, match=r"has no transformer.diffusion_pytorch_model\.safetensors"):
        bench(config_of(tree_of(flux, tmp_path)), once)


def test_every_bucket_of_every_data_set_is_measured_once(
    flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "step_tflop", lambda *_: 1.0)
    sets = [{"path": "a", "buckets": [[1, 64, 64], [1, 64, 96]]}, {"path": "b", "buckets": [[1, 96, 64], [1, 64, 64]]}]
    config = config_of(tree_of(flux, tmp_path, data=sets))
    result = bench(config, Measuring(steps=1, warmup=1, has_random_weights=True, say=quiet))
    assert [own.bucket for own in result.buckets] == [(1, 64, 64), (1, 64, 96), (1, 96, 64)]
    assert [line.split()[0] for line in result_table(result).splitlines()[3:]] == ["bucket", "1x64x64", "1x64x96", "1x96x64"]


def test_what_is_left_to_auto_is_settled_and_nothing_is_kept(
    flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the largest bucket; whatever there is of a run in output_dir is not looked at."""
    tried: list[tuple[Counter[Call], tuple[str, ...]]] = []

    def try_none(calls: Counter[Call], names: tuple[str, ...], **_: Any) -> list[Trial]:
        tried.append((calls, names))
        return [Trial(name, float(name == "native")) for name in names]

    monkeypatch.setattr(settle, "candidates", lambda *_, **__: ("native", "_native_math"))
    monkeypatch.setattr(settle, "try_backends", try_none)
    monkeypatch.setattr(fitting, "_recorded", lambda _: pytest.fail("a bench goes on with no run"))
    monkeypatch.setattr(running, "step_tflop", lambda *_: 1.0)
    said: list[str] = []
    data = [{"path": "a", "buckets": [[1, 64, 64], [1, 64, 96]]}]
    tree = tree_of(flux, tmp_path, data=data, train={"gradient_checkpointing": True})
    config = config_of(merged(tree, {"memory": {"preset": "auto", "budget": "1GB"}}))
    result = bench(config, Measuring(steps=1, warmup=1, has_random_weights=True, say=said.append))
    assert (result.config["attention"]["train"], result.config["memory"]["preset"]) == ("_native_math", "none")
    ((calls, names),) = tried
    assert names == ("native", "_native_math")
    assert {(call.query.shape[0], call.query.shape[2]) for call in calls} == {(1, 16 + 24)}
    config = config_of(merged(tree, {"memory": {"resident_blocks": "auto", "budget": "1GB"}}))
    assert settle.settle_memory(config, said.append).memory.resident_blocks == "all"
    assert any("memory: auto counted" in line for line in said)
    assert "attention.train: auto chooses _native_math; native: 1.00 ms; _native_math: 0.00 ms" in said
    assert not (tmp_path / "run").exists()


# -- what the figures mean --------------------------------------------------------------------------------------------


class Loop:
    """Stands for a trainer of two micro-batches, in whose steps a clock goes on by known times."""

    device = CPU
    after_step: tuple[Callable[..., None], ...] = ()

    def __init__(self) -> None:
        self.now = 0.0
        self.update = Pull(self)

    def micro_losses(self, _batch: object) -> str:
        self.now += 2
        return "losses"

    def step(self) -> None:
        for _ in range(2):
            self.now += 1  # the batch goes to the device
            self.update.backward(self.micro_losses("batch"), batch_size=2)
        self.now += 8
        for callback in self.after_step:
            callback(self, None)


class Pull:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def backward(self, losses: str, *, batch_size: int) -> None:
        assert (losses, batch_size) == ("losses", 2)
        self.loop.now += 4


def test_phases_add_up_to_the_step_and_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    loop: Any = Loop()
    monkeypatch.setattr(clock.time, "perf_counter", lambda: loop.now)
    with phases_timed(loop) as stopwatch:
        loop.step()
        loop.step()
    assert stopwatch.steps == [{"data": 2, "forward": 4, "backward": 8, "update": 8}] * 2
    assert sum(stopwatch.steps[0].values()) == loop.now / 2
    assert (vars(loop).keys(), vars(loop.update).keys()) == ({"now", "update", "after_step"}, {"loop"})
    assert loop.after_step == ()


def test_a_whole_step_is_what_lies_between_two_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 3.0, 7.0])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))
    moments = Moments(CPU)
    for _ in range(3):
        moments.note()
    assert moments.seconds() == [2.0, 4.0]


def test_operations_are_those_of_all_micro_batches_and_of_what_is_computed_again(flux: Path, tmp_path: Path) -> None:
    def count(**train: Any) -> float:
        config = config_of(tree_of(flux, tmp_path, tuning=FULL, train=train))
        return step_tflop(config, open_model(config.model), IMAGE)

    once = count(batch_size=1)
    assert count(batch_size=3) == pytest.approx(3 * once)
    again = count(batch_size=1, gradient_checkpointing=True)
    config = config_of(tree_of(flux, tmp_path))
    model = open_model(config.model)
    trainer = running._load(config, model, CPU, Measuring(has_random_weights=True))
    batch = running._Bucket(config, model, trainer, IMAGE)._batches()[0].rows(slice(0, 1))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        trainer.micro_losses(batch)
    forward = counter.get_total_flops() / 1e12
    assert 2.5 * forward < once < 3.2 * forward  # weights and inputs have a gradient each, but for those of the first layers
    assert 0.8 * forward < again - once < 1.05 * forward  # blocks are computed again, and what is around them is not


def test_kernels_and_optimizers_change_no_operations_and_checkpointing_does(flux: Path, tmp_path: Path) -> None:
    def bare(**sections: Any) -> Config:
        return _bare(config_of(tree_of(flux, tmp_path, **sections)))

    assert bare(compile={"kind": "regional"}, optimizer={"name": "adafactor"}) == bare()
    assert bare(train={"gradient_checkpointing": True}) != bare()


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Measuring]]:
    """Take the place of the measuring; hold what it was called with."""
    seen: list[tuple[Any, Measuring]] = []

    def stand_in(config: Any, measuring: Measuring) -> Result:
        seen.append((config, measuring))
        return made_up()

    monkeypatch.setattr(running, "bench", stand_in)
    return seen


def made_up(**bucket: Any) -> Result:
    times = {"step": 0.5, "first_step": 9, "data": 0.1, "forward": 0.1, "backward": 0.2, "update": 0.1}
    memory = {"allocated": 2**30, "reserved": 2**31, "process": 2**32}
    rates = {"samples_per_second": 2.0, "tokens_per_second": 32.0, "tflop": 1.0, "share": 0.25}
    own = {"bucket": [1, 64, 64], "tokens": 16, "seconds": times, **rates, "memory": memory, **bucket}
    return Result.model_validate(
        {
            "versions": {}, "device": "a GPU", "family": "flux", "weights": "random", "num_trained": 1234, "steps": 5,
            "warmup": 2, "config": {"model": {"path": "m"}, "train": {"batch_size": 1, "micro_batch_size": 1}},
            "product": Product(size=8192, dtype="bfloat16", tflops=8), "buckets": [own],
        }
    )  # fmt: skip


def test_options_stand_anywhere_among_the_overrides(config_file: Path, measured: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    words = ["--steps", "3", "--data.0.caption_prefix", "foo=bar", str(config_file), "--random-weights", "seed=9"]
    assert main(["bench", *words, "--warmup=1", "--json", str(file), "--optimizer.lr", "1e-3"]) == DONE
    ((config, measuring),) = measured
    assert (config.seed, config.data[0].caption_prefix, config.optimizer.lr) == (9, "foo=bar", 1e-3)
    assert (measuring.steps, measuring.warmup, measuring.weights) == (3, 1, "random")
    assert Result.model_validate_json(file.read_text()) == made_up()


def test_the_table_is_printed_or_the_json(config_file: Path, measured: list[Any], capsys: Any) -> None:
    assert main(["bench", str(config_file)]) == DONE
    rows = capsys.readouterr().out.splitlines()
    figures = "0.5000 0.1000 0.1000 0.2000 0.1000 9.0000 2 32 1 25.0% 1.00 2.00"
    assert " ".join(rows[-1].split()) == f"1x64x64 {figures}"
    assert main(["bench", str(config_file), "--json", "-"]) == DONE
    assert json.loads(capsys.readouterr().out)["v"] == 1
    assert [measuring.weights for _, measuring in measured] == ["stored", "stored"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CONFIG", "train.stepz=5"], "train.stepz: there is no such key; did you mean 'steps'?"),
        (["--steps", "3", "seed=1"], "bench: no configuration file is among 'seed=1'; give CONFIG as well"),
        (["CONFIG", "--compare", "plane"], "'plane' is neither a file nor a list of plain, "),
        (["CONFIG", "data.0.buckets=[[1, 65, 64]]"], "data.0.buckets: [1, 65, 64] is impossible for flux; the nearest"),
    ],
)
def test_what_is_wrong_is_one_message_and_status_2(words: list[str], message: str, config_file: Path, capsys: Any) -> None:
    assert main(["bench", *(str(config_file) if word == "CONFIG" else word for word in words)]) == USER_ERROR
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


# -- comparisons ------------------------------------------------------------------------------------------------------


def in_this_process(command: list[str], **_: Any) -> Any:
    """Run what would have a process of its own here, where all is imported: that it is one, the command says."""
    assert command[:3] == [sys.executable, "-m", "finetrainers"]
    return SimpleNamespace(returncode=main(command[3:]), stderr="")


@pytest.mark.parametrize("is_here", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_set_that_fails_is_a_row_and_the_others_go_on(
    config_file: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, *, is_here: bool
) -> None:
    """One is refused before it has a process, one runs in its own."""
    if is_here:
        monkeypatch.setattr(comparing.subprocess, "run", in_this_process)
    sets = [
        {"name": "unknown", "set": ["memory.weightz=fp8"]},
        {"name": "checkpointing", "set": ["train.gradient_checkpointing=true"]},
    ]
    file, figures = tmp_path / "sets.yaml", tmp_path / "figures.json"
    file.write_text(yaml.safe_dump(sets))
    words = ["--random-weights", "--steps", "1", "--warmup", "1", "--compare", str(file), "--json", str(figures)]
    assert main(["bench", str(config_file), *words]) == DONE
    comparison = Comparison.model_validate_json(figures.read_text())
    jsonschema.validate(json.loads(figures.read_text()), Comparison.model_json_schema())
    unknown, ran = comparison.sets
    assert "memory.weightz: there is no such key" in str(unknown.reason)
    assert ran.reason is None
    assert ran.result is not None
    assert ran.result.config["train"]["gradient_checkpointing"] is True
    assert (ran.result.weights, ran.result.steps) == ("random", 1)
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[-2:]] == ["checkpointing", "unknown"]


def test_a_comparison_of_which_nothing_ran_is_an_error(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "sets.yaml").write_text("- {name: a, set: [seed=x]}\n- {name: b, set: [sead=1]}\n")
    assert main(["bench", str(config_file), "--compare", str(tmp_path / "sets.yaml")]) == USER_ERROR
    assert [row.split()[:4] for row in capsys.readouterr().out.splitlines()] == [[x, "did", "not", "run:"] for x in "ab"]


@pytest.mark.parametrize(
    ("status", "told", "reason"),
    [
        (
            2,
            "flux on a GPU\nfinetrainers: out of memory while training: x\nWhat helps:\n  y\n",
            "out of memory while training",
        ),
        (1, "Traceback:\n  ...\nRuntimeError: a defect\n", "RuntimeError: a defect"),
        (-9, "flux on a GPU\n", "killed by SIGKILL; SIGKILL is what a system without memory sends"),
        (1, "", "exit status 1"),
    ],
)
def test_the_reason_is_what_the_process_told(
    status: int, told: str, reason: str, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = SimpleNamespace(returncode=status, stdout="", stderr=told)
    monkeypatch.setattr(comparing.subprocess, "run", lambda *_, **__: done)
    (own,) = compare(str(config_file), [], read_sets("plain"), options=[], say=quiet).sets
    assert own.reason is not None
    assert own.reason.startswith(reason)
    assert own.result is None


def test_sets_are_built_in_or_of_a_file(tmp_path: Path) -> None:
    assert [own.name for own in read_sets("default")] == list(BUILT_IN)
    assert [(own.name, own.set) for own in read_sets("tf32,plain")] == [("tf32", BUILT_IN["tf32"]), ("plain", ())]
    file = tmp_path / "sets.yaml"
    for text, message in {
        "- {name: a}\n- {name: a}\n": "two sets named 'a'",
        "- {name: a, sets: []}\n": "0.sets: Extra inputs",
        "a: 1\n": "set: \\[section.key=value\\]",
        "[]\n": "has no set",
        "a: [\n": "is no YAML",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_sets(str(file))


def test_built_in_sets_are_changes_that_a_configuration_can_have(flux: Path, tmp_path: Path) -> None:
    """With a batch of one micro-batch and weights in bfloat16, as in examples/bench."""
    tree = merged(tree_of(flux, tmp_path, train={"batch_size": 1}), {"model": {"dtype": "bfloat16"}})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    for name, overrides in BUILT_IN.items():
        changed = load_config(tmp_path / "config.yaml", overrides)
        assert (changed == load_config(tmp_path / "config.yaml")) == (name == "plain")


def test_rows_of_a_comparison_say_what_it_is(tmp_path: Path) -> None:
    sets = SetResult(name="fp8", overrides=(), result=made_up()), SetResult(name="b", overrides=(), reason="x:\n  y")
    rows = comparison_table(Comparison(sets=sets)).splitlines()
    assert "8 TFLOP/s in a bfloat16 product of 8192" in rows[1]
    assert rows[-2].split()[:3] == ["fp8", "1x64x64", "0.5000"]
    assert rows[-1] == "b    did not run: x: y"
