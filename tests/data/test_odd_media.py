"""What is trained on is what a viewer shows: profiles, curves, animations, transparency, sizes that change."""

import struct
from fractions import Fraction

import av
import media_factory as factory
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from finetrainers.data.media import files, images
from finetrainers.data.media.files import MediaInfo, View, decode, probe
from finetrainers.data.media.transfer import BT709, BT2020, HLG, P3_D65, PQ, Colors, colors_of, to_srgb
from finetrainers.errors import DataError


def view(**changes):
    plain = {"num_frames": 1, "height": 32, "width": 64, "frame_sampling": "start", "fps": None, "stride": 1, "window": 0.0}
    return View(**{**plain, "chunk": 0, "resize": "stretch", "crop": (0.5, 0.5), "flip": False, **changes})


def pixel(path):
    """The color [3] of a one-colored medium."""
    pixels = decode(path, view()).pixels[0].numpy()
    assert np.abs(pixels.astype(int) - pixels[16, 32]).max() <= 1
    return pixels[16, 32].tolist()


# Profiles of images

P3 = {b"rXYZ": (0.51512, 0.24120, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189), b"bXYZ": (0.15710, 0.06657, 0.78407)}


def srgb_profile(primaries=None):
    """Bytes of sRGB's profile, with other primaries if they are given."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack(">L", profile[128:132])[0]):
        tag, offset, _ = struct.unpack(">4sLL", profile[132 + 12 * i : 144 + 12 * i])
        if primaries and tag in primaries:
            profile[offset + 8 : offset + 20] = struct.pack(">3l", *(round(x * 65536) for x in primaries[tag]))
    return bytes(profile)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".avif"])
def test_a_profile_of_wide_colors_is_applied(tmp_path, suffix):
    """A red of Display P3 (180, 60, 60) is (196, 47, 54) in sRGB."""
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}, ".avif": {"quality": 100}}
    image = Image.new("RGB", (64, 32), (180, 60, 60))
    image.save(tmp_path / f"a{suffix}", icc_profile=srgb_profile(P3), **options.get(suffix, {}))
    assert pixel(tmp_path / f"a{suffix}") == pytest.approx([196, 47, 54], abs=4 if suffix in (".jpg", ".avif") else 1)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_profile_leaves_transparency_alone(tmp_path, mode):
    image = Image.new("RGBA", (64, 32), (180, 60, 60, 102))
    if mode == "P":
        image = Image.new("P", (64, 32), 0)
        image.putpalette([180, 60, 60, 0, 0, 0])
    image.save(tmp_path / "a.png", icc_profile=srgb_profile(P3))
    alpha = 102 / 255 if mode == "RGBA" else 1
    assert pixel(tmp_path / "a.png") == pytest.approx([c * alpha + 255 * (1 - alpha) for c in (196, 47, 54)], abs=1)


@pytest.mark.parametrize(
    "profile",
    [srgb_profile(), srgb_profile(P3)[:200], b"no profile", b"\0" * 128],
    ids=["sRGB", "cut off", "no profile", "zeros"],  # a profile has the second in which it was made: no name of a test
)
def test_profiles_of_srgb_and_broken_ones_change_no_bit(tmp_path, profile):
    colors = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    Image.fromarray(colors).save(tmp_path / "a.png", icc_profile=profile)
    assert (decode(tmp_path / "a.png", view()).pixels[0].numpy() == colors).all()


def test_a_profile_of_other_channels_is_not_applied(tmp_path):
    """Programs keep the profile of colors when they make an image grey; viewers pass over it."""
    Image.new("L", (64, 32), 100).save(tmp_path / "a.png", icc_profile=srgb_profile(P3))
    assert pixel(tmp_path / "a.png") == [100] * 3


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 188), (0.45455, 128), (0.46, 128), (1e-5, 128)])
def test_png_gamma(tmp_path, gamma, expected):
    """A linear png of code 128 shows half of the light, which is 188 in sRGB."""
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    Image.new("RGB", (64, 32), (128, 128, 128)).save(tmp_path / "a.png", pnginfo=info)
    assert pixel(tmp_path / "a.png") == [expected] * 3


def png(path, *chunks, color=(128, 128, 128), **options):
    info = PngImagePlugin.PngInfo()
    for name, data in chunks:
        info.add(name, data)
    Image.new("RGB", (64, 32), color).save(path, pnginfo=info, **options)
    return path


def chromaticities(*numbers):
    return b"cHRM", struct.pack(">8I", *(round(number * 100_000) for number in numbers))


GAMMA = b"gAMA", struct.pack(">I", 45455)
WHITE_AND_P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


def test_primaries_of_png_are_those_of_a_profile(tmp_path):
    """Those of Display P3, by either way; as viewers do, they do not count without a gamma."""
    expected = shown([round(c * 257) for c in (180, 80, 60)], 1, P3_D65)[0].tolist()
    color = {"color": (180, 80, 60)}
    assert pixel(png(tmp_path / "a.png", GAMMA, chromaticities(*WHITE_AND_P3), **color)) == pytest.approx(expected, abs=1)
    assert expected != pytest.approx([180, 80, 60], abs=5)
    assert pixel(png(tmp_path / "b.png", chromaticities(*WHITE_AND_P3), **color)) == [180, 80, 60]
    grey = chromaticities(0.3457, 0.3585, *WHITE_AND_P3[2:])  # whose white is D50
    assert pixel(png(tmp_path / "c.png", GAMMA, grey)) == pytest.approx([128] * 3, abs=1)


@pytest.mark.parametrize("numbers", [(0.0,) * 8, (0.3,) * 8, (0.3127, 0.0, *WHITE_AND_P3[2:]), WHITE_AND_P3[:2] * 4])
def test_what_is_no_primaries_changes_nothing(tmp_path, numbers):
    assert pixel(png(tmp_path / "a.png", GAMMA, chromaticities(*numbers), color=(180, 80, 60))) == [180, 80, 60]


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_images_are_tone_mapped(tmp_path, transfer):
    """A png says so in a chunk that counts more than its profile, an AVIF in a box that counts less."""
    expected = shown([150 * 257] * 3, transfer)[0].tolist()
    assert expected != pytest.approx([150] * 3, abs=5)
    chunk = b"cICP", bytes([BT2020, transfer, 0, 1])
    profile = srgb_profile(P3)
    assert pixel(png(tmp_path / "a.png", chunk, color=(150, 150, 150), icc_profile=profile)) == expected
    turned = Image.Exif()
    turned[0x0112] = 6
    assert pixel(png(tmp_path / "b.png", chunk, color=(150, 150, 150), exif=turned)) == expected

    plain, wide = (
        avif(tmp_path / f"{name}.avif", *numbers) for name, numbers in (("c", (1, 13)), ("d", (BT2020, transfer)))
    )
    assert pixel(plain) == pytest.approx([150] * 3, abs=2)
    assert pixel(wide) == pytest.approx(expected, abs=4)
    assert pixel(avif(tmp_path / "e.avif", BT2020, transfer, icc_profile=profile)) == pytest.approx([150] * 3, abs=2)


def avif(path, primaries, transfer, **options):
    """An AVIF whose box of colors is rewritten; Pillow writes those of sRGB."""
    Image.new("RGB", (64, 32), (150, 150, 150)).save(path, quality=100, subsampling="4:4:4", **options)
    data = path.read_bytes()
    place = data.index(b"colrnclx") + 8
    path.write_bytes(data[:place] + struct.pack(">HH", primaries, transfer) + data[place + 4 :])
    return path


def test_an_animated_png_keeps_its_colors_in_every_frame(tmp_path):
    """Now, and when it is read again: Pillow forgets what it did not read itself when it goes back to the first frame."""
    frames = [Image.new("RGB", (64, 32), (150, 150, 150 + i)) for i in range(3)]
    info = PngImagePlugin.PngInfo()
    info.add(b"cICP", bytes([BT2020, PQ, 0, 1]))
    path = tmp_path / "a.png"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, pnginfo=info)
    expected = [shown([c * 257 for c in (150, 150, 150 + i)], PQ)[0].tolist() for i in range(3)]
    for _ in range(2):
        assert decode(path, view(num_frames=3)).pixels[:, 0, 0].tolist() == expected


def test_boxes_within_boxes_are_no_colors(tmp_path):
    """As many as would end a program that goes into each; the picture itself is whole."""
    path = avif(tmp_path / "a.avif", 1, 13)
    data = path.read_bytes()
    boxes = b""
    for _ in range(1500):
        boxes = struct.pack(">I4s", len(boxes) + 8, b"free") + boxes
    path.write_bytes(data + boxes.replace(b"free", b"ipco"))
    assert pixel(path) == pytest.approx([150] * 3, abs=2)


@pytest.mark.parametrize("cut", range(8, 60, 4))
def test_a_file_that_ends_within_its_colors_is_named(tmp_path, cut):
    whole = png(tmp_path / "a.png", (b"cICP", bytes([BT2020, PQ, 0, 1]))).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r"b\.png"):
        pixel(tmp_path / "b.png")


# Curves and primaries of video


def pq_code(light):
    """PQ code of 16 bits of light in cd/m2 (BT.2100)."""
    power = (light / 10000) ** (2610 / 16384)
    return round(65535 * ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** (2523 / 32))


def shown(codes, transfer, primaries=BT2020):
    return to_srgb(np.array(codes, np.uint16).reshape(1, -1, 3), Colors(transfer, primaries))[0]


def test_tone_curve_of_pq():
    """What is darker than 80 cd/m2 is shown as in sRGB with white at 203; 1000 cd/m2 and all above it are white."""
    for light in (0.5, 5, 50, 80):
        code = light / 203
        expected = 255 * (12.92 * code if code <= 0.0031308 else 1.055 * code ** (1 / 2.4) - 0.055)
        assert shown([pq_code(light)] * 3, PQ)[0].tolist() == pytest.approx([expected] * 3, abs=1)
    ramp = shown(np.repeat(np.arange(0, 65536, 16), 3), PQ)
    assert (np.diff(ramp.astype(int), axis=0) >= 0).all()
    assert (ramp.max(axis=1) == ramp.min(axis=1)).all()
    assert shown([pq_code(1000)] * 3, PQ).tolist() == shown([65535] * 3, PQ).tolist() == [[255] * 3]
    assert 220 <= shown([pq_code(203)] * 3, PQ)[0, 0] <= 235


def test_hlg_agrees_with_pq():
    """Reference white is 75 % of HLG and 58 % of PQ (BT.2408, table 1), and HLG's peak is 1000 cd/m2."""
    assert shown([round(0.75 * 65535)] * 3, HLG).tolist() == pytest.approx(np.array(shown([pq_code(203)] * 3, PQ)), abs=1)
    assert shown([65535] * 3, HLG).tolist() == [[255] * 3]
    assert shown([0] * 3, HLG).tolist() == [[0] * 3]


def test_primaries():
    """Red of sRGB is (0.6274, 0.0691, 0.0164) in light of BT.2020 (BT.2087); white is white."""
    light = np.array([0.6274, 0.0691, 0.0164])
    codes = np.rint(65535 * (1.055 * light ** (1 / 2.4) - 0.055))
    assert shown(codes, 1)[0].tolist() == pytest.approx([255, 0, 0], abs=3)
    for primaries in (BT2020, P3_D65):
        assert shown([65535] * 3, 1, primaries).tolist() == [[255] * 3]
    assert colors_of(1, BT709) is None
    assert colors_of(2, 2) is None
    assert colors_of(PQ, 2) == Colors(PQ, BT2020)


def write_grey(path, luma, *, codec="libx264", pix_fmt="yuv420p", **tags):
    """Two frames of one code of luma, with tags of color."""
    bits = 10 if "10" in pix_fmt else 8
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10, options={"crf": "0"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = 64, 32, pix_fmt
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        planes = [np.full((32, 64), luma), np.full((16, 64), 1 << (bits - 1))]
        plane = np.concatenate(planes).astype(np.uint8 if bits == 8 else np.uint16)
        for i in range(2):
            frame = av.VideoFrame.from_ndarray(plane, format=pix_fmt)
            frame.pts, frame.time_base = i, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_clips_are_tone_mapped(tmp_path, transfer):
    """Within one level of what their codes, of ten bits, stand for; without the tags they are ordinary video."""
    luma = 721 if transfer == HLG else 573
    path = write_grey(
        tmp_path / "a.mp4",
        luma,
        pix_fmt="yuv420p10le",
        colorspace=9,
        color_primaries=BT2020,
        color_trc=transfer,
        color_range=1,
    )
    expected = shown([round((luma - 64) / 876 * 65535)] * 3, transfer)[0]
    assert pixel(path) == pytest.approx(expected.tolist(), abs=1)
    plain = write_grey(
        tmp_path / "b.mp4", luma, pix_fmt="yuv420p10le", colorspace=9, color_primaries=1, color_trc=1, color_range=1
    )
    assert pixel(plain) == pytest.approx([round((luma - 64) / 876 * 255)] * 3, abs=3)  # swscale of ten bits
    assert abs(pixel(path)[0] - pixel(plain)[0]) > 10


def write_interlaced(path, *, num_frames=8, step=8, lines=(0, 1), keys_every=250):
    """A white bar on black that moves by ``step`` pixels from field to field; only some fields have it."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(
            "libx264", rate=25, options={"crf": "0", "x264-params": f"tff=1:keyint={keys_every}:scenecut=0"}
        )
        stream.width, stream.height, stream.pix_fmt = 256, 64, "yuv420p"
        stream.codec_context.flags |= INTERLACED
        for i in range(num_frames):
            picture = np.zeros((64, 256, 3), np.uint8)
            for field in lines:
                left = step * (2 * i + field)
                picture[field::2, left : left + 32] = 255
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


INTERLACED = 1 << 18 | 1 << 29
"""AV_CODEC_FLAG_INTERLACED_DCT and _ME."""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_interlaced_video_has_no_combs(tmp_path, suffix):
    """Neighboring lines show one moment, the second of the two of each frame, and frames stay in their places."""
    path = write_interlaced(tmp_path / f"a{suffix}")
    assert probe(path).num_frames == 8
    pixels = decode(path, view(num_frames=8, height=64, width=256)).pixels.numpy().astype(int)
    combs = np.abs(np.diff(pixels[:, 4:-4], axis=1)).max(axis=(1, 2, 3))
    assert combs.max() < 128
    assert [int(np.flatnonzero(pixels[i, 32, :, 0] > 128)[0]) for i in range(8)] == pytest.approx(
        [16 * i + 8 for i in range(8)], abs=4
    )
    last = decode(path, view(num_frames=1, height=64, width=256, frame_sampling="chunks", chunk=7)).pixels.numpy()
    assert np.abs(last[0] - pixels[7]).max() <= 2


def test_an_interlaced_frame_is_the_same_wherever_decoding_begins(tmp_path):
    """The first of a chunk is a key frame, and takes lines from the frame before it, which is none of the chunk's."""
    path = write_interlaced(tmp_path / "a.mp4", num_frames=16, keys_every=4)
    whole = decode(path, view(num_frames=16, height=64, width=256)).pixels.numpy().astype(int)
    for chunk in range(4):
        part = decode(path, view(num_frames=4, height=64, width=256, frame_sampling="chunks", chunk=chunk)).pixels.numpy()
        assert np.abs(part - whole[4 * chunk :][:4]).max() == 0


def test_interlaced_video_that_stands_still_keeps_its_lines(tmp_path):
    """Every other line is white: the filter takes a line for moved only where it does."""
    path = write_interlaced(tmp_path / "a.mp4", step=0, lines=(0,))
    still = decode(path, view(num_frames=8, height=64, width=256)).pixels.numpy()[2:6, 8:-8, 4:28, 1]
    assert (still[:, 0::2] > 230).all()
    assert (still[:, 1::2] < 25).all()


@pytest.mark.parametrize(("color_range", "expected"), [(1, 255), (2, 235)])
def test_limited_and_full_range(tmp_path, color_range, expected):
    path = write_grey(tmp_path / "a.mp4", 235, color_range=color_range, colorspace=1)
    assert pixel(path) == pytest.approx([expected] * 3, abs=1)


def test_transparency_of_vp9_is_laid_on_white(tmp_path):
    """FFmpeg's own decoder leaves it out."""
    with av.open(str(tmp_path / "a.webm"), "w") as out:
        stream = out.add_stream("libvpx-vp9", rate=10, options={"auto-alt-ref": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuva420p"
        picture = np.full((32, 64, 4), (200, 0, 100, 102), np.uint8)
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgba").reformat(format="yuva420p")))
        out.mux(stream.encode())
    assert pixel(tmp_path / "a.webm") == pytest.approx([233, 153, 193], abs=3)
    assert decode(tmp_path / "a.webm", view(num_frames=3)).pixels.shape[0] == 3


def test_frames_of_other_sizes_are_fitted_as_they_are(tmp_path):
    """One stream of 128 x 64 and then 64 x 64: stripes of four pixels stay as wide as they are."""
    stripes = np.repeat(np.repeat(np.array([255, 0] * 8, np.uint8), 4)[None, :, None], 64, 0).repeat(3, 2)
    with av.open(str(tmp_path / "a.webm"), "w") as out:
        stream = out.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        pts = 0
        for picture in (np.tile(stripes, (1, 2, 1)), stripes):
            encoder = av.CodecContext.create("libvpx", "w")
            encoder.height, encoder.width = picture.shape[:2]
            encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 10), Fraction(10)
            encoder.options = {"crf": "4", "b": "2M"}
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.pts = packet.dts = pts
                packet.time_base, packet.stream = Fraction(1, 10), stream
                pts += 1
                out.mux(packet)
    pixels = decode(tmp_path / "a.webm", view(num_frames=2, height=64, width=64, resize="center_crop")).pixels.numpy()
    for frame in pixels:
        assert np.abs(frame.astype(int) - stripes).mean() < 25


# Animations


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif"])
def test_animations_are_videos(tmp_path, suffix):
    """Of uneven frame rate, with an end."""
    frames = [Image.fromarray(factory.counter(i)) for i in range(10)]
    lengths = [100] * 5 + [200] * 5
    options = {"lossless": True} if suffix == ".webp" else {}
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=lengths, **options)
    assert probe(path) == MediaInfo(10, 64, 128, pytest.approx(10 / 1.5), pytest.approx(1.5))
    assert factory.read_counters(decode(path, view(num_frames=10))) == list(range(10))
    assert factory.read_counters(decode(path, view(num_frames=3, frame_sampling="uniform"))) == [0, 5, 9]
    assert factory.read_counters(decode(path, view(num_frames=15, fps=10))) == [
        0,
        1,
        2,
        3,
        4,
        *(n for n in range(5, 10) for _ in "ab"),
    ]
    with pytest.raises(DataError, match="has 10 frames with stride 1, 11 are needed"):
        decode(path, view(num_frames=11))


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif"])
def test_animations_are_laid_on_white(tmp_path, suffix):
    frames = [Image.new("RGBA", (64, 32), (0, 0, 0, 0)) for _ in range(3)]
    for i, frame in enumerate(frames):
        frame.paste((200, 0, 0, 255), (0, 0, 8 * (i + 1), 32))
        frame.putpixel((63, 31), (200, 0, 0, 255))  # libwebp calls frames opaque whose opaque part is a smaller rectangle
    options = {".gif": {"disposal": 2}, ".png": {"disposal": 1}, ".webp": {"lossless": True}}.get(suffix, {})
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=100, **options)
    pixels = decode(tmp_path / f"a{suffix}", view(num_frames=3)).pixels
    assert [int((pixels[i, 16, :, 1] < 128).sum()) for i in range(3)] == [8, 16, 24]
    assert (pixels[:, 16, 40:60] > 250).all()


def test_the_still_picture_of_an_animated_png_is_none_of_its_frames(tmp_path):
    frames = [Image.fromarray(factory.counter(i)) for i in range(4)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100, default_image=True)
    assert probe(tmp_path / "a.png").num_frames == 3
    assert factory.read_counters(decode(tmp_path / "a.png", view(num_frames=3))) == [1, 2, 3]


def test_frames_of_no_duration_last_as_long_as_in_browsers(tmp_path):
    frames = [Image.fromarray(factory.counter(i)) for i in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=0)
    assert probe(tmp_path / "a.gif").seconds == pytest.approx(0.4)


def test_pages_are_no_frames(tmp_path):
    pages = [Image.fromarray(factory.counter(i)) for i in range(3)]
    for name in ("a.tiff", "a.jpg"):
        pages[0].save(tmp_path / name, "MPO" if name == "a.jpg" else None, save_all=True, append_images=pages[1:])
        assert probe(tmp_path / name).num_frames == 1
        assert factory.read_counters(decode(tmp_path / name, view())) == [0]


@pytest.mark.parametrize("suffix", [".m4v", ".3gp", ".flv"])
def test_more_containers(tmp_path, suffix):
    path = factory.write_counter(tmp_path / f"a{suffix}", 30, codec="libx264")
    assert probe(path).num_frames == 30
    assert factory.read_counters(decode(path, view(num_frames=30))) == list(range(30))
    assert factory.read_counters(decode(path, view(num_frames=3, frame_sampling="uniform"))) == [0, 15, 29]


# Size


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff"])
def test_large_images_are_made_smaller_first(tmp_path, monkeypatch, mode, suffix):
    """It is seen in nothing but memory."""
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)).resize((800, 600))
    image = (
        Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else smooth.convert(mode)
    )
    path = tmp_path / f"a{suffix}"
    try:
        image.save(path)
    except OSError:
        pytest.skip("the format has no such mode")
    whole = decode(path, view()).pixels.numpy().astype(int)
    monkeypatch.setattr(images, "LARGE_PIXELS", 1000)
    assert (probe(path).height, probe(path).width) == (600, 800)
    assert np.abs(decode(path, view()).pixels.numpy() - whole).mean() < 1.5


def test_images_of_too_many_pixels_say_how_many_are_possible(tmp_path, monkeypatch):
    Image.new("L", (200, 95)).save(tmp_path / "a.png")
    assert probe(tmp_path / "a.png").width == 200
    monkeypatch.setattr(images, "MAX_PIXELS", 200 * 95 - 1)
    with pytest.raises(DataError, match=r"a\.png: 200 x 95 are 0 million pixels, more than the 0 million .*; scale it down"):
        probe(tmp_path / "a.png")


# Damage


def moving(count=40):
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 64, 3), np.uint8)).resize((256, 96))
    return [np.ascontiguousarray(np.asarray(wide)[:, 2 * i : 2 * i + 128]) for i in range(count)]


def test_a_missing_piece_of_an_avi_is_found_by_the_probe(tmp_path):
    """FFmpeg goes on at the next frame that it finds."""
    path = factory.write_video(tmp_path / "a.avi", moving(), fps=10)
    data = bytearray(path.read_bytes())
    chunks = [i for i in range(data.find(b"movi"), data.rfind(b"idx1")) if data[i : i + 4] == b"00dc"]
    data[chunks[12] : chunks[24]] = bytes(chunks[24] - chunks[12])
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged: 28 of 40 frames can be read"):
        probe(path)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.7])
def test_a_missing_piece_of_a_gif_is_found_by_the_probe(tmp_path, part):
    path = factory.write_video(tmp_path / "a.gif", moving(), fps=10)
    data = bytearray(path.read_bytes())
    start, stop = int(len(data) * part), int(len(data) * (part + 0.05))
    data[start:stop] = bytes(stop - start)
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged at byte|cannot be decoded"):
        probe(path)


def test_any_damaged_byte_of_a_png_is_found(tmp_path):
    Image.fromarray(factory.counter(5)).save(tmp_path / "a.png", compress_level=0)
    whole = (tmp_path / "a.png").read_bytes()
    for place in range(9, len(whole), len(whole) // 40):
        (tmp_path / "a.png").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DataError):
            probe(tmp_path / "a.png")


@pytest.mark.parametrize(
    "error",
    [
        *(MemoryError(), RecursionError("deep"), ValueError("bad"), struct.error("short"), OverflowError("big")),
        *(AssertionError(), IndexError("out"), KeyError("key"), ZeroDivisionError(), OSError(5, "Input/output error")),
        *(av.error.InvalidDataError(1, "invalid"), TypeError("NoneType"), EOFError()),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error, suffix):
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (8, 8)).save(path) if suffix == ".png" else factory.write_counter(path, 3)

    def broken(*_):
        raise error

    for name in ("probe_image", "probe_video", "decode_image", "decode_video"):
        monkeypatch.setattr(files, name, broken)
    for use in (lambda: probe(path), lambda: decode(path, view())):
        with pytest.raises(DataError) as raised:
            use()
        assert str(raised.value).startswith(f"{path}: cannot be ")
        assert type(error).__name__ in str(raised.value) or isinstance(error, OSError | EOFError | ValueError | struct.error)


def test_ctrl_c_is_no_damage(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "probe_image", stopped)
    with pytest.raises(KeyboardInterrupt):
        probe(tmp_path / "a.png")
