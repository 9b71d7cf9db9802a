"""What media are by their first bytes, where no name says it."""

HEAD_BYTES = 64
"""First bytes that are enough."""
SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tiff"),
    (b"MM\0*", ".tiff"),
    (b"II+\0", ".tiff"),
    (b"MM\0+", ".tiff"),
)
RIFF_KINDS = {b"WEBP": ".webp", b"AVI ": ".avi"}
BRANDS = {b"avif": ".avif", b"avis": ".avif", b"heic": ".heic", b"mif1": ".heic", b"qt  ": ".mov"}
"""By the major brand of an ISO container; every other is taken for mp4."""
ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
EBML = bytes.fromhex("1a45dfa3")


def suffix_of(head: bytes) -> str:
    """Suffix that fits the first bytes of a file, such as ``.png``; empty if they are those of nothing that is known."""
    for start, suffix in SIGNATURES:
        if head.startswith(start):
            return suffix
    if head[:4] == b"RIFF":
        return RIFF_KINDS.get(head[8:12], "")
    if head[4:8] in ISO_BOXES:
        return BRANDS.get(head[8:12], ".mp4") if head[4:8] == b"ftyp" else ".mp4"
    if head[:4] == EBML:
        return ".webm" if b"webm" in head else ".mkv"
    return ""
