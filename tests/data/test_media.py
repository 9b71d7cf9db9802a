"""Media: the frames that were asked for come out, upright and in the right colors; nothing damaged passes."""

import io
import itertools
import re
import shutil
from fractions import Fraction

import av
import media_factory as factory
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from finetrainers.data.media import decoded, needed, timeline as timelines, video
from finetrainers.data.media.files import MediaInfo, View, available_frames, count_frames, decode, num_chunks, probe
from finetrainers.errors import DataError

PLAIN = {
    "num_frames": 1,
    "height": 32,
    "width": 64,
    "frame_sampling": "start",
    "fps": None,
    "stride": 1,
    "window": 0.0,
    "chunk": 0,
    "resize": "stretch",
    "crop": (0.5, 0.5),
    "flip": False,
}
FRAMES = 60
FILES = {  # name: (suffix, options)
    "mp4": (".mp4", {}),
    "mov": (".mov", {}),
    "mkv": (".mkv", {}),
    "vp9": (".webm", {}),
    "vp8": (".webm", {"codec": "libvpx"}),
    "mpeg4": (".avi", {}),
    "h264 with B-frames in avi": (".avi", {"codec": "libx264"}),
    "gif": (".gif", {"fps": 10}),
    "hevc": (".mp4", {"codec": "libx265"}),
}


def view(**changes):
    return View(**{**PLAIN, **changes})


def numbers(path, **changes):
    return factory.read_counters(decode(path, view(**changes)))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A clip of 60 numbered frames in each container and codec."""
    folder = tmp_path_factory.mktemp("clips")
    return {
        name: factory.write_counter(folder / f"{i} ä clip{suffix}", FRAMES, **options)
        for i, (name, (suffix, options)) in enumerate(FILES.items())
    }


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A clip of variable frame rate: 20 frames at 25 fps, one that stands for 0.4 s, 20 frames at 12.5 fps."""
    stamps = [40 * i for i in range(21)] + [1200 + 80 * i for i in range(20)]
    path = tmp_path_factory.mktemp("uneven") / "uneven.mkv"
    pictures = [factory.counter(i) for i in range(len(stamps))]
    factory.write_video(path, pictures, fps=25, stamps=stamps, time_base=Fraction(1, 1000))
    return path, np.array(stamps) / 1000


# Which frames


@pytest.mark.parametrize("name", FILES)
def test_every_container_gives_the_frames_that_are_asked_for(clips, name):
    path, fps = clips[name], 10 if name == "gif" else 24
    assert probe(path) == MediaInfo(FRAMES, 64, 128, pytest.approx(fps), pytest.approx(FRAMES / fps))
    assert numbers(path, num_frames=4) == [0, 1, 2, 3]
    assert numbers(path, num_frames=4, stride=7) == [0, 7, 14, 21]
    assert numbers(path, num_frames=4, frame_sampling="middle") == [28, 29, 30, 31]
    assert numbers(path, num_frames=4, frame_sampling="uniform") == [0, 20, 39, 59]
    assert numbers(path, num_frames=4, frame_sampling="chunks", chunk=14) == [56, 57, 58, 59]
    assert numbers(path, num_frames=4, frame_sampling="random", window=0.999) == [56, 57, 58, 59]
    assert numbers(path, num_frames=4, frame_sampling="random", window=0.0) == [0, 1, 2, 3]
    assert numbers(path, num_frames=FRAMES) == list(range(FRAMES))


@given(
    name=st.sampled_from(["mp4", "mkv", "mpeg4", "vp9"]),
    num_frames=st.integers(1, 30),
    frame_sampling=st.sampled_from(["start", "middle", "random", "uniform"]),
    fps=st.none() | st.floats(1, 60),
    stride=st.integers(1, 9),
    window=st.floats(0, 1),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_decode_delivers_exactly_what_is_available(clips, name, num_frames, fps, stride, **choice):
    """One frame more than is available is an error, all that are available come, and they ascend."""
    path, stride = clips[name], 1 if fps is not None else stride
    available = available_frames(probe(path), fps=fps, stride=stride)
    found = numbers(path, num_frames=min(num_frames, available), fps=fps, stride=stride, **choice)
    assert found == sorted(found)
    if fps is None:
        assert all(number % stride == 0 for number in found)
    with pytest.raises(DataError, match=f"has {available} frames"):
        decode(path, view(num_frames=available + 1, fps=fps, stride=stride, **choice))


@given(fps=st.floats(3, 40), num_frames=st.integers(1, 8), window=st.floats(0, 1))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resampling_takes_the_frame_that_is_on_screen(uneven, fps, num_frames, window):
    path, times = uneven
    available = available_frames(probe(path), fps=fps, stride=1)
    seconds = probe(path).seconds
    assert available == sum((k + 0.1) / fps < seconds for k in range(1000))
    first = min(int(window * (available - num_frames + 1)), available - num_frames)
    on_screen = [int(np.sum(times <= (first + k + 0.1) / fps)) - 1 for k in range(num_frames)]
    assert numbers(path, num_frames=num_frames, fps=fps, frame_sampling="random", window=window) == on_screen


@pytest.mark.parametrize("name", ["mp4", "mkv", "vp9"])
def test_resampling_to_its_own_rate_changes_nothing(clips, name):
    """Though Matroska rounds time stamps to milliseconds."""
    assert available_frames(probe(clips[name]), fps=24.0, stride=1) == FRAMES
    assert numbers(clips[name], num_frames=FRAMES, fps=24.0) == list(range(FRAMES))
    assert numbers(clips[name], num_frames=FRAMES // 2, fps=12.0) == list(range(0, FRAMES, 2))


def test_a_variable_frame_rate_is_measured(uneven):
    found = probe(uneven[0])
    assert found.num_frames == 41
    assert found.seconds == pytest.approx(2.8, abs=0.06)
    assert found.fps == pytest.approx(41 / found.seconds)
    assert decode(uneven[0], view(num_frames=20)).fps == pytest.approx(25)
    assert decode(uneven[0], view(num_frames=20, frame_sampling="chunks", chunk=1)).fps < 16


def test_the_effective_frame_rate(clips):
    def fps(**changes):
        return decode(clips["mkv"], view(**{"num_frames": 5, **changes})).fps

    assert fps() == 24.0
    assert fps(stride=3) == 8.0
    assert fps(fps=10.0) == 10.0
    assert fps(frame_sampling="uniform", num_frames=60) == 24.0
    assert fps(frame_sampling="uniform", num_frames=2) == pytest.approx(24 / 59)
    assert fps(num_frames=1) == 0.0


def test_chunks_are_all_consecutive_windows(clips):
    path = clips["mp4"]
    count = num_chunks(available_frames(probe(path), fps=None, stride=2), 7)
    found = [numbers(path, num_frames=7, stride=2, frame_sampling="chunks", chunk=chunk) for chunk in range(count)]
    assert sum(found, []) == list(range(0, 2 * 7 * 4, 2))
    with pytest.raises(DataError, match="has 30 frames with stride 2, 35 are needed"):
        decode(path, view(num_frames=7, stride=2, frame_sampling="chunks", chunk=count))


def test_the_count_of_resampled_frames():
    """Those whose time lies within the clip: 0, 0.4 and 0.8 s of one second."""
    for seconds, fps, count in (
        (1.0, 2.5, 3),
        (1.0, 2.0, 2),
        (1.04, 25.0, 26),
        (1.042, 24.0, 25),
        (0.04, 1.0, 1),
        (0.04, 60.0, 3),
    ):
        assert available_frames(MediaInfo(25, 8, 8, 25.0, seconds), fps=fps, stride=1) == count


def test_counting_many_items_is_counting_each(clips):
    probes = [probe(path) for path in clips.values()] + [MediaInfo(1, 8, 8, 0.0, 0.0)]
    frames, seconds = np.array([p.num_frames for p in probes]), np.array([p.seconds for p in probes])
    for fps, stride in ((None, 1), (None, 7), (11.3, 1)):
        each = [available_frames(p, fps=fps, stride=stride) for p in probes]
        assert count_frames(frames, seconds, fps=fps, stride=stride).tolist() == each
    assert each[-1] == 1  # an image


# How much work


def decoded_frames(monkeypatch, path, **changes):
    """How many frames are decoded for a view."""
    count = 0
    real = video.frames_from

    def counting(*args, **options):
        nonlocal count
        for item in real(*args, **options):
            count += 1
            yield item

    monkeypatch.setattr(video, "frames_from", counting)
    decode(path, view(**changes))
    monkeypatch.undo()
    return count


def test_only_the_frames_in_reach_are_decoded(tmp_path, monkeypatch):
    """From the key frame (one in 12) before the first wanted frame to the last wanted one."""
    path = factory.write_counter(tmp_path / "long.mp4", 240)
    assert decoded_frames(monkeypatch, path, num_frames=5) == 5
    assert decoded_frames(monkeypatch, path, num_frames=5, frame_sampling="random", window=1.0) <= 12
    assert decoded_frames(monkeypatch, path, num_frames=3, frame_sampling="uniform") <= 3 * 12


def test_frames_that_are_shown_before_their_key_frame(tmp_path, monkeypatch):
    """Open groups of pictures: such frames need the group before, but do not keep anybody from starting at the key frame."""
    path = factory.write_counter(tmp_path / "open.mp4", 60, open_gop=True)
    keys = [i for i, (*_, is_key) in enumerate(sorted(packets(path))) if is_key]
    order = [pts for pts, *_ in packets(path)]
    assert any(
        order[i] < max(order[:i]) and sorted(order)[key] > order[i] for key in keys[1:] for i in range(key - 3, key + 3)
    )
    for first in (keys[1] - 2, keys[1] - 1, keys[1], keys[1] + 1):
        changes = {"num_frames": 3, "frame_sampling": "random", "window": first / 57}
        assert numbers(path, **changes)[0] in (first, first - 1)
    window = (keys[2] + 0.5) / 58
    assert numbers(path, num_frames=3, frame_sampling="random", window=window)[0] == keys[2]
    assert decoded_frames(monkeypatch, path, num_frames=3, frame_sampling="random", window=window) <= 6
    cut = remux(path, tmp_path / "cut.mkv", keep=lambda i: i >= order.index(sorted(order)[keys[1]]))
    assert probe(cut).num_frames == 60 - keys[1]
    assert numbers(cut, num_frames=3) == [keys[1], keys[1] + 1, keys[1] + 2]


def test_windows_of_one_clip_read_its_time_stamps_once(clips, monkeypatch):
    timelines.forget_timelines()
    calls = []
    real = timelines.read_timeline
    monkeypatch.setattr(timelines, "read_timeline", lambda *a, **k: calls.append(1) or real(*a, **k))
    for chunk in range(5):
        numbers(clips["mp4"], num_frames=5, frame_sampling="chunks", chunk=chunk)
    assert len(calls) == 1


# Size, place and orientation


@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_crops_keep_the_aspect_and_stretch_does_not(tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    pictures = [factory.corners(64, 128)] * 3
    if suffix == ".png":
        Image.fromarray(pictures[0]).save(path)
    else:
        factory.write_video(path, pictures)

    def seen(**changes):
        return factory.read_corners(decode(path, view(height=32, width=32, **changes)).pixels[0].numpy())

    names = list(factory.CORNERS)
    left, right = ["top left"] * 2 + ["bottom left"] * 2, ["top right"] * 2 + ["bottom right"] * 2
    assert seen(resize="stretch") == names
    assert seen(resize="center_crop") == names
    assert seen(resize="random_crop", crop=(0.5, 0.0)) == left
    assert seen(resize="random_crop", crop=(0.5, 1.0)) == right
    assert seen(resize="stretch", flip=True) == [names[1], names[0], names[3], names[2]]


@given(
    size=st.tuples(st.integers(1, 97), st.integers(1, 97)),
    wanted=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    resize=st.sampled_from(["center_crop", "random_crop", "stretch"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_size_fills_any_bucket(tmp_path, size, wanted, crop, resize):
    path = tmp_path / "any.bmp"
    Image.new("RGB", size, (10, 200, 30)).save(path)
    clip = decode(path, view(height=wanted[0], width=wanted[1], crop=crop, resize=resize))
    assert clip.pixels.dtype == torch.uint8
    assert clip.pixels.shape == (1, *wanted, 3)
    assert clip.fps == 0.0
    assert (clip.pixels == torch.tensor([10, 200, 30])).all()


@pytest.mark.parametrize("size", [(63, 97), (65, 33), (2, 2)])
def test_odd_sizes_of_video(tmp_path, size):
    path = factory.write_video(tmp_path / "odd.mkv", [factory.corners(*size)] * 4, pix_fmt="yuv444p")
    assert (probe(path).height, probe(path).width) == size
    assert decode(path, view(num_frames=4, height=31, width=45, resize="center_crop")).pixels.shape == (4, 31, 45, 3)


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rotated_video_is_upright(tmp_path, degrees, mirrored, suffix):
    """The matrix turns counterclockwise by the angle, then mirrors left and right."""
    upright = factory.corners(64, 96)
    stored = np.rot90(upright[:, ::-1] if mirrored else upright, -degrees // 90)
    path = factory.write_video(tmp_path / f"turned{suffix}", [stored] * 3, rotation=(degrees, mirrored, False))
    assert (probe(path).height, probe(path).width) == (64, 96)
    pixels = decode(path, view(num_frames=2, height=64, width=96, resize="center_crop")).pixels[1].numpy()
    assert factory.read_corners(pixels) == list(factory.CORNERS)
    assert np.abs(pixels.astype(int) - upright).mean() < 12


def test_a_telephone_held_upright(tmp_path):
    """The matrix that telephones write, by its numbers: a quarter turn clockwise."""
    path = tmp_path / "portrait.mov"
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    factory.write_video(path, [np.rot90(factory.corners(96, 64), 1)] * 2, matrix=matrix)
    assert (probe(path).height, probe(path).width) == (96, 64)
    pixels = decode(path, view(height=96, width=64)).pixels[0].numpy()
    assert factory.read_corners(pixels) == list(factory.CORNERS)


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    path = factory.write_counter(tmp_path / "wide.mp4", 3, height=64, width=96, aspect=Fraction(4, 3))
    assert (probe(path).height, probe(path).width) == (64, 128)
    assert probe(factory.real_clip("carphone_pristine.mp4")).width == 193  # 176 pixels of 1.097:1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = factory.corners(64, 96)
    turn = {  # how a picture is stored so that the tag makes it upright (EXIF 2.32, table 6)
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.ascontiguousarray(turn(upright))).save(path, exif=exif, quality=95)
    assert (probe(path).height, probe(path).width) == (64, 96)
    pixels = decode(path, view(height=64, width=96)).pixels[0].numpy()
    assert factory.read_corners(pixels) == list(factory.CORNERS)


# Colors


def pixel_of(tmp_path, image, name="image.png", **options):
    """The color [3] of a one-colored image after decoding."""
    path = tmp_path / name
    image.save(path, **options)
    pixels = decode(path, view(height=8, width=8)).pixels[0].numpy()
    assert (pixels == pixels[0, 0]).all()
    return pixels[0, 0].tolist()


def test_alpha_is_laid_on_white(tmp_path):
    assert pixel_of(tmp_path, Image.new("RGBA", (16, 16), (200, 0, 100, 0))) == [255, 255, 255]
    assert pixel_of(tmp_path, Image.new("RGBA", (16, 16), (200, 0, 100, 255))) == [200, 0, 100]
    assert pixel_of(tmp_path, Image.new("RGBA", (16, 16), (200, 0, 100, 102))) == [233, 153, 193]
    assert pixel_of(tmp_path, Image.new("LA", (16, 16), (0, 51))) == [204, 204, 204]
    assert pixel_of(tmp_path, Image.new("L", (16, 16), 7), transparency=7) == [255, 255, 255]
    assert pixel_of(tmp_path, Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "image.webp", lossless=True) == [255] * 3


def test_palettes(tmp_path):
    image = Image.new("P", (16, 16), 3)
    image.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 12, 180, 240])
    assert pixel_of(tmp_path, image) == [12, 180, 240]
    assert pixel_of(tmp_path, image, "image.gif") == [12, 180, 240]
    assert pixel_of(tmp_path, image, "image.bmp") == [12, 180, 240]
    assert pixel_of(tmp_path, image, transparency=3) == [255, 255, 255]


@pytest.mark.parametrize("name", ["image.png", "image.tiff"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name):
    for wide, narrow in ((0, 0), (257 * 130, 130), (65535, 255), (300, 1)):
        grey = Image.fromarray(np.full((16, 16), wide, np.uint16))
        assert pixel_of(tmp_path, grey, name) == [narrow] * 3


def test_sixteen_bits_of_color(tmp_path):
    frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), [65535, 257 * 130, 0], np.uint16), "rgb48be")
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 16, 16, "rgb48be", Fraction(1, 1)
    path = tmp_path / "deep.png"
    path.write_bytes(b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode()]))
    assert decode(path, view(height=8, width=8)).pixels[0, 0, 0].tolist() == [255, 130, 0]


def test_float_images(tmp_path):
    assert pixel_of(tmp_path, Image.fromarray(np.full((16, 16), 0.2, np.float32)), "image.tif") == [51] * 3
    Image.fromarray(np.full((16, 16), 3.5, np.float32)).save(tmp_path / "bright.tif")
    with pytest.raises(DataError, match=r"bright\.tif: grey values of mode F must lie in 0\.\.1, but reach from 3\.5"):
        probe(tmp_path / "bright.tif")


def test_grey_and_cmyk(tmp_path):
    assert pixel_of(tmp_path, Image.new("L", (16, 16), 99)) == [99] * 3
    assert pixel_of(tmp_path, Image.new("1", (16, 16), 1)) == [255] * 3
    assert pixel_of(tmp_path, Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "image.jpg") == [0, 255, 255]


def test_an_animated_gif_is_a_video_on_white(tmp_path):
    frames = [Image.new("RGBA", (32, 32), (0, 0, 0, 0)) for _ in range(3)]
    for i, frame in enumerate(frames):
        frame.paste((200, 0, 0, 255), (0, 0, 8 * (i + 1), 32))
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    frames[0].save(tmp_path / "still.gif")
    assert probe(tmp_path / "moving.gif") == MediaInfo(3, 32, 32, pytest.approx(10), pytest.approx(0.3))
    assert probe(tmp_path / "still.gif") == MediaInfo(1, 32, 32, 0.0, 0.0)
    pixels = decode(tmp_path / "moving.gif", view(num_frames=3, height=32, width=32)).pixels
    assert pixels[:, 16, 30].tolist() == [[255, 255, 255]] * 3
    assert [int((pixels[i, 16, :, 1] < 128).sum()) for i in range(3)] == [8, 16, 24]


def test_alpha_of_video_is_laid_on_white(tmp_path):
    with av.open(str(tmp_path / "alpha.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgra"
        picture = np.full((32, 32, 4), (200, 0, 100, 102), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgba").reformat(format="bgra")))
        container.mux(stream.encode())
    assert decode(tmp_path / "alpha.mkv", view()).pixels[0, 16, 32].tolist() == [233, 153, 193]


@pytest.mark.parametrize(("height", "width", "expected"), [(720, 1280, [255, 0, 0]), (360, 640, [233, 0, 2])])
def test_video_of_unstated_colors_is_bt709_in_hd(tmp_path, height, width, expected):
    """Pure red in BT.709 is Y 63, U 102, V 240; read as BT.601 it is darker."""
    with av.open(str(tmp_path / "red.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "qp": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        planes = [np.full((height, width), 63, np.uint8), np.full((height // 4, width), 102, np.uint8)]
        planes.append(np.full((height // 4, width), 240, np.uint8))
        frame = av.VideoFrame.from_ndarray(np.concatenate(planes), "yuv420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    pixel = decode(tmp_path / "red.mp4", view()).pixels[0, 16, 32].tolist()
    assert pixel == pytest.approx(expected, abs=4)


def test_an_image_bucket_takes_one_frame_of_a_video(clips):
    clip = decode(clips["mp4"], view(frame_sampling="middle"))
    assert factory.read_counters(clip) == [29]
    assert clip.fps == 0.0
    assert numbers(clips["mp4"], frame_sampling="uniform") == [29]


# Damage


def problem(path, **changes):
    """The message of the error that probing raises, or else decoding."""

    def look():
        probe(path)
        decode(path, view(**changes))

    with pytest.raises(DataError) as error:
        look()
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


def test_broken_files_are_named_with_the_reason(tmp_path, clips):
    (tmp_path / "empty.png").touch()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "text.mp4").write_text("not a video at all, only text")
    (tmp_path / "media.npy").write_bytes(b"x")
    assert "zero bytes" in problem(tmp_path / "empty.png")
    assert "zero bytes" in problem(tmp_path / "empty.mp4")
    assert "not an image" in problem(tmp_path / "text.jpg")
    assert "cannot be decoded: Invalid data" in problem(tmp_path / "text.mp4")
    assert "no such file" in problem(tmp_path / "gone.mp4")
    assert "suffix '.npy'" in problem(tmp_path / "media.npy")


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_truncated_images(tmp_path, part):
    photo = factory.real_photo("chelsea.png")
    assert "cannot be decoded" in problem(factory.truncate(photo, tmp_path / "cut.png", part))
    buffer = tmp_path / "whole.jpg"
    Image.open(photo).save(buffer)
    assert "truncated" in problem(factory.truncate(buffer, tmp_path / "cut.jpg", part))


@pytest.mark.parametrize("part", [0.5, 0.95])
@pytest.mark.parametrize("name", ["mp4", "mov", "mkv", "vp9", "mpeg4", "gif"])
def test_truncated_videos(tmp_path, clips, name, part):
    """An mp4 with its index at the end, and containers that FFmpeg reads up to the cut without an error."""
    path = clips[name]
    assert "truncated" in problem(factory.truncate(path, tmp_path / f"cut{path.suffix}", part))


@pytest.mark.parametrize("part", [0.6, 0.9, 0.999])
def test_truncated_mp4_with_its_index_in_front(tmp_path, part):
    path = factory.write_counter(tmp_path / "front.mp4", 30, faststart=True)
    assert path.read_bytes().find(b"moov") < path.read_bytes().find(b"mdat")
    cut = factory.truncate(path, tmp_path / "cut.mp4", part)
    assert "truncated" in problem(cut)
    with pytest.raises(DataError, match="damaged or truncated at"):  # nor does decoding alone take it for a shorter one
        decode(cut, view(num_frames=5, frame_sampling="uniform"))


def test_an_mp4_whose_index_was_never_written(tmp_path, clips):
    whole = clips["mp4"].read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: whole.find(b"moov") - 4])
    assert "truncated: it has no index ('moov' box)" in problem(tmp_path / "cut.mp4")


def test_sound_with_a_cover_picture_is_no_video(tmp_path):
    path, cover = tmp_path / "sound.mp4", io.BytesIO()
    Image.new("RGB", (20, 20)).save(cover, "JPEG")
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 20, 20, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base, packet.is_keyframe = picture, 0, 0, Fraction(1, 1), True
        container.mux(packet)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1  # FFmpeg takes the cover for one
    assert problem(path) == "no video stream"


def packets(path):
    with av.open(str(path)) as container:
        return [(p.pts, p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]


@pytest.mark.parametrize("name", ["mp4", "mkv", "vp9", "mpeg4"])
def test_damage_in_the_middle_is_an_error(tmp_path, clips, name):
    """Never a clip that is shorter or shows what a decoder made up; frames before the damage are fine."""
    data = bytearray(clips[name].read_bytes())
    _, position, size, _ = packets(clips[name])[30]
    start = position + size // 4  # Matroska says where the block starts; its frame follows some bytes later
    data[start : position + size] = bytes(position + size - start)
    path = tmp_path / f"damaged{clips[name].suffix}"
    path.write_bytes(data)
    assert probe(path).num_frames == FRAMES
    assert numbers(path, num_frames=10) == list(range(10))
    for sampling in ("start", "middle", "uniform"):
        with pytest.raises(DataError, match=r"damaged|cannot be decoded"):
            decode(path, view(num_frames=58, frame_sampling=sampling))


@pytest.mark.parametrize("name", ["mkv", "vp9"])
def test_a_damaged_structure_is_found_by_the_probe(tmp_path, clips, name):
    """FFmpeg skips what it cannot read in Matroska, and the clip would pass as a shorter one."""
    whole = clips[name].read_bytes()
    _, position, size, _ = packets(clips[name])[30]
    path = tmp_path / f"damaged{clips[name].suffix}"
    for start, message in ((position - 4, "no Matroska element starts with 00"), (position, r"of 2\.50 s can be read")):
        path.write_bytes(whole[:start] + bytes(size) + whole[start + size :])
        assert re.search(message, problem(path))


def test_a_missing_frame_is_an_error_even_if_it_is_not_wanted(clips, monkeypatch):
    """Frames after it were predicted from it."""
    real = video.frames_from
    monkeypatch.setattr(video, "frames_from", lambda *a, **k: ((n, frame) for n, frame in real(*a, **k) if n != 30))
    assert numbers(clips["mp4"], num_frames=2, stride=29) == [0, 29]
    with pytest.raises(DataError, match="damaged: frames are missing or corrupt at or before 1.29 s"):
        decode(clips["mp4"], view(num_frames=2, stride=31))


def test_concealed_damage_is_an_error(tmp_path):
    """FFmpeg invents what it cannot read, and says so on the frame only."""
    random = np.random.default_rng(0)
    pictures = [np.repeat(random.integers(0, 255, (8, 12, 3), np.uint8), 8, 0).repeat(8, 1) for _ in range(12)]
    whole = factory.write_video(tmp_path / "whole.mp4", pictures, b_frames=0)
    _, position, size, _ = packets(whole)[3]
    path = tmp_path / "damaged.mp4"
    for _ in range(40):
        data = bytearray(whole.read_bytes())
        data[position + size // 3 : position + size // 3 + 32] = random.bytes(32)
        path.write_bytes(data)
        if is_concealed(path):
            break
    else:
        pytest.fail("FFmpeg concealed none of 40 damages: this test needs another one")
    with pytest.raises(DataError, match="damaged: frames are missing or corrupt at or before 0.29 s"):
        decode(path, view(num_frames=8))
    assert decode(path, view(num_frames=3)).pixels.shape[0] == 3


def is_concealed(path):
    """Whether FFmpeg decodes all 12 frames, some of them made up."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        try:
            flags = [frame.is_corrupt for frame in container.decode(video=0)]
        except av.error.FFmpegError:
            return False
    return len(flags) == 12 and any(flags)


# Containers' odd ways


def remux(path, to, *, keep=lambda i: True, edit=lambda i, data: data):
    """Copy the packets that are kept, edited, into a new container without encoding anew."""
    with av.open(str(path)) as source, av.open(str(to), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(source.demux(video=0)):
            if packet.size and keep(i):
                copy = av.Packet(edit(i, bytes(packet)))
                copy.pts, copy.dts, copy.duration, copy.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                target.mux(copy)
    return to


def test_frames_that_are_never_shown_are_not_counted(tmp_path, clips):
    """VP8 has packets that are references only; clearing a bit makes one of a shown frame."""

    def hide(i, data):
        return bytes([data[0] & ~0x10]) + data[1:] if i == 20 else data

    path = remux(clips["vp8"], tmp_path / "hidden.webm", edit=hide)
    assert probe(path).num_frames == FRAMES - 1
    assert numbers(path, num_frames=30) == [*range(20), *range(21, 31)]
    assert numbers(path, num_frames=5, frame_sampling="chunks", chunk=4) == [21, 22, 23, 24, 25]


def test_frames_before_the_first_key_frame_are_not_counted(tmp_path, clips):
    """What a cut without encoding leaves behind cannot be decoded."""
    path = remux(clips["mpeg4"], tmp_path / "cut.mkv", keep=lambda i: i >= 7)
    assert probe(path).num_frames == FRAMES - 12
    assert numbers(path, num_frames=4) == [12, 13, 14, 15]


def test_a_long_rest_before_the_first_key_frame(tmp_path):
    """More frames than the start of a clip looks at."""
    whole = factory.write_counter(tmp_path / "whole.avi", 120, keys_every=100)
    path = remux(whole, tmp_path / "cut.mkv", keep=lambda i: i >= 20)
    assert probe(path).num_frames == 20
    assert numbers(path, num_frames=4) == [100, 101, 102, 103]


def test_a_seek_that_lands_late_is_survived(clips, monkeypatch):
    """Some files have a wrong index; decoding then starts from the beginning."""
    real, starts = video.frames_from, []

    def late(container, stream, timeline, *, start, needed, held=None):
        starts.append(start)
        return itertools.islice(real(container, stream, timeline, start=start, needed=needed), 3 if start else 0, None)

    monkeypatch.setattr(video, "frames_from", late)
    assert numbers(clips["mp4"], num_frames=6, frame_sampling="chunks", chunk=5) == list(range(30, 36))
    assert starts == [24 * 512, 0]


@pytest.mark.parametrize("name", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(
    ("changes", "runs", "leaves_out"),
    [
        ({"num_frames": 4, "frame_sampling": "chunks", "chunk": 5}, 1, True),  # frames 20 to 23: key frames are 12 and 24
        ({"num_frames": 4, "frame_sampling": "uniform"}, 4, True),
        ({"num_frames": 20, "stride": 3}, 1, False),  # each is near one that is shown
    ],
)
def test_frames_that_are_neither_shown_nor_needed_are_not_decoded(clips, name, changes, runs, leaves_out, monkeypatch):
    """Neither a pixel of the others is another, nor does a frame come out that was to be left out."""
    kept = []

    def keep(stream, not_shown):
        kept.append(needed.Needed(stream, not_shown))
        return kept[-1]

    monkeypatch.setattr(video, "Needed", keep)
    some = decode(clips[name], view(**changes)).pixels
    assert len(kept) == runs  # none was decoded again, because something was missing
    assert any(one.left_out for one in kept) == leaves_out
    monkeypatch.setattr(video, "Needed", lambda stream, not_shown: needed.Needed(stream, {}))
    assert torch.equal(some, decode(clips[name], view(**changes)).pixels)


@pytest.mark.parametrize("name", ["mp4", "mkv", "vp9", "hevc"])
@pytest.mark.parametrize("changes", [{"num_frames": 4}, {"num_frames": 6, "stride": 3}, {"num_frames": FRAMES}])
def test_the_start_of_a_clip_is_read_once(clips, name, changes, monkeypatch):
    """What was read for its time stamps is decoded, and not read again; unless it is too much to be held."""
    taken = []

    class Spy(decoded.Held):
        def take(self):
            packets = super().take()
            taken.append(len(packets))
            return packets

    monkeypatch.setattr(video, "Held", Spy)
    once = decode(clips[name], view(**changes)).pixels
    assert len(taken) == 1
    assert taken[0] > changes["num_frames"] * changes.get("stride", 1) - changes.get("stride", 1)
    monkeypatch.setattr(decoded, "MAX_HELD_BYTES", 100)
    assert torch.equal(once, decode(clips[name], view(**changes)).pixels)
    assert taken[1:] == [0]


def test_packets_that_are_not_understood_are_decoded():
    """The decoder is to say what is wrong with them."""
    alone, slices = bytes([0, 0, 0, 2, 0x01, 0xFF]), bytes([0, 0, 0, 1, 0x06, 0, 0, 0, 2, 0x01, 0xFF])
    assert needed.is_for_itself(memoryview(alone), 4)
    assert needed.is_for_itself(memoryview(slices), 4)
    for other in (b"", alone[:-1], alone + b"\0", bytes([0, 0, 0, 2, 0x21, 0xFF]), bytes([0, 0, 0, 1, 0x14]), slices[:5]):
        assert not needed.is_for_itself(memoryview(other), 4)


# Real media


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("bigbuckbunny.mp4", MediaInfo(132, 720, 1280, 25.0, 5.28)),
        ("bikes.mp4", MediaInfo(250, 272, 640, 25.0, 10.0)),
        ("carphone_distorted.mp4", MediaInfo(120, 144, 193, pytest.approx(30000 / 1001), pytest.approx(4.004))),
    ],
)
def test_real_clips(name, found):
    path = factory.real_clip(name)
    assert probe(path) == found
    clip = decode(path, view(num_frames=9, height=64, width=96, frame_sampling="middle", resize="center_crop"))
    first = (found.num_frames - 9) // 2
    with av.open(str(path)) as container:
        frames = list(itertools.islice(container.decode(video=0), first, first + 9))
    for pixels, frame in zip(clip.pixels.numpy(), frames, strict=True):
        scale = max(64 / found.height, 96 / found.width)
        image = frame.to_image().resize((round(found.width * scale), round(found.height * scale)), Image.Resampling.BICUBIC)
        left, top = round((image.width - 96) / 2), round((image.height - 64) / 2)
        cut = np.asarray(image)[top : top + 64, left : left + 96].astype(int)
        assert np.abs(pixels - cut).mean() < 6


def test_real_photographs():
    for name, size in (("astronaut.png", (512, 512)), ("rocket.jpg", (427, 640)), ("horse.png", (328, 400))):
        path = factory.real_photo(name)
        assert (probe(path).height, probe(path).width) == size
        pixels = decode(path, view(height=96, width=96, resize="center_crop")).pixels
        assert pixels.shape == (1, 96, 96, 3)
        assert pixels.float().std() > 20


def test_names_and_suffixes_are_only_names(tmp_path, clips):
    path = tmp_path / "größe 1 – α.MP4"
    shutil.copy(clips["mp4"], path)
    assert probe(path).num_frames == FRAMES


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    assert probe(tmp_path / "dot.png") == MediaInfo(1, 1, 1, 0.0, 0.0)
