"""Every event of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from finetrainers.events.outline import RunOutline
from finetrainers.events.parts import AttentionTrial, ItemTable, SetLoss
from finetrainers.events.record import Count, Event, Number, Numbers, Positive, Seconds

AlarmKind = Literal["loss_flat", "grad_norm_jump", "item_not_learnt", "held_out_rises"]


@dataclass(frozen=True, kw_only=True)
class RunEvent(RunOutline, Event):
    """Training begins or goes on: the run is planned, and the items of its first steps are encoded."""

    event = "run"

    data: str
    """Hash of what the order depends on: contents, windows and buckets of all items."""
    held_out: str | None
    """The same of the data that are held out; null if nothing is."""
    order: Positive
    """Version of the order of samples; the same seed and data have another order in another version."""
    model: str | None = None
    """Hash of samples of the weights that training began from."""
    captions: str | None = None
    """Hash of the captions of all items, as they are listed; null of over a million items, and with data.stream."""
    held_out_captions: str | None = None
    """The same of the data sets of validation.data."""
    objective: str | None = None
    """Hash of the file of an objective of the user's own, where there is one."""
    code: Mapping[str, str] | None = None
    """Hashes of all files of the user's own, by the keys that name them; of a list: callbacks.mine.py:Mine."""
    versions: Mapping[str, str] | None = None
    """Versions of Python and of the packages that compute, by name."""


@dataclass(frozen=True, kw_only=True)
class AttentionEvent(Event):
    """The backends of attention were tried, and one is taken (attention.train or attention.validate: auto)."""

    event = "attention"

    key: Literal["train", "validate"]
    """Which of the two keys."""
    backend: str
    """Backend that is taken."""
    trials: Sequence[AttentionTrial]
    """Each backend that was tried: its milliseconds for one pass of the denoiser, or null and the reason why it is not
    taken."""


@dataclass(frozen=True, kw_only=True)
class StageEvent(Event):
    """A stage before the loop is over."""

    event = "stage"

    stage: str
    """planning, encoding, loading or first step."""
    seconds: Seconds
    """How long it took."""


@dataclass(frozen=True, kw_only=True)
class LoadedEvent(Event):
    """The denoiser is loaded, and what trains of it is known."""

    event = "loaded"

    trained_parameters: Count
    """Numbers that train, over all processes."""
    peak_memory_gb: Number
    """Largest memory so far, in GB, as of a step."""


@dataclass(frozen=True, kw_only=True)
class ProgressEvent(Event):
    """A stage has come further."""

    event = "progress"

    stage: str
    """probe media, encode text or encode media; in a validation, held-out loss, item losses or generate samples."""
    done: Count
    """Items that are done."""
    total: Count
    """Items in all."""


@dataclass(frozen=True, kw_only=True)
class StepEvent(Event):
    """An optimizer step, each track.every steps; always if its loss or gradient is not finite."""

    event = "step"

    step: Positive
    """Optimizer steps taken, this one included."""
    loss: Number
    """Mean loss of the step's samples, weighted as objective.weighting says."""
    grad_norm: Number
    """Norm of the whole gradient, before clipping."""
    lr: Number
    """Learning rate of this step."""
    step_seconds: Number
    """Seconds from receiving the batch to the end of the step; on a GPU, until its kernels are queued."""
    data_seconds: Number
    """Seconds that the step waited for its batch."""
    tokens_per_second: Number
    """Latent tokens of all samples, by the time of the step and its wait."""
    peak_memory_gb: Number
    """Largest memory so far, in GB (10^9 bytes): of the accelerator's allocator, or of the process on a CPU."""
    skipped: Count
    """Steps so far whose update was skipped (train.non_finite: skip)."""


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent(Event):
    """A checkpoint is whole and on the disk."""

    event = "checkpoint"

    step: Count
    """Optimizer steps taken."""
    directory: str
    """Folder of the checkpoint, absolute."""
    stall_seconds: Number | None = None
    """Seconds that training paused for it; the rest was written during the steps after."""


@dataclass(frozen=True, kw_only=True)
class ValidationEvent(Event):
    """Samples were generated, or the held-out loss was measured, or both."""

    event = "validation"

    step: Count
    """Optimizer steps taken; 0 is the baseline."""
    held_out_loss: Number | None = None
    """Loss over all held-out samples and noise levels, which all count the same; of an `objective.kind` of your own, as that
    weighs them."""
    held_out_bins: Numbers | None = None
    """The same by noise level: "0.00-0.25" and so on; 0 is clean."""
    held_out_samples: Positive | None = None
    """Samples that were measured."""
    held_out_levels: Positive | None = None
    """Noise levels at which each was. Losses of other samples or levels are not compared, by `checkpoint.keep_best` or
    `validation.patience`."""
    held_out_sets: Sequence[SetLoss] | None = None
    """The held-out loss of each data set, with its path and samples, where several have held-out samples."""
    items: ItemTable | None = None
    """Loss of training items, each at the same noise (validation.items): how many, their mean loss, and the easiest and the
    hardest, with path, loss, and first_loss, that at the first validation."""
    samples: Sequence[str] | None = None
    """Names of the files in the directory, in the order of the prompts."""
    directory: str
    """Folder of the validation, absolute."""
    seconds: Seconds | None = None
    """How long it took, all of it; training stood still."""


@dataclass(frozen=True, kw_only=True)
class WarningEvent(Event):
    """Something that the user should know; also what was saved where an error ends the run."""

    event = "warning"

    message: str
    """What it is, and the way out."""
    step: Count | None = None
    """Optimizer step, if it belongs to one."""
    kind: AlarmKind | None = None
    """Which alarm it is, if it is one; each is reported once when it begins."""
    about: Sequence[str] | None = None
    """What the alarm is about: paths of items, or of a data set."""


@dataclass(frozen=True, kw_only=True)
class ErrorEvent(Event):
    """An error ended this start."""

    event = "error"

    message: str
    """What is wrong, and the way out: what the terminal shows."""
    kind: str
    """Class of the error, such as ConfigError or DataError."""


@dataclass(frozen=True, kw_only=True)
class EndEvent(Event):
    """This start is over, and nothing went wrong."""

    event = "end"

    status: Literal["done", "interrupted"]
    """done, or interrupted by a signal after saving, or by a second Ctrl-C without: the same command goes on."""
    step: Count | None = None
    """Optimizer steps taken, if done; 0 after encode."""
    weights: str | None = None
    """Folder of the exported weights, if training is done, absolute."""
    reason: Literal["steps", "early_stop", "callback"] | None = None
    """Why training is done: all steps are taken, or validation.patience or a callback has ended it before."""
    samples: str | None = None
    """Folder of what was generated at that step, absolute, if training is done and there is any."""
    first_held_out_loss: Number | None = None
    """Held-out loss before the first step, if training is done and it was measured."""
    best_step: Positive | None = None
    """Step of the lowest held-out loss after step 0, if training is done and there was one."""
    best_held_out_loss: Number | None = None
    """That loss."""
    best_weights: str | None = None
    """Folder of the weights of that step, absolute, if they are kept."""
    message: str | None = None
    """Which signal it was, and during what, or what is kept, if interrupted."""


EVENTS: tuple[type[Event], ...] = (
    RunEvent, AttentionEvent, StageEvent, LoadedEvent, ProgressEvent, StepEvent, CheckpointEvent, ValidationEvent,
    WarningEvent, ErrorEvent, EndEvent,
)  # fmt: skip
"""All of them, in the order of the documentation."""
