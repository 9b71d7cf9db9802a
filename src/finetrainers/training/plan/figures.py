"""What a plan says: these classes are the JSON that it writes."""

from collections.abc import Mapping
from typing import Literal

from finetrainers.training.bench.figures import Figures

StageName = Literal["encode text", "encode media", "load", "step", "validation", "save"]


class Stage(Figures):
    """What one stage of a run takes at most, in bytes."""

    stage: StageName
    allocated: int | None
    """Of the GPU, by tensors; None where the model's folder does not say enough to count it."""
    reserved: int | None
    """Of the GPU, by torch, with what it holds for later."""
    parts: Mapping[str, int]
    """Of what is allocated, by category."""
    host: int
    """Of the host's memory, besides what Python and libraries take."""
    note: str = ""
    """What a reader has to know."""


class Step(Figures):
    """One optimizer step at one bucket, on each device."""

    bucket: tuple[int, int, int]
    """(frames, height, width)."""
    tokens: int
    """Latent tokens of one sample."""
    tflop: float
    """10^12 operations, those that checkpointing repeats included."""
    seconds: float | None
    """None where nothing is known of the GPU's speed."""
    parts: Mapping[str, float]
    """Seconds by kind of kernel, where they are known; host is what the GPU would wait for the program."""
    link_bytes: int
    """Between host and GPU."""


class Run(Figures):
    """All of a run."""

    steps: int
    seconds: float | None
    """Of its optimizer steps, one bucket as often as the other."""
    encode_seconds: float | None
    """Of filling the cache, as far as the GPU works on it; None where the number of items or that speed is not known."""
    validation_seconds: float | None
    """Of generating and measuring in all validations."""
    price: float | None
    """What a GPU costs an hour."""
    cost: float | None
    """Of all seconds above, on all GPUs, in the price's currency."""


class Disk(Figures):
    """What a run leaves, in bytes."""

    items: int | None
    """In the cache; None where neither the data nor --items says it."""
    item: int
    """Of one view of an item of the largest bucket, with its caption, at most."""
    cache: int | None
    """Of all views of all items; 0 where they are in memory."""
    checkpoint: int
    """One of them."""
    checkpoints: int
    """As many as are there at once, that which is being written included."""
    weights: int
    """Exported weights of one step, those of ``checkpoint.export`` included."""


class Between(Figures):
    """How devices share the work of a step."""

    replicate: int
    shard: int
    context: int
    sent: Mapping[str, int]
    """Bytes that each device sends in a step, by kind of collective."""
    seconds: float | None
    """That this takes alone; None where the links are not known."""


class Technique(Figures):
    """One set of techniques that was counted."""

    keys: Mapping[str, bool | int | str]
    allocated: int | None
    """Of a step, in bytes; None if it is impossible, or was left out."""
    seconds: float | None
    """Of a step."""
    reason: str = ""
    """Why it was not counted."""
    is_chosen: bool = False
    """Whether it is the one that is proposed: the first that fits."""


class Errors(Figures):
    """How far predictions were from what was measured, at most, as parts of what was measured."""

    allocated: float
    reserved: float
    seconds: float
    basis: str
    """What was compared."""


class Planned(Figures):
    """One run of ``finetrainers plan``."""

    v: Literal[1] = 1
    """Version of the JSON: a key that changes its meaning or goes away raises it."""
    family: str
    gpu: str | None
    """Its name, as it was asked for."""
    limit: int | None
    """Bytes of the GPU, or of memory.budget, that may be counted; the rest is for what is not. None without either."""
    gpus: int
    num_trained: int
    stages: tuple[Stage, ...]
    steps: tuple[Step, ...]
    """Of buckets that were counted."""
    run: Run
    disk: Disk
    between: Between | None
    techniques: tuple[Technique, ...]
    """Those that were counted, the fastest first; none without a limit."""
    fits: bool | None
    """Whether all stages are within the limit; None without one."""
    proposal: str | None
    """The configuration that is proposed, as YAML; None without a limit."""
    errors: Errors
