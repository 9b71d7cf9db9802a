"""Controls in files of their own: each item gets its own, what does not fit is named, and pixels stay aligned."""

import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import media_factory as factory
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from PIL import Image
from runs import flux_tree

from finetrainers.config import DataConfig, parse_config
from finetrainers.data.catalog.catalog import Catalog, build_catalog, view_of
from finetrainers.data.catalog.dataset import Dataset
from finetrainers.data.catalog.followers import following_view, has_proportions_of, has_rate_of
from finetrainers.data.catalog.left_out import LeftOut
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.probe import FACTS
from finetrainers.data.media.files import decode, probe
from finetrainers.data.media.view import View
from finetrainers.data.order.plan import Plan
from finetrainers.data.sources.folders import suffixes
from finetrainers.data.sources.items import Listing, Problem, list_items
from finetrainers.data.sources.metadata import CONTROL_COLUMNS, MEDIA_COLUMNS
from finetrainers.data.streams import MEDIA, Stream
from finetrainers.errors import DataError
from finetrainers.files.whole import hash_file

CONTROL = Stream("control", "condition")
STREAMS = (MEDIA, CONTROL)

NAMES = ("a.png", "sub/größe – α.webm", "v1.2 clip.mp4")


def config_of(path: Path, **options: Any) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), "buckets": ((1, 8, 8),), **options})


def listed(path: Path, **options: Any) -> Listing:
    return list_items(config_of(path, **options), [CONTROL.name])


def pairs(listing: Listing, folder: Path) -> dict[str, str]:
    """Control by media, relative to a folder, in the order of the table."""
    rows = listing.table.select(["media", "control"]).to_pylist()
    return {os.path.relpath(row["media"], folder): os.path.relpath(row["control"], folder) for row in rows}


def reasons(listing: Listing, folder: Path) -> dict[str, str]:
    return {os.path.relpath(problem.path, folder): problem.reason for problem in listing.problems}


def error_of(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        listed(path, **options)
    return str(error.value)


def touch(folder: Path, *names: str) -> None:
    """Empty files: no listing may open them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_layout(folder: Path, layout: str, names: tuple[str, ...] = NAMES, **columns: tuple[str | None, ...]) -> None:
    """Media with captions in one of the layouts."""
    touch(folder, *names)
    if layout == "sidecars":
        for name in names:
            (folder / name).with_suffix(".txt").write_text("A cat")
    elif layout == "lists":
        (folder / "captions.txt").write_text("\n".join("A cat" for _ in names))
        (folder / "videos.txt").write_text("\n".join(names), encoding="utf-8")
    else:
        records = {"file_name": names, "text": ["A cat"] * len(names), **columns}
        if layout.endswith("parquet"):
            pq.write_table(pa.table({key: pa.array(values) for key, values in records.items()}), folder / layout)
        else:
            lines = [",".join(records), *(",".join(v or "" for v in row) for row in zip(*records.values(), strict=True))]
            (folder / layout).write_text("\n".join(lines), encoding="utf-8")


# Listing: a parallel folder


@pytest.mark.parametrize("layout", ["sidecars", "lists", "metadata.csv", "metadata.parquet"])
@pytest.mark.parametrize("place", ["controls", "media/controls"])
def test_a_parallel_folder_serves_every_layout(tmp_path: Path, layout: str, place: str) -> None:
    """Beside the media or inside their folder; suffixes do not matter, dots and other letters in names do."""
    write_layout(tmp_path / "media", layout)
    touch(tmp_path / place, "a.mp4", "sub/größe – α.jpg", "v1.2 clip.webm", "v1.png", "unused.png", "a.txt", ".a.png")
    found = listed(tmp_path / "media", control_path=str(tmp_path / place))
    expected = {"a.png": "a.mp4", "sub/größe – α.webm": "sub/größe – α.jpg", "v1.2 clip.mp4": "v1.2 clip.webm"}
    assert pairs(found, tmp_path) == {f"media/{media}": f"{place}/{control}" for media, control in expected.items()}
    assert found.table.schema.field("control").type == pa.large_string()
    assert found.table.column_names == ["media", "captions", "control"]
    assert (found.problems, found.unlisted) == ((), 0)


def test_a_metadata_file_and_its_controls_folder_may_be_given_by_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_layout(tmp_path / "media", "set.csv", ("x/a.mp4",))
    touch(tmp_path / "depth", "x/a.png")
    monkeypatch.chdir(tmp_path)
    expected = {"media/x/a.mp4": "depth/x/a.png"}
    assert pairs(listed(Path("media/set.csv"), control_path="depth"), tmp_path) == expected
    assert pairs(listed(Path("media/../media/set.csv"), control_path="media/../depth"), tmp_path) == expected


def test_a_controls_folder_inside_the_data_set_holds_no_items(tmp_path: Path) -> None:
    """Controls that have captions too, and a link to their folder: still no items, with or without controls."""
    write_layout(tmp_path, "sidecars", ("a.png",))
    write_layout(tmp_path / "depth", "sidecars", ("a.png",))
    (tmp_path / "link").symlink_to(tmp_path / "depth")
    options = {"control_path": str(tmp_path / "depth")}
    assert pairs(listed(tmp_path, **options), tmp_path) == {"a.png": "depth/a.png"}
    assert list_items(config_of(tmp_path, **options)).table["media"].to_pylist() == [str(tmp_path / "a.png")]
    assert len(list_items(config_of(tmp_path)).table) == 2


def test_a_controls_folder_may_hold_the_data_set(tmp_path: Path) -> None:
    write_layout(tmp_path / "media", "sidecars", ("a.png",))
    touch(tmp_path, "a.jpg")
    assert pairs(listed(tmp_path / "media", control_path=str(tmp_path)), tmp_path) == {"media/a.png": "a.jpg"}


def test_items_without_one_control_are_problems(tmp_path: Path) -> None:
    media, controls = tmp_path / "media", tmp_path / "controls"
    names = ("good.mp4", "none.mp4", "sub/two.png", "../outside.png", "sub/../back.mp4")
    write_layout(media, "metadata.csv", names)
    touch(controls, "good.png", "none.txt", "sub/none.png", "sub/two.mp4", "sub/two.PNG", "outside.png", "back.jpg")
    found = listed(media, control_path=str(controls))
    assert pairs(found, tmp_path) == {"media/good.mp4": "controls/good.png", "media/back.mp4": "controls/back.jpg"}
    assert reasons(found, media) == {
        "none.mp4": f"has no control {controls}/none, with the suffix of an image or a video",
        "sub/two.png": f"has 2 controls, {controls}/sub/two.PNG, {controls}/sub/two.mp4; remove all but one",
        "../outside.png": (
            f"lies outside {media}, so that data.control_path names no control for it; use data.control_column"
        ),
    }


def test_a_controls_folder_that_cannot_serve_is_an_error(tmp_path: Path) -> None:
    write_layout(tmp_path / "media", "sidecars")
    (tmp_path / "controls").mkdir()
    missing = str(tmp_path / "control")
    assert error_of(tmp_path / "media", control_path=missing) == (
        f"data.control_path: there is no folder {missing!r}; did you mean 'controls'?"
    )
    assert error_of(tmp_path / "media", control_path=str(tmp_path / "controls")).startswith(
        f"data.control_path: there are no images or videos in {tmp_path / 'controls'} (.jpg .jpeg .jpe"
    )
    same = str(tmp_path / "media/../media")
    assert error_of(tmp_path / "media", control_path=same) == (
        f"data.control_path: {same!r} holds the media themselves; give the folder of the controls"
    )


@pytest.mark.parametrize("layout", ["sidecars", "lists"])
def test_layouts_that_name_no_controls_say_what_to_set(tmp_path: Path, layout: str) -> None:
    write_layout(tmp_path, layout)
    assert error_of(tmp_path) == (
        f"data.control_path: nothing in {tmp_path} names the control files that conditioning.signal: files needs; set it to "
        "the folder of the control files, or list media and control files in a metadata file"
    )
    assert "data.control_column: 'depth' has no effect on the layout" in error_of(tmp_path, control_column="depth")


# Listing: a column of the metadata file


@pytest.mark.parametrize("layout", ["metadata.csv", "metadata.parquet"])
def test_a_column_names_the_controls(tmp_path: Path, layout: str) -> None:
    controls = ("depth/one.png", " ./depth//two.mp4 ", str(tmp_path / "elsewhere/three.png"))
    touch(tmp_path / "media", "depth/one.png", "depth/two.mp4", "unlisted.png")
    touch(tmp_path, "elsewhere/three.png")
    write_layout(tmp_path / "media", layout, depth=controls, source=("x",) * 3)
    found = listed(tmp_path / "media", control_column="depth")
    assert list(pairs(found, tmp_path).values()) == [
        "media/depth/one.png",
        "media/depth/two.mp4",
        "elsewhere/three.png",
    ]
    assert found.problems == ()


def test_controls_beside_their_media_are_not_unlisted(tmp_path: Path) -> None:
    touch(tmp_path, "depth.png", "left over.png")
    write_layout(tmp_path, "metadata.csv", ("a.png", "b.png"), control=("depth.png", "depth.png"))
    assert listed(tmp_path).unlisted == 1
    assert list_items(config_of(tmp_path)).unlisted == 2


@pytest.mark.parametrize("layout", ["metadata.csv", "metadata.parquet"])
def test_rows_without_a_control_are_problems(tmp_path: Path, layout: str) -> None:
    touch(tmp_path, "depth/good.png", "depth/notes.npy", "depth/.hidden.png")
    controls = {
        "good.mp4": "depth/good.png",
        "null.mp4": None,
        "blank.mp4": "  ",
        "gone.mp4": "depth/gone.png",
        "notes.mp4": "depth/notes.npy",
        "folder.mp4": "depth",
        "hidden.mp4": "depth/.hidden.png",
    }
    write_layout(tmp_path, layout, tuple(controls), control=tuple(controls.values()))
    found = listed(tmp_path)
    assert pairs(found, tmp_path) == {"good.mp4": "depth/good.png", "hidden.mp4": "depth/.hidden.png"}
    assert reasons(found, tmp_path) == {
        "null.mp4": f"{layout} names no control for it",
        "blank.mp4": f"{layout} names no control for it",
        "gone.mp4": f"its control {tmp_path}/depth/gone.png: is listed in {layout}, but there is no such file",
        "folder.mp4": f"its control {tmp_path}/depth: is listed in {layout}, but there is no such file",
        "notes.mp4": (f"its control {tmp_path}/depth/notes.npy: suffix '.npy' is none of {suffixes()}"),
    }


def test_all_controls_may_be_missing(tmp_path: Path) -> None:
    write_layout(tmp_path, "metadata.parquet", control=(None,) * 3)
    found = listed(tmp_path)
    assert (len(found.table), len(found.problems)) == (0, 3)
    assert found.table.column_names == ["media", "captions", "control"]


@pytest.mark.parametrize("column", CONTROL_COLUMNS)
def test_common_names_of_columns(tmp_path: Path, column: str) -> None:
    touch(tmp_path, "c.png")
    write_layout(tmp_path, "metadata.csv", ("a.png",), **{column.title(): ("c.png",)})
    assert pairs(listed(tmp_path), tmp_path) == {"a.png": "c.png"}


def test_the_first_of_the_common_names_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "c.png")
    write_layout(tmp_path, "metadata.csv", ("a.png",), source=("youtube",), control_image=("c.png",))
    assert pairs(listed(tmp_path), tmp_path) == {"a.png": "c.png"}


def test_columns_of_media_and_of_controls_are_never_mistaken_for_each_other(tmp_path: Path) -> None:
    assert not set(CONTROL_COLUMNS) & set(MEDIA_COLUMNS)
    touch(tmp_path, "a.png", "c.png")
    path = tmp_path / "metadata.csv"
    path.write_text("image,video,source,text\nc.png,a.png,a.png,A cat\n")
    assert "columns image, video may all hold media paths" in error_of(tmp_path)
    assert pairs(listed(tmp_path, control_column="image"), tmp_path) == {"a.png": "c.png"}
    assert pairs(listed(tmp_path, media_column="source", control_column="image"), tmp_path) == {"a.png": "c.png"}
    assert pairs(listed(tmp_path, media_column="image"), tmp_path) == {"c.png": "a.png"}
    message = f"{path}: data.control_column: 'image' is taken for media or captions; name another column"
    assert error_of(tmp_path, media_column="image", control_column="image") == message
    assert "no column of controls among image, video, source, text; expected one of control, " in error_of(
        tmp_path, media_column="source"
    )


def test_a_column_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    write_layout(tmp_path, "metadata.csv", depth=("c.png",) * 3)
    assert "data.control_column: there is no column 'dept', only file_name, text, depth; did you mean 'depth'?" in error_of(
        tmp_path, control_column="dept"
    )
    message = error_of(tmp_path)
    assert "no column of controls among file_name, text, depth; expected one of control, control_image," in message
    assert message.endswith("or its name in data.control_column, or a folder of controls in data.control_path")


# Catalog


def catalog_of(tmp_path: Path, *configs: DataConfig, has_controls: bool = True, seen: Any = None, **options: Any) -> Catalog:
    memo = Memo(tmp_path / "memo.sqlite")
    progress = seen or (lambda done, total: None)
    try:
        return build_catalog(configs, memo, workers=2, progress=progress, streams=STREAMS[: 1 + has_controls], **options)
    finally:
        memo.close()


def gradient(height: int = 96, width: int = 128, *, frame: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """[height, width, 3] picture whose red is the column, green the row, and blue the frame."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[..., 0] = (np.arange(width) + 0.5) * 240 / width
    picture[..., 1] = ((np.arange(height) + 0.5) * 240 / height)[:, None]
    picture[..., 2] = (20 + 12 * frame) % 256
    return picture


def write_picture(path: Path, height: int = 96, width: int = 128, *, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(gradient(height, width, frame=value)).save(path)
    return path


def write_clip(path: Path, num_frames: int, height: int = 96, width: int = 128, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    factory.write_video(path, [gradient(height, width, frame=i) for i in range(num_frames)], **options)
    return path


def caption(*media: Path) -> None:
    for path in media:
        path.with_suffix(".txt").write_text("A cat")


def pictures(tmp_path: Path, count: int = 3, **options: Any) -> DataConfig:
    """Pictures and their controls, all different; controls have half the size."""
    for i in range(count):
        caption(write_picture(tmp_path / f"media/{i}.png", value=i))
        write_picture(tmp_path / f"controls/{i}.png", 48, 64, value=i)
    settings = {"buckets": ((1, 64, 64),), "control_path": str(tmp_path / "controls"), **options}
    return config_of(tmp_path / "media", **settings)


def failures(tmp_path: Path, config: DataConfig, **options: Any) -> dict[str, str]:
    """Reasons by the name of the media; each problem fails the run unless it is to be skipped."""
    data = catalog_of(tmp_path, config.model_copy(update={"on_error": "skip"}), **options).sets[0]
    if data.problems:
        with pytest.raises(DataError, match=f"data: {len(data.problems)} bad samples?:") as error:
            catalog_of(tmp_path, config.model_copy(update={"on_error": "fail"}), **options)
        assert all(f"{problem.path}: {problem.reason}" in str(error.value) for problem in data.problems)
    used = {data.table["media"][int(item)].as_py() for item in data.item}
    assert not used & {problem.path for problem in data.problems}
    return {Path(problem.path).name: problem.reason for problem in data.problems}


def test_the_catalog_knows_each_control(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    data = catalog_of(tmp_path, pictures(tmp_path), seen=lambda *counts: seen.append(counts)).sets[0]
    assert data.frames["control"].tolist() == [1, 1, 1]
    assert seen == [(3, 6), (6, 6)]
    for sample in range(3):
        path = tmp_path / f"controls/{sample}.png"
        assert data.path(sample, "control") == str(path)
        assert data.digest(sample, "control") == hash_file(path).hex()
        assert data.digests["control"][sample].tobytes() == hash_file(path)
    plain = catalog_of(tmp_path, pictures(tmp_path), has_controls=False).sets[0]
    assert (list(plain.digests), list(plain.frames), plain.table.column_names) == (
        ["media"],
        ["media"],
        ["media", "captions"],
    )


def test_samples_keep_their_controls_when_chosen_and_split(tmp_path: Path) -> None:
    """Several data sets, some of their items bad: the control is the one of the sample's own item."""
    first = pictures(tmp_path / "a", 12, on_error="skip")
    (tmp_path / "a/controls/3.png").unlink()
    (tmp_path / "a/media/5.png").write_bytes(b"")
    catalog = catalog_of(tmp_path, first, pictures(tmp_path / "b", 4))
    for part in (catalog, *catalog.split(0.4)):
        assert part.num_samples >= 1
        for sample in range(part.num_samples):
            data, row = part.locate(sample)
            media = Path(data.table["media"][int(data.item[row])].as_py())
            assert data.path(row, "control") == str(media.parent.parent / "controls" / media.name)
            assert data.digest(row, "control") == hash_file(Path(data.path(row, "control"))).hex()


def test_the_fingerprint_changes_with_a_control(tmp_path: Path) -> None:
    config = pictures(tmp_path)
    before, plain = (catalog_of(tmp_path, config, has_controls=has).fingerprint() for has in (True, False))
    assert before == catalog_of(tmp_path, config).fingerprint()
    write_picture(tmp_path / "controls/1.png", 48, 64, value=9)
    assert catalog_of(tmp_path, config).fingerprint() != before
    assert catalog_of(tmp_path, config, has_controls=False).fingerprint() == plain != before


def test_a_shared_control_is_looked_at_once(tmp_path: Path) -> None:
    names = ("c", "d", "c", "c", "d")
    for name, value in (("c", 8), ("d", 9)):
        write_picture(tmp_path / f"controls/{name}.png", value=value)
    for i in range(len(names)):
        write_picture(tmp_path / f"{i}.png", value=i)
    lines = ["file_name,text,control", *(f"{i}.png,A cat,controls/{name}.png" for i, name in enumerate(names))]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    seen: list[tuple[int, int]] = []
    data = catalog_of(tmp_path, config_of(tmp_path), seen=lambda *counts: seen.append(counts)).sets[0]
    assert seen == [(5, 7), (7, 7)]
    for sample, name in enumerate(names):
        path = tmp_path / f"controls/{name}.png"
        assert (data.path(sample, "control"), data.digest(sample, "control")) == (str(path), hash_file(path).hex())


def test_controls_that_cannot_be_read_are_problems_of_their_items(tmp_path: Path) -> None:
    config = pictures(tmp_path, 3)
    (tmp_path / "controls/0.png").write_bytes(b"")
    data = (tmp_path / "controls/2.png").read_bytes()
    (tmp_path / "controls/2.png").write_bytes(data[: len(data) // 2])
    found = failures(tmp_path, config)
    assert set(found) == {"0.png", "2.png"}
    assert found["0.png"] == f"its control {tmp_path}/controls/0.png: the file is empty (zero bytes)"
    assert found["2.png"].startswith(f"its control {tmp_path}/controls/2.png: cannot be decoded: ")


def test_a_bad_item_with_a_bad_control_is_one_problem(tmp_path: Path) -> None:
    config = pictures(tmp_path, 3)
    for folder in ("media", "controls"):
        (tmp_path / folder / "0.png").write_bytes(b"")
    assert failures(tmp_path, config) == {"0.png": "the file is empty (zero bytes)"}


def test_other_proportions_are_a_problem(tmp_path: Path) -> None:
    config = pictures(tmp_path, 4)
    write_picture(tmp_path / "controls/0.png", 49, 64)  # one pixel more
    write_picture(tmp_path / "controls/1.png", 50, 64)
    write_picture(tmp_path / "controls/2.png", 192, 258)  # larger than the media: one pixel of these
    write_picture(tmp_path / "controls/3.png", 128, 96)
    reason = (
        "pixels have other proportions than the media's 128x96, so that crops would not be aligned; crop or scale it like "
        "the media, or set resize: stretch if it shows all of them"
    )
    assert failures(tmp_path, config) == {
        f"{i}.png": f"its control {tmp_path}/controls/{i}.png: {size} {reason}" for i, size in ((1, "64x50"), (3, "96x128"))
    }
    assert failures(tmp_path, config.model_copy(update={"resize": "stretch"})) == {}


sizes = st.integers(1, 4000)


@given(height=sizes, width=sizes, scale=st.floats(0.05, 1), change=st.integers(-3, 3), turned=st.booleans())
@settings(max_examples=300)
def test_one_pixel_of_the_smaller_is_the_limit(height: int, width: int, scale: float, change: int, turned: bool) -> None:
    """The definition: scaled exactly to the width (or height) of the smaller, the other side is off by a pixel at most."""
    small = max(1, round(height * scale) + change), max(1, round(width * scale))
    facts = np.zeros((2, 1), FACTS)
    for row, (h, w) in enumerate([(height, width), small]):
        facts["height"][row], facts["width"][row] = h, w
    media, control = facts[::-1] if turned else facts
    smaller, large = sorted([(height, width), small], key=lambda size: size[0] * size[1])
    off = [large[i] * smaller[1 - i] - smaller[i] * large[1 - i] for i in (0, 1)]  # in pixels times large[1 - i]
    close = any(abs(off[i]) <= large[1 - i] for i in (0, 1))
    assert has_proportions_of(media, control).tolist() == [close]
    if change == 0 and min(height, width) * scale >= 1:
        assert close


LENGTHS = {"equal": 12, "longer": 15, "shorter": 10, "still": 1, "picture": 0}


def clips(tmp_path: Path, **options: Any) -> DataConfig:
    """A clip of 12 frames for each kind of control."""
    for name, length in LENGTHS.items():
        caption(write_clip(tmp_path / f"media/{name}.mp4", 12))
        if length:
            write_clip(tmp_path / f"controls/{name}.mp4", length, 48, 64)
        else:
            write_picture(tmp_path / f"controls/{name}.png", 48, 64)
    settings = {"buckets": ((5, 64, 64),), "control_path": str(tmp_path / "controls"), **options}
    return config_of(tmp_path / "media", **settings)


@pytest.mark.parametrize("frame_sampling", ["start", "middle", "random", "uniform", "chunks"])
def test_another_length_is_a_problem_where_it_moves_the_frames(tmp_path: Path, frame_sampling: str) -> None:
    """A still belongs to the whole clip, and the start is the same in all."""

    def reason(name: str) -> str:
        return (
            f"its control {tmp_path}/controls/{name}.mp4: has {LENGTHS[name]} frames where the media have 12, so that "
            f"frame_sampling: {frame_sampling} would choose others; make it as long, or set frame_sampling: start"
        )

    names = () if frame_sampling == "start" else ("longer", "shorter")
    assert failures(tmp_path, clips(tmp_path, frame_sampling=frame_sampling)) == {f"{n}.mp4": reason(n) for n in names}


@pytest.mark.parametrize(("options", "frames"), [({"stride": 3}, (4, 5)), ({"fps": 6.0}, (3, 4)), ({"fps": 48.0}, (24, 30))])
def test_lengths_are_those_after_resampling(tmp_path: Path, options: dict[str, Any], frames: tuple[int, int]) -> None:
    """Media and controls count alike: 12 frames here and 15 there."""
    config = clips(tmp_path, buckets=((3, 64, 64),), **options)
    data = catalog_of(tmp_path, config).sets[0]
    found = {
        Path(path).stem: int(n) for path, n in zip(data.table["control"].to_pylist(), data.frames["control"], strict=True)
    }
    assert (found["equal"], found["longer"], found["still"], found["picture"]) == (*frames, max(1, found["still"]), 1)
    reason = failures(tmp_path, config.model_copy(update={"frame_sampling": "uniform"}))["longer.mp4"]
    assert f"has {frames[1]} frames where the media have {frames[0]}, so that frame_sampling: uniform" in reason


def test_a_picture_has_no_use_for_a_moving_control_but_its_start(tmp_path: Path) -> None:
    caption(write_picture(tmp_path / "media/a.png"))
    write_clip(tmp_path / "controls/a.mp4", 3)
    config = config_of(tmp_path / "media", buckets=((1, 64, 64),), control_path=str(tmp_path / "controls"))
    assert failures(tmp_path, config) == {}
    middle = failures(tmp_path, config.model_copy(update={"frame_sampling": "middle"}))
    assert "has 3 frames where the media have 1" in middle["a.png"]


Rate = int | Fraction


def rated(tmp_path: Path, media: tuple[int, Rate], control: tuple[int, Rate], **options: Any) -> DataConfig:
    """A clip and its control, each with a number of frames and a frame rate."""
    for folder, (length, rate), size in (("media", media, (96, 128)), ("controls", control, (48, 64))):
        write_clip(tmp_path / folder / "a.mp4", length, *size, fps=rate)
    caption(tmp_path / "media/a.mp4")
    return config_of(
        tmp_path / "media", **{"buckets": ((5, 64, 64),), "control_path": str(tmp_path / "controls"), **options}
    )


@pytest.mark.parametrize("frame_sampling", ["start", "middle", "random", "uniform", "chunks"])
def test_another_frame_rate_is_a_problem_of_every_frame_sampling(tmp_path: Path, frame_sampling: str) -> None:
    """At 10 frames per second these would be frames 0, 3, 6, ... of the media, and 0, 2, 5, ... of the control."""
    config = rated(tmp_path, (60, 30), (60, 24), fps=10.0, frame_sampling=frame_sampling)
    assert failures(tmp_path, config) == {
        "a.mp4": f"its control {tmp_path}/controls/a.mp4: has 24 frames per second where the media have 30, so that its "
        "frames would show other moments; write it at the media's frame rate"
    }


NTSC = Fraction(24000, 1001)


@pytest.mark.parametrize(
    ("media", "control", "options", "rates"),
    [
        ((40, 16), (20, 8), {}, ("8", "16")),  # the same two seconds and a half
        ((20, 8), (40, 16), {}, ("16", "8")),
        ((20, 16), (20, 8), {}, None),  # paired one by one
        ((20, 16), (20, 8), {"stride": 2}, None),
        ((20, 16), (19, 8), {"stride": 2}, ("8", "16")),  # as many only after resampling
        ((20, 16), (20, 8), {"fps": 4.0}, ("8", "16")),
        ((24, 24), (30, NTSC), {"fps": 12.0}, None),
        ((24, 24), (30, 25), {}, ("25", "24")),
        ((30, 24), (24, NTSC * Fraction(98, 100)), {}, ("23.5", "24")),
        ((20, 16), (1, 8), {"fps": 4.0}, None),  # stills
        ((1, 16), (20, 8), {"fps": 4.0, "buckets": ((1, 64, 64),)}, None),
    ],
)
def test_frame_rates_have_to_agree_where_they_matter(
    tmp_path: Path,
    media: tuple[int, Rate],
    control: tuple[int, Rate],
    options: dict[str, Any],
    rates: tuple[str, str] | None,
) -> None:
    found = failures(tmp_path, rated(tmp_path, media, control, **options))
    if rates is None:
        assert found == {}
    else:
        assert f"has {rates[0]} frames per second where the media have {rates[1]}, so that" in found["a.mp4"]


@given(media=st.floats(1, 120), change=st.floats(-0.03, 0.03), counts=st.tuples(*[st.integers(2, 99)] * 2))
def test_one_percent_of_the_medias_rate_is_the_limit(media: float, change: float, counts: tuple[int, int]) -> None:
    assume(abs(abs(change) - 0.01) > 1e-9)
    facts = np.zeros((2, 1), FACTS)
    facts["fps"], facts["num_frames"] = [[media], [media * (1 + change)]], [[count] for count in counts]
    is_close = abs(change) < 0.01
    assert has_rate_of(facts[0], facts[1], fps=8.0).tolist() == [is_close]
    assert has_rate_of(facts[0], facts[1], fps=None).tolist() == [is_close or counts[0] == counts[1]]


@pytest.mark.parametrize("options", [{}, {"stride": 3}, {"fps": 8.0}])
def test_a_control_that_ends_before_the_frame_that_is_shown_is_a_problem(tmp_path: Path, options: dict[str, Any]) -> None:
    """Counted after resampling, which leaves a third of the frames: 4 of 12, 5 of 15, and 4 of 10."""
    config = clips(tmp_path, buckets=((3, 64, 64),), **options)
    frames = {"shorter": 4, "equal": 4, "longer": 5, "still": 1, "picture": 1} if options else {**LENGTHS, "picture": 1}
    data = catalog_of(tmp_path, config, min_frames={"control": 1}).sets[0]
    assert data.problems == ()
    for least in sorted({*frames.values(), 11}):
        found = failures(tmp_path, config, min_frames={"control": least})
        assert set(found) == {f"{name}.mp4" for name, count in frames.items() if count < least}
        if least > 1:
            assert found["picture.mp4"] == (
                f"its control {tmp_path}/controls/picture.png: has 1 frames, but the latent frame of "
                f"conditioning.frame_index needs {least}; make it longer, or set a lower conditioning.frame_index"
            )


def ignore(*_: object) -> None:
    """Take progress and warnings."""


@pytest.mark.parametrize(
    ("frames", "bad"), [({"frames": "index", "frame_index": 1}, ["8"]), ({"frames": "index"}, []), ({}, [])]
)
def test_a_run_asks_for_the_frames_that_its_vae_makes_the_shown_one_of(
    tiny: Callable[[str, str], Path], tmp_path: Path, frames: dict[str, Any], bad: list[str]
) -> None:
    """LTX-Video's latent frame 1, the second, is made of frames 2 to 9."""
    from finetrainers.models import open_model
    from finetrainers.training.prepare import prepare

    for length in (8, 9):
        caption(write_clip(tmp_path / f"media/{length}.mp4", 17))
        write_clip(tmp_path / f"controls/{length}.mp4", length)
    section = {"kind": "channel_concat", "signal": "files", **frames}
    tree = flux_tree(tiny("ltx_video", "0.9.0"), tmp_path / "media", tmp_path, conditioning=section)
    data = {"buckets": [[17, 64, 64]], "control_path": str(tmp_path / "controls"), "on_error": "skip"}
    config = parse_config({**tree, "data": [{**tree["data"][0], **data}]})
    prepared = prepare(config, open_model(config.model), torch.device("cpu"), progress=ignore, warn=ignore)
    assert [Path(problem.path).stem for problem in prepared.problems] == bad
    assert all("needs 9; make it longer" in problem.reason for problem in prepared.problems)


# What turns out bad later


def plan_of(catalog: Catalog) -> Plan:
    return Plan(catalog, 0, "vae", "text", streams=STREAMS)


def left_out(plan: Plan, **reasons: str) -> list[LeftOut]:
    """Items that cannot be made: reason by media_0 or controls_0."""
    jobs = [job for i in range(plan.catalog.num_samples) for job in plan.media_jobs(i, 0).values()]
    names = {"_".join((Path(job.path).parent.name, Path(job.path).stem)): job for job in jobs}
    return [LeftOut(names[n].key, names[n].digest, names[n].path, reason, 0) for n, reason in reasons.items()]


def test_what_breaks_later_leaves_out_the_items_of_the_file(tmp_path: Path) -> None:
    """Media or control; the same bytes are fine in the other role."""
    config = pictures(tmp_path, 4, on_error="skip")
    (tmp_path / "media/3.png").write_bytes((tmp_path / "controls/0.png").read_bytes())
    write_picture(tmp_path / "controls/3.png", 48, 64, value=5)
    plan = plan_of(catalog_of(tmp_path, config))
    bad = left_out(plan, controls_0="is torn", media_1="is bent")
    assert plan.leaving_out(bad).bad.codes.tolist() == [0, 1]
    assert plan.leaving_out(bad).num_samples == 2
    assert {(Path(problem.path).name, problem.reason) for _, problem in plan.problems(bad)} == {
        ("0.png", f"its control {tmp_path}/controls/0.png: is torn"),
        ("1.png", "is bent"),
    }
    write_picture(tmp_path / "controls/0.png", 48, 64, value=6)  # mended
    assert plan_of(catalog_of(tmp_path, config)).leaving_out(bad).bad.codes.tolist() == [1]


def test_an_item_whose_media_and_control_break_is_one_problem(tmp_path: Path) -> None:
    plan = plan_of(catalog_of(tmp_path, pictures(tmp_path, 2, on_error="skip")))
    bad = left_out(plan, controls_0="bad controls", media_0="bad media")
    assert plan.leaving_out(bad).bad.codes.tolist() == [0]
    assert [problem for _, problem in plan.problems(bad)] == [Problem(f"{tmp_path}/media/0.png", "bad media")]


# Views


def data_with(frames: int) -> Dataset:
    none = np.zeros(1, np.int64)
    return Dataset(
        config=config_of(Path("/data")),
        table=pa.table({"media": ["/data/a.mp4"], "captions": [["A cat"]], "control": ["/depth/a.mp4"]}),
        digests={name: np.zeros((1, 16), np.uint8) for name in ("media", "control")},
        frames={"media": np.array([40]), "control": np.array([frames])},
        fps=np.zeros(1),
        item=none,
        chunk=none.astype(np.int32),
        bucket=none.astype(np.int32),
        num_captions=none + 1,
        problems=(),
    )


def view_with(**changes: Any) -> View:
    plain: dict[str, Any] = {
        "num_frames": 9,
        "height": 48,
        "width": 48,
        "frame_sampling": "start",
        "fps": None,
        "stride": 1,
        "window": 0.0,
        "chunk": 0,
        "resize": "random_crop",
        "crop": (0.25, 0.75),
        "flip": True,
    }
    return View(**{**plain, **changes})


@given(frames=st.integers(1, 40), wanted=st.integers(0, 10), step=st.sampled_from([1, 4, 8]))
def test_a_shorter_control_ends_with_a_whole_latent_frame(frames: int, wanted: int, step: int) -> None:
    view = view_with(num_frames=1 + wanted * step)
    found = following_view(data_with(frames), 0, "control", view, frame_step=step)
    assert replace(found, num_frames=view.num_frames) == view
    assert found.num_frames <= min(frames, view.num_frames)
    assert (found.num_frames - 1) % step == 0
    assert min(frames, view.num_frames) < found.num_frames + step
    if frames >= view.num_frames:
        assert found == view


@pytest.mark.parametrize("frame_sampling", ["start", "middle", "random", "uniform", "chunks"])
def test_a_still_is_one_frame_of_any_window(tmp_path: Path, frame_sampling: str) -> None:
    """All windows of a clip share it, and decoding serves it from an image and from a clip of one frame."""
    views = [view_with(frame_sampling=frame_sampling, window=w, chunk=c) for w, c in ((0.0, 0), (0.7, 2))]
    found = [following_view(data_with(1), 0, "control", view, frame_step=4) for view in views]
    assert found[0] == found[1] == view_with(num_frames=1)
    for path in (write_picture(tmp_path / "a.png"), write_clip(tmp_path / "a.mp4", 1)):
        assert decode(path, found[0]).pixels.shape == (1, 48, 48, 3)


BUCKET = (5, 32, 96)
"""Far wider than the media: crops move by up to 40 pixels, up and down."""
MakeSet = Callable[..., Dataset]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> MakeSet:
    """Data sets of one clip, 14 frames, with a control of half the size: of a number of frames, or a picture (0)."""
    made: dict[int, Path] = {}

    def make(control_frames: int, **options: Any) -> Dataset:
        if control_frames not in made:
            folder = tmp_path_factory.mktemp("aligned")
            caption(write_clip(folder / "media/a.mp4", 14))
            if control_frames:
                write_clip(folder / "controls/a.mkv", control_frames, 48, 64)
            else:
                write_picture(folder / "controls/a.png", 48, 64)
            made[control_frames] = folder
        folder = made[control_frames]
        settings = {"buckets": (BUCKET,), "control_path": str(folder / "controls"), **options}
        return catalog_of(folder, config_of(folder / "media", **settings)).sets[0]

    return make


def difference(data: Dataset, view: View, other: View) -> float:
    """Mean difference of gray values between the media in a view and the control in another."""
    media, control = (
        decode(Path(data.table[column][0].as_py()), v).pixels.float() for column, v in (("media", view), ("control", other))
    )
    return float((media[: len(control)] - control).abs().mean())


NEAR, FAR = 3.0, 6.0
"""Gray values: what codecs and scaling change at most, and what another crop, window or flip changes at least."""
RANDOM = {"resize": "random_crop", "horizontal_flip": True, "frame_sampling": "random", "views": 4}


def moved(fraction: float) -> float:
    """Another fraction, by a half."""
    return (fraction + 0.5) % 1


@settings(max_examples=15, deadline=None)
@given(number=st.integers(0, 10_000), fps=st.sampled_from([None, 12.0]))
def test_pixels_of_media_and_control_are_aligned(aligned: MakeSet, number: int, fps: float | None) -> None:
    """Random crop, window and flip: the gradients of both agree; with any of the three wrong they do not."""
    data = aligned(14, **RANDOM, fps=fps)
    view = view_of(data, 0, view=number, bucket=BUCKET)
    other = following_view(data, 0, "control", view, frame_step=4)
    assert difference(data, view, other) < NEAR
    for wrong in (
        replace(other, flip=not other.flip),
        replace(other, crop=(moved(other.crop[0]), other.crop[1])),
        replace(other, window=moved(other.window)),
    ):
        assert difference(data, view, wrong) > FAR


@pytest.mark.parametrize(("control_frames", "num_frames"), [(1, 1), (4, 1), (6, 5), (20, 9), (0, 1)])
@pytest.mark.parametrize("fps", [None, 24.0])
def test_a_control_of_another_length_is_aligned_from_the_start(
    aligned: MakeSet, control_frames: int, num_frames: int, fps: float | None
) -> None:
    options: dict[str, Any] = {**RANDOM, "frame_sampling": "start", "buckets": ((9, 32, 96),), "fps": fps}
    data = aligned(control_frames, **options)
    assert data.problems == ()
    for number in range(2):
        view = view_of(data, 0, view=number, bucket=(9, 32, 96))
        other = following_view(data, 0, "control", view, frame_step=4)
        assert other.num_frames == num_frames
        assert difference(data, view, other) < NEAR
        assert difference(data, view, replace(other, crop=(moved(other.crop[0]), 0.5))) > FAR


def test_a_still_follows_the_crop_of_each_window(aligned: MakeSet) -> None:
    """Its columns and rows agree with those of a window late in the clip; its frame number cannot."""
    data = aligned(0, **RANDOM)
    view = replace(view_of(data, 0, view=1, bucket=BUCKET), window=1.0)
    media = decode(Path(data.table["media"][0].as_py()), view).pixels[:1].float()
    control = decode(Path(data.path(0, "control")), following_view(data, 0, "control", view, frame_step=4)).pixels.float()
    assert (media - control).abs().mean((0, 1, 2))[:2].max() < NEAR
    assert (media - control)[..., 2].mean() > 12 * 8


@pytest.mark.parametrize("name", ["bikes.mp4", "chelsea.png"])
def test_real_media_and_their_gray_halves_are_aligned(tmp_path: Path, name: str) -> None:
    suffix = Path(name).suffix
    is_clip = suffix == ".mp4"
    source = factory.real_clip(name) if is_clip else factory.real_photo(name)
    size = probe(source)
    frames = 24 if is_clip else 1
    half = view_with(
        num_frames=frames, height=size.height // 2, width=size.width // 2, resize="stretch", crop=(0.5, 0.5), flip=False
    )
    whole = replace(half, height=size.height, width=size.width)
    for folder, view in (("media", whole), ("controls", half)):
        pixels = decode(source, view).pixels
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / f"real{suffix}"
        gray = pixels.float().mean(-1, keepdim=True).byte().expand_as(pixels).numpy()
        if is_clip:
            factory.write_video(path, list(gray))
        else:
            Image.fromarray(gray[0]).save(path)
    caption(tmp_path / "media" / f"real{suffix}")
    bucket = (5 if is_clip else 1, 96, 96)
    options: dict[str, Any] = RANDOM if is_clip else {"resize": "random_crop", "horizontal_flip": True}
    config = config_of(tmp_path / "media", buckets=(bucket,), control_path=str(tmp_path / "controls"), **options)
    data = catalog_of(tmp_path, config).sets[0]
    for number in range(4):
        view = view_of(data, 0, view=number, bucket=bucket)
        other = following_view(data, 0, "control", view, frame_step=4)
        right = difference(data, view, other)
        assert right < 6
        assert difference(data, view, replace(other, flip=not other.flip)) > 3 * right
        assert difference(data, view, replace(other, crop=(other.crop[0], moved(other.crop[1])))) > 3 * right
