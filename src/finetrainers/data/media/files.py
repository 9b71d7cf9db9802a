"""Media files: what is in them, and the pixels of one view. An animated gif is a video; every other gif is an image."""

from pathlib import Path

from finetrainers.data.media import archives as archives, cells as cells  # their references are known from here on
from finetrainers.data.media.blob import Blob, Media, blob_of
from finetrainers.data.media.images import decode_image, is_animated, probe_image
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

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tiff", ".tif", ".gif")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")


def is_media(path: Path) -> bool:
    """Whether the file's name is that of an image or a video; it is not opened."""
    return path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES


def probe(media: Media) -> MediaInfo:
    """Tell what is in a medium.

    Raises:
        DataError: If it is missing, empty, truncated or not what its suffix says.
    """
    blob = blob_of(media)
    return probe_video(blob) if _is_video(blob) else probe_image(blob)


def decode(media: Media, view: View) -> Clip:
    """Decode one view, [F, H, W, 3] uint8; an image or a video may fill a view of one frame.

    Raises:
        DataError: If the file is damaged or has too few frames.
    """
    blob = blob_of(media)
    return decode_video(blob, view) if _is_video(blob) else decode_image(blob, view)


def _is_video(blob: Blob) -> bool:
    if blob.path is not None:
        _check_file(blob.path)
    suffix = blob.suffix
    if suffix not in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
        known = " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        raise bad_media(blob, f"no media file by its suffix {suffix!r}; those are {known}")
    return suffix in VIDEO_SUFFIXES or (suffix == ".gif" and is_animated(blob))


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise bad_media(path, "there is no such file")
    if path.stat().st_size == 0:
        raise bad_media(path, "the file is empty (zero bytes)")
