"""report.json: what a run was and what it did, in one object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from finetrainers.events.parts import BadItem, DataShare, ItemTable
from finetrainers.events.record import Count, Number, Positive, Record, Seconds


@dataclass(frozen=True, kw_only=True)
class RunSummary(Record):
    """What a run was. Null is what its files do not tell, such as those of an earlier version."""

    model: str | None
    """Where the model comes from: a folder, or a Hub id."""
    model_revision: str | None
    """Branch, tag or commit on the Hub, if one was given."""
    family: str | None
    """Model family, such as flux."""
    task: str | None
    """Task, such as text-to-video."""
    tuning: str | None
    """What was trained: lora, lokr or full."""
    rank: Positive | None
    """Rank of the adapters."""
    alpha: Number | None
    """Alpha of the adapters, which are scaled by alpha / rank."""
    trained_parameters: Count | None
    """Number of trained parameters, over all processes."""
    optimizer: str | None
    """Name of the optimizer, or the file of your own optimizer."""
    lr: Number | None
    """Learning rate that the schedule starts from (optimizer.lr)."""
    batch_size: Positive | None
    """Samples per optimizer step."""
    epochs: Number | None
    """Passes over the samples: steps x batch_size / num_samples; with data.stream, divided by samples_of_pass of the event
    run instead."""
    device: str | None
    """Name of the accelerator, such as NVIDIA H200, or cpu."""
    processes: Positive | None
    """Number of processes that trained together, each with its own device."""
    peak_memory_gb: Number | None
    """Peak memory over all starts, in GB (10^9 bytes), measured as for a step."""
    step_seconds: Number | None
    """Seconds of a step and its wait for data: the median of the last 50 logged steps, without the first step of a start."""
    total_seconds: Seconds | None
    """Seconds of all starts of the run, each from the beginning of planning to its last event."""
    stage_seconds: Mapping[str, Number]
    """Seconds of each stage before the loop, over all starts."""
    finetrainers: str | None
    """Version of finetrainers."""
    commit: str | None
    """Commit of finetrainers, where it runs from a checkout."""
    versions: Mapping[str, str] | None
    """Versions of Python and of the packages that compute, by name."""


@dataclass(frozen=True, kw_only=True)
class RunReport(RunSummary):
    """What report.json holds."""

    version: Literal[1]
    """Raised when the meaning of a field changes. New fields do not raise it."""
    steps: Count
    """Optimizer steps taken."""
    skipped_steps: Count
    """Number of steps whose update was skipped (train.non_finite: skip)."""
    stopped_by: Literal["steps", "early_stop", "callback"]
    """Why training is done: all steps were taken, or validation.patience or a callback ended it earlier."""
    num_samples: Count
    """Number of samples to train on, without held-out and bad ones. With data.stream, those of the last chapter."""
    mix: Sequence[DataShare]
    """Data sets of the run, and what the steps took of each. With data.stream, samples is an estimate until all shards have
    been read once."""
    bad_samples: Sequence[BadItem]
    """All items that were left out or replaced by others because they cannot be used, each with path and reason."""
    first_loss: Number | None
    """Training loss of the first logged step."""
    last_loss: Number | None
    """Training loss of the last step."""
    held_out_losses: Sequence[Sequence[Number]]
    """Step and held-out loss of each validation that measured it."""
    best_step: Positive | None
    """Step of the lowest held-out loss after step 0."""
    items: ItemTable | None
    """The easiest and the hardest training items of the last validation that measured them (validation.items)."""
    seconds: Mapping[str, Number]
    """Seconds of each stage of the last start."""
    pushed_to: str | None = None
    """Hub repository that the weights were pushed to; omitted if they were not pushed."""
