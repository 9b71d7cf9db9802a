"""Damaged and odd media, made of a handful of small good ones, the same each time."""

import io
import struct
import zlib

import av
import media_factory as factory
import numpy as np
from PIL import Image, ImageOps

FRAMES, HEIGHT, WIDTH = 12, 48, 64
CLIPS = {
    "mp4": (".mp4", {}),
    "mov": (".mov", {}),
    "m4v": (".m4v", {"codec": "libx264", "faststart": True}),
    "mkv": (".mkv", {}),
    "vp9": (".webm", {}),
    "vp8": (".webm", {"codec": "libvpx"}),
    "avi": (".avi", {}),
    "flv": (".flv", {"codec": "libx264"}),
}
STILLS = {
    "png": (".png", {}),
    "jpg": (".jpg", {"quality": 90}),
    "webp": (".webp", {"quality": 90}),
    "lossless webp": (".webp", {"lossless": True}),
    "gif": (".gif", {}),
    "avif": (".avif", {"quality": 80}),
    "bmp": (".bmp", {}),
    "tiff": (".tiff", {}),
    "deflated tiff": (".tif", {"compression": "tiff_adobe_deflate"}),
}
ANIMATIONS = {"animated gif": ".gif", "animated webp": ".webp", "animated png": ".png", "animated avif": ".avif"}
DAMAGES = ("truncated", "zeroed", "flipped")


def pictures(seed=0):
    """[FRAMES] smooth pictures that move, each different from the others everywhere."""
    random = np.random.default_rng(seed)
    wide = Image.fromarray(random.integers(0, 255, (8, 24, 3), np.uint8)).resize(
        (WIDTH * 2, HEIGHT), Image.Resampling.BICUBIC
    )
    return [np.ascontiguousarray(np.asarray(wide)[:, 4 * i : 4 * i + WIDTH]) for i in range(FRAMES)]


def write_good(folder):
    """One good file of each kind, by name."""
    frames = pictures()
    images = [Image.fromarray(frame) for frame in frames]
    good = {name: factory.write_video(folder / f"{name}{s}", frames, fps=10, **o) for name, (s, o) in CLIPS.items()}
    for name, (suffix, options) in STILLS.items():
        good[name] = folder / f"{name}{suffix}"
        images[0].save(good[name], **options)
    for name, suffix in ANIMATIONS.items():
        good[name] = folder / f"{name}{suffix}"
        images[0].save(good[name], save_all=True, append_images=images[1:], duration=100)
    return good


def damage(data, kind, random):
    """Damaged bytes: cut off, or with a piece that is zeros, or with a few flipped bits in one byte each."""
    size = len(data)
    if kind == "truncated":
        return data[: int(random.integers(1, size))]
    changed = bytearray(data)
    start = int(random.integers(0, size - 1))
    if kind == "zeroed":
        stop = min(size, start + int(random.integers(size // 50 + 2, size // 8 + 16)))
        changed[start:stop] = bytes(stop - start)
    else:
        for place in random.integers(start, min(size, start + 64), 4):
            changed[place] ^= 1 << int(random.integers(8))
    return bytes(changed)


def damaged(good, count):
    """Yield (kind of file, damage, suffix, bytes): ``count`` of each damage to each file."""
    for name, path in good.items():
        data = path.read_bytes()
        for kind in DAMAGES:
            for number in range(count):
                random = np.random.default_rng(zlib.crc32(f"{name} {kind} {number}".encode()))
                yield name, kind, path.suffix, damage(data, kind, random)


def write_odd(folder, good):
    """Odd files by name: (path, what is expected: pixels, the name of a good file with the same, or words of the reason)."""
    odd = {}

    def add(name, data, expected):
        path = folder / f"odd {len(odd)}{name[name.rindex('.') :]}"
        path.write_bytes(data)
        odd[name] = path, expected

    for name, data, expected in [
        *_misnamed(good),
        *_without_frames(),
        *_huge({**good, "wide": _wide(folder)}),
        *_bombs(),
        *_odd_clips(good),
        *_colors(),
        *_exif(),
    ]:
        add(name, data, expected)
    return odd


def _misnamed(good):
    """Files whose suffix is that of others: what is in them counts."""
    for kind, suffix in (
        *(("png", ".jpg"), ("jpg", ".webp"), ("webp", ".png"), ("bmp", ".tiff"), ("avif", ".jpeg"), ("gif", ".bmp")),
        *(("mp4", ".mkv"), ("vp9", ".mp4"), ("mkv", ".avi"), ("flv", ".mp4"), ("animated gif", ".png")),
        *(("animated webp", ".gif"), ("animated avif", ".webp"), ("animated png", ".apng"), ("jpg", ".jfif")),
    ):
        yield f"{kind} as{suffix}", good[kind].read_bytes(), kind
    for kind, suffix, reason in (
        ("png", ".mp4", "is a png image by its first bytes"),
        ("jpg", ".mov", "is a jpeg image by its first bytes"),
        ("animated webp", ".mp4", "is a webp image by its first bytes"),
        ("mp4", ".jpg", "not an image.* it is an mp4 or mov video"),
        ("vp9", ".gif", "not an image.* it is a Matroska or WebM video"),
    ):
        yield f"{kind} as{suffix}", good[kind].read_bytes(), reason
    yield "page.jpg", b"<!DOCTYPE html><html>404</html>", "it is a web page"
    yield "page.mp4", b"\n<html><body>Not found</body></html>", "is a web page by its first bytes"
    yield "pointer.mp4", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs has not fetched"
    yield "text.png", b"only words", "not an image"
    yield "zeros.mp4", bytes(4096), "cannot be decoded: Invalid data"
    yield "zeros.jpg", bytes(4096), "not an image"
    yield "telephone.jpg", b"\0\0\0\x18ftypheic" + bytes(64), "it is a HEIC image"


def _without_frames():
    yield "no frames.gif", b"GIF89a\x08\0\x08\0\0\0\0;", "cannot be decoded|not an image"
    yield "no frames.webp", b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + bytes(6), "cannot be decoded|not an image"
    data = io.BytesIO()
    with av.open(data, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()
    yield "no frames.mkv", data.getvalue(), "no frames|cannot be decoded"


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, *chunks):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*c) for c in ((b"IHDR", header), *chunks, (b"IEND", b"")))


def _huge(good):
    """Sizes that memory does not hold are refused before anything is decoded."""
    too_large = "million pixels, more than the 268 million that are decoded; scale it down"
    nothing = (b"IDAT", zlib.compress(bytes(64)))
    yield "huge.png", _png(60000, 60000, nothing), too_large
    yield (
        "huge.bmp",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 40000, 40000, 1, 24, 0, 0, 0, 0, 0, 0),
        too_large,
    )
    yield "huge.gif", b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0;", too_large
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 48)).save(jpeg, "JPEG")
    data = bytearray(jpeg.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = b"\xff\xff\xff\xff"
    yield "huge.jpg", bytes(data), "million pixels, more than"
    data = bytearray(good["vp8"].read_bytes())
    place = data.index(b"\x9d\x01\x2a") + 3  # of the first key frame (RFC 6386, 9.1)
    data[place : place + 4] = struct.pack("<HH", 16383, 16383)
    yield "huge frame.webm", bytes(data), "million pixels|cannot be decoded|damaged"
    wide = bytearray(good["wide"].read_bytes())
    for element in (b"\xb0\x82\x01\x40", b"\xba\x82\x01\x40"):  # PixelWidth and PixelHeight of 320 (RFC 9559)
        place = wide.index(element) + 2
        wide[place : place + 2] = b"\x80\x00"
    yield (
        "huge track.mkv",
        bytes(wide),
        "frames of 32768 x 32768 are 1074 million pixels, more than the 67 million|cannot be decoded",
    )


def _wide(folder):
    return factory.write_video(folder / "wide.mkv", [np.zeros((320, 320, 3), np.uint8)] * 2, fps=10, codec="ffv1")


def _bombs():
    text = (b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000)))
    yield "text bomb.png", _png(8, 8, text, (b"IDAT", zlib.compress(bytes(8 * 25)))), "cannot be decoded"
    profile = (b"iCCP", b"a\0\0" + zlib.compress(bytes(30_000_000)))
    yield "profile bomb.png", _png(8, 8, profile, (b"IDAT", zlib.compress(bytes(8 * 25)))), "cannot be decoded"
    frame = b"\x21\xf9\x04\0\x01\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    yield "frame bomb.gif", b"GIF89a\x58\x02\x58\x02\x80\0\0\0\0\0\xff\xff\xff" + frame * 20_000 + b";", "billion pixels"


def remuxed(source, suffix, *, keep=lambda i: True, shift=0):
    """The packets that are kept, ``shift`` later, in a new container."""
    data = io.BytesIO()
    form = {".mkv": "matroska", ".mp4": "mp4"}[suffix]
    with av.open(str(source)) as old, av.open(data, "w", format=form, options={"avoid_negative_ts": "disabled"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(old.demux(video=0)):
            if packet.size and keep(i):
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                new.mux(packet)
    return data.getvalue()


def _odd_clips(good):
    yield "no key frame.mkv", remuxed(good["vp9"], ".mkv", keep=lambda i: i > 0), "no key frame to start from"
    for form, suffix in (("mp4", ".mp4"), ("matroska", ".mkv"), ("flv", ".flv")):
        sound = io.BytesIO()
        with av.open(sound, "w", format=form) as container:
            stream = container.add_stream("aac", rate=8000 if form != "flv" else 44100, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate = stream.rate
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        yield f"sound{suffix}", sound.getvalue(), "no video stream"


def _saved(image, form, **options):
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def _colors():
    """Images of other modes, in one color each."""
    for name, image, form, color in (
        ("cmyk.jpg", Image.new("CMYK", (64, 48), (0, 255, 255, 0)), "JPEG", (255, 0, 0)),
        ("cmyk.tiff", Image.new("CMYK", (64, 48), (255, 0, 0, 0)), "TIFF", (0, 255, 255)),
        ("grey and clear.png", Image.new("LA", (64, 48), (0, 51)), "PNG", (204, 204, 204)),
        ("grey of 16 bits.png", Image.fromarray(np.full((48, 64), 257 * 130, np.uint16)), "PNG", (130, 130, 130)),
        ("bilevel.png", Image.new("1", (64, 48), 1), "PNG", (255, 255, 255)),
        ("lab.tiff", Image.new("LAB", (64, 48), (255, 128, 128)), "TIFF", (255, 255, 255)),
        ("clear.webp", Image.new("RGBA", (64, 48), (9, 9, 9, 0)), "WEBP", (255, 255, 255)),
        ("clear.avif", Image.new("RGBA", (64, 48), (9, 9, 9, 0)), "AVIF", (255, 255, 255)),
    ):
        yield name, _saved(image, form), np.full((1, HEIGHT, WIDTH, 3), color)


def _exif():
    """Orientations that there are, that there are not, and directories that end early: those are shown as they lie."""
    image = Image.fromarray(pictures()[0])
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = ImageOps.exif_transpose(_with_exif(image, exif)) if 1 <= orientation <= 8 else image
        shown = np.asarray(upright.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))
        yield f"orientation {orientation}.png", _saved(image, "PNG", exif=exif), shown[None]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker " * 20
    for size in (6, 10, 14, 17, 20, 30):
        yield (
            f"exif of {size} bytes.webp",
            _saved(image, "WEBP", lossless=True, exif=exif.tobytes()[:size]),
            np.asarray(image)[None],
        )
    yield (
        "exif of noise.webp",
        _saved(image, "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(range(200))),
        np.asarray(image)[None],
    )


def _with_exif(image, exif):
    return Image.open(io.BytesIO(_saved(image, "PNG", exif=exif)))
