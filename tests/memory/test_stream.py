"""Weights that are on the host: the same bits in all that a run does, and few blocks on the device at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from blocks import CHECKPOINTED, FAMILIES, assert_equal, backward, blocks_of, found_with
from runs import Tree, config_of, curve, flux_tree, merged, write_pictures
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

import finetrainers
from finetrainers.config import CompileConfig
from finetrainers.memory import techniques
from finetrainers.memory.compile import compile_denoiser
from finetrainers.memory.stream import AHEAD, BlockStream, Streamed, stream_blocks, streamed
from finetrainers.memory.techniques import ToHost
from finetrainers.models.blocks import named_blocks
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest
from finetrainers.training.trainer import Trainer

CPU, META = torch.device("cpu"), torch.device("meta")
LOKR = {"kind": "lokr", "rank": 2, "alpha": 6}
Subjects = Callable[[str], ModelUnderTest]


def stream_of(trainer: Trainer) -> BlockStream:
    return next(block._turns[0] for block in blocks_of(trainer) if isinstance(block, Streamed) and block._turns)


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_weights_make_the_same_losses_and_gradients(family: str, subject_of: Subjects) -> None:
    """An adapter over frozen weights, and weights that train; of a second step too, and beside other techniques."""
    subject = subject_of(family)
    others = {"activations": "host", "checkpoint_keep": "attention"}
    for tuning, memory in ((LORA, {"resident_blocks": 0}), (FULL, {"resident_blocks": 1, **others})):
        trainer = subject.trainer(tuning, train=CHECKPOINTED, memory=memory)
        expected = found_with(subject, tuning)
        for _ in range(2):
            assert_equal(backward(trainer, subject), expected)
            trainer.update.drop_gradients()
        assert stream_of(trainer).on_device == ()


def test_a_lokr_is_streamed_too(subject_of: Subjects) -> None:
    subject = subject_of("wan")
    trainer = subject.trainer(LOKR, train=CHECKPOINTED, memory={"resident_blocks": 0})
    assert_equal(backward(trainer, subject), found_with(subject, LOKR))


def test_an_adapter_stays_on_the_device_and_the_denoiser_can_be_moved(subject_of: Subjects) -> None:
    """Wherever the denoiser goes, what is streamed stays on the host."""
    trainer = subject_of("wan").trainer(LORA, train=CHECKPOINTED, memory={"resident_blocks": 1})
    last = blocks_of(trainer)[-1]
    trainer.denoiser.to(META)
    devices = {name: parameter.device.type for name, parameter in last.named_parameters()}
    assert {name for name, device in devices.items() if device == "meta"} == {name for name in devices if "lora" in name}
    assert {p.device.type for p in blocks_of(trainer)[0].parameters()} == {"meta"}


class Block(nn.Module):
    """One of several."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8, dtype=dtype)
        self.register_buffer("shift", torch.full((8,), 0.5, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.layer(x) + self.shift).relu()


def chain(blocks: list[Block], x: Tensor, *, is_checkpointed: bool = True) -> Tensor:
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if is_checkpointed else block(x)
    return x


@contextmanager
def watched(blocks: list[Block], stream: BlockStream) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
    """Note of each call of a block its number, and which are on the device; and see to it that it computes with these."""
    seen: list[tuple[int, tuple[int, ...]]] = []
    at_rest = [block.layer.weight for block in blocks]

    def watching(number: int) -> Callable[..., None]:
        def watch(*_: object) -> None:
            seen.append((number, tuple(sorted(stream.on_device))))
            assert blocks[number].layer.weight.data_ptr() != at_rest[number].data_ptr()

        return watch

    handles = [block.layer.register_forward_pre_hook(watching(number)) for number, block in enumerate(blocks)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        assert all(block.layer.weight is weight for block, weight in zip(blocks, at_rest, strict=True))


def test_blocks_come_two_ahead_of_their_turn_up_and_down() -> None:
    blocks = [Block().requires_grad_(False) for _ in range(6)]
    stream = stream_blocks(blocks, CPU, resident=0)
    with watched(blocks, stream) as seen:
        x = torch.ones(2, 8, requires_grad=True)
        chain(blocks, x).sum().backward()
    up = [(0, (0, 1, 2)), (1, (1, 2, 3)), (2, (2, 3, 4)), (3, (3, 4, 5)), (4, (4, 5)), (5, (4, 5))]
    down = [(5, (3, 4, 5)), (4, (2, 3, 4)), (3, (1, 2, 3)), (2, (0, 1, 2)), (1, (0, 1)), (0, (0,))]
    assert seen == up + down
    assert stream.on_device == ()
    assert max(len(on_device) for _, on_device in seen) == 1 + AHEAD
    with watched(blocks, stream) as seen, torch.no_grad():
        chain(blocks, x, is_checkpointed=False)
    assert [number for number, _ in seen] == [0, 1, 2, 3, 4, 5]
    assert seen[-1] == (5, (5,))
    assert stream.on_device == ()


def test_a_block_that_fails_holds_its_own_weights_again() -> None:
    blocks = [Block().requires_grad_(False) for _ in range(2)]
    stream = stream_blocks(blocks, CPU, resident=0)
    with watched(blocks, stream), pytest.raises(RuntimeError, match="shapes"):
        blocks[0](torch.ones(2, 9))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, tracing
@pytest.mark.parametrize("is_trained", [False, True])
def test_compiled_blocks_are_streamed_and_share_one_graph_with_those_that_stay(*, is_trained: bool) -> None:
    """Weights come and go around what is compiled; of those that train, the ones of the host are a kind of their own."""
    torch._dynamo.reset()
    counters.clear()
    blocks = [Block().requires_grad_(is_trained) for _ in range(4)]
    found = []
    for is_streamed in (False, True):
        if is_streamed:
            stream_blocks(blocks, CPU, resident=1, is_trained_too=is_trained)
            compile_denoiser(nn.Sequential(*blocks), ("Block",), CompileConfig(kind="regional", backend="aot_eager"))
        x = torch.ones(2, 8, requires_grad=True)
        answer = chain(blocks, x)
        answer.square().sum().backward()
        found.append((answer.detach(), x.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert counters["stats"]["unique_graphs"] == 1 + is_trained
    assert not counters["graph_break"]


@pytest.mark.parametrize("resident", [0, 1, 3, 5])
def test_blocks_that_stay_lie_evenly_among_those_that_move(resident: int) -> None:
    moving = streamed(6, resident)
    assert len(moving) == 6 - resident
    gaps = {after - before for before, after in zip(moving, moving[1:], strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_on_the_meta_device_few_blocks_have_memory() -> None:
    """Where memory is counted, what is on the host counts for nothing."""
    blocks = [Block().to(META).requires_grad_(False) for _ in range(6)]
    stream = stream_blocks(blocks, META, resident=2)
    kept = [p.untyped_storage().nbytes() for block in blocks for p in (*block.parameters(), *block.buffers())]
    assert sum(size > 4 for size in kept) == 3 * 2
    assert all(block.layer.weight.shape == (8, 8) for block in blocks)
    most = 0

    def watch(*_: object) -> None:
        nonlocal most
        copies = [copy.tensor.untyped_storage().nbytes() for copy in stream._copies.values()]
        assert min(copies) >= 4 * (64 + 8 + 8)
        most = max(most, len(copies))

    blocks[1].layer.register_forward_pre_hook(watch)
    x = torch.ones(2, 8, device=META, requires_grad=True)
    chain(blocks, x).sum().backward()
    assert most == 1 + AHEAD
    assert x.grad is not None


@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao", "ignore::UserWarning:torchao")
def test_quantised_weights_are_streamed_by_what_they_are_made_of(config: str) -> None:
    quantization: Any = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    blocks = [Block(torch.bfloat16).requires_grad_(False) for _ in range(4)]
    for block in blocks:
        quantization.quantize_(block, getattr(quantization, config)())
    found = []
    for is_streamed in (False, True):
        if is_streamed:
            stream_blocks(blocks, CPU, resident=1)
        x = torch.ones(2, 8, dtype=torch.bfloat16, requires_grad=True)
        answer = chain(blocks, x)
        answer.float().square().sum().backward()
        found.append((answer.detach(), x.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert isinstance(blocks[3].layer.weight, nn.Parameter)
    assert type(blocks[3].layer.weight) is type(blocks[0].layer.weight)


def test_while_weights_are_read_those_that_will_be_streamed_leave_the_device(
    subject_of: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands for the host: module by module, once each is settled, and nothing brings them back."""
    monkeypatch.setattr(techniques, "HOST", META)
    model = subject_of("flux").model
    settled = []

    def settle(root: nn.Module, name: str) -> None:
        settled.append((name, next(root.get_submodule(name).parameters()).device.type))

    denoiser = model.load_denoiser(CPU, settle=ToHost(model.adapter.blocks, 1, settle))
    assert len(settled) == len({name for name, _ in settled})
    assert {device for _, device in settled} == {"cpu"}
    blocks = named_blocks(denoiser, model.adapter.blocks).values()
    devices = [{parameter.device.type for parameter in block.parameters()} for block in blocks]
    assert devices == [{"cpu"}, {"meta"}, {"meta"}, {"meta"}]
    others = {id(p) for p in denoiser.parameters()} - {id(p) for block in blocks for p in block.parameters()}
    assert {p.device.type for p in denoiser.parameters() if id(p) in others} == {"cpu"}


def run(tree: Tree, directory: Path, **sections: Any) -> Path:
    finetrainers.train(config_of(merged(tree, {"output_dir": str(directory), **sections})))
    return directory


@pytest.mark.parametrize(
    ("tuning", "steps"), [({"kind": "lora", "rank": 2, "alpha": 4}, 1), ({"kind": "full"}, 2)], ids=["lora", "full"]
)
def test_a_streamed_run_is_the_run(tuning: Tree, steps: int, tiny_flux: Path, tmp_path: Path) -> None:
    """Steps, held-out loss, a sample and exported weights; of two steps, it is stopped between them and goes on."""
    media = write_pictures(tmp_path / "media", 4)
    (tmp_path / "prompts.json").write_text('[{"prompt": "a dog", "num_inference_steps": 1}]')
    validation = {"prompts": str(tmp_path / "prompts.json"), "held_out": 0.3, "noise_levels": 2}
    train = {"steps": steps, "batch_size": 2, "micro_batch_size": 1, "gradient_checkpointing": True}
    tree = flux_tree(tiny_flux, media, tmp_path, validation=validation, train=train)
    tree = {**merged(tree, {"model": {"dtype": "bfloat16"}}), "tuning": tuning}
    plain = run(tree, tmp_path / "plain/run")
    for stop in range(1, steps + 1):
        memory = {"resident_blocks": 1, "activations": "host"}
        other = run(tree, tmp_path / "streamed/run", memory=memory, train={"steps": stop})
    assert curve(other, "loss", "grad_norm") == curve(plain, "loss", "grad_norm")
    files = [file.relative_to(plain) for file in plain.glob(f"weights/step-{steps:06d}/**/*.safetensors")]
    files += [Path(f"validation/step-{steps:06d}") / name for name in ("00.png", "validation.json")]
    assert len(files) >= 3
    for file in files:
        assert (other / file).read_bytes() == (plain / file).read_bytes(), file


@pytest.mark.gpu
def test_copies_beside_the_computation_change_no_bit() -> None:
    """Blocks large enough that a copy that nobody waited for, or memory that was given away too early, would be seen."""
    device = torch.device("cuda")
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(4096, 4096), nn.GELU(), nn.Linear(4096, 4096)) for _ in range(8)]
    for block in blocks:
        block.requires_grad_(False).to(device, torch.bfloat16)
    first = torch.randn(64, 4096, device=device, dtype=torch.bfloat16)
    found = []
    for is_streamed in (False, True):
        if is_streamed:
            stream_blocks(blocks, device, resident=2)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        for _ in range(3):
            x = first.clone().requires_grad_()
            answer = x
            for block in blocks:
                answer = answer + checkpoint(block, answer, use_reentrant=False)
            answer.float().square().mean().backward()
            assert x.grad is not None
            found.append((answer.detach(), x.grad))
    for one in found[1:]:
        assert all(torch.equal(own, other) for own, other in zip(one, found[0], strict=True))
    block_bytes = 2 * (2 * 4096**2 + 2 * 4096)
    assert torch.cuda.max_memory_allocated(device) < (2 + 1 + AHEAD + 1.5) * block_bytes  # of eight; autograd keeps one more
