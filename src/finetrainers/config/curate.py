"""The configuration of ``finetrainers data prepare``: raw media, steps in order, and the train-ready set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetrainers.config.base import RefusedKeyError, Section


class ScenesStep(Section):
    """Split clips at their cuts, as detected by PySceneDetect."""

    kind: Literal["scenes"]
    """Split clips at their cuts."""
    detector: Literal["adaptive", "content"] = "adaptive"
    """How frames are compared: ``content`` compares each with the previous frame, ``adaptive`` compares that change with the
    changes of its neighbors."""
    threshold: float | None = Field(default=None, gt=0)
    """Change above which there is a cut. Null is the detector's default (3 for adaptive, 27 for content)."""
    min_seconds: float = Field(default=0.6, ge=0)
    """Ignore cuts closer than this to the previous cut."""
    margin: int = Field(default=0, ge=0)
    """Number of frames to leave out on both sides of a cut, for scenes that fade into each other."""


class ClipsStep(Section):
    """Cut clips to lengths that can be trained on. Stills pass unchanged."""

    kind: Literal["clips"]
    """Cut clips to length."""
    seconds: float | None = Field(default=None, gt=0)
    """Cut into clips of exactly this length, and drop the rest of each. Null cuts by ``min_seconds`` and ``max_seconds``."""
    min_seconds: float = Field(default=1.0, ge=0)
    """Drop shorter clips."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Cut longer clips into equal parts, none longer than this. Null leaves them as they are."""

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
    """Crop black borders that stay over the whole clip."""

    kind: Literal["letterbox"]
    """Crop black borders."""
    darkness: int = Field(default=24, ge=0, le=254)
    """Brightest value, from 0 to 255, that still counts as black."""
    stills: int = Field(default=5, ge=1)
    """Number of frames of a clip to examine."""


class MeasureStep(Section):
    """Measure scores for ``keep``: motion, sharpness, brightness, contrast, black and static."""

    kind: Literal["measure"]
    """Measure scores of the pixels."""
    stills: int = Field(default=4, ge=1)
    """Number of frames, spread over the clip, to measure sharpness, brightness and contrast on."""
    fps: float = Field(default=8.0, gt=0)
    """Frames per second to compare for motion and static."""


class KeepStep(Section):
    """Keep items for which an expression over the scores is true."""

    kind: Literal["keep"]
    """Keep items for which an expression is true."""
    where: str = Field(min_length=1)
    """Expression such as ``seconds >= 2 and sharpness > 99``. It may contain comparisons, arithmetic, and, or, not, and
    names of scores."""


class ExactDuplicatesStep(Section):
    """Drop files with the same bytes as an earlier one."""

    kind: Literal["exact_duplicates"]
    """Drop files with the same bytes as an earlier one."""


class NearDuplicatesStep(Section):
    """Drop items that look like an earlier one, by a perceptual hash."""

    kind: Literal["near_duplicates"]
    """Drop items that look like an earlier one."""
    distance: int = Field(default=6, ge=0, le=20)
    """Number of bits, of the 64 of each hash, in which two items may differ and still look the same. Clips have three
    hashes."""


class VisionConfig(Section):
    """A vision model of ``transformers``."""

    path: str
    """Local folder or Hub id of the model."""
    device: str = "auto"
    """Device to run the model on: cpu, cuda, ...; ``auto`` is cuda if there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the weights."""


class CaptionStep(Section):
    """Write captions with a model that reads images and writes text."""

    kind: Literal["caption"]
    """Write captions."""
    model: VisionConfig
    stills: int = Field(default=3, ge=1)
    """Number of frames, spread over the clip, to give to the model."""
    prompt: str = "Describe this in one paragraph."
    """Question for the model, if it has a chat template. Otherwise the beginning of its answer."""
    max_tokens: int = Field(default=200, ge=1)
    """Maximum length of a caption, in tokens."""
    replace: bool = False
    """Also write new captions for items that already have one."""


class ClassifyStep(Section):
    """Score items with an image classifier, such as one for watermarks or nudity."""

    kind: Literal["classify"]
    """Score items with an image classifier."""
    model: VisionConfig
    stills: int = Field(default=3, ge=1)
    """Number of frames, spread over the clip, to give to the model."""
    scores: dict[str, str] = Field(min_length=1)
    """Name of each score, with the label of the model whose probability it is: {nsfw: porn}."""
    take: Literal["max", "mean"] = "max"
    """Which probability counts: the largest of the frames, or their mean."""

    @model_validator(mode="after")
    def _named(self) -> "ClassifyStep":
        for name in self.scores:
            if not name.isidentifier() or name in BUILT_IN:
                raise RefusedKeyError("scores", f"{name!r} cannot be the name of a score; give it another, such as nsfw")
        return self


class AestheticStep(Section):
    """Score items with a linear head on CLIP's image embedding: the score ``aesthetic``."""

    kind: Literal["aesthetic"]
    """Score aesthetics with a linear head on CLIP."""
    model: VisionConfig
    stills: int = Field(default=3, ge=1)
    """Number of frames, spread over the clip, to give to the model."""
    head: Path
    """File (safetensors, or a torch state dict) with a weight [1, D] and a bias [1]."""


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
    """Output folder: a new one, or that of the same preparation, which then resumes."""
    format: Literal["folder", "webdataset", "parquet"] = "folder"
    """What to write: media files with a metadata.jsonl (``folder``), tar shards (``webdataset``), or Parquet files that
    contain the bytes of the media (``parquet``)."""
    shard_mb: int = Field(default=512, ge=1)
    """Approximate size of the media in a shard, in MB (10^6 bytes)."""
    crf: int = Field(default=16, ge=0, le=51)
    """Quality of clips that are cut (H.264 CRF). Lower values mean better quality and larger files."""
    preset: Literal["ultrafast", "veryfast", "fast", "medium", "slow"] = "medium"
    """H.264 preset. Slower presets make smaller files."""

    def idle(self) -> Mapping[str, str]:
        return {"shard_mb": "with format: folder, which has no shards; remove it"} if self.format == "folder" else {}


class PrepareConfig(Section):
    """What ``finetrainers data prepare`` does."""

    input: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """Folder of raw media, or a list of several. A ``.txt`` file with the same name holds the caption of a media file."""
    output: OutputConfig
    steps: tuple[Step, ...] = ()
    """Steps to apply to each item, in this order. The first key of each is its kind."""
    workers: int = Field(default=2, ge=1)
    """Threads that decode, measure and encode. The result is the same for any number."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """All folders of raw media."""
        return (self.input,) if isinstance(self.input, str) else self.input
