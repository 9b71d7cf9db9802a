"""What ``attention: auto`` comes to in a run: tried before its first step, told, kept, and taken again when it goes on."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import partial

import torch

from finetrainers.batch import Batch
from finetrainers.config import Config, LoraConfig
from finetrainers.config.attention import AUTO, AttentionConfig
from finetrainers.config.compile import CompileConfig
from finetrainers.config.memory import MemoryConfig
from finetrainers.config.optim import OptimizerConfig
from finetrainers.errors import ConfigError
from finetrainers.events import AttentionEvent, AttentionTrial
from finetrainers.files.whole import to_json, write_whole
from finetrainers.memory.attention import (
    SETTLED_FILE,
    Key,
    check_attention,
    device_name,
    read_settled,
    shared_backends,
)
from finetrainers.memory.attention_calls import Call, record_calls, share_calls
from finetrainers.memory.attention_choice import candidates, fastest, try_backends
from finetrainers.memory.compile import sizes_are_fixed
from finetrainers.models import Model
from finetrainers.objectives.base import Objective
from finetrainers.training.build import build_steps, build_trainer
from finetrainers.training.prepared import Prepared
from finetrainers.training.session import Session
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import build_tuning

STEPS_AHEAD = 100
"""Steps among which the batch with the most tokens is looked for: what attention takes longest for decides."""
META = torch.device("meta")


def settle_attention(session: Session, prepared: Prepared, steps: range, *, is_resumed: bool) -> AttentionConfig:
    """Choose the backends that are left to auto.

    Args:
        session: Of the run.
        prepared: With the items of the steps in the cache.
        steps: The next ones.
        is_resumed: Whether the run goes on: then it computes as it did, if it can, so that it stays the same run.

    Raises:
        ConfigError: If no backend works here.
    """
    wanted = session.config.attention
    named: dict[Key, str] = {"train": wanted.train, "validate": wanted.validation}
    if AUTO not in named.values() or not steps:
        return wanted
    calls: dict[Key, Counter[Call]] = {}
    settled = dict(read_settled(session.config.output_dir)) if is_resumed else {}
    for key, name in named.items():
        if name != AUTO:
            continue
        is_dispatched = prepared.model.adapter.dispatches_attention
        usable = _usable(session, prepared.model, key)
        names = candidates(key, session.device, is_dispatched=is_dispatched, usable=usable)
        if key == "validate" and not (prepared.requests or prepared.measured):
            names = names[:1]
        if len(names) == 1:  # nothing to choose
            named[key] = names[0]
            continue
        if is_resumed and not settled:  # a run of a version that tried nothing
            named[key] = names[0]
            continue
        kept = _kept(session, settled, key, is_dispatched=is_dispatched, usable=usable)
        if kept is None:
            calls = calls or _record(session, prepared, steps)
            kept = _try(session, key, calls[key], names)
            settled[key] = {"backend": kept, "device": device_name(session.device)}
            write_whole(session.config.output_dir / SETTLED_FILE, to_json(settled, indent=1))
        named[key] = kept
    return AttentionConfig(train=named["train"], validate=named["validate"])


def _usable(session: Session, model: Model, key: Key) -> tuple[str, ...] | None:
    """Name the backends that can be taken where processes share tokens; else None."""
    plan = model.adapter.context_plan()
    if session.world.layout.context == 1 or plan is None:
        return None
    return shared_backends(key, plan, session.config.parallel.context_kind)


def _kept(
    session: Session,
    settled: Mapping[str, Mapping[str, str]],
    key: Key,
    *,
    is_dispatched: bool,
    usable: Collection[str] | None,
) -> str | None:
    """Name the backend that the run had before it was interrupted, if it can have it again."""
    before = settled.get(key)
    if before is None or (usable is not None and before["backend"] not in usable):
        return None
    backend, device = before["backend"], device_name(session.device)
    try:
        check_attention(key, backend, is_dispatched=is_dispatched)
    except ConfigError as error:
        session.warn(f"attention.{key}: the run had {backend} until now, and tries again: {error}")
        return None
    if before["device"] != device:
        session.warn(f"attention.{key}: the run had {backend} on {before['device']}, and tries again on {device}")
        return None
    return backend


def _try(session: Session, key: Key, calls: Counter[Call], names: tuple[str, ...]) -> str:
    """Try backends, tell how each did, and name the fastest."""

    def interrupt() -> None:
        session.signals.raise_if_received("trying attention")

    needs_backward = key == "train"
    trials = try_backends(calls, names, device=session.device, needs_backward=needs_backward, interrupt=interrupt)
    backend = fastest(trials, key)
    told = [AttentionTrial(**asdict(trial)) for trial in trials]
    session.emit(AttentionEvent(key=key, backend=backend, trials=told))
    return backend


def _record(session: Session, prepared: Prepared, steps: range) -> dict[Key, Counter[Call]]:
    """Count the calls of attention in a micro-batch, and of one sample as the held-out loss measures it; on no device."""
    trainer = build_on_meta(session.config, prepared.model, prepared.objective)
    ahead = build_steps(prepared, prepared.objective, rows=session.world.rows(session.config.train.batch_size))
    largest = max(steps[:STEPS_AHEAD], key=lambda step: ahead.tokens[ahead.plan.step(ahead.order, step)[0].bucket])
    micro = trainer.on_device(ahead[largest].split(session.config.train.micro_batch_size)[0])
    alone = ahead.sample(largest, 0).to(META)
    shared = partial(share_calls, context=session.world.layout.context, kind=session.config.parallel.context_kind)
    return {"train": shared(calls_of(trainer, micro, needs_backward=True)), "validate": shared(calls_of(trainer, alone))}


def calls_of(trainer: Trainer, batch: Batch, *, needs_backward: bool = False) -> Counter[Call]:
    """Count the calls of attention that a backend can be chosen for, of a trainer and a batch on the meta device."""
    is_dispatched = trainer.adapter.dispatches_attention
    return record_calls(lambda: trainer.micro_losses(batch), is_dispatched=is_dispatched, needs_backward=needs_backward)


def build_on_meta(config: Config, model: Model, objective: Objective) -> Trainer:
    """Build the denoiser without weights, with all that decides what attention is asked, and nothing else."""
    plain = config.model_copy(
        update={
            "tuning": LoraConfig(rank=1, alpha=1),
            "optimizer": OptimizerConfig(lr=1.0),
            "compile": CompileConfig(),
            "memory": MemoryConfig(),
            "train": config.train.model_copy(update={"gradient_checkpointing": False, "ema_decay": None}),
        }
    )
    tuning = build_tuning(plain.tuning)
    trainer = build_trainer(plain, model, objective=objective, tuning=tuning, device=META, weights="none")
    # Of several prompts, only some are all of one length: a backend has to take the mask of the others.
    trainer.trims_prompts = config.train.micro_batch_size == 1 and not sizes_are_fixed(config.compile)
    return trainer
