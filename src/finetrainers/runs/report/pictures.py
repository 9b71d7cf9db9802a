"""Samples as text that a page can hold: pictures made small, videos as they are up to a limit."""

import base64
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from finetrainers.runs.outputs import PICTURES, Sample

QUALITY = 80
VIDEO_BYTES = 2_000_000
"""Of one video that a page holds; a larger one is linked."""
PAGE_BYTES = 40_000_000
"""Of all that a page holds; what comes after is linked."""


def data_uri(picture: Image.Image, side: int) -> str:
    """Write a picture, with at most so many pixels a side, as text."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "jpeg", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


class Pictures:
    """The samples of one run as text, each made once: a page that is written again and again costs what is new."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int, int, int], str] = {}
        self.left = PAGE_BYTES
        """Bytes that the page which is being made can still take."""

    def begin(self) -> None:
        """Begin a page."""
        self.left = PAGE_BYTES

    def embed(self, sample: Sample, side: int) -> str | None:
        """Write a sample as text; None of what is too large, or cannot be read: the page links it."""
        try:
            found = sample.file.stat()
            key = (str(sample.file), found.st_mtime_ns, found.st_size, side)
            if key not in self._made:
                self._made[key] = _embedded(sample.file, found.st_size, side)
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
            return None
        text = self._made[key]
        if not text or len(text) > self.left:
            return None
        self.left -= len(text)
        return text


def _embedded(file: Path, size: int, side: int) -> str:
    if file.suffix.lower() in PICTURES:
        with Image.open(file) as picture:
            picture.draft("RGB", (side, side))
            return data_uri(picture, side)
    kind = file.suffix.lower().removeprefix(".")
    return f"data:video/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}" if size <= VIDEO_BYTES else ""
