"""The configuration of ``finetrainers data prepare``: raw media, steps in order, and the train-ready set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetrainers.config.base import RefusedKeyError, Section


class ScenesStep(Section):
    """Split clips at their cuts, with a detector of PySceneDetect."""

    kind: Literal["scenes"]
    """Split clips at their cuts."""
    detector: Literal["adaptive", "content"] = "adaptive"
    """How frames are compared: ``content`` with the previous frame, ``adaptive`` that change with those of its neighbors."""
    threshold: float | None = Field(default=None, gt=0)
    """Change above which there is a cut; null is the detector's default (3 for adaptive, 27 for content)."""
    min_seconds: float = Field(default=0.6, ge=0)
    """Cuts closer than this to the previous one are ignored."""
    margin: int = Field(default=0, ge=0)
    """Frames to leave out on both sides of a cut, where scenes fade into each other."""


class ClipsStep(Section):
    """Cut clips to lengths that can be trained on; stills pass."""

    kind: Literal["clips"]
    """Cut clips to length."""
    seconds: float | None = Field(default=None, gt=0)
    """Cut into clips of exactly this length; the rest of each is dropped. Null cuts by min_seconds and max_seconds."""
    min_seconds: float = Field(default=1.0, ge=0)
    """Shorter clips are dropped."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Longer clips are cut into equal parts, none of them longer; null leaves them."""

    def idle(self) -> Mapping[str, str]:
        reason = f"with seconds: {self.seconds}, which is the length of all clips; remove it"
        return {} if self.seconds is None else {"min_seconds": reason, "max_seconds": reason}

    @model_validator(mode="after")
    def _ordered(self) -> "ClipsStep":
        if self.max_seconds is not None and self.max_seconds < 2 * self.min_seconds:
            raise RefusedKeyError(
                "max_seconds",
                f"{self.max_seconds} must be at least twice min_seconds ({self.min_seconds}): the parts of a clip that is "
                "a little longer would be too short",
            )
        return self


class LetterboxStep(Section):
    """Find black borders that stay over the whole clip, and cut them off."""

    kind: Literal["letterbox"]
    """Cut off black borders."""
    darkness: int = Field(default=24, ge=0, le=254)
    """Brightest value, of 0 to 255, that still counts as black."""
    stills: int = Field(default=5, ge=1)
    """Frames of a clip that are examined."""


class MeasureStep(Section):
    """Measure motion, sharpness, brightness, contrast, black and static: scores for ``keep``."""

    kind: Literal["measure"]
    """Measure scores of the pixels."""
    stills: int = Field(default=4, ge=1)
    """Frames of a clip, spread over it, whose sharpness, brightness and contrast are measured."""
    fps: float = Field(default=8.0, gt=0)
    """Frames per second of a clip that are compared for motion and static."""


class KeepStep(Section):
    """Keep items for which an expression over the scores is true."""

    kind: Literal["keep"]
    """Keep items for which an expression is true."""
    where: str = Field(min_length=1)
    """Expression such as ``seconds >= 2 and sharpness > 99``: comparisons, arithmetic, and, or, not, and names of scores."""


class ExactDuplicatesStep(Section):
    """Drop files with the same bytes as an earlier one."""

    kind: Literal["exact_duplicates"]
    """Drop files of the same bytes."""


class NearDuplicatesStep(Section):
    """Drop items that look like an earlier one, by a perceptual hash."""

    kind: Literal["near_duplicates"]
    """Drop items that look like an earlier one."""
    distance: int = Field(default=6, ge=0, le=20)
    """Bits, of the 64 of each hash, in which two items may differ and still look the same; clips have three hashes."""


class VisionConfig(Section):
    """A model of ``transformers`` that looks at pictures."""

    path: str
    """Folder of the model, or its name on the Hub."""
    device: str = "auto"
    """Device of the model: cpu, cuda, ...; auto is cuda if there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the weights."""


class CaptionStep(Section):
    """Write captions with a model that reads images and writes text."""

    kind: Literal["caption"]
    """Write captions."""
    model: VisionConfig
    stills: int = Field(default=3, ge=1)
    """Frames of a clip, spread over it, that are the input of the model."""
    prompt: str = "Describe this in one paragraph."
    """What the model is asked, if it has a chat template; else the beginning of its answer."""
    max_tokens: int = Field(default=200, ge=1)
    """Longest caption, in tokens."""
    replace: bool = False
    """Also write new captions for items that have one."""


class ClassifyStep(Section):
    """Score items with an image classifier, such as one for watermarks or nudity."""

    kind: Literal["classify"]
    """Score items with an image classifier."""
    model: VisionConfig
    stills: int = Field(default=3, ge=1)
    """Frames of a clip, spread over it, that are the input of the model."""
    scores: dict[str, str] = Field(min_length=1)
    """Label of the model by the name of the score that its probability becomes, such as {nsfw: porn}."""
    take: Literal["max", "mean"] = "max"
    """Which of the frames' probabilities counts."""

    @model_validator(mode="after")
    def _named(self) -> "ClassifyStep":
        for name in self.scores:
            if not name.isidentifier() or name in BUILT_IN:
                raise RefusedKeyError("scores", f"{name!r} cannot be the name of a score; give it another, such as nsfw")
        return self


class AestheticStep(Section):
    """Score items with a linear head on CLIP's image embedding: the score ``aesthetic``."""

    kind: Literal["aesthetic"]
    """Score beauty with a linear head on CLIP."""
    model: VisionConfig
    stills: int = Field(default=3, ge=1)
    """Frames of a clip, spread over it, that are the input of the model."""
    head: Path
    """File (safetensors, or a state dict of torch) with a weight [1, D] and a bias [1]."""


Step = Annotated[
    ScenesStep
    | ClipsStep
    | LetterboxStep
    | MeasureStep
    | KeepStep
    | ExactDuplicatesStep
    | NearDuplicatesStep
    | CaptionStep
    | ClassifyStep
    | AestheticStep,
    Field(discriminator="kind"),
]

BUILT_IN = ("kind", "caption", "seconds", "frames", "fps", "height", "width", "aspect")
"""Scores that every item has: kind is "video" or "image", caption is text, and a still has 0 seconds and 0 fps."""


class OutputConfig(Section):
    """Where the train-ready set is written, and how."""

    path: Path
    """Folder: a new one, or that of the same preparation, which is then continued."""
    format: Literal["folder", "webdataset", "parquet"] = "folder"
    """Files with a metadata.jsonl, tar shards, or Parquet files with the bytes of the media."""
    shard_mb: int = Field(default=512, ge=1)
    """Media in a shard, in MB (10^6 bytes), about."""
    crf: int = Field(default=16, ge=0, le=51)
    """Quality of clips that are cut (H.264 CRF): lower is better and larger."""
    preset: Literal["ultrafast", "veryfast", "fast", "medium", "slow"] = "medium"
    """H.264 preset: slower presets make smaller files."""

    def idle(self) -> Mapping[str, str]:
        return {"shard_mb": "with format: folder, which has no shards; remove it"} if self.format == "folder" else {}


class PrepareConfig(Section):
    """What ``finetrainers data prepare`` does."""

    input: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """Folder, or several, of raw media. A ``.txt`` file of the same name is the caption of its medium."""
    output: OutputConfig
    steps: tuple[Step, ...] = ()
    """What is done with each item, in this order; the first key of each is its kind."""
    workers: int = Field(default=2, ge=1)
    """Threads that decode, measure and encode; the result is the same for any number."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """All folders of raw media."""
        return (self.input,) if isinstance(self.input, str) else self.input
