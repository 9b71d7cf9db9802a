"""Raw media become a set that can be trained on: what each step does, and that nothing stops or changes a preparation."""

import hashlib
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from curating import config_of, noise, report_of, rows_of, run
from media_factory import counter, read_counters, real_photo, truncate, write_counter, write_video
from PIL import Image

from finetrainers.data.curate import prepare as preparing
from finetrainers.data.curate.expression import parse
from finetrainers.data.curate.hashes import DigestIndex, NearIndex, perceptual_hash
from finetrainers.data.curate.inputs import list_inputs
from finetrainers.data.curate.journal import Journal
from finetrainers.data.curate.measure import sharpness
from finetrainers.data.curate.prepare import prepare
from finetrainers.data.media.files import View, decode, probe
from finetrainers.errors import ConfigError, DataError

KINDS = {"kind": "text", "seconds": "number", "motion": "number", "nsfw": "number"}


def frames_of(file: Path, height: int = 64, width: int = 128) -> Any:
    view = View(probe(file).num_frames, height, width, "start", None, 1, 0.0, 0, "stretch", (0.5, 0.5), False)
    return decode(file, view)


def moving(seed: int, count: int, **size: int) -> list[np.ndarray]:
    return [np.roll(noise(seed, **size), 2 * k, axis=1) for k in range(count)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of several scenes, a still with a caption, a copy of it, one that looks like it, and a truncated clip."""
    folder = tmp_path_factory.mktemp("raw")
    write_video(folder / "a.mp4", [*moving(1, 20), *moving(2, 30), *moving(3, 25)])
    write_video(folder / "b.webm", [*moving(4, 24), *moving(5, 36)])
    Image.fromarray(noise(6)).save(folder / "c.png", compress_level=1)  # as no preparation would save it
    (folder / "c.txt").write_text("blobs")
    shutil.copy(folder / "c.png", folder / "copy of c.png")
    Image.fromarray(noise(6)).resize((200, 150)).save(folder / "like c.jpg", quality=80)
    truncate(folder / "a.mp4", folder / "d.mp4", 0.5)
    return folder


STEPS: tuple[dict, ...] = (
    {"kind": "exact_duplicates"},
    {"kind": "scenes", "min_seconds": 0.3},
    {"kind": "clips", "min_seconds": 0.5, "max_seconds": 1.25},
    {"kind": "near_duplicates"},
    {"kind": "measure"},
    {"kind": "keep", "where": "kind == 'image' or motion > 1"},
)


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one thread makes of ``raw`` without a stop."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(config_of(raw, out, *STEPS, workers=1))
    return out


def contents(out: Path) -> dict[str, str]:
    """Hash of each file of a finished set by its name; not of the state."""
    files = (file for file in out.rglob("*") if file.is_file() and ".prepare" not in file.parts)
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# Steps.


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_a_clip_is_split_at_its_cuts(raw: Path, tmp_path: Path, detector: str) -> None:
    rows = run(raw, tmp_path / "out", {"kind": "scenes", "detector": detector, "min_seconds": 0.3})
    spans = [(row["origin"], row["origin_start"], row["origin_stop"]) for row in rows if row["origin"][0] in "ab"]
    assert spans == [("a.mp4", 0, 20), ("a.mp4", 20, 50), ("a.mp4", 50, 75), ("b.webm", 0, 24), ("b.webm", 24, 60)]


def test_frames_beside_a_cut_are_left_out(raw: Path, tmp_path: Path) -> None:
    rows = run(raw, tmp_path / "out", {"kind": "scenes", "min_seconds": 0.3, "margin": 12})
    spans = [(row["origin_start"], row["origin_stop"]) for row in rows if row["origin"] == "a.mp4"]
    assert spans == [(0, 8), (32, 38), (62, 75)]


def test_a_cut_clip_has_exactly_its_frames_and_its_rate(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_counter(tmp_path / "raw" / "clip.mkv", 50, fps=24)
    rows = run(tmp_path / "raw", tmp_path / "out", {"kind": "clips", "seconds": 0.75})
    assert [row["frames"] for row in rows] == [18, 18]
    for number, row in enumerate(rows):
        clip, info = frames_of(tmp_path / "out" / row["file_name"]), probe(tmp_path / "out" / row["file_name"])
        assert read_counters(clip) == list(range(18 * number, 18 * number + 18))
        assert (info.fps, info.seconds) == pytest.approx((24, 0.75))
    (dropped,) = report_of(tmp_path / "out")["left_out"]
    assert (dropped["step"], dropped["start"], dropped["stop"]) == ("clips", 36, 50)


def test_a_cut_clip_of_no_constant_rate_keeps_its_times(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    stamps = np.cumsum([0, *([40, 60, 100] * 8)]).tolist()
    write_video(
        tmp_path / "raw" / "clip.mp4",
        [counter(k) for k in range(25)],
        stamps=stamps,
        time_base=Fraction(1, 1000),
        b_frames=0,
    )
    rows = run(tmp_path / "raw", tmp_path / "out", {"kind": "clips", "min_seconds": 0.1, "max_seconds": 1})
    second = frames_of(tmp_path / "out" / rows[1]["file_name"])
    assert read_counters(second) == list(range(rows[1]["origin_start"], rows[1]["origin_stop"]))
    with av.open(str(tmp_path / "out" / rows[1]["file_name"])) as container:
        times = sorted(float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.pts is not None)
    own = np.array(stamps[rows[1]["origin_start"] : rows[1]["origin_stop"]])
    np.testing.assert_allclose(times, (own - own[0]) / 1000, atol=1e-4)


def test_colors_of_a_cut_clip_are_those_that_the_trainer_sees(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    picture = np.full((64, 96, 3), (200, 60, 30), np.uint8)
    write_video(tmp_path / "raw" / "clip.mp4", [picture] * 24, rotation=(90, False, False))
    (row, _) = run(tmp_path / "raw", tmp_path / "out", {"kind": "clips", "seconds": 0.5})
    assert (row["height"], row["width"]) == (96, 64)
    before = frames_of(tmp_path / "raw" / "clip.mp4", 96, 64).pixels[:12].float()
    after = frames_of(tmp_path / "out" / row["file_name"], 96, 64).pixels.float()
    assert (before - after).abs().mean() < 2


def test_a_longer_clip_is_cut_into_equal_parts(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_counter(tmp_path / "raw" / "clip.mp4", 70, fps=10)
    rows = run(tmp_path / "raw", tmp_path / "out", {"kind": "clips", "min_seconds": 1, "max_seconds": 3})
    assert [row["frames"] for row in rows] == [23, 23, 24]


def test_what_stays_whole_is_copied(raw: Path, prepared: Path) -> None:
    (row,) = [row for row in rows_of(prepared) if row["origin"] == "c.png"]
    assert (prepared / row["file_name"]).read_bytes() == (raw / "c.png").read_bytes()
    assert row["caption"] == "blobs"


@pytest.mark.parametrize("border", [(10, 0), (0, 14), (9, 12)])
def test_black_borders_are_cut_off(tmp_path: Path, border: tuple[int, int]) -> None:
    (tmp_path / "raw").mkdir()
    y, x = border
    pictures = [np.pad(np.maximum(picture, 60), ((y, y), (x, x), (0, 0))) for picture in moving(7, 12)]
    Image.fromarray(pictures[0]).save(tmp_path / "raw" / "still.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "raw" / "black.png")
    write_video(tmp_path / "raw" / "clip.mp4", pictures)
    black, clip, still = run(tmp_path / "raw", tmp_path / "out", {"kind": "letterbox"})
    assert (still["height"], still["width"]) == (96, 128)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out" / still["file_name"])), pictures[0][y : y + 96, x : x + 128]
    )
    assert abs(clip["height"] - 96) <= 2
    assert abs(clip["width"] - 128) <= 2
    assert clip["letterbox"] > 0.1
    assert (black["height"], black["letterbox"]) == (64, 0)


def test_scores_tell_what_moves_from_what_stands_and_sharp_from_blurred(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_video(tmp_path / "raw" / "black.mp4", [np.zeros((64, 64, 3), np.uint8)] * 12)
    write_video(tmp_path / "raw" / "fast.mp4", [np.roll(noise(8), 9 * k, axis=1) for k in range(24)])
    write_video(tmp_path / "raw" / "slow.mp4", [np.roll(noise(8), k, axis=1) for k in range(24)])
    write_video(tmp_path / "raw" / "static.mp4", [noise(8)] * 24, keys_every=24)
    rows = run(tmp_path / "raw", tmp_path / "out", {"kind": "measure"})
    black, fast, slow, static = rows
    assert fast["motion"] > 2 * slow["motion"] > 0
    assert (static["static"], slow["static"], black["black"], slow["black"]) == (1, 0, 1, 0)
    assert static["motion"] < 0.5
    checker = np.indices((32, 32)).sum(axis=0) % 2 * 255.0
    assert sharpness(checker) > 100 * sharpness(np.full((32, 32), 128.0) + np.arange(32)) == 0


# Duplicates.


def test_duplicates_are_dropped_and_the_first_stays(raw: Path, prepared: Path) -> None:
    reasons = {one["origin"]: (one["step"], one["reason"]) for one in report_of(prepared)["left_out"]}
    assert reasons["copy of c.png"] == ("exact_duplicates", "has the same bytes as c.png")
    step, reason = reasons["like c.jpg"]
    assert step == "near_duplicates"
    assert reason.startswith("looks like c.png (")


def test_a_photograph_looks_like_itself_and_like_no_other(tmp_path: Path) -> None:
    names = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "moon.png", "motorcycle_left.png")
    pictures = [np.asarray(Image.open(real_photo(name)).convert("RGB")) for name in names]
    hashes = [perceptual_hash(picture) for picture in pictures]
    for own, picture in zip(hashes, pictures, strict=True):
        small = np.asarray(Image.fromarray(picture).resize((200, 160)))
        assert (own ^ perceptual_hash(small)).bit_count() <= 6
    assert min((a ^ b).bit_count() for a in hashes for b in hashes if a != b) > 12


@pytest.mark.parametrize("num_words", [1, 3])
def test_the_index_finds_what_a_comparison_of_all_pairs_finds(num_words: int) -> None:
    generator = np.random.default_rng(num_words)
    words = generator.integers(0, 2**64, (300, num_words), dtype=np.uint64)
    for row in range(100, 300):  # near an earlier one: by 0 to 9 bits in each word
        words[row] = words[row % 100]
        for place in range(num_words):
            for bit in generator.choice(64, generator.integers(0, 10), replace=False):
                words[row, place] ^= np.uint64(1) << np.uint64(bit)
    index, num_found = NearIndex(num_words, 6), 0
    for row, own in enumerate(words):
        near = np.flatnonzero((np.bitwise_count(words[:row] ^ own) <= 6).all(axis=1))
        found = index.earliest(own.tolist())
        assert (None if found is None else found[0]) == (int(near[0]) if len(near) else None)
        num_found += found is not None
        index.add(own.tolist())
    assert num_found > 20


def test_digests_are_found_by_their_number() -> None:
    index, digests = DigestIndex(), [hashlib.blake2b(bytes([k]), digest_size=16).hexdigest() for k in range(200)]
    for number, digest in enumerate(digests[:100]):
        index.add(digest, number)
    assert [index.find(digest) for digest in digests] == [*range(100), *[None] * 100]


# Expressions.


@pytest.mark.parametrize(
    ("text", "is_true"),
    [
        ("seconds >= 2", True),
        ("seconds >= 2 and motion > 3", False),
        ("not motion > 3 or seconds < 1", True),
        ("1 < seconds <= 2", True),
        ("kind == 'video' and -motion + 2 * seconds / 4 > 0.4", True),
        ("kind != 'video'", False),
        ("seconds % 2 == 0", True),
    ],
)
def test_an_expression_is_what_it_says(text: str, is_true: bool) -> None:
    values = {"kind": "video", "seconds": 2.0, "motion": 0.5, "nsfw": 0.1}
    assert (parse(text, KINDS, "here").why_not(values) is None) == is_true


def test_a_dropped_item_says_which_part_is_not_true() -> None:
    expression = parse("seconds >= 2 and motion > 3 and nsfw < 0.2", KINDS, "here")
    assert expression.why_not({"seconds": 2.0, "motion": 0.5, "nsfw": 0.1}) == "not motion > 3: motion is 0.5"
    with pytest.raises(DataError, match="cannot be computed"):
        parse("1 / motion > 3", KINDS, "here").why_not({"motion": 0.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "moton > 1",
            r"there is no score 'moton' here; did you mean 'motion'\? those of earlier steps are kind, seconds, motion",
        ),
        ("seconds", "it is a number, and not true or false"),
        ("kind > 2", "2 is a number, where a text must stand"),
        ("kind + 'a' == 'b'", "kind is a text, where a number must stand"),
        ("seconds and motion > 1", "seconds is a number, where a truth must stand"),
        ("seconds >", "is not an expression"),
        ("__import__('os').system('true') == 0", "neither a comparison nor arithmetic"),
        ("kind.upper() == 'A'", "neither a comparison nor arithmetic"),
        ("9 ** 9 ** 9 > 1", "neither a comparison nor arithmetic"),
        ("seconds is 2", "neither a comparison nor arithmetic"),
        ("not " * 200 + "seconds > 1", "nested too deeply"),
        ("(" * 5000 + "1" + ")" * 5000, "is not an expression"),
        ("seconds > 1" + " and seconds > 1" * 2000, "too long"),
        ("seconds > 1\0", "is not an expression"),
    ],
)
def test_a_wrong_expression_says_what_is_wrong_and_runs_nothing(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text, KINDS, "steps.0.where")


def test_a_filter_knows_the_scores_of_the_steps_before_it_only(raw: Path, tmp_path: Path) -> None:
    keep = {"kind": "keep", "where": "motion > 1"}
    with pytest.raises(ConfigError, match=r"steps.0.where: 'motion > 1' .* no score 'motion'"):
        prepare(config_of(raw, tmp_path / "out", keep, {"kind": "measure"}))
    assert not (tmp_path / "out").exists()


# The whole.


def test_a_bad_file_is_named_and_ends_nothing(prepared: Path) -> None:
    report = report_of(prepared)
    (bad,) = [one for one in report["left_out"] if one["step"] == "read"]
    assert bad["origin"] == "d.mp4"
    assert "truncated" in bad["reason"]
    assert (report["media"], report["failed"], report["kept"]) == (6, 1, len(rows_of(prepared)))
    assert report["other_files"] == {".txt": 1}


def test_the_report_counts_every_piece_of_every_step(prepared: Path) -> None:
    report = report_of(prepared)
    steps = report["steps"]
    dropped = [sum(one["step"] == step["kind"] for one in report["left_out"]) for step in steps]
    assert [step["came"] for step in steps[1:]] == [step["went_on"] for step in steps[:-1]]
    for step, count in zip(steps, dropped, strict=True):
        assert step["kind"] in ("scenes", "clips") or step["came"] - step["went_on"] == count
    assert steps[0] == {"kind": "exact_duplicates", "came": 5, "went_on": 4}
    assert steps[-1]["went_on"] == report["kept"] > 3


def test_the_number_of_workers_changes_nothing(raw: Path, prepared: Path, tmp_path: Path) -> None:
    prepare(config_of(raw, tmp_path / "out", *STEPS, workers=4))
    assert contents(tmp_path / "out") == contents(prepared)


@pytest.mark.parametrize("place", [1, 4])
def test_a_killed_preparation_goes_on_and_ends_as_one_that_was_not(
    raw: Path, prepared: Path, tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", _die_at(place, Journal.append))
        with pytest.raises(KeyboardInterrupt):
            prepare(config_of(raw, out, *STEPS))
    journal = out / ".prepare" / "journal.jsonl"
    assert len(journal.read_text().splitlines()) == place
    with journal.open("a") as file:
        file.write('{"origin": "tor')  # as a killed process leaves it
    assert not (out / "metadata.jsonl").exists()
    lines: list[str] = []
    prepare(config_of(raw, out, *STEPS), lines.append)
    assert lines[0] == f"going on after {place} of 6 media"
    assert contents(out) == contents(prepared)


def _die_at(place: int, append: Any) -> Any:
    count = iter(range(100))

    def dying(journal: Journal, record: dict) -> None:
        if next(count) == place:
            raise KeyboardInterrupt
        append(journal, record)

    return dying


def test_a_file_that_is_gone_is_made_again(prepared: Path, raw: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "out")
    for row in rows_of(prepared)[::2]:
        (tmp_path / "out" / row["file_name"]).unlink()
    prepare(config_of(raw, tmp_path / "out", *STEPS))
    assert contents(tmp_path / "out") == contents(prepared)


@pytest.mark.parametrize("output", [{"format": "webdataset"}, {"format": "parquet"}])
def test_shards_hold_what_the_folder_holds(
    raw: Path, prepared: Path, tmp_path: Path, output: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "MB", 20_000)  # so that there are several
    for name, stops_at in (("at once", None), ("with a stop", 3)):
        out = tmp_path / name
        if stops_at is not None:
            with monkeypatch.context() as patched:
                patched.setattr(Journal, "append", _die_at(stops_at, Journal.append))
                with pytest.raises(KeyboardInterrupt):
                    prepare(config_of(raw, out, *STEPS, shard_mb=1, **output))
        prepare(config_of(raw, out, *STEPS, shard_mb=1, **output))
        prepare(config_of(raw, out, *STEPS, shard_mb=1, **output))  # once more: nothing is to do
    assert contents(tmp_path / "at once") == contents(tmp_path / "with a stop")
    assert not [file for file in (out / ".prepare" / "staged").rglob("*") if file.is_file()]
    samples = list(_samples(out))
    assert len(list(out.glob("0*"))) > 1
    for row, (data, caption, facts) in zip(rows_of(prepared), samples, strict=True):
        assert data == (prepared / row["file_name"]).read_bytes()
        assert (caption, facts["motion"], facts["frames"]) == (row["caption"], row["motion"], row["frames"])


def _samples(out: Path) -> Iterator[tuple[bytes, str | None, dict]]:
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            found: dict[str, dict[str, bytes]] = {}
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = tar.extractfile(member).read()
        for of_key in found.values():
            facts, text = json.loads(of_key.pop("json")), of_key.pop("txt", None)
            (data,) = of_key.values()
            yield data, None if text is None else text.decode(), facts
    for shard in sorted(out.glob("*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            yield row["media"]["bytes"], row["caption"], row


def test_an_output_of_others_is_refused_and_left_as_it_is(raw: Path, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"output.path: .*mine is there and of no preparation; name a new folder"):
        prepare(config_of(raw, tmp_path / "mine", *STEPS))
    assert contents(tmp_path / "mine").keys() == {"file"}
    assert not (tmp_path / "mine" / ".prepare").exists()
    before = contents(prepared)
    other = (*STEPS[:-1], {"kind": "keep", "where": "motion > 2"})
    with pytest.raises(ConfigError, match=r"holds another preparation: steps.5.where was .* and is \"motion > 2\""):
        prepare(config_of(raw, prepared, *other))
    shutil.copytree(raw, tmp_path / "raw")
    with pytest.raises(ConfigError, match="its input had 6 media, and now there are 6, or others"):
        prepare(config_of(tmp_path / "raw", prepared, *STEPS))
    assert contents(prepared) == before
    with pytest.raises(ConfigError, match=r"output.path: .* lies in the input"):
        prepare(config_of(raw, raw / "out"))
    with pytest.raises(ConfigError, match=r"input: there is no folder .*; did you mean 'raw'"):
        prepare(config_of(tmp_path / "rav", tmp_path / "out"))


def test_two_preparations_of_one_output_are_refused(raw: Path, prepared: Path) -> None:
    config = config_of(raw, prepared, *STEPS)
    with (
        Journal(config, list_inputs(config.inputs, prepared)),
        pytest.raises(ConfigError, match=r"is being prepared by another process"),
    ):
        prepare(config)


def test_a_full_disk_ends_the_preparation_and_leaves_nothing_half(
    raw: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetrainers.data.curate import writing

    def full(_piece: object, file: Path, _output: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writing, "_encode", full)
        with pytest.raises(OSError, match="No space left") as caught:
            prepare(config_of(raw, tmp_path / "out", *STEPS))
    assert str(tmp_path / "out") in str(caught.value.filename)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    prepare(config_of(raw, tmp_path / "out", *STEPS))
    assert contents(tmp_path / "out") == contents(prepared)


def test_no_thread_goes_on_after_an_error(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    monkeypatch.setattr(Journal, "append", _die_at(0, Journal.append))
    with pytest.raises(KeyboardInterrupt):
        prepare(config_of(raw, tmp_path / "out", *STEPS))
    assert threading.active_count() == before
