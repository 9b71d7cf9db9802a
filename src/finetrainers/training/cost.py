"""What one optimizer step will take, counted before a weight is read."""

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from finetrainers.config import Bucket, Config
from finetrainers.config.attention import AttentionConfig
from finetrainers.config.compile import CompileConfig
from finetrainers.memory.allocator import reserved_bytes
from finetrainers.memory.compiled import counted_compile
from finetrainers.memory.meta import META, QuickShapes, fused_attention
from finetrainers.memory.meter import Meter, Usage, plain_tensors
from finetrainers.memory.work import Kernel, Work
from finetrainers.models import Model
from finetrainers.optim.update import Update
from finetrainers.training.build import build_trainer
from finetrainers.training.objective import build_objective
from finetrainers.training.synthetic import of_each_expert, synthetic_batch
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import build_tuning


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one optimizer step takes."""

    usage: Usage
    num_trained: int
    """Weights that train."""
    work: Work
    """What kernels do in a whole step."""
    reserved_bytes: int
    """The most that torch's allocator would hold of the device."""
    state_bytes: int
    """Of masters, the optimizer's states and averages, wherever they are: what a checkpoint has."""
    host_bytes: int
    """In the host's memory: streamed weights, inputs of blocks, what is updated there."""

    @property
    def peak_bytes(self) -> int:
        """The most bytes that are in memory at once."""
        return self.usage.peak_bytes


def predict_step(config: Config, model: Model, bucket: Bucket, *, is_compiled: bool = True) -> StepCost:
    """Take two steps of a run's own trainer on the meta device; the second has all that the first has made.

    Of several experts each takes a step before the last one, which has what all of them keep.

    Not counted: what a CUDA context and libraries hold, and what kernels allocate inside.

    Args:
        config: Of the run.
        model: None of whose weights are asked for.
        bucket: Size (frames, height, width) of all samples.
        is_compiled: Whether what ``compile`` saves is counted, which takes about ten seconds more; without, the count is an
            upper bound.
    """
    # Attention's libraries know no meta device; all take as much.
    compiled = counted_compile(config.compile) if is_compiled else CompileConfig()
    plain = {"compile": compiled, "attention": AttentionConfig(train="native")}
    config = config.model_copy(update=plain)
    with torch.random.fork_rng(devices=[]), _no_collection():
        return measure_steps(build_meta_trainer(config, model), config, model, bucket)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let Python look for no cycles meanwhile: when it does is chance, which what the allocator holds would depend on."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def collected() -> Iterator[None]:
    """Free what was counted with, afterwards: a trainer is made of cycles, and its adapters take the host's memory.

    What was there before, such as the libraries, is not looked through, which would take as long as a small count.
    """
    is_frozen = gc.get_freeze_count() > 0  # as commands leave what they have imported
    if not is_frozen:
        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        if not is_frozen:
            gc.unfreeze()


def build_meta_trainer(config: Config, model: Model) -> Trainer:
    """Build a run's trainer without any memory."""
    tuning = build_tuning(config.tuning.model_copy(update={"start_from": None}))
    objective = build_objective(config, model)
    with QuickShapes():
        return build_trainer(config, model, objective=objective, tuning=tuning, device=META, weights="none")


def measure_steps(trainer: Trainer, config: Config, model: Model, bucket: Bucket) -> StepCost:
    """Take steps of a trainer on the meta device, one of each expert and one more, and count the last."""
    train = config.train
    rows = min(train.batch_size, 2 * train.micro_batch_size)  # the second micro-batch has gradients beside it, as all others
    batch = synthetic_batch(config, model, bucket, rows, device=torch.device("cpu"))
    trainer.denoiser.train()
    update, meter = trainer.update, Meter()
    meter.label("weights", [*trainer.denoiser.parameters(), *trainer.denoiser.buffers()])
    meter.label("masters", update.parameters)
    meter.label("trained", [own for own in trainer.denoiser.parameters() if own.requires_grad])
    if update.ema is not None:
        meter.label("states", update.ema.shadow_params)
    update.optimizer.register_step_pre_hook(lambda *_: meter.label("gradients", _gradients(update.parameters)))
    # One kernel updates many tensors on a GPU, which are one by one here: only what it moves counts.
    counts: list[Counter[Kernel]] = []
    update.optimizer.register_step_pre_hook(lambda *_: counts.append(Counter(meter.work.kernels)))
    update.optimizer.register_step_post_hook(lambda *_: setattr(meter.work, "kernels", counts.pop()))
    batches = of_each_expert(batch, model)
    for own in (*batches, batches[-1]):
        meter.reset()
        with fused_attention(), meter:
            trainer.train_step(own)
        meter.label("states", _tensors(update.optimizer.state.values()))
    is_on_host = config.optimizer.state == "cpu"
    if is_on_host:  # what takes none of the device's memory
        masters = [own for own in update.parameters if own.dtype == torch.float32]
        meter.label("host", [*masters, *_tensors(update.optimizer.state.values())])
        meter.move("gradients", to="host")
    usage, work, times = meter.usage(), meter.work, train.batch_size // rows
    whole = work.repeated(times)
    whole.link_bytes += _sent_to_step(trainer, train.batch_size // train.micro_batch_size, is_on_host=is_on_host)
    return StepCost(
        replace(usage, flop=usage.flop * times),
        sum(own.numel() for own in update.parameters),
        whole,
        reserved_bytes(meter.history()),
        state_bytes=_state_bytes(update),
        host_bytes=_weights_on_host(trainer) + work.to_host_bytes + (_state_bytes(update) if is_on_host else 0),
    )


def _state_bytes(update: Update) -> int:
    averages = [] if update.ema is None else list(update.ema.shadow_params)
    kept = [*update.parameters, *_tensors(update.optimizer.state.values()), *averages]
    return sum(inner.nbytes for own in kept for inner in plain_tensors(own))


def _weights_on_host(trainer: Trainer) -> int:
    """Bytes of weights that are streamed."""
    own = [inner for tensor in trainer.denoiser.parameters() for inner in plain_tensors(tensor)]
    return sum(tensor.nbytes for tensor in own if _is_streamed(tensor))


def _is_streamed(tensor: Tensor) -> bool:
    """Whether a weight of the meta device has no memory of its own there."""
    return tensor.untyped_storage().nbytes() < tensor.nbytes


def _sent_to_step(trainer: Trainer, micro_batches: int, *, is_on_host: bool) -> int:
    """Bytes of gradients that go to the host in a step, and of weights that come back from where they are stepped."""
    trained = [inner for own in trainer.denoiser.parameters() if own.requires_grad for inner in plain_tensors(own)]
    streamed = sum(tensor.nbytes for tensor in trained if _is_streamed(tensor))  # these come when they are used
    stepped = sum(tensor.nbytes for tensor in trained) - streamed if is_on_host else 0
    return micro_batches * (streamed + stepped) + stepped


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [own.grad for own in parameters if own.grad is not None]


def _tensors(states: Iterable[Mapping[str, Any]]) -> list[Tensor]:
    """Find what an optimizer keeps of each parameter."""
    return [own for own in tree_leaves([list(state.values()) for state in states]) if isinstance(own, Tensor)]
