"""What a bench has measured: these classes are the JSON that it writes."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Figures(BaseModel):
    """Base of all figures: no key beside those that are named, and no value that changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Product(Figures):
    """A matrix product, timed before the run: what the device can do at most."""

    size: int
    """Rows and columns of both matrices."""
    dtype: str
    """The type that the model computes in."""
    tflops: float
    """10^12 operations a second."""


class Seconds(Figures):
    """Of one optimizer step; medians."""

    step: float
    """Of steps that nothing interrupts."""
    first_step: float
    """The first one at the bucket, with all that is made once, such as compiled kernels."""
    data: float
    """From the start to the batch on the device, over all micro-batches; this and the next three in steps that wait for the
    device wherever one of them ends."""
    forward: float
    """Noise, denoiser and loss."""
    backward: float
    """Gradients, and whatever is done with them as they come."""
    update: float
    """Clipping, the finite check, the optimizer, averages."""


class Memory(Figures):
    """At most, in bytes, over all steps at a bucket."""

    allocated: int | None
    """By tensors on a GPU; None on a CPU."""
    reserved: int | None
    """By torch on a GPU, with what it holds for later; None on a CPU."""
    process: int
    """By the process on the host, since it began."""


class BucketFigures(Figures):
    """What steps at one bucket were like."""

    bucket: tuple[int, int, int]
    """(frames, height, width)."""
    tokens: int
    """Latent tokens of one sample."""
    seconds: Seconds
    samples_per_second: float
    tokens_per_second: float
    tflop: float
    """10^12 operations of matrix products in one step, those that checkpointing repeats included."""
    share: float
    """Of what the product reaches, that the step reaches."""
    memory: Memory


class Result(Figures):
    """One run of ``finetrainers bench``."""

    v: Literal[1] = 1
    """Version of the JSON: a key that changes its meaning or goes away raises it."""
    versions: Mapping[str, str]
    """Of finetrainers, torch and diffusers."""
    device: str
    """Name of the GPU, or cpu with its threads."""
    family: str
    weights: Literal["stored", "random"]
    num_trained: int
    """Numbers that train."""
    steps: int
    """Measured ones, of each kind: uninterrupted, and by phases."""
    warmup: int
    """Steps before them."""
    config: Mapping[str, Any]
    """The whole configuration, defaults included, and what was left to auto as it was settled."""
    product: Product
    buckets: tuple[BucketFigures, ...]


class SetResult(Figures):
    """What became of one set of techniques."""

    name: str
    overrides: tuple[str, ...]
    """Each section.key=value."""
    reason: str | None = None
    """Why it did not run; None if it did."""
    result: Result | None = None


class Comparison(Figures):
    """One run of ``finetrainers bench --compare``."""

    v: Literal[1] = 1
    sets: tuple[SetResult, ...]
