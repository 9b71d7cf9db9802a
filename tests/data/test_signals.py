"""Control signals: each is what an independent computation says, and a user's own is what the file says now."""

import json
import os
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from media_factory import real_photo
from PIL import Image
from skimage.filters import gaussian as skimage_gaussian

from finetrainers.config import ChannelConcatConfig
from finetrainers.config.conditioning import SIGNALS
from finetrainers.data.media.signals import MAX_GRADIENT, build_signal, load_function, mirror
from finetrainers.errors import ConfigError

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24), st.integers(0, 1 << 30))


def signal(name, **settings):
    return build_signal(ChannelConcatConfig(kind="channel_concat", signal=str(name), **settings))


def noise(num_frames, height, width, seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (num_frames, height, width, 3), np.uint8))


def photo(name="astronaut.png"):
    return torch.from_numpy(np.array(Image.open(real_photo(name)).convert("RGB")))[None]


def difference(a, b):
    """Largest difference of two arrays."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


# Those that come with the package


@given(SIZES, st.sampled_from([name for name in SIGNALS if name != "canny"]))
@settings(max_examples=60, deadline=None)
def test_every_signal_keeps_shape_type_and_input_and_computes_each_frame_by_itself(size, name):
    frames = noise(*size)
    before, computed = frames.clone(), signal(name)(frames)
    assert computed.dtype == torch.uint8
    assert computed.shape == frames.shape
    assert torch.equal(frames, before)
    assert torch.equal(computed, torch.cat([signal(name)(frame[None]) for frame in frames]))


def test_identity_and_files_leave_the_pixels_as_they_are():
    frames = noise(2, 5, 7)
    assert torch.equal(signal("identity")(frames), frames)
    assert torch.equal(signal("files")(frames), frames)


@given(SIZES)
@settings(max_examples=50, deadline=None)
def test_gray_is_the_brightness_of_bt601_and_pillows(size):
    frames = noise(*size)
    grey = signal("gray")(frames)
    red, green, blue = frames.double().unbind(-1)
    assert difference(grey[..., 0], 0.299 * red + 0.587 * green + 0.114 * blue) <= 0.51
    for frame, computed in zip(frames, grey, strict=True):
        assert np.array_equal(computed[..., 0], np.asarray(Image.fromarray(frame.numpy()).convert("L")))
    assert torch.equal(grey, grey[..., :1].expand(-1, -1, -1, 3))


@given(SIZES, st.floats(0.3, 60))
@settings(max_examples=80, deadline=None)
def test_blur_is_the_gaussian_of_scikit_image_also_where_it_is_wider_than_the_picture(size, sigma):
    frames = noise(*size)
    computed = signal("blur", blur_sigma=sigma)(frames)
    for frame, blurred in zip(frames, computed, strict=True):
        expected = skimage_gaussian(frame.double().numpy(), sigma=sigma, mode="mirror", channel_axis=-1)
        assert difference(blurred, expected) < 0.6  # rounding is half of one


def test_blur_of_a_photograph_is_the_gaussian_of_scikit_image():
    frames = photo()[:, :200]
    expected = skimage_gaussian(frames[0].double().numpy(), sigma=4.0, mode="mirror", channel_axis=-1)
    assert difference(signal("blur")(frames)[0], expected) < 0.6


@pytest.mark.parametrize("sigma", [1e3, 1e300])
def test_the_widest_blur_is_the_mean(sigma):
    frames = noise(1, 9, 6)
    mirrored = np.pad(frames[0].numpy(), ((0, 7), (0, 4), (0, 0)), "reflect")  # one period of the mirrored picture
    assert difference(signal("blur", blur_sigma=sigma)(frames)[0], mirrored.mean((0, 1), keepdims=True)) < 0.6


@given(st.integers(1, 12), st.integers(0, 60))
def test_mirror_is_numpys_reflection(length, margin):
    expected = np.pad(np.arange(length), margin, "reflect") if length > 1 else np.zeros(length + 2 * margin, np.int64)
    assert mirror(torch.arange(-margin, length + margin), length).tolist() == expected.tolist()


@given(SIZES, st.integers(2, 40))
@settings(max_examples=50, deadline=None)
def test_downscale_keeps_one_colour_as_it_is(size, factor):
    colour = noise(1, 1, 1, size[-1])
    frames = colour.expand(*size[:3], 3).contiguous()
    assert torch.equal(signal("downscale", downscale_factor=factor)(frames), frames)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_downscale_keeps_low_and_removes_high_frequencies(factor):
    rows, columns = np.mgrid[:64, :64]

    def wave(period):
        values = np.rint(127.5 + 100 * np.cos(2 * np.pi * (columns + rows) / period)).astype(np.uint8)
        return torch.from_numpy(np.repeat(values[None, ..., None], 3, -1))

    shrunk = signal("downscale", downscale_factor=factor)
    assert difference(wave(2), 127.5) > 99
    assert difference(shrunk(wave(2)), 127.5) < 1
    slow = wave(64 * factor)
    assert difference(shrunk(slow)[:, 8:-8, 8:-8], slow[:, 8:-8, 8:-8]) <= 4


def test_downscale_knows_of_each_area_no_more_than_its_mean():
    frames = noise(1, 24, 36)
    shuffled = frames.view(1, 6, 4, 9, 4, 3).flip(2, 4).reshape(frames.shape)
    assert not torch.equal(shuffled, frames)
    assert torch.equal(signal("downscale")(shuffled), signal("downscale")(frames))


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png"])
def test_canny_is_opencvs_on_the_grey_picture(name):
    frames = photo(name)
    edges = signal("canny", canny_low=50, canny_high=150)(frames)
    expected = cv2.Canny(np.asarray(Image.fromarray(frames[0].numpy()).convert("L")), 50, 150)
    assert np.array_equal(edges[0], np.repeat(expected[..., None], 3, -1))
    assert 0.02 < float((edges == 255).double().mean()) < 0.3


def test_canny_computes_each_frame_by_itself():
    frames = torch.cat([photo(), photo().flip(2)])
    edges = signal("canny")(frames)
    assert edges.shape == frames.shape
    assert not torch.equal(edges[0], edges[1])
    assert all(torch.equal(signal("canny")(frame[None])[0], computed) for frame, computed in zip(frames, edges, strict=True))


def test_both_thresholds_of_canny_take_effect_and_none_is_too_high():
    def share(low, high):
        return float(signal("canny", canny_low=low, canny_high=high)(photo()).double().mean())

    assert share(100, 200) > share(200, 200) > share(200, 400) > 0
    assert share(MAX_GRADIENT, MAX_GRADIENT) == share(1e10, 1e10) == 0


def test_low_above_high_is_refused_with_both():
    with pytest.raises(ConfigError, match=r"conditioning\.signal: canny .* 300 \(canny_low\) .* 200 \(canny_high\); lower"):
        signal("canny", canny_low=300)


def test_without_opencv_canny_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        ConfigError, match=r"conditioning\.signal: canny needs OpenCV .*pip install '\./finetrainers\[canny\]'"
    ):
        signal("canny")


def test_other_signals_need_no_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    for name in SIGNALS:
        if name != "canny":
            assert signal(name).name == name


# What they depend on


def test_identity_has_the_settings_of_the_signal_and_no_others():
    configs = [
        *({"name": name} for name in SIGNALS),
        {"name": "blur", "blur_sigma": 2},
        {"name": "downscale", "downscale_factor": 8},
        {"name": "canny", "canny_low": 50},
        {"name": "canny", "canny_high": 300},
    ]
    identities = [json.dumps(signal(**config).identity) for config in configs]
    assert len(set(identities)) == len(configs)
    assert identities == [json.dumps(signal(**config).identity) for config in configs]
    assert signal("blur", blur_sigma=2).identity == ["blur", [["sigma", 2.0]], ""]
    assert signal("gray").identity == ["gray", [], ""]


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_survives_pickling(name):
    frames, before = photo()[:, :64, :64], signal(name)
    after = pickle.loads(pickle.dumps(before))
    assert after == before
    assert hash(after) == hash(before)
    assert torch.equal(after(frames), before(frames))


# A user's own

INVERT = "def invert(frames):\n    return 255 - frames\n"


def write(file, text):
    file.write_text(text, encoding="utf-8")
    return file


def test_a_users_function_is_called_with_all_frames_at_once(tmp_path):
    file = write(tmp_path / "mine.py", "def backwards(frames):\n    return frames.flip(0)\n")
    frames = noise(3, 4, 5)
    assert torch.equal(signal(f"{file}:backwards")(frames), frames.flip(0))


def test_a_users_function_may_change_what_it_gets(tmp_path):
    file = write(tmp_path / "mine.py", "def blank(frames):\n    return frames.zero_()\n")
    frames = noise(1, 4, 5)
    before = frames.clone()
    assert not signal(f"{file}:blank")(frames).any()
    assert torch.equal(frames, before)


def test_an_edited_file_is_loaded_anew_and_is_another_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file, frames = tmp_path / "mine.py", noise(1, 4, 5)
    first = signal(f"{write(file, INVERT)}:invert")
    assert torch.equal(first(frames), 255 - frames)
    stat = file.stat()
    write(file, INVERT.replace("255", "254"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # neither the time nor the size tells
    second = signal(f"{file}:invert")
    assert torch.equal(second(frames), 254 - frames)
    assert second.identity != first.identity
    assert torch.equal(first(frames), 255 - frames)  # its pixels are still those that its identity names
    assert list(tmp_path.iterdir()) == [file]  # no bytecode beside the user's file


def test_a_process_that_finds_another_file_refuses_it(tmp_path):
    file = tmp_path / "mine.py"
    pickled = pickle.dumps(signal(f"{write(file, INVERT)}:invert"))
    write(file, INVERT.replace("255", "254"))
    load_function.cache_clear()  # as in a new process
    with pytest.raises(ConfigError, match=r"conditioning\.signal: .*mine\.py was changed while the run uses it"):
        pickle.loads(pickled)(noise(1, 4, 5))


def test_a_users_signal_survives_pickling_into_a_new_process(tmp_path):
    before = signal(f"{write(tmp_path / 'mine.py', INVERT)}:invert")
    load_function.cache_clear()
    after, frames = pickle.loads(pickle.dumps(before)), noise(1, 4, 5)
    assert after == before
    assert torch.equal(after(frames), 255 - frames)


def test_identity_of_a_users_function_depends_on_file_contents_and_name_but_not_on_the_place(tmp_path):
    text = INVERT + "\n\ndef other(frames):\n    return frames\n"
    (tmp_path / "folder").mkdir()
    here, there = (write(place / "mine.py", text) for place in (tmp_path, tmp_path / "folder"))
    assert signal(f"{here}:invert").identity == signal(f"{there}:invert").identity
    assert signal(f"{here}:invert").identity != signal(f"{here}:other").identity
    assert json.loads(json.dumps(signal(f"{here}:invert").identity)) == signal(f"{here}:invert").identity


def test_a_file_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine.py", INVERT)
    frames = noise(1, 2, 2)
    assert torch.equal(signal("~/mine.py:invert")(frames), 255 - frames)


def test_a_users_file_may_have_dataclasses_with_late_annotations(tmp_path):
    text = (
        "from __future__ import annotations\n\nfrom dataclasses import dataclass\n\n\n"
        "@dataclass\nclass Settings:\n    white: int = 255\n\n\n"
        "def invert(frames):\n    return Settings().white - frames\n"
    )
    frames = noise(1, 2, 2)
    assert torch.equal(signal(f"{write(tmp_path / 'mine.py', text)}:invert")(frames), 255 - frames)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"the file of '.*mine\.py:f' cannot be read \(No such file or directory\); name one that exists"),
        ("def f(:", r"mine\.py fails when it is imported \(SyntaxError: .*\); correct it"),
        ("import no_such_module", r"mine\.py fails when it is imported \(ModuleNotFoundError: .*no_such_module.*\)"),
        ("def g(x): return x", r"mine\.py has no function 'f'; define it"),
        ("f = 3", r"mine\.py has no function 'f'; define it"),
    ],
)
def test_a_file_without_the_function_is_refused_early(tmp_path, text, message):
    file = tmp_path / "mine.py"
    if text is not None:
        write(file, text)
    modules = {name for name in sys.modules if name.startswith("finetrainers_signal")}
    with pytest.raises(ConfigError, match=rf"^conditioning\.signal: .*{message}"):
        signal(f"{file}:f")
    if text is None or "has no function" not in message:
        assert {name for name in sys.modules if name.startswith("finetrainers_signal")} == modules


@pytest.mark.parametrize(
    ("body", "returned"),
    [
        ("frames.float()", r"torch\.float32 \[2, 4, 5, 3\] on cpu"),
        ("frames[:1]", r"torch\.uint8 \[1, 4, 5, 3\] on cpu"),
        ("frames[..., :1]", r"torch\.uint8 \[2, 4, 5, 1\] on cpu"),
        ("frames.to('meta')", r"torch\.uint8 \[2, 4, 5, 3\] on meta"),
        ("frames.numpy()", "a ndarray"),
        ("None", "a NoneType"),
    ],
)
def test_what_is_no_frames_is_refused_with_what_is_expected(tmp_path, body, returned):
    file = write(tmp_path / "mine.py", f"def f(frames):\n    return {body}\n")
    expected = r"expected is a tensor like the frames it gets: torch\.uint8 \[2, 4, 5, 3\] on cpu"
    with pytest.raises(ConfigError, match=rf"conditioning\.signal: .*mine\.py:f returned {returned}; {expected}"):
        signal(f"{file}:f")(noise(2, 4, 5))


def test_an_error_of_the_users_function_is_shown_as_it_is(tmp_path):
    file = write(tmp_path / "mine.py", "def f(frames):\n    raise KeyError('theirs')\n")
    with pytest.raises(KeyError, match="theirs") as caught:
        signal(f"{file}:f")(noise(1, 2, 2))
    assert Path(caught.traceback[-1].path) == file
