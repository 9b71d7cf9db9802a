"""Every event of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from finetrainers.events.parts import AttentionTrial, DataShare, FilledBucket, FoundData, ItemTable, SetLoss
from finetrainers.events.record import Count, Event, Number, Numbers, Positive, Seconds

AlarmKind = Literal["loss_flat", "grad_norm_jump", "item_not_learnt", "held_out_rises"]


@dataclass(frozen=True, kw_only=True)
class RunEvent(Event):
    """Training begins or goes on: the run is planned, and the items of its first steps are encoded."""

    event = "run"

    output_dir: str
    """Run directory, absolute."""
    family: str
    """Model family, such as flux."""
    task: str
    """Task, such as text-to-video."""
    resumed_from: Count | None
    """Step of the checkpoint that this start goes on from; null if it begins at step 0."""
    steps: Count
    """Optimizer steps of the whole run."""
    batch_size: Positive
    """Samples of one optimizer step."""
    num_samples: Count
    """Samples to train on; held-out and bad ones are not among them."""
    num_held_out: Count
    """Samples that the held-out loss is measured on."""
    num_bad: Count
    """Items that are left out, or replaced by others, because they cannot be used; report.json names them."""
    data: str
    """Hash of what the order depends on: contents, windows and buckets of all items."""
    held_out: str | None
    """The same of the data that are held out; null if nothing is."""
    model: str | None = None
    """Hash of samples of the weights that training began from."""
    order: Positive
    """Version of the order of samples; the same seed and data have another order in another version."""
    epochs: Positive
    """Passes over the data that the steps begin."""
    device: str
    """Device, such as cuda or cpu."""
    objective: str | None = None
    """Hash of the file of an objective of the user's own, where there is one."""
    memory: Sequence[str] | None = None
    """What memory.preset: auto counted, a line for each set of techniques; the last is taken."""
    auto: Sequence[str] | None = None
    """What the configuration left to the model, a line for each key, such as optimizer.lr: auto, which is 0.0001; the saved
    configuration has it, too."""
    native_fps: float | None = None
    """Frames per second of the clips that the model was trained on, to which data.N.fps: auto brings faster ones; null if it
    has no rate of its own."""
    mix: Sequence[DataShare]
    """Data sets of the run: path, samples to train on, asked (the share that the configuration gives it), and what the
    steps of the whole run take of it: taken, as a share, images and videos, as counts; empty with data.stream, where the
    steps to come are not known."""
    sets: Sequence[FoundData]
    """Data sets of the run: path, layout and why it was taken for that, items to train on, bad ones that are left out, and
    passed_over, what is no part of any item, counted by kind."""
    buckets: Sequence[FilledBucket]
    """Buckets of the run, empty ones included: size (frames, height, width), samples to train on, and held_out, those that
    the held-out loss is measured on."""
    device_name: str | None = None
    """Name of the accelerator, such as NVIDIA H200; not given for a CPU."""
    processes: Positive | None = None
    """Processes that train together, each with a device of its own."""
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
    """probe media, encode text or encode media."""
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
    """From the arrival of the batch to the end of the step (on an accelerator: of its launch)."""
    data_seconds: Number
    """How long the step waited for its batch."""
    tokens_per_second: Number
    """Latent tokens of all samples, by the time of the step and its wait."""
    peak_memory_gb: Number
    """Largest memory so far, in GB (10^9 bytes): of the accelerator's allocator, or of the process on a CPU."""
    skipped: Count
    """Steps so far whose update was left out (train.non_finite: skip)."""


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent(Event):
    """A checkpoint is whole and on the disk."""

    event = "checkpoint"

    step: Count
    """Optimizer steps taken."""
    directory: str
    """Folder of the checkpoint, absolute."""
    stall_seconds: Number | None = None
    """How long training stood still for it; what else it took, it took beside the steps after."""


@dataclass(frozen=True, kw_only=True)
class ValidationEvent(Event):
    """Samples are drawn, or the held-out loss is measured, or both."""

    event = "validation"

    step: Count
    """Optimizer steps taken; 0 is the baseline."""
    held_out_loss: Number | None = None
    """Unweighted loss over all held-out samples and noise levels."""
    held_out_bins: Numbers | None = None
    """The same by noise level: "0.00-0.25" and so on; 0 is clean."""
    held_out_samples: Positive | None = None
    """Samples that were measured."""
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
    """Which alarm it is, if it is one; each is told once each time it begins."""
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
