"""What a file is by its first bytes, for those that are not what their suffix says."""

from finetrainers.data.media.blob import Blob

EXACT = {
    b"\x89PNG\r\n\x1a\n": "a png image",
    b"\xff\xd8\xff": "a jpeg image",
    b"GIF8": "a gif",
    b"\x1a\x45\xdf\xa3": "a Matroska or WebM video",
}
OTHERS = {
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML document",
    b"<svg": "an SVG image",
    b"%pdf": "a PDF document",
    b"pk\x03\x04": "a zip archive or a spreadsheet",
    b"version https://git-lfs": "the pointer to a file that git-lfs has not fetched",
    b"8bps": "a Photoshop document",
    b"flv\x01": "a Flash video",
}
"""By the beginning, in lower case."""
WAYS_OUT = {OTHERS[b"version https://git-lfs"]: "fetch it with git lfs pull", OTHERS[b"pk\x03\x04"]: "unpack or convert it"}
"""What to do with such a file."""
BRANDS = {b"heic": "a HEIC image", b"heix": "a HEIC image", b"mif1": "a HEIF image", b"avif": "an avif image"}
"""Of files that begin as mp4 does; others are videos."""
HEAD_BYTES = 64
PRINTABLE = bytes(range(32, 127)) + b"\t\r\n"
TEXT_BYTES = 24
"""Of a text that are shown."""


def content_of(blob: Blob) -> str:
    """Say what a file is, such as "a web page"; nothing where that is not known.

    Raises:
        OSError: If it cannot be read.
    """
    with blob.open() as file:
        head = file.read(HEAD_BYTES)
    for beginning, what in EXACT.items():
        if head.startswith(beginning):
            return what
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"AVI "):
        return "a webp image" if head[8:12] == b"WEBP" else "an AVI video"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "an mp4 or mov video")
    text = head.lstrip().lower()
    return next((what for beginning, what in OTHERS.items() if text.startswith(beginning)), "")


def what_it_is(blob: Blob) -> str:
    """Say of a file that is not what its name says what it is, and what to do; nothing where that is not known."""
    content = content_of(blob) or _text(blob)
    return f": by its first bytes it is {content}; {what_to_do(content)}" if content else ""


def what_to_do(content: str) -> str:
    """Say what to do with a file of such a content."""
    return WAYS_OUT.get(content, "rename or replace it")


def _text(blob: Blob) -> str:
    with blob.open() as file:
        head = file.read(HEAD_BYTES)
    if not head or head.translate(None, PRINTABLE):
        return ""
    return f"text ({head[:TEXT_BYTES].decode('ascii')!r})"


def may_be_video(content: str) -> bool:
    """Whether such a content may be read as a video: what is not known may be one."""
    return not content or content.endswith("video")
