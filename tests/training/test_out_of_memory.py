"""Full memory: one message that names what was held and what helps, and never what is already at its best."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Tree, config_of, flux_tree, merged, write_pictures

from finetrainers import ConfigError, sample_run, train
from finetrainers.memory.out_of_memory import explain, helpful, is_out_of_memory, out_of_memory_explained

CPU = torch.device("cpu")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB")
TREE: Tree = {
    "output_dir": "run",
    "model": {"path": "m"},
    "data": [{"path": "d", "buckets": [[49, 512, 768]]}],
    "train": {"batch_size": 4, "micro_batch_size": 4},
}
BEST: Tree = {
    "tuning": {"rank": 1},
    "optimizer": {"name": "adamw_8bit", "state": "cpu"},
    "train": {"micro_batch_size": 1, "gradient_checkpointing": True},
    "memory": {
        "vae_tiling": True,
        "weights": "nf4",
        "text_encoder_weights": "nf4",
        "activations": "host",
        "resident_blocks": 0,
    },
}


def test_the_allocator_of_the_cpu_says_it_too() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (FULL, True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"), False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_errors_stay_what_they_are(error: Exception, is_it: bool) -> None:
    assert is_out_of_memory(error) == is_it
    with pytest.raises(ConfigError if is_it else type(error)), out_of_memory_explained(config_of(TREE), CPU, "training"):
        raise error


def keys(doing: Any, changes: Tree) -> list[str]:
    return [setting.key for setting in helpful(config_of(merged(TREE, changes)), doing)]


def test_each_stage_names_what_takes_its_memory() -> None:
    trained = ["memory.weights", "optimizer.name", "optimizer.state", "tuning.rank"]
    assert keys("training", {}) == ["train.micro_batch_size", "train.gradient_checkpointing", "data.0.buckets", *trained]
    encoding = ["cache.batch_size", "memory.vae_tiling", "data.0.buckets", "memory.text_encoder_weights"]
    assert keys("encoding", {"cache": {"batch_size": 2}}) == encoding
    assert keys("validating", {"validation": {"prompts": "p.json"}}) == ["memory.vae_tiling", "validation.prompts", *trained]
    assert keys("loading", {"model": {"dtype": "float32"}}) == [*trained, "model.dtype"]
    assert keys("training", {"tuning": {"kind": "full"}, "train": {"ema_decay": 0.9}})[-2:] == [
        "tuning.kind",
        "train.ema_decay",
    ]


def test_full_rank_is_told_what_masters_and_gradients_take() -> None:
    """Each key where it can have an effect, and none that the optimizer or the others would refuse."""

    def told(**changes: Any) -> list[str]:
        found = keys("loading", merged({"tuning": {"kind": "full"}}, changes))
        return [key.removeprefix("optimizer.") for key in found if key.startswith("optimizer.")]

    assert told() == ["name", "masters", "in_backward", "state"]
    assert told(optimizer={"masters": "stochastic_rounding"}) == ["name", "in_backward"]
    assert told(train={"clip_norm": math.inf}, optimizer={"in_backward": True}) == ["name", "masters"]
    assert told(train={"micro_batch_size": 1}) == ["name", "masters", "state"]
    assert told(model={"dtype": "float32"}) == ["name", "in_backward", "state"]
    assert told(optimizer={"name": "prodigy", "lr": 1.0}) == ["name", "state"]
    assert told(optimizer={"name": "adamw_4bit", "state": "cpu"}) == []


def test_where_blocks_are_computed_again_they_can_keep_less_and_come_from_the_host() -> None:
    memory = {"checkpoint_every": 2, "checkpoint_keep": "attention"}
    changes = {"train": {"micro_batch_size": 1, "gradient_checkpointing": True}, "memory": memory}
    own = ["memory.checkpoint_every", "memory.checkpoint_keep", "memory.activations", "memory.resident_blocks"]
    assert keys("training", changes)[:5] == [*own, "data.0.buckets"]
    assert keys("validating", changes)[:2] == ["memory.resident_blocks", "memory.vae_tiling"]


def test_no_key_is_named_that_is_at_its_best() -> None:
    assert keys("training", BEST) == keys("encoding", BEST) == ["data.0.buckets"]
    assert keys("validating", BEST) == keys("loading", BEST) == keys("sampling", BEST) == []
    message = explain(config_of(merged(TREE, BEST)), CPU, "loading", FULL)
    assert message.endswith("All settings that save memory are made; take a smaller model, or a larger device")


def test_the_message_has_present_values_and_what_a_run_that_goes_on_may_change() -> None:
    text = explain(config_of({**TREE, "tuning": {"rank": 64}}), CPU, "training", FULL)
    first, *rest = text.splitlines()
    assert first.startswith("out of memory while training: the process held up to ")
    assert first.endswith(" GB of the host's; 2.00 GiB more were asked for")
    assert rest == [
        "What helps:",
        "  train.micro_batch_size: 4 -> 1",
        "  train.gradient_checkpointing: false -> true",
        "What helps in a new run, with another output_dir:",
        "  data.0.buckets: [[49, 512, 768]] -> smaller or shorter ones",
        "  memory.weights: none -> int8",
        "  optimizer.name: adamw -> adamw_8bit",
        "  optimizer.state: device -> cpu",
        "  tuning.rank: 64 -> a lower one",
    ]


PLACES = {
    "loading": "finetrainers.training.run.build_trainer",
    "encoding": "finetrainers.training.run.encode_steps",
    "training": "finetrainers.training.trainer.Trainer.micro_losses",
    "validating": "finetrainers.sampling.sampler.Sampler.frames",
    "sampling": "finetrainers.sampling.sampler.Sampler.draw",
}


@pytest.mark.parametrize("doing", PLACES)
def test_it_is_a_users_error_wherever_it_happens(
    tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doing: str
) -> None:
    (tmp_path / "prompts.json").write_text('[{"prompt": "picture number 1", "num_inference_steps": 1}]')
    validation = {"prompts": str(tmp_path / "prompts.json")} if doing == "validating" else {}
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 2), tmp_path, train={"steps": 1}, validation=validation)

    def full(*_: Any, **__: Any) -> Any:
        raise FULL

    do = partial(train, config_of(tree))
    if doing == "sampling":
        do()
        do = partial(sample_run, tmp_path / "run", [{"prompt": "x", "num_inference_steps": 1}], device="cpu")
    monkeypatch.setattr(PLACES[doing], full)
    with pytest.raises(ConfigError, match=f"^out of memory while {doing}: "):
        do()
