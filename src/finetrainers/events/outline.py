"""The outline of a run: what it will be, as far as that is known before weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetrainers.events.parts import BadItem, CroppedItem, DataShare, DiskUse, FilledBucket, FoundData, Tuned
from finetrainers.events.record import Count, Number, Positive, Record


@dataclass(frozen=True, kw_only=True)
class RunOutline(Record):
    """What a run will be; ``training.outline`` makes it of the planned run."""

    output_dir: str
    """Run directory, absolute."""
    family: str
    """Model family, such as flux."""
    task: str
    """Task, such as text-to-video."""
    resumed_from: Count | None
    """Step of the checkpoint that this start continues from; null if it begins at step 0."""
    steps: Count
    """Optimizer steps of the whole run."""
    batch_size: Positive
    """Samples of one optimizer step."""
    num_samples: Count
    """Samples to train on; held-out and bad ones are not among them. With data.stream, those of one chapter."""
    num_held_out: Count
    """Samples that the held-out loss is measured on."""
    num_bad: Count
    """Items that are left out, or replaced by others, because they cannot be used; report.json names them."""
    epochs: Positive
    """Passes over the data that the steps begin; 1 with data.stream."""
    device: str
    """Device, such as cuda or cpu."""
    mix: Sequence[DataShare]
    """Data sets of the run: path, samples to train on, asked (the share that the configuration gives it), and what the
    steps of the whole run take of it: taken, as a share, images and videos, as counts. With data.stream, samples is an
    estimate until all shards are read once, and what is taken is counted of the steps before the end of the chapter that is
    known."""
    sets: Sequence[FoundData]
    """Data sets of the run: path, layout and why it was taken for that, items to train on, bad ones that are left out, and
    passed_over, what is no part of any item, counted by kind."""
    buckets: Sequence[FilledBucket]
    """Buckets of the run, empty ones included: size (frames, height, width), samples to train on, and held_out, those that
    the held-out loss is measured on; cropped and most_cropped, the mean and the largest part (0 to 1) of its pictures that
    the crop removes."""
    samples_of_pass: Count | None = None
    """With data.stream: samples of one pass over all data sets, an estimate until all shards are read once."""
    memory: Sequence[str] | None = None
    """What memory.preset: auto counted, a line for each set of techniques; the last is taken."""
    auto: Sequence[str] | None = None
    """What the configuration left to the model, a line for each key, such as optimizer.lr: auto, which is 0.0001; the saved
    configuration has it, too."""
    yours: Sequence[str] | None = None
    """Code of the user's own, a line for each: the key that names it, with its file and its name there."""
    native_fps: float | None = None
    """Frames per second of the clips that the model was trained on, to which data.N.fps: auto brings faster ones; null if it
    has no rate of its own."""
    device_name: str | None = None
    """Name of the accelerator, such as NVIDIA H200; not given for a CPU."""
    device_memory_gb: Number | None = None
    """Memory of the accelerator, in GB (10^9 bytes)."""
    processes: Positive | None = None
    """Processes that train together, each with a device of its own."""
    model_path: str | None = None
    """Where the model comes from: a folder, or an id on the Hub."""
    model_revision: str | None = None
    """Branch, tag or commit on the Hub, if one is asked for."""
    num_apart: Count | None = None
    """Samples that are kept from training; num_held_out of them are measured."""
    held_out_asked: Number | None = None
    """Part of the data that was asked to be held out; not given where validation.data names it."""
    bad: Sequence[BadItem] | None = None
    """The first of the items that are left out: path and reason."""
    num_cropped: Count | None = None
    """Items that lose more than a quarter of their picture to the crop."""
    cropped: Sequence[CroppedItem] | None = None
    """The items that lose most: path, bucket, and the part that is cropped (0 to 1)."""
    trained: Tuned | None = None
    """What trains: its kind, rank and alpha of adapters, how many parameters, of how many weights in all, and mb, the size
    of the weights that are exported at one step, in MB."""
    num_prompts: Count | None = None
    """Prompts that a validation generates."""
    validate_every: Positive | None = None
    """Optimizer steps between validations; not given where there are none but the first and the last."""
    save_every: Positive | None = None
    """Optimizer steps between checkpoints."""
    disk: Sequence[DiskUse] | None = None
    """What the run writes at most: what it is, the key of its place, the place, and gb, in GB (10^9 bytes)."""
