"""Text files as other programs write them: UTF-8 with or without a byte order mark, and UTF-16 with one."""

import codecs
import io
from pathlib import Path

from finetrainers.errors import DataError

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | Path) -> str:
    """Read a whole text file; the byte order mark is not part of it, and lines end as on this system.

    Raises:
        OSError: If it cannot be read.
        UnicodeDecodeError: If it is in another encoding.
    """
    return decode_text(Path(path).read_bytes())


def decode_text(data: bytes) -> str:
    """Decode what a text file holds, as ``read_text`` does.

    Raises:
        UnicodeDecodeError: If it is in another encoding.
    """
    text = data.decode("utf-16" if data.startswith(UTF16_MARKS) else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as Path.read_text does


def why_no_text(error: UnicodeDecodeError) -> str:
    """Say of a file that it cannot be decoded, where, and what to do."""
    return f"is not UTF-8 text (byte 0x{error.object[error.start]:02x} at {error.start}); save it as such"


def as_utf8(path: Path) -> str | io.BytesIO:
    """Return what Arrow reads a text file from: the path of it, or the text of a file in UTF-16.

    Raises:
        DataError: If it cannot be read, or begins as UTF-16 and goes on as something else.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) not in UTF16_MARKS:
                return str(path)
        return io.BytesIO(read_text(path).encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-16 text ({error}), which its first two bytes promise; convert it") from error
