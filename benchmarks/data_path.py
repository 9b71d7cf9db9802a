"""How close decode() comes to a bare PyAV loop, and whether its memory grows with the length of the clip.

A rendered clip of 512x320 at 24 fps becomes 49 frames of 256x384: an mp4 and a webm, as files, in a tar shard and in a
Parquet table of 16 of them. The bare loop decodes the same frames of the file and scales them to the same covering size in
RGB, in the same process; it neither reads time stamps nor checks for damage, crops or copies.
The ratio is bare / ours in CPU-seconds: 1.0 is as fast. Promised: at least 0.9, and memory that does not grow.

Then the cache: random batches of items, latents of LTX-Video's clips of 49 frames of 512x768 and captions, are read from
packs, and the same bytes by plain reads of a file an item, each into a tensor of bytes. Promised: a ratio of at least 0.8.

    python benchmarks/data_path.py [--rounds 15 | --quick]
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from av.video.reformatter import Interpolation, VideoReformatter

from finetrainers.config.data import DataConfig
from finetrainers.data.cache.item import to_bytes
from finetrainers.data.cache.packs import KINDS
from finetrainers.data.cache.store import Cache, make_key
from finetrainers.data.media.files import View, decode
from finetrainers.data.media.timeline import forget_timelines
from finetrainers.data.media.view import fit
from finetrainers.data.sources.items import list_items

HEIGHT, WIDTH, FPS = 320, 512, 24
FRAMES, BUCKET_HEIGHT, BUCKET_WIDTH = 49, 256, 384
CODECS = {
    ".mp4": ("libx264", {"preset": "fast", "crf": "23", "g": "48"}),
    ".webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "48", "crf": "32", "b": "0"}),
}
EMBEDDED = 16
"""Clips of a shard, or of a row group."""
BATCH_SIZE = 16


def render(path: Path, *, seconds: int) -> Path:
    """Render smooth shapes that drift over one another, with camera noise."""
    random = np.random.default_rng(0)
    layer = np.kron(random.integers(0, 200, (20, 32, 3)), np.ones((16, 16, 1))).astype(np.int16)
    noise = [random.integers(-12, 13, (HEIGHT, WIDTH, 1), np.int16) for _ in range(8)]
    with av.open(str(path), "w") as container:
        codec, settings = CODECS[path.suffix]
        stream = container.add_stream(codec, rate=FPS, options=settings)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(seconds * FPS):
            picture = (np.roll(layer, 2 * i, 1) + np.roll(layer, (i, -i), (0, 1))) // 2 + noise[i % 8]
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def view(sampling: str) -> View:
    """The bucket's view of a clip; ``random`` takes the window in its middle."""
    return View(FRAMES, BUCKET_HEIGHT, BUCKET_WIDTH, sampling, None, 1, 0.5, 0, "center_crop", (0.5, 0.5), flip=False)


def bare(path: Path, sampling: str, first_frame: int) -> None:
    """Decode from the key frame before the window, and scale the window's frames."""
    covering = fit(HEIGHT, WIDTH, view(sampling))
    reformatter = VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        begin = Fraction(first_frame, FPS) / stream.time_base
        if first_frame:
            container.seek(int(begin), stream=stream)
        wanted = itertools.dropwhile(lambda frame: frame.pts < begin, container.decode(stream))
        for frame in itertools.islice(wanted, FRAMES):
            reformatter.reformat(
                frame, covering.width, covering.height, "rgb24", interpolation=Interpolation.BICUBIC, threads=1
            )


def embed(clip: Path, folder: Path) -> dict[str, str]:
    """Put a clip into a tar shard and into a table, several times, and return the reference of one in the middle of each."""
    shard, table = folder / f"{clip.stem}{clip.suffix}.tar", folder / f"{clip.stem}{clip.suffix}.parquet"
    with tarfile.open(shard, "w") as archive:
        (folder / "caption.txt").write_text("A clip")
        for number in range(EMBEDDED):
            archive.add(clip, f"{number}{clip.suffix}")
            archive.add(folder / "caption.txt", f"{number}.txt")
    rows = {"video": [{"bytes": clip.read_bytes(), "path": clip.name}] * EMBEDDED, "text": ["A clip"] * EMBEDDED}
    pa.parquet.write_table(pa.table(rows), table)
    found = {}
    for kind, place in (("tar", shard), ("parquet", table)):
        listing = list_items(DataConfig(path=str(place), buckets=[(FRAMES, BUCKET_HEIGHT, BUCKET_WIDTH)]))
        found[kind] = listing.table["media"][EMBEDDED // 2].as_py()
    return found


def ours(path: Path | str, sampling: str, *, cold: bool) -> None:
    """Decode one view; cold if the file's time stamps are not remembered from another window."""
    if cold:
        forget_timelines()
    decode(path, view(sampling))


def cpu_seconds(function) -> float:
    """CPU-seconds of one call, over all threads."""
    start = time.process_time()
    function()
    return time.process_time() - start


def compare(
    path: Path, sampling: str, *, seconds: int, cold: bool, rounds: int, ref: str | None = None, where: str = "file"
) -> None:
    """Alternate both, so that whatever else the machine does falls on both; ours may read the clip from elsewhere."""
    first = (seconds * FPS - FRAMES + 1) // 2 if sampling == "random" else 0
    pairs = [
        (cpu_seconds(lambda: bare(path, sampling, first)), cpu_seconds(lambda: ours(ref or path, sampling, cold=cold)))
        for _ in range(rounds + 1)
    ][1:]
    theirs, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    kind = f"{sampling}, time stamps {'read' if cold else 'remembered'}"
    print(
        f"{seconds:3d} s {path.suffix[1:]:4s} in {where:7s}, {kind:32s}: bare {theirs * 1e3:6.1f} ms, "
        f"ours {own * 1e3:6.1f} ms, ratio {theirs / own:.3f}"
    )


def read_plainly(file: Path) -> torch.Tensor:
    """Read all bytes of a file into a tensor [n]."""
    with file.open("rb", buffering=0) as source:
        numbers = np.empty(os.fstat(source.fileno()).st_size, np.uint8)
        source.readinto(numbers.data)
        return torch.from_numpy(numbers)


def compare_cache(root: Path, *, num_items: int, rounds: int) -> None:
    """Read random batches from the cache, and the same items from files of their own, in turns."""
    cache, keys = Cache(root / "cache"), [make_key(number) for number in range(num_items)]
    for kind, shape in (("latents", (2, 128, 7, 16, 24)), ("text", (128, 4096))):
        with cache.in_batches():
            for number, key in enumerate(keys):
                drawn = torch.randn(shape, generator=torch.Generator().manual_seed(number)).bfloat16()
                tensors = dict(zip(("mean", "std"), drawn, strict=True)) if kind == "latents" else {"prompt_embeds": drawn}
                cache.write(kind, key, tensors, {"fps": "24.0"})
                file = root / kind / key
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(to_bytes(tensors, {"fps": "24.0"}))
    random = np.random.default_rng(0)
    batches = [[keys[n] for n in random.choice(num_items, BATCH_SIZE, replace=False)] for _ in range(rounds + 1)]
    pairs = [
        (
            cpu_seconds(lambda batch=batch: [read_plainly(root / kind / key) for key in batch for kind in KINDS]),
            cpu_seconds(lambda batch=batch: cache.read_all([(kind, key) for key in batch for kind in KINDS])),
        )
        for batch in batches
    ][1:]
    theirs, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    in_packs = sum(entry.pack is not None for entry in cache.entries())
    print(
        f"cache, {2 * num_items} items, {in_packs} of them in packs, batches of {BATCH_SIZE}: files {theirs * 1e3:.1f} ms, "
        f"ours {own * 1e3:.1f} ms, ratio {theirs / own:.3f}"
    )


def peak_megabytes(path: Path, sampling: str) -> float:
    """Memory that decoding adds at its peak, in a fresh process."""
    output = subprocess.run([sys.executable, __file__, "--peak", str(path), sampling], check=True, capture_output=True)
    return float(output.stdout)


def print_peak(path: Path, sampling: str) -> None:
    """Run in the fresh process: forget the peak that the imports had, then decode (Linux only)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_kilobytes("VmHWM")
    decode(path, view(sampling))
    print((resident_kilobytes("VmHWM") - before) / 1024)


def resident_kilobytes(key: str) -> int:
    """One line of the process's status: VmRSS is the resident memory, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    """Render the clips, compare, and measure memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="short clips, once: shows that it runs, no figures to quote")
    parser.add_argument("--peak", nargs=2, metavar=("PATH", "SAMPLING"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(Path(options.peak[0]), options.peak[1])
        return
    lengths, rounds = ((3, 6), 1) if options.quick else ((10, 60), options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in CODECS:
            clip = render(Path(folder) / f"short{suffix}", seconds=lengths[0])
            for where, ref in {"file": str(clip), **embed(clip, Path(folder))}.items():
                compare(clip, "start", seconds=lengths[0], cold=True, rounds=rounds, ref=ref, where=where)
    with tempfile.TemporaryDirectory() as folder:
        compare_cache(Path(folder), num_items=100 if options.quick else 300, rounds=rounds)
    with tempfile.TemporaryDirectory() as folder:
        paths = {seconds: render(Path(folder) / f"{seconds}.mp4", seconds=seconds) for seconds in lengths}
        for seconds, path in paths.items():
            for sampling, cold in (("start", True), ("random", True), ("random", False)):
                compare(path, sampling, seconds=seconds, cold=cold, rounds=rounds)
        for sampling in ("start",) if options.quick else ("start", "random", "uniform"):
            peaks = {seconds: peak_megabytes(path, sampling) for seconds, path in paths.items()}
            figures = ", ".join(f"{seconds} s clip {peak:.1f} MB" for seconds, peak in peaks.items())
            print(f"memory that decoding adds at its peak, {sampling:7s}: {figures}")


if __name__ == "__main__":
    main()
