"""The outline of a run: what it will be, as far as that is known before weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetrainers.events.parts import BadItem, CroppedItem, DataShare, DiskUse, FilledBucket, FoundData, Tuned
from finetrainers.events.record import Count, Number, Positive, Record


@dataclass(frozen=True, kw_only=True)
class RunOutline(Record):
    """What a run will be; ``training.outline`` makes it of the planned run."""

    output_dir: str
    """Absolute path of the run directory."""
    family: str
    """Model family, such as flux."""
    task: str
    """Task, such as text-to-video."""
    resumed_from: Count | None
    """Step of the checkpoint that this start resumes from; null if it starts at step 0."""
    steps: Count
    """Optimizer steps of the whole run."""
    batch_size: Positive
    """Samples per optimizer step."""
    num_samples: Count
    """Number of samples to train on, without held-out and bad ones. With data.stream, those of one chapter."""
    num_held_out: Count
    """Number of samples that the held-out loss is measured on."""
    num_bad: Count
    """Number of items that are left out or replaced by others because they cannot be used; report.json names them."""
    epochs: Positive
    """Passes over the data, including one that is only begun; 1 with data.stream."""
    device: str
    """Device, such as cuda or cpu."""
    mix: Sequence[DataShare]
    """Data sets of the run: path, samples to train on, asked (the share that the configuration gives it), and what the steps
    of the whole run take of it: taken (a share), images and videos (counts). With data.stream, samples is an estimate until
    all shards have been read once, and what is taken covers only the steps up to the end of the known chapter."""
    sets: Sequence[FoundData]
    """Data sets of the run: path, layout and why it was chosen, items to train on, bad ones that are left out, and
    passed_over: what is not part of any item, counted by kind."""
    buckets: Sequence[FilledBucket]
    """Buckets of the run, including empty ones: size (frames, height, width), samples to train on, and held_out: samples
    that the held-out loss is measured on. cropped and most_cropped are the mean and the largest fraction (0 to 1) of its
    pictures that the crop removes."""
    samples_of_pass: Count | None = None
    """With data.stream: samples of one pass over all data sets, an estimate until all shards have been read once."""
    memory: Sequence[str] | None = None
    """What memory.preset: auto counted, one line per set of techniques. The last one is used."""
    auto: Sequence[str] | None = None
    """What the configuration left to the model, one line per key, such as optimizer.lr: auto, which is 0.0001. The saved
    configuration has it too."""
    yours: Sequence[str] | None = None
    """Your own code, one line per object: the key that names it, its file, and its name there."""
    native_fps: float | None = None
    """Frames per second of the clips that the model was trained on. data.N.fps: auto resamples faster clips to it. Null if
    the model has no rate of its own."""
    device_name: str | None = None
    """Name of the accelerator, such as NVIDIA H200; omitted for a CPU."""
    device_memory_gb: Number | None = None
    """Memory of the accelerator, in GB (10^9 bytes)."""
    processes: Positive | None = None
    """Number of processes that train together, each with its own device."""
    model_path: str | None = None
    """Where the model comes from: a folder, or a Hub id."""
    model_revision: str | None = None
    """Branch, tag or commit on the Hub, if one was given."""
    num_apart: Count | None = None
    """Number of samples that are kept from training; num_held_out of them are measured."""
    held_out_asked: Number | None = None
    """Fraction of the data that the configuration holds out; omitted if validation.data names it."""
    bad: Sequence[BadItem] | None = None
    """The first of the items that are left out, each with path and reason."""
    num_cropped: Count | None = None
    """Number of items that lose more than a quarter of their picture to the crop."""
    cropped: Sequence[CroppedItem] | None = None
    """The items that lose most: path, bucket, and the fraction that is cropped (0 to 1)."""
    trained: Tuned | None = None
    """What is trained: kind, rank and alpha of adapters, the number of trained parameters and of all weights, and mb, the
    size in MB of the weights that are exported at one step."""
    num_prompts: Count | None = None
    """Number of prompts in each validation."""
    validate_every: Positive | None = None
    """Optimizer steps between validations; omitted if there are only the first and the last."""
    save_every: Positive | None = None
    """Optimizer steps between checkpoints."""
    disk: Sequence[DiskUse] | None = None
    """What the run writes at most: what it is, the key that sets its place, the place, and gb, in GB (10^9 bytes)."""
