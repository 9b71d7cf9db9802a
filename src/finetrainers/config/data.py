"""The ``data`` and ``cache`` sections: what is read from the disk, and what is kept of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from finetrainers.config.base import AUTO, RefusedKeyError, Section

Bucket = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
"""(frames, height, width) in pixels; an image bucket has one frame."""


class PixelBudget(Section):
    """Generate buckets of roughly equal area, for all aspect ratios up to a limit."""

    pixels: int = Field(ge=1)
    """Approximate area of a frame in pixels: 262144 is 512 x 512. No bucket has more."""
    frames: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1,), min_length=1)
    """Frame counts. Each is combined with each size."""
    step: int = Field(default=32, ge=1)
    """Heights and widths are multiples of this many pixels."""
    max_aspect: float = Field(default=2.0, ge=1)
    """Largest ratio of the longer to the shorter side."""

    @model_validator(mode="after")
    def _has_a_size(self) -> "PixelBudget":
        if self.pixels < self.step**2:
            raise RefusedKeyError(
                "pixels",
                f"{self.pixels} is too small for a size in steps of {self.step}; set at least {self.step**2}, or a "
                "smaller step",
            )
        return self


Buckets = Literal["auto"] | Annotated[int, Field(ge=1)] | Annotated[tuple[Bucket, ...], Field(min_length=1)] | PixelBudget
"""Sizes to train at, or what they are made of."""


class DataConfig(Section):
    """One data set. Several are mixed in proportion to their sizes times ``repeats``, or to their ``weight``."""

    path: str
    """Where the data are: a folder of media and captions, a metadata file (csv, json, jsonl or parquet), or a shard or table
    (tar, parquet, arrow). A pattern such as ``shards/{000..009}.tar`` or ``shards/*.tar`` names several. Give remote data by
    address: ``s3://bucket/folder``, ``gs://...``, ``hf://datasets/owner/name`` or ``https://host/metadata.jsonl``. A TOML
    file in the format of kohya or musubi stands for all its data sets."""
    layout: str = "auto"
    """How media and captions are arranged. ``auto`` detects it, and refuses data that match two layouts. Or name one:
    metadata, lists, sidecars, webdataset, table, saved, imagefolder, kohya. Or give your own as file.py:Name, a class
    derived from finetrainers.DataLayout."""
    split: str | None = None
    """Split to use, if file or folder names mark splits: train, test or validation. By default train, if there is one."""
    media_column: str | None = None
    """Column of the metadata file that holds the media path. By default, the common names are tried."""
    caption_column: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Column of the metadata file that holds captions, or a list of several. By default, the common names are tried."""
    control_column: str | None = None
    """Column of the metadata file that holds the path of each item's control image or video, for ``conditioning.signal:
    files``. By default, the common names are tried."""
    control_path: str | None = None
    """Folder of control images or videos. Each has the same relative path and name as its item in ``path``, except for the
    suffix. Cannot be combined with ``control_column``."""
    columns: dict[str, str] = {}
    """Columns of the metadata file that name the files of each stream: {control: depth} means ``control_column: depth``."""
    folders: dict[str, str] = {}
    """Folders that hold the files of each stream: {control: depth} means ``control_path: depth``."""
    caption_lines: bool = False
    """Treat each line of a caption file as a separate caption, instead of the whole file as one."""
    repeats: float = Field(default=1.0, gt=0)
    """How often each item occurs in an epoch (repeats). With 0.5, each item occurs in every second epoch."""
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Share of the run's samples that come from this set, whatever its size, relative to the weights of the others. Give all
    sets a weight, or none. Cannot be combined with ``repeats``. Among sets with ``stream``, the share is exact up to one
    chapter."""
    loss_weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Factor on the training loss of each sample of this set. Set it below 1 for a regularization set, which preserves what
    the model knows."""
    buckets: Buckets = AUTO
    """Sizes to train at. A number, such as 1024, stands for all aspect ratios of about 1024 x 1024 pixels that the model
    supports. Or give a list of [frames, height, width], or {pixels: ...} to generate them. By default the native size of the
    model, in all aspect ratios. With a number or the default, videos have the model's native number of frames."""
    max_upscale: float = Field(default=2.0, ge=1)
    """Largest factor by which media may be enlarged to fill their bucket. Media that need more are bad samples."""
    videos_as_images: bool = False
    """Also use videos as single images, in buckets of one frame. Otherwise only images are used there."""
    fps: Literal["auto"] | Annotated[float, Field(gt=0)] | None = "auto"
    """Frame rate to resample clips to by time stamp, in frames per second. ``auto`` is the model's rate, for clips that have
    a higher one. Null keeps each clip's own frames."""
    stride: int = Field(default=1, ge=1)
    """Use every n-th frame of the clip. Cannot be combined with a number for ``fps``."""
    frame_sampling: Literal["start", "middle", "random", "uniform", "chunks"] = "start"
    """Which frames of a longer clip to use: its start, its middle, a random window, frames spread over all of it
    (``uniform``), or all consecutive windows, each as a separate sample (``chunks``)."""
    resize: Literal["center_crop", "random_crop", "stretch"] = "center_crop"
    """How to fit media to their bucket. Both crops keep the aspect ratio and scale to the smallest size that covers the
    bucket."""
    horizontal_flip: bool = False
    """Mirror half of the views (flip augmentation)."""
    views: int | None = Field(default=None, ge=1)
    """Number of random views (augmentations: crop, window, flip) of each item to encode. The position of a sample selects
    one. By default 4 if anything is random, else 1."""
    caption_prefix: str = ""
    """Text to put before every caption, followed by a space: the trigger word (instance token). Items without a caption get
    it alone."""
    remove_common_llm_caption_prefixes: bool = False
    """Remove openings that captioning models write, such as "The video shows"."""
    caption_dropout: float = Field(default=0.0, ge=0, le=1)
    """Probability of replacing a caption, including its prefix, with an empty one, for classifier-free guidance."""
    on_error: Literal["fail", "skip"] = "fail"
    """What to do about bad samples. ``fail`` lists all of them and stops before training. ``skip`` leaves them out and names
    each in report.json. A sample that fails only when it is decoded is replaced with another of its bucket."""

    recheck: Literal["files", "folders", "never"] = "files"
    """What to check before reusing the list of items of an earlier start. ``files`` checks the size, times and inode of each
    file. ``folders`` checks only folders, shards and lists, so it misses files that are overwritten in place. ``never``
    trusts the list."""

    stream: bool = False
    """Read the set shard by shard (tar, Parquet or Arrow files) during training, instead of listing all of it first. The
    shards, in random order, are divided into chapters; the items of each chapter are listed when training reaches it."""
    chapter_items: int = Field(default=20000, ge=1)
    """Approximate number of items in a chapter, which are shuffled together (with ``stream``). Whole shards are added until
    there are as many."""

    def column_of(self, stream: str) -> str | None:
        """Column of the metadata file that names the files of a stream; None if it is not given."""
        return self.control_column if stream == "control" and self.control_column is not None else self.columns.get(stream)

    def folder_of(self, stream: str) -> str | None:
        """Folder of the files of a stream; None if it is not given."""
        return self.control_path if stream == "control" and self.control_path is not None else self.folders.get(stream)

    def key_of_column(self, stream: str) -> str:
        """Key that names the column of a stream."""
        return "control_column" if stream == "control" and stream not in self.columns else f"columns.{stream}"

    def key_of_folder(self, stream: str) -> str:
        """Key that names the folder of a stream."""
        return "control_path" if stream == "control" and stream not in self.folders else f"folders.{stream}"

    @property
    def named_columns(self) -> tuple[str, ...]:
        """Columns that are taken for files beside the media."""
        return (*self.columns.values(), *(() if self.control_column is None else (self.control_column,)))

    @property
    def named_folders(self) -> tuple[str, ...]:
        """Folders of files beside the media."""
        return (*self.folders.values(), *(() if self.control_path is None else (self.control_path,)))

    @property
    def has_random_views(self) -> bool:
        """Whether two views of one item can differ."""
        return self.horizontal_flip or self.resize == "random_crop" or self.frame_sampling == "random"

    @property
    def num_views(self) -> int:
        """Views that are encoded of each item."""
        if self.views is not None:
            return self.views
        return 4 if self.has_random_views else 1

    @property
    def varying(self) -> dict[str, object]:
        """Keys whose values show an item in several ways, not once in an epoch, or as more or less than one sample."""
        plain = {
            "repeats": self.repeats == 1,
            "weight": self.weight is None,
            "loss_weight": self.loss_weight == 1,
            "caption_dropout": self.caption_dropout == 0,
            "horizontal_flip": not self.horizontal_flip,
            "resize": self.resize != "random_crop",
            "frame_sampling": self.frame_sampling != "random",
        }
        return {key: getattr(self, key) for key, is_plain in plain.items() if not is_plain}

    def idle(self) -> Mapping[str, str]:
        match self.buckets:
            case PixelBudget(frames=frames):
                counts: Sequence[int] = frames
            case tuple() as sizes:
                counts = [size[0] for size in sizes]
            case _:  # what the model takes, single images included
                counts = (1,)
        idle = {} if 1 in counts else {"videos_as_images": "without a bucket of one frame; add one, or remove it"}
        if self.weight is not None:
            idle["repeats"] = f"with weight: {self.weight:g}; give one of them"
        if not self.stream:
            return {**idle, "chapter_items": "without stream: true; set that, or remove it"}
        return {**idle, "recheck": "with stream: true, which lists each chapter when it begins; remove it"}

    @field_validator("caption_prefix", mode="before")
    @classmethod
    def _none_is_no_prefix(cls, value: object) -> object:
        return "" if value is None else value

    @model_validator(mode="after")
    def _consistent(self) -> "DataConfig":
        if isinstance(self.fps, float) and self.stride != 1:
            raise ValueError("fps and stride both select the frames: give one of them")
        if self.stream and self.named_folders:
            raise ValueError(f"stream: true reads all files from shards, not from the folder {self.named_folders[0]!r}")
        self._name_files_once()
        if self.num_views > 1 and not self.has_random_views:
            raise ValueError(
                f"views: {self.views} views would all be equal; set resize: random_crop, frame_sampling: random or "
                "horizontal_flip: true, or remove views"
            )
        if self.horizontal_flip and self.num_views == 1:
            raise ValueError("views: 1 leaves no view to mirror; horizontal_flip needs at least 2")
        return self

    def _name_files_once(self) -> None:
        """Refuse two keys for the files of one stream."""
        keys = {"control_column": self.control_column, "control_path": self.control_path}
        given = [("control", key) for key, value in keys.items() if value is not None]
        given += [(stream, f"columns.{stream}") for stream in self.columns]
        given += [(stream, f"folders.{stream}") for stream in self.folders]
        for stream in dict(given):
            named = [key for of, key in given if of == stream]
            if len(named) > 1:
                raise ValueError(f"{named[0]} and {named[1]} both name the {stream} files: give one of them")


class CacheConfig(Section):
    """Where encoded items (latents and text embeddings) are kept. Any number of runs can share one cache."""

    path: Path = Path("cache")
    """Folder of the cache."""
    max_gb: float | None = Field(default=None, gt=0)
    """Size limit in GB (10^9 bytes). Beyond it, the least recently used items are removed, except those that another active
    run needs. A data set that does not fit is encoded in windows, ahead of training."""
    encode: Literal["ahead", "on_the_fly"] = "ahead"
    """Where encoded items go. ``ahead`` encodes into ``path`` before training, and before each window of ``max_gb``.
    ``on_the_fly`` writes none to disk: each process holds those of its next steps in host memory, up to ``max_gb``, which
    must be set, and encodes more when they are used up. Training is the same."""
    remote_gb: float = Field(default=20.0, gt=0)
    """Size limit in GB of the copies of remote files in ``cache.path``. Beyond it, the least recently used ones are
    removed."""
    batch_size: int = Field(default=1, ge=1)
    """Number of items of one bucket to encode together. More is faster and needs more memory. The last bits of an item then
    depend on its place in the batch, so an interrupted encoding no longer repeats bit for bit."""
    workers: int = Field(default=2, ge=1)
    """Threads that probe media and decode them for the encoder."""

    @model_validator(mode="after")
    def _memory_is_bounded(self) -> "CacheConfig":
        if self.encode == "on_the_fly" and self.max_gb is None:
            raise RefusedKeyError(
                "encode",
                "on_the_fly holds encoded items in host memory and needs a limit for it; set cache.max_gb: the GB that each "
                "process may use, or encode: ahead",
            )
        return self


class LoaderConfig(Section):
    """How encoded samples reach the training loop."""

    workers: int = Field(default=2, ge=0)
    """Processes that read the cache and generate noise; 0 uses the main process. The random draws are the same."""
    prefetch: int = Field(default=2, ge=1)
    """Optimizer steps that each worker prepares in advance (prefetch)."""

    def idle(self) -> Mapping[str, str]:
        return {} if self.workers else {"prefetch": "with workers: 0; set workers: 1 or more, or remove it"}
