"""What to say where memory does not suffice: what it held, and the settings that take less, with their present values."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch

from finetrainers.config import Config, FullConfig, OptimizerConfig
from finetrainers.config.run import FIXED
from finetrainers.errors import ConfigError
from finetrainers.memory.peak import peak_memory_gb

MARKS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What torch says of a device or a host that has no more, where the class of the error does not."""
LARGE_STATE = ("adamw", "adam", "sgd", "muon", "prodigy", "adamw_schedule_free")
"""Optimizers whose state is larger than that of adamw_8bit."""
SMALLER = {"none": "int8", "fp8_e4m3": "nf4", "fp8_e5m2": "nf4", "fp8_scaled": "nf4", "int8": "nf4"}
"""The format of weights at rest to try next, by what is set."""

Doing = Literal["loading", "encoding", "training", "validating", "sampling"]


class Setting(NamedTuple):
    """A key that takes less memory with another value."""

    key: str
    now: object
    better: str


@contextmanager
def out_of_memory_explained(config: Config, device: torch.device, doing: Doing) -> Iterator[None]:
    """Turn the errors of full memory into one that names what to change.

    Raises:
        ConfigError: With what was in memory, and the keys that help.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = explain(config, device, doing, error)
        traceback.clear_frames(error.__traceback__)  # they hold the activations, and there is still something to save
        raise ConfigError(message) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no more memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(mark in str(error) for mark in MARKS)


def explain(config: Config, device: torch.device, doing: Doing, error: BaseException) -> str:
    """Say in one message what was in memory, and what helps."""
    message = f"out of memory while {doing}: {_in_memory(device, error)}"
    settings = list(helpful(config, doing))
    at_once = [setting for setting in settings if not _is_fixed(setting.key)]
    in_a_new_run = [setting for setting in settings if _is_fixed(setting.key)]
    for heading, chosen in (("What helps", at_once), ("What helps in a new run, with another output_dir", in_a_new_run)):
        if chosen:
            lines = [f"{key}: {now} -> {better}" for key, now, better in chosen]
            message += f"\n{heading}:\n  " + "\n  ".join(lines)
    way_out = "" if settings else "\nAll settings that save memory are made; take a smaller model, or a larger device"
    return message + way_out


def helpful(config: Config, doing: Doing) -> Iterator[Setting]:
    """Settings that take memory in what is done, and are not at their best; in the order in which to try them."""
    train, memory = config.train, config.memory
    if doing == "training" and train.micro_batch_size > 1:
        yield Setting("train.micro_batch_size", train.micro_batch_size, "1")
    if doing == "training" and not train.gradient_checkpointing:
        yield Setting("train.gradient_checkpointing", "false", "true")
    yield from _recomputed(config, doing)
    if doing == "encoding" and config.cache.batch_size > 1:
        yield Setting("cache.batch_size", config.cache.batch_size, "1")
    if doing in ("encoding", "validating", "sampling") and not memory.vae_tiling:
        yield Setting("memory.vae_tiling", "false", "true")
    if doing == "validating" and config.validation.prompts is not None:
        what = config.validation.prompts_file or "of the size of the first bucket"
        yield Setting("validation.prompts", what, "a file with a smaller height, width or num_frames")
    if doing in ("training", "encoding"):
        for index, data in enumerate(config.data):
            yield Setting(f"data.{index}.buckets", data.model_dump(mode="json")["buckets"], "smaller or shorter ones")
    yield from _frozen(config, doing)
    if doing in ("loading", "training", "validating"):
        yield from _trained(config)
    if config.model.dtype == "float32":
        yield Setting("model.dtype", "float32", "bfloat16")


def _frozen(config: Config, doing: Doing) -> Iterator[Setting]:
    """Formats in which weights that do not train take less memory."""
    memory = config.memory
    if doing == "encoding" and memory.text_encoder_weights != "nf4":
        yield Setting("memory.text_encoder_weights", memory.text_encoder_weights, SMALLER[memory.text_encoder_weights])
    if doing in ("loading", "training", "validating") and config.tuning.kind != "full" and memory.weights != "nf4":
        yield Setting("memory.weights", memory.weights, SMALLER[memory.weights])


def _recomputed(config: Config, doing: Doing) -> Iterator[Setting]:
    """Settings of blocks that are computed again: what they keep, and whether that and their weights are on the host."""
    memory, can_copy = config.memory, config.compile.kind != "full"
    if not config.train.gradient_checkpointing:
        return
    if doing == "training" and memory.checkpoint_every > 1:
        yield Setting("memory.checkpoint_every", memory.checkpoint_every, "1")
    if doing == "training" and memory.checkpoint_keep != "nothing":
        yield Setting("memory.checkpoint_keep", memory.checkpoint_keep, "nothing")
    if doing == "training" and memory.activations == "device" and can_copy:
        yield Setting("memory.activations", "device", "host")
    if doing in ("loading", "training", "validating") and memory.resident_blocks != 0 and can_copy:
        fewer = "a number of blocks that stay" if memory.resident_blocks == "all" else "fewer"
        yield Setting("memory.resident_blocks", memory.resident_blocks, fewer)


def _trained(config: Config) -> Iterator[Setting]:
    """Settings by which trained weights and what belongs to them take memory."""
    optimizer = config.optimizer
    if optimizer.state == "device":
        if optimizer.name in LARGE_STATE:
            yield Setting("optimizer.name", optimizer.name, "adamw_8bit")
        if isinstance(config.tuning, FullConfig):
            yield from _full_rank(config)
        if _is_possible(optimizer, state="cpu"):
            yield Setting("optimizer.state", "device", "cpu")
    if isinstance(config.tuning, FullConfig):
        yield Setting("tuning.kind", "full", "lora")
    elif config.tuning.rank != 1:
        yield Setting("tuning.rank", config.tuning.rank, "a lower one")
    if config.train.ema_decay is not None:
        yield Setting("train.ema_decay", config.train.ema_decay, "none")


def _full_rank(config: Config) -> Iterator[Setting]:
    """Settings by which masters and gradients take memory, where all weights have them."""
    optimizer, train = config.optimizer, config.train
    is_narrow, is_rounded = config.model.dtype == "bfloat16", optimizer.masters == "stochastic_rounding"
    if is_narrow and not is_rounded and _is_possible(optimizer, masters="stochastic_rounding"):
        yield Setting("optimizer.masters", optimizer.masters, "stochastic_rounding")
    is_one_pass = train.batch_size == train.micro_batch_size
    if is_one_pass and not optimizer.in_backward and _is_possible(optimizer, in_backward=True):
        yield Setting("optimizer.in_backward", "false", "true, with train.clip_norm: .inf")


def _is_possible(optimizer: OptimizerConfig, **changes: object) -> bool:
    """Whether the optimizer takes a setting beside its others."""
    try:
        OptimizerConfig.model_validate({**optimizer.model_dump(exclude_unset=True), **changes})
    except ValueError:
        return False
    return True


def _is_fixed(key: str) -> bool:
    """Whether a run that goes on cannot change a key."""
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED)


def _in_memory(device: torch.device, error: BaseException) -> str:
    """Say what was in the memory that was full: the device's, or the host's."""
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    more = f"; {wanted[1]} more were asked for" if wanted else ""
    is_on_device = device.type == "cuda" and not isinstance(error, MemoryError) and "CPUAllocator" not in str(error)
    if not is_on_device:
        return f"the process held up to {peak_memory_gb(torch.device('cpu')):.1f} GB of the host's{more}"
    total = torch.cuda.get_device_properties(device).total_memory / 1e9
    allocated, reserved = peak_memory_gb(device), torch.cuda.max_memory_reserved(device) / 1e9
    return f"of {total:.1f} GB of {device}, up to {allocated:.1f} GB were allocated and {reserved:.1f} GB reserved{more}"
