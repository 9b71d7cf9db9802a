"""Sources: each layout gives the same items, and what cannot be used is named, never dropped in silence."""

import csv
import json
import os
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.beside import list_folder
from finetrainers.data.sources.folders import suffixes
from finetrainers.data.sources.items import Problem, list_items
from finetrainers.data.sources.place import Place
from finetrainers.errors import ConfigError, DataError
from finetrainers.files.marks import is_cache, mark_run, tag_cache

ITEMS = {"b clip.mp4": "A cat, sleeping", "a.png": 'She says "hello"\nand goes', "sub/größe – α.webm": "Ein Bär"}
"""Paths and captions, with a space, other letters, a comma, quotes and a line break among them."""


def listed(path, **options):
    return list_items(DataConfig(path=str(path), buckets=[[1, 8, 8]], **options))


def rows(listing, folder):
    """Captions by path relative to a folder, in the order of the table."""
    return {os.path.relpath(row["media"], folder): row["captions"] for row in listing.table.to_pylist()}


def touch(folder, names):
    """Empty media: no test here may open them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_sidecars(folder, items):
    touch(folder, items)
    for name, caption in items.items():
        (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")


def write_metadata(path, records):
    """Records with equal keys, in the format of the suffix."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path


METADATA = ["metadata.csv", "metadata.json", "metadata.jsonl", "metadata.parquet"]


# Layouts


@pytest.mark.parametrize("layout", ["sidecars", "lists", *METADATA])
def test_every_layout_gives_the_same_items(tmp_path, layout):
    items = {name: caption.replace("\n", " ") for name, caption in ITEMS.items()} if layout == "lists" else ITEMS
    if layout == "sidecars":
        write_sidecars(tmp_path, items)
    else:
        touch(tmp_path, items)
    if layout == "lists":
        (tmp_path / "prompts.txt").write_text("\n".join(items.values()) + "\n\n", encoding="utf-8")
        (tmp_path / "videos.txt").write_text("\r\n".join(items), encoding="utf-8")
    elif layout != "sidecars":
        write_metadata(tmp_path / layout, [{"file_name": n, "caption": c, "id": 3} for n, c in items.items()])
    found = listed(tmp_path)
    assert rows(found, tmp_path) == {name: [caption] for name, caption in items.items()}
    assert found.table["media"].to_pylist() == sorted(str(tmp_path / name) for name in items)
    assert found.table.schema == pa.schema({"media": pa.large_string(), "captions": pa.large_list(pa.large_string())})
    assert (found.problems, found.unlisted) == ((), 0)


@pytest.mark.parametrize("captions", ["captions.txt", "prompt.txt", "prompts.txt"])
@pytest.mark.parametrize("media", ["videos.txt", "images.txt"])
def test_names_of_paired_lists(tmp_path, captions, media):
    touch(tmp_path, ["a.mp4"])
    (tmp_path / captions).write_text("A cat")
    (tmp_path / media).write_text("a.mp4")
    assert rows(listed(tmp_path), tmp_path) == {"a.mp4": ["A cat"]}


@pytest.mark.parametrize("media", ["file_name", "path", "video", "image", "media", "File"])
@pytest.mark.parametrize("caption", ["caption", "text", "prompt", "description", "Caption"])
def test_synonyms_of_columns(tmp_path, media, caption):
    touch(tmp_path, ["a.mp4"])
    write_metadata(tmp_path / "metadata.jsonl", [{"width": 3, caption: "A cat", media: "a.mp4"}])
    assert rows(listed(tmp_path), tmp_path) == {"a.mp4": ["A cat"]}


def test_the_path_may_be_a_metadata_file_with_columns_named(tmp_path):
    touch(tmp_path, ["x/a.mp4"])
    path = write_metadata(tmp_path / "train set.csv", [{"clip": "./x//a.mp4", "short": "A cat", "long": "A cat sleeps"}])
    found = listed(path, media_column="clip", caption_column=["long", "short"])
    assert rows(found, tmp_path) == {"x/a.mp4": ["A cat sleeps", "A cat"]}
    assert rows(listed(path, media_column="clip", caption_column="short"), tmp_path) == {"x/a.mp4": ["A cat"]}


@pytest.mark.parametrize("name", METADATA[1:])
def test_lists_of_captions(tmp_path, name):
    touch(tmp_path, ["a.mp4", "b.mp4"])
    write_metadata(
        tmp_path / name, [{"video": "b.mp4", "captions": ["One", " ", "Two "]}, {"video": "a.mp4", "captions": ["Three"]}]
    )
    assert rows(listed(tmp_path), tmp_path) == {"a.mp4": ["Three"], "b.mp4": ["One", "Two"]}


def test_lines_of_a_caption_file_may_be_several_captions(tmp_path):
    write_sidecars(tmp_path, {"a.mp4": "One\n\n Two \n"})
    assert rows(listed(tmp_path), tmp_path) == {"a.mp4": ["One\n\n Two"]}
    assert rows(listed(tmp_path, caption_lines=True), tmp_path) == {"a.mp4": ["One", "Two"]}


def test_values_stay_the_text_they_are(tmp_path):
    """Neither numbers nor dates, nor what Arrow takes for a missing value."""
    items = {"007.mp4": "2024-01-05", "008.mp4": "NaN", "009.mp4": "1e3"}
    touch(tmp_path, items)
    for name in METADATA:
        path = write_metadata(tmp_path / name, [{"file_name": n, "text": c} for n, c in items.items()])
        assert rows(listed(path), tmp_path) == {n: [c] for n, c in items.items()}
    dates = write_metadata(tmp_path / "dates.jsonl", [{"file_name": "007.mp4", "text": "2024-01-05 10:00:00"}])
    assert rows(listed(dates), tmp_path) == {"007.mp4": ["2024-01-05 10:00:00"]}


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    touch(tmp_path, ["a.mp4"])
    for name, text in (
        ("one.csv", "file_name,text\na.mp4,A cat\n"),
        ("two.json", '[{"file_name": "a.mp4", "text": "A cat"}]'),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert rows(listed(tmp_path / name), tmp_path) == {"a.mp4": ["A cat"]}


def test_absolute_paths_and_paths_that_lead_out(tmp_path):
    touch(tmp_path, ["media/a.mp4", "media/b.mp4"])
    (tmp_path / "lists").mkdir()
    records = [{"file": str(tmp_path / "media/a.mp4"), "text": "A"}, {"file": "../media/b.mp4", "text": "B"}]
    write_metadata(tmp_path / "lists/metadata.csv", records)
    found = listed(tmp_path / "lists")
    assert [row["captions"] for row in found.table.to_pylist()] == [["B"], ["A"]]
    assert found.problems == ()


def test_links_are_followed_and_hidden_files_are_not_media(tmp_path):
    write_sidecars(tmp_path / "real", {"a.mp4": "A cat"})
    (tmp_path / "data/.cache").mkdir(parents=True)
    touch(tmp_path / "data", [".cache/b.mp4", "._a.mp4"])
    (tmp_path / "data/link").symlink_to(tmp_path / "real")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    assert rows(listed(tmp_path / "data"), tmp_path) == {"data/link/a.mp4": ["A cat"]}


# What cannot be used


def reasons(listing, folder):
    return {os.path.relpath(problem.path, folder): problem.reason for problem in listing.problems}


def test_media_without_a_caption_are_problems(tmp_path):
    write_sidecars(tmp_path, {"good.mp4": "A cat", "empty.mp4": " \n", "binary.mp4": ""})
    touch(tmp_path, ["missing.mp4"])
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    found = listed(tmp_path)
    assert rows(found, tmp_path) == {"good.mp4": ["A cat"]}
    assert found.problems[1:] == (
        Problem(str(tmp_path / "empty.mp4"), "the caption is empty (empty.txt)"),
        Problem(str(tmp_path / "missing.mp4"), "no caption file missing.txt next to it"),
    )
    assert "not UTF-8" in found.problems[0].reason


@pytest.mark.parametrize("layout", ["media", "sidecars", "lists", *METADATA])
def test_with_a_prefix_captions_may_be_missing(tmp_path, layout):
    items = {"good.mp4": "A cat", "empty.mp4": "", "none.mp4": None}
    touch(tmp_path, items)
    if layout == "sidecars":
        write_sidecars(tmp_path, {name: text for name, text in items.items() if text is not None})
        (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
        touch(tmp_path, ["binary.mp4"])
    elif layout == "lists":
        (tmp_path / "videos.txt").write_text("none.mp4\nempty.mp4\ngood.mp4\n")
        (tmp_path / "captions.txt").write_text("\n\nA cat\n")
    elif layout != "media":
        write_metadata(tmp_path / layout, [{"file_name": n, "caption": c} for n, c in items.items()])
    found = listed(tmp_path, caption_prefix="SKS")
    caption = "" if layout == "media" else "A cat"
    assert rows(found, tmp_path) == {"good.mp4": [caption], "empty.mp4": [""], "none.mp4": [""]}
    assert [problem.path for problem in found.problems] == [str(tmp_path / "binary.mp4")] * (layout == "sidecars")


@pytest.mark.parametrize("name", METADATA)
def test_rows_that_cannot_be_used_are_problems(tmp_path, name):
    touch(tmp_path, ["good.mp4", "empty.mp4", "null.mp4", "notes.npy", "unlisted 1.mp4", "unlisted 2.jpg", "readme.md"])
    captions = {"good.mp4": "A cat", "empty.mp4": " ", "null.mp4": None, "gone.mp4": "A", "notes.npy": "B", "": "C"}
    write_metadata(tmp_path / name, [{"file_name": n, "caption": c} for n, c in captions.items()])
    found = listed(tmp_path)
    assert rows(found, tmp_path) == {"good.mp4": ["A cat"]}
    assert found.unlisted == 2
    assert reasons(found, tmp_path) == {
        "empty.mp4": "the caption is empty",
        "null.mp4": "the caption is empty" if name.endswith("csv") else "the caption is missing",  # csv has no null
        "gone.mp4": f"is listed in {name}, but there is no such file",
        "notes.npy": f"suffix '.npy' is none of {suffixes()}",
        f"{name}, row 6": "names no media file",
    }


def test_blank_lines_of_lists_are_problems(tmp_path):
    touch(tmp_path, ["a.mp4", "c.mp4"])
    (tmp_path / "captions.txt").write_text("A cat\nA dog\n\nA cow\n")
    (tmp_path / "videos.txt").write_text("a.mp4\n\nc.mp4\nd.mp4")
    found = listed(tmp_path)
    assert rows(found, tmp_path) == {"a.mp4": ["A cat"]}
    assert set(reasons(found, tmp_path)) == {"videos.txt, line 2", "c.mp4", "d.mp4"}


# Errors


def error_of(path, **options):
    with pytest.raises(DataError) as error:
        listed(path, **options)
    return str(error.value)


def test_a_missing_folder_names_the_nearest(tmp_path):
    (tmp_path / "crush-smol").mkdir()
    assert "no file or folder" in error_of(tmp_path / "crush_smol")
    assert "did you mean 'crush-smol'?" in error_of(tmp_path / "crush_smol")
    assert f"{tmp_path / 'x'} does not exist either" in error_of(tmp_path / "x/y")


def test_an_unknown_layout_says_what_was_found_and_what_is_expected(tmp_path):
    assert "no media" in error_of(tmp_path)
    touch(tmp_path, ["a.npy", "b.npy", "captions.csv"])
    message = error_of(tmp_path)
    assert "but 2 .npy, 1 .csv; 1 files may list captions and are not read" in message
    assert f"{tmp_path}/captions.csv; expected media files with a .txt" in message
    touch(tmp_path, ["a.mp4", "b.mp4"])
    assert "2 media, none of them with a caption, and 2 .npy, 1 .csv" in error_of(tmp_path)
    assert "data.caption_prefix is the caption of all media" in error_of(tmp_path)
    assert "neither a folder nor a metadata file (.csv, .json, .jsonl, .parquet)" in error_of(tmp_path / "a.mp4")


def test_lists_of_different_length_name_both_counts(tmp_path):
    (tmp_path / "captions.txt").write_text("One\nTwo\n")
    (tmp_path / "videos.txt").write_text("a.mp4\nb.mp4\nc.mp4\n")
    assert "captions.txt has 2 lines, but videos.txt has 3" in error_of(tmp_path)


@pytest.mark.parametrize("second", ["metadata.jsonl", "images.txt", "captions.txt"])
def test_two_lists_of_one_folder_are_ambiguous(tmp_path, second):
    for name in ["metadata.csv"] if second.startswith("metadata") else ["prompts.txt", "videos.txt"]:
        (tmp_path / name).touch()
    (tmp_path / second).touch()
    assert "all list items; remove all but one" in error_of(tmp_path)


def test_a_folder_of_two_layouts_lists_both_and_the_key(tmp_path):
    touch(tmp_path, ["a.png"])
    (tmp_path / "a.txt").write_text("beside")
    write_metadata(tmp_path / "metadata.csv", [{"file_name": "a.png", "text": "in the table"}])
    expected = (
        "several layouts (metadata: metadata.csv list items; sidecars: a.txt next to a.png); set data.layout to the one"
    )
    assert expected in error_of(tmp_path)
    for layout, caption in {"metadata": "in the table", "sidecars": "beside"}.items():
        found = listed(tmp_path, layout=layout)
        assert found.table["captions"].to_pylist() == [[caption]]
        assert found.layout == layout
    assert listed(tmp_path / "metadata.csv").layout == "metadata"
    with pytest.raises(ConfigError, match=r"data\.layout: there is no layout 'metadat', .*did you mean 'metadata'"):
        listed(tmp_path, layout="metadat")


def test_unclear_columns(tmp_path):
    path = write_metadata(tmp_path / "metadata.csv", [{"file_name": "a.mp4", "text": "A", "prompt": "B"}])
    assert "columns text, prompt may all hold captions; name one in data.caption_column" in error_of(tmp_path)
    assert "no column 'txt', only file_name, text, prompt; did you mean 'text'?" in error_of(path, caption_column="txt")
    write_metadata(path, [{"file_name": "a.mp4", "captoin": "A"}])
    message = error_of(path)
    assert "no column of captions among file_name, captoin; expected one of caption," in message
    assert "perhaps 'captoin'?" in message
    write_metadata(tmp_path / "metadata.csv", [{"url": "a.mp4", "text": "A"}])
    assert "no column of media paths among url, text" in error_of(path)


def test_columns_of_the_wrong_type(tmp_path):
    path = write_metadata(tmp_path / "set.parquet", [{"image": {"width": 3, "path": "a.png"}, "text": "A"}])
    assert "column 'image' holds struct" in error_of(path)
    path = write_metadata(tmp_path / "set.jsonl", [{"image": "a.png", "text": 3}])
    assert "column 'text' holds int64; expected text or lists of text" in error_of(path)


def test_files_that_cannot_be_parsed(tmp_path):
    for name, text, message in (
        ("a.csv", "file_name,text\na.mp4,A cat, sleeping\n", "captions that contain commas must stand in double quotes"),
        ("a.csv", "", "the file is empty (zero bytes)"),
        ("a.json", '{"file_name": "a.mp4"}\n{"file_name": "b.mp4"}\n', "one object a line is .jsonl"),
        ("a.json", '{"a.mp4": "A cat"}', "holds an object with the keys 'a.mp4'; expected a list of objects"),
        (
            "a.json",
            '{"items": [], "version": 2, "license": "MIT"}',
            "holds an object with the keys 'version', 'license'; exp",
        ),
        ("a.json", '{"items": [3]}', "holds a number in its list; expected a list of objects"),
        ("a.jsonl", "[1, 2]\n", "cannot be read as jsonl"),
        ("a.parquet", "text", "cannot be read as parquet"),
        ("a.csv", "file_name,text\n", "lists no media"),
    ):
        (tmp_path / name).write_text(text)
        assert message in error_of(tmp_path / name), (name, text)


def test_a_setting_without_effect_is_an_error(tmp_path):
    write_sidecars(tmp_path, {"a.mp4": "A"})
    assert "data.caption_column: 'text' has no effect" in error_of(tmp_path, caption_column="text")
    path = write_metadata(tmp_path / "metadata.csv", [{"file_name": "a.mp4", "text": "A"}])
    assert "data.caption_lines: True has no effect" in error_of(path, caption_lines=True)


def test_many_rows_stay_arrays(tmp_path):
    """Rows that name few files, so that few are made; the rest is Arrow's work alone."""
    touch(tmp_path, [f"{i}.mp4" for i in range(4)])
    number = np.arange(300_000)
    names = pa.array([f"{i}.mp4" for i in range(4)]).take(pa.array(number[::-1] % 4))
    pq.write_table(
        pa.table({"file_name": names, "caption": pa.array(number).cast(pa.string())}), tmp_path / "metadata.parquet"
    )
    start = time.process_time()
    found = listed(tmp_path)
    assert time.process_time() - start < 3
    assert (len(found.table), found.problems, found.unlisted) == (len(number), (), 0)
    assert found.table.slice(0, 2).to_pylist() == [{"media": str(tmp_path / "0.mp4"), "captions": [str(n)]} for n in (3, 7)]


# -- folders of runs and caches ---------------------------------------------------------------------------------------

TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# made by a program"


def test_what_runs_and_caches_have_made_is_no_data(tmp_path):
    """Samples that a run draws below its own data would be bad samples when it goes on."""
    write_sidecars(tmp_path, {"a.png": "a cat"})
    touch(tmp_path, ["run/validation/step-000000/00.png", "sub/cache/b.png"])
    mark_run(tmp_path / "run")
    (tmp_path / "sub/cache/CACHEDIR.TAG").write_text(TAG)
    listing = listed(tmp_path)
    assert rows(listing, tmp_path) == {"a.png": ["a cat"]}
    assert listing.problems == ()


def test_a_run_or_a_cache_that_is_named_is_data(tmp_path):
    for mark, text in ((".finetrainers", '{"version": 1}'), ("CACHEDIR.TAG", TAG)):
        folder = tmp_path / mark
        write_sidecars(folder, {"samples/a.png": "a cat"})
        (folder / mark).write_text(text)
        assert rows(listed(folder), folder) == {"samples/a.png": ["a cat"]}


@pytest.mark.parametrize(
    ("mark", "text"), [(".finetrainers", "notes of mine"), ("CACHEDIR.TAG", "Signature: of mine"), ("CACHEDIR.TAG", "")]
)
def test_a_file_that_is_only_named_as_a_mark_hides_nothing(mark, text, tmp_path):
    write_sidecars(tmp_path, {"sub/a.png": "a cat"})
    (tmp_path / "sub" / mark).write_text(text)
    assert rows(listed(tmp_path), tmp_path) == {"sub/a.png": ["a cat"]}


def test_a_folder_with_nothing_but_runs_says_so(tmp_path):
    write_sidecars(tmp_path / "run", {"a.png": "a cat"})
    mark_run(tmp_path / "run")
    with pytest.raises(DataError, match="no media .* but 1 folders of runs or caches"):
        listed(tmp_path)


def test_controls_are_found_beside_a_run(tmp_path):
    """The folder of the controls is walked in the same way."""
    write_sidecars(tmp_path / "media", {"a.png": "a cat"})
    touch(tmp_path / "control", ["a.png", "run/a.png"])
    mark_run(tmp_path / "control" / "run")
    config = DataConfig(path=str(tmp_path / "media"), control_path=str(tmp_path / "control"), buckets=[[1, 8, 8]])
    assert list_folder("control", config, Place(tmp_path / "media")).files == [str(tmp_path / "control" / "a.png")]


def test_a_cache_is_tagged_when_it_is_made_and_a_folder_of_others_never(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "earlier" / "latents").mkdir(parents=True)
    for name, is_tagged in (("new", True), ("earlier", True), ("mine", False)):
        for _ in range(2):
            tag_cache(tmp_path / name, ("latents", "text"))
        assert is_cache(tmp_path / name) == is_tagged
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
