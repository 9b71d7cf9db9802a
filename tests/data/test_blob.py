"""What media are read from, by reference: the same pixels wherever the bytes lie."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from media_factory import real_clip, real_photo
from test_media import view

from finetrainers.data.media import blob as blobs
from finetrainers.data.media.blob import Blob, blob_of, ref_of, register_scheme
from finetrainers.data.media.files import decode, probe
from finetrainers.errors import DataError

KEPT: dict[str, bytes] = {}


@dataclass(frozen=True, slots=True)
class Kept(Blob):
    """Bytes in memory."""

    def open(self) -> BinaryIO:
        return io.BytesIO(KEPT[self.ref])

    def stamp(self) -> str:
        return str(hash(KEPT[self.ref]))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_schemes", dict(blobs._schemes))
    register_scheme("kept", Kept)


@pytest.mark.parametrize("file", [real_clip("bikes.mp4"), real_photo("astronaut.png")], ids=lambda file: file.name)
def test_a_medium_is_the_same_wherever_its_bytes_lie(kept: None, file: Path) -> None:
    ref = f"kept:/some#where/{file.name}"
    KEPT[ref] = file.read_bytes()
    assert probe(ref) == probe(file)
    shown = view(num_frames=3 if file.suffix == ".mp4" else 1, height=64, width=96)
    assert torch.equal(decode(ref, shown).pixels, decode(str(file), shown).pixels)


def test_damage_is_found_wherever_the_bytes_lie(kept: None) -> None:
    KEPT["kept:cut.mp4"] = real_clip("bikes.mp4").read_bytes()[:-1000]
    with pytest.raises(DataError, match="kept:cut.mp4: truncated"):
        probe("kept:cut.mp4")


def test_a_name_that_is_no_text_has_a_reference_that_is(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9 100%.png")
    file.write_bytes(real_photo("astronaut.png").read_bytes())
    ref = ref_of(file)
    ref.encode()
    assert blob_of(ref).path == file
    assert probe(ref) == probe(file) == probe(real_photo("astronaut.png"))
    assert ref_of(tmp_path / "größe.png") == str(tmp_path / "größe.png")


def test_a_copy_that_keeps_size_and_time_has_another_stamp(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    before, times = blob_of(file).stamp(), file.stat()
    assert blob_of(file).stamp() == before
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_mtime_ns == times.st_mtime_ns
    assert blob_of(file).stamp() != before


def test_a_scheme_that_nothing_reads_is_named() -> None:
    with pytest.raises(DataError, match=r"nothing here reads gopher:; references begin with .*, file, "):
        blob_of("gopher://a/b.png")
