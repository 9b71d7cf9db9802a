"""Damaged and odd media: each is read rightly, or named; none ends the process, hangs, or takes much memory."""

import os
import pickle
import re
import resource
import signal
import warnings
from dataclasses import dataclass

import damaged_files as factory
import numpy as np
import pytest

from finetrainers.data.media.files import View, decode, probe
from finetrainers.errors import DataError

SECONDS = 20
"""Of one file; a busy machine needs more than the hundredth of a second that it takes alone."""
MEGABYTES = 700
"""How far memory may grow over all files."""
NO_CHECKSUM = {
    **dict.fromkeys(("bmp", "tiff", "deflated tiff"), "what reads it compares no checksum"),
    **dict.fromkeys(("jpg", "gif", "webp", "lossless webp", "avif"), "other bits are other pixels of a picture"),
    **dict.fromkeys(("animated gif", "animated webp", "animated avif"), "other bits are other pixels of a picture"),
    **dict.fromkeys(("mp4", "mov", "m4v", "mkv", "flv", "vp8", "vp9"), "other bits are other pixels of a frame"),
}
"""Kinds of files of which damage inside the compressed pixels can pass, and why; that in their structure, and cutting, not.
Of png nothing passes, of avi with MPEG-4 nothing was seen to."""
FEWER_FRAMES = {
    ("vp8", "flipped"): "one bit of a packet says whether its frame is shown",
    ("mov", "flipped"): "tables of times and sizes have no checksum",
    ("flv", "zeroed"): "less than half a second is missing at the end: stated durations are no more exact than that",
}
"""Damage after which a clip may pass as a shorter one, and why."""
OUR_BUGS = "AttributeError|NameError|TypeError|AssertionError|UnboundLocalError|KeyError"
"""What the message must not name: it would be a mistake of the code that reads, and not one of the file."""


@dataclass
class Seen:
    """What became of one file."""

    message: str = ""
    pixels: np.ndarray | None = None


def whole_view(info):
    """All frames at the size of the factory's pictures."""
    return View(
        num_frames=info.num_frames,
        height=factory.HEIGHT,
        width=factory.WIDTH,
        frame_sampling="start",
        fps=None,
        stride=1,
        window=0.0,
        chunk=0,
        resize="stretch",
        crop=(0.5, 0.5),
        flip=False,
    )


def look(path):
    try:
        return Seen(pixels=decode(path, whole_view(probe(path))).pixels.numpy())
    except DataError as error:
        if not str(error).startswith(f"{path}: "):
            raise
        return Seen(message=str(error).removeprefix(f"{path}: "))


def look_apart(paths, result):
    """Look at files in a process of its own, which is killed by one that takes too long; also return megabytes grown."""
    child = os.fork()
    if not child:
        status = 1
        try:
            warnings.simplefilter("ignore")  # Pillow warns of what is odd, which is no error outside of tests
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            seen = []
            for path in paths:
                signal.alarm(SECONDS)  # its handler is the system's, which ends the process
                seen.append(look(path))
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            result.write_bytes(pickle.dumps((seen, grown)))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "a file has ended the process, or took too long"
    return pickle.loads(result.read_bytes())


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Paths of good files by kind, and their pixels."""
    paths = factory.write_good(tmp_path_factory.mktemp("good"))
    return paths, {name: look(path).pixels for name, path in paths.items()}


def check_damages(tmp_path, good, count):
    paths, pixels = good
    kinds, files = [], []
    for i, (name, kind, suffix, data) in enumerate(factory.damaged(paths, count)):
        files.append(tmp_path / f"{i}{suffix}")
        files[-1].write_bytes(data)
        kinds.append((name, kind))
    seen, grown = look_apart(files, tmp_path / "seen")
    assert grown < MEGABYTES
    passed = []
    for (name, kind), found, path in zip(kinds, seen, files, strict=True):
        assert not re.search(OUR_BUGS, found.message), (name, kind, found.message)
        if found.message or np.array_equal(found.pixels, pixels[name]):
            continue
        may_be_shorter = (name, kind) in FEWER_FRAMES
        is_shorter = len(found.pixels) != len(pixels[name])
        if kind == "truncated" or name not in NO_CHECKSUM or (is_shorter and not may_be_shorter):
            passed.append((name, kind, path.name, found.pixels.shape))
    assert not passed
    return len(files)


def test_damage_is_named_or_changes_nothing(tmp_path, good):
    """Three of each damage to each of 21 kinds of files: a truncated file is always named."""
    assert check_damages(tmp_path, good, 3) == 189


@pytest.mark.long
def test_more_damage_is_named_or_changes_nothing(tmp_path, good):
    assert check_damages(tmp_path, good, 9) == 567


def test_what_lies_before_time_zero_is_not_shown(tmp_path, good):
    """Negative time stamps in an mp4: players begin at zero, by its edit list; 4096 units are 4 frames."""
    paths, pixels = good
    path = tmp_path / "negative.mp4"
    path.write_bytes(factory.remuxed(paths["mp4"], ".mp4", shift=-4096))
    assert np.array_equal(look(path).pixels, pixels["mp4"][4:])


def test_odd_files_are_read_rightly_or_named(tmp_path, good):
    """Wrong suffixes, no frames, huge sizes, bombs, odd time stamps and EXIF: pixels of a reference, or a reason."""
    odd = factory.write_odd(tmp_path, good[0])
    seen, grown = look_apart([path for path, _ in odd.values()], tmp_path / "seen")
    assert grown < MEGABYTES
    for (name, (_, expected)), found in zip(odd.items(), seen, strict=True):
        pixels = good[1].get(expected) if isinstance(expected, str) else expected
        if pixels is None:
            assert re.search(expected, found.message), (name, found.message)
        else:
            assert found.message == "", (name, found.message)
            assert found.pixels.shape == pixels.shape, name
            assert np.abs(found.pixels.astype(int) - pixels).max() <= 3, name
    assert len(odd) >= 50
