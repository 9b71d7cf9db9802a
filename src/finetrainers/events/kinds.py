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
    """Training starts or resumes: the run is planned, and the items of its first steps are encoded."""

    event = "run"

    data: str
    """Hash of what the order of samples depends on: contents, windows and buckets of all items."""
    held_out: str | None
    """The same hash for the held-out data; null if nothing is held out."""
    order: Positive
    """Version of the order of samples. The same seed and data have another order in another version."""
    model: str | None = None
    """Hash of samples of the weights that training started from."""
    captions: str | None = None
    """Hash of the captions of all items, as they are listed; null for more than a million items, and with data.stream."""
    held_out_captions: str | None = None
    """The same hash for the data sets of validation.data."""
    objective: str | None = None
    """Hash of the file of your own objective, if there is one."""
    code: Mapping[str, str] | None = None
    """Hashes of all your own code files, by the keys that name them; for a list, the key includes the entry, such as
    callbacks.mine.py:Mine."""
    versions: Mapping[str, str] | None = None
    """Versions of Python and of the packages that compute, by name."""


@dataclass(frozen=True, kw_only=True)
class AttentionEvent(Event):
    """Attention backends were tried, and one was chosen (attention.train or attention.validate: auto)."""

    event = "attention"

    key: Literal["train", "validate"]
    """Which of the two keys it is for."""
    backend: str
    """The backend that was chosen."""
    trials: Sequence[AttentionTrial]
    """Each backend that was tried: its milliseconds for one pass of the denoiser, or null and the reason why it was not
    chosen."""


@dataclass(frozen=True, kw_only=True)
class StageEvent(Event):
    """A stage before the training loop is finished."""

    event = "stage"

    stage: str
    """Name of the stage: planning, encoding, loading or first step."""
    seconds: Seconds
    """Seconds that it took."""


@dataclass(frozen=True, kw_only=True)
class LoadedEvent(Event):
    """The denoiser is loaded, and its trained parameters are known."""

    event = "loaded"

    trained_parameters: Count
    """Number of trained parameters, over all processes."""
    peak_memory_gb: Number
    """Peak memory so far, in GB, measured as for a step."""


@dataclass(frozen=True, kw_only=True)
class ProgressEvent(Event):
    """A stage has made progress."""

    event = "progress"

    stage: str
    """Name of the stage: probe media, encode text or encode media; during a validation, held-out loss, item losses or
    generate samples."""
    done: Count
    """Number of items done so far."""
    total: Count
    """Number of items in total."""


@dataclass(frozen=True, kw_only=True)
class StepEvent(Event):
    """An optimizer step, every track.every steps, and always if its loss or gradient is not finite."""

    event = "step"

    step: Positive
    """Optimizer steps taken, including this one."""
    loss: Number
    """Mean loss of the step's samples, weighted by objective.weighting."""
    grad_norm: Number
    """Norm of the whole gradient, before clipping."""
    lr: Number
    """Learning rate of this step."""
    step_seconds: Number
    """Seconds from receiving the batch to the end of the step; on a GPU, until its kernels are queued."""
    data_seconds: Number
    """Seconds that the step waited for its batch."""
    tokens_per_second: Number
    """Latent tokens of all samples, divided by the seconds of the step and its wait."""
    peak_memory_gb: Number
    """Peak memory so far, in GB (10^9 bytes): of the accelerator's allocator, or of the process on a CPU."""
    skipped: Count
    """Number of steps so far whose update was skipped (train.non_finite: skip)."""


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent(Event):
    """A checkpoint is complete and on disk."""

    event = "checkpoint"

    step: Count
    """Optimizer steps taken."""
    directory: str
    """Absolute path of the checkpoint's folder."""
    stall_seconds: Number | None = None
    """Seconds that training paused for it. The rest was written during the following steps."""


@dataclass(frozen=True, kw_only=True)
class ValidationEvent(Event):
    """Samples were generated, or the held-out loss was measured, or both."""

    event = "validation"

    step: Count
    """Optimizer steps taken; 0 is the baseline."""
    held_out_loss: Number | None = None
    """Loss over all held-out samples and noise levels, all weighted equally; with your own `objective.kind`, weighted as it
    does."""
    held_out_bins: Numbers | None = None
    """The same loss by noise level: "0.00-0.25" and so on, where 0 is clean."""
    held_out_samples: Positive | None = None
    """Number of samples that were measured."""
    held_out_levels: Positive | None = None
    """Number of noise levels at which each was measured. `checkpoint.keep_best` and `validation.patience` do not compare
    losses of other samples or levels."""
    held_out_sets: Sequence[SetLoss] | None = None
    """Held-out loss of each data set, with its path and number of samples, if several have held-out samples."""
    items: ItemTable | None = None
    """Loss of training items, each at the same noise (validation.items): how many, their mean loss, and the easiest and the
    hardest, each with path, loss, and first_loss, which is the loss at the first validation."""
    samples: Sequence[str] | None = None
    """Names of the sample files in the directory, in the order of the prompts."""
    directory: str
    """Absolute path of the validation's folder."""
    seconds: Seconds | None = None
    """Seconds that all of it took. Training was paused."""


@dataclass(frozen=True, kw_only=True)
class WarningEvent(Event):
    """Something that the user should know, including what was saved when an error ends the run."""

    event = "warning"

    message: str
    """What it is, and what to do about it."""
    step: Count | None = None
    """Optimizer step, if it belongs to one."""
    kind: AlarmKind | None = None
    """Which alarm it is, if it is one. Each alarm is reported once, when it begins."""
    about: Sequence[str] | None = None
    """What the alarm is about: paths of items, or of a data set."""


@dataclass(frozen=True, kw_only=True)
class ErrorEvent(Event):
    """An error ended this start of the run."""

    event = "error"

    message: str
    """What is wrong, and what to do about it, as shown in the terminal."""
    kind: str
    """Class of the error, such as ConfigError or DataError."""


@dataclass(frozen=True, kw_only=True)
class EndEvent(Event):
    """This start of the run ended without an error."""

    event = "end"

    status: Literal["done", "interrupted"]
    """done, or interrupted: by a signal after saving, or by a second Ctrl-C without saving. The same command resumes."""
    step: Count | None = None
    """Optimizer steps taken, if done; 0 after encode."""
    weights: str | None = None
    """Absolute path of the folder of exported weights, if training is done."""
    reason: Literal["steps", "early_stop", "callback"] | None = None
    """Why training is done: all steps were taken, or validation.patience or a callback ended it earlier."""
    samples: str | None = None
    """Absolute path of the folder of samples generated at that step, if training is done and there are any."""
    first_held_out_loss: Number | None = None
    """Held-out loss before the first step, if training is done and it was measured."""
    best_step: Positive | None = None
    """Step of the lowest held-out loss after step 0, if training is done and there was one."""
    best_held_out_loss: Number | None = None
    """Held-out loss at that step."""
    best_weights: str | None = None
    """Absolute path of the folder of weights of that step, if they are kept."""
    message: str | None = None
    """If interrupted: which signal it was, and during what, or what is kept."""


EVENTS: tuple[type[Event], ...] = (
    RunEvent, AttentionEvent, StageEvent, LoadedEvent, ProgressEvent, StepEvent, CheckpointEvent, ValidationEvent,
    WarningEvent, ErrorEvent, EndEvent,
)  # fmt: skip
"""All of them, in the order of the documentation."""
