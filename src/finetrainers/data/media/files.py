"""Media files: what is in them, and the pixels of one view. An animated gif, webp, png or avif is a video."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetrainers.data.media import archives as archives, cells as cells  # their references are known from here on
from finetrainers.data.media.animation import decode_animation, probe_animation
from finetrainers.data.media.blob import Blob, Media, blob_of
from finetrainers.data.media.containers import check_gif, check_png
from finetrainers.data.media.contents import content_of, may_be_video, what_it_is, what_to_do
from finetrainers.data.media.images import decode_image, is_animation, opened, probe_image
from finetrainers.data.media.video import decode_video, probe_video
from finetrainers.data.media.view import (
    Clip as Clip,
    MediaInfo as MediaInfo,
    View as View,
    available_frames as available_frames,
    bad_media,
    count_frames as count_frames,
    num_chunks as num_chunks,
    why_unreadable as why_unreadable,
)
from finetrainers.errors import FinetrainersError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp"),
    *(".avif", ".bmp", ".tiff", ".tif", ".gif", ".jp2"),
)
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".flv")
AS_PICTURE, AS_VIDEO = "such as to .png or .jpg", "such as with ffmpeg to .mp4"
CONVERT = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".jxl", ".psd", ".svg", ".exr", ".hdr", ".tga", ".dng"), AS_PICTURE),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".ico", ".j2k", ".qoi"), AS_PICTURE),
    **dict.fromkeys((".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".ogv", ".rm", ".mxf"), AS_VIDEO),
}
"""Suffixes of media that are not read here, and what to convert them to."""

CHECKS = {"PNG": check_png, "GIF": check_gif}
"""What tells, by Pillow's name of the format, damage that its decoder passes over."""


def is_media(path: Path) -> bool:
    """Whether the file's name is that of an image or a video; it is not opened."""
    return path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES


def probe(media: Media) -> MediaInfo:
    """Tell what is in a medium.

    Raises:
        DataError: If it is missing, empty, truncated or not what its suffix says.
    """
    blob = blob_of(media)
    is_video = _is_video(blob)
    with _named(blob):
        if is_video:
            content = content_of(blob)
            if not may_be_video(content):
                raise bad_media(blob, f"is {content} by its first bytes, no video; {what_to_do(content)}")
            return probe_video(blob)
        with opened(blob) as image:
            info = (probe_animation if is_animation(image) else probe_image)(image, blob)
            if image.format in CHECKS:
                CHECKS[image.format](blob)
            return info


def decode(media: Media, view: View) -> Clip:
    """Decode one view, [F, H, W, 3] uint8; an image or a video may fill a view of one frame.

    Raises:
        DataError: If the file is damaged or has too few frames.
    """
    blob = blob_of(media)
    is_video = _is_video(blob)
    with _named(blob):
        if is_video:
            return decode_video(blob, view)
        with opened(blob) as image:
            return (decode_animation if is_animation(image) else decode_image)(image, blob, view)


@contextmanager
def _named(blob: Blob) -> Iterator[None]:
    """Name the medium that a decoder fails on, whatever it raises: one bad file never ends a run that is to skip it."""
    try:
        yield
    except FinetrainersError:
        raise
    except OSError as error:
        raise bad_media(blob, why_unreadable(error)) from error
    except Exception as error:  # decoders raise anything: struct.error, IndexError, MemoryError, AssertionError, ...
        raise bad_media(blob, f"cannot be decoded: {type(error).__name__}: {error}") from error


def _is_video(blob: Blob) -> bool:
    if blob.path is not None:
        _check_file(blob.path)
    suffix = blob.suffix
    if not suffix:
        raise bad_media(blob, f"has no suffix, and is not an image or video by its first bytes{what_it_is(blob)}")
    if suffix not in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
        known = " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        way_out = f"; convert it, {CONVERT[suffix]}" if suffix in CONVERT else ""
        raise bad_media(blob, f"no media file by its suffix {suffix!r}; those are {known}{way_out}")
    return suffix in VIDEO_SUFFIXES


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise bad_media(path, "there is no such file") from None
    except (OSError, ValueError) as error:  # such as a name that no file can have
        reason = why_unreadable(error) if isinstance(error, OSError) else f"cannot be read: {error}"
        raise bad_media(path, reason) from error
    if not path.is_file():
        raise bad_media(path, "is not a file")
    if size == 0:
        raise bad_media(path, "the file is empty (zero bytes)")
