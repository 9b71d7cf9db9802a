"""``finetrainers data inspect``: each defect under its name, and the status that training would have."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from media_factory import counter, write_counter, write_video
from PIL import Image
from runs import config_of, flux_tree, merged, write_pictures

from finetrainers.cli.entry import main
from finetrainers.data.media.files import decode
from finetrainers.testing import make_tiny
from finetrainers.training.inspect.look import Inspecting, inspect
from finetrainers.training.inspect.page import as_page
from finetrainers.training.inspect.sheets import sheets
from finetrainers.training.inspect.text import as_text

LONG = "word " * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("flux", tmp_path_factory.mktemp("model") / "flux")


@pytest.fixture
def tree(model: Path, tmp_path: Path) -> dict[str, Any]:
    return flux_tree(model, write_pictures(tmp_path / "data", 6, size=(96, 128)), tmp_path)


def add(folder: Path, name: str, picture: Image.Image | None, caption: str = "a caption") -> Path:
    if picture is not None:
        picture.save(folder / name)
    (folder / name).with_suffix(".txt").write_text(caption)
    return folder / name


def test_each_defect_is_reported_under_its_name_and_nothing_else_is(tree: dict[str, Any], tmp_path: Path) -> None:
    data = tmp_path / "data"
    black = add(data, "black.png", Image.new("RGB", (96, 96)))
    copied = data / "copy.png"
    shutil.copy(data / "00.png", copied)
    copied.with_suffix(".txt").write_text("picture number 1")
    with Image.open(data / "01.png") as image:
        similar = add(data, "similar.png", image.resize((100, 76)), LONG)
    (data / "broken.png").write_bytes(b"no picture")
    (data / "broken.txt").write_text("broken")
    add(data, "small.png", Image.new("RGB", (8, 8), "red"))
    report = inspect(config_of(tree), Inspecting()).report
    assert report["pixels"]["black"] == {"count": 1, "paths": [str(black)]}
    assert report["pixels"]["white"]["count"] == report["pixels"]["static"]["count"] == 0
    assert report["duplicates"]["exact"] == {"groups": 1, "files": 2, "examples": [[str(data / "00.png"), str(copied)]]}
    near = report["duplicates"]["near"]
    assert near["count"] == 1
    assert near["examples"][0]["paths"] == [str(data / "01.png"), str(similar)]
    assert {tuple(row["paths"]) for row in report["problems"]} == {(str(data / "broken.png"),), (str(data / "small.png"),)}
    captions = report["captions"]
    assert [(row["caption"], row["count"]) for row in captions["repeated"]] == [("picture number 1", 2)]
    assert captions["num_cut"] == 1
    assert captions["cut"][0]["caption"] == LONG.strip()
    assert captions["cut"][0]["lost_tokens"] == captions["tokens"]["max"] - 16
    assert (report["would_train"], report["refused"]) == (False, "2 bad samples in data sets of on_error: fail")
    text = as_text(report)
    for told in (
        "1 show nothing but black",
        "equal files",
        "look the same",
        "8x8 pixels would be enlarged",
        "1 captions are cut",
    ):
        assert told in text.replace("\n  ", " ")


def test_a_good_set_has_no_remarks(tree: dict[str, Any]) -> None:
    report = inspect(config_of(tree), Inspecting()).report
    assert report["would_train"]
    assert report["problems"] == report["warnings"] == report["captions"]["repeated"] == report["captions"]["cut"] == []
    assert report["duplicates"]["exact"]["groups"] == report["duplicates"]["near"]["count"] == 0
    assert [report["pixels"][kind]["count"] for kind in ("black", "white", "static")] == [0, 0, 0]
    (bucket,) = report["buckets"]
    assert (bucket["samples"], bucket["upscaled"]) == (6, 0)
    assert bucket["cropped"] == {"min": 0.25, "median": 0.25, "mean": 0.25, "max": 0.25}  # 96 of 128 columns are seen
    assert report["run"]["times_each"] == round(4 * 4 / 6, 2)


def test_the_size_of_the_cache_is_that_of_its_items(tree: dict[str, Any], tmp_path: Path) -> None:
    from finetrainers.data.cache.store import Cache
    from finetrainers.training.run import encode

    foreseen = inspect(config_of(tree), Inspecting()).report["cache"]["latents_gb"] * 1e9
    encode(config_of(tree))
    real = sum(entry.bytes for entry in Cache(tmp_path / "cache").entries() if entry.kind == "latents")
    assert real <= foreseen <= real + 6 * 1000  # a header of 1000 bytes is reckoned with for each


def test_a_cache_that_holds_nothing_is_not_said_to_hold_latents(tree: dict[str, Any]) -> None:
    tree["cache"] |= {"encode": "on_the_fly", "max_gb": 1}
    report = inspect(config_of(tree), Inspecting()).report
    assert report["cache"] == {"latents_gb": 0.0}
    assert "the cache will hold no latents: on_the_fly" in as_text(report).splitlines()


def test_clips_that_do_not_move_are_named(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_counter(data / "moves.mp4", 9)
    write_video(data / "static.mp4", [counter(5)] * 9)
    for name in ("moves", "static"):
        (data / f"{name}.txt").write_text(name)
    tree = flux_tree(model, data, tmp_path, train={"batch_size": 1, "micro_batch_size": 1})
    tree["data"][0] |= {"videos_as_images": True}
    report = inspect(config_of(tree), Inspecting()).report
    assert report["data"][0]["clips"] == 2
    assert report["pixels"]["static"] == {"count": 1, "paths": [str(data / "static.mp4")]}


def test_damage_in_the_middle_is_found_if_all_is_decoded(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    file = data / "clip.mp4"
    write_counter(file, 40)
    (data / "clip.txt").write_text("a clip")
    write_pictures(data, 3)
    contents = bytearray(file.read_bytes())
    start, end = contents.index(b"mdat"), contents.index(b"moov")
    middle = start + (end - start) * 3 // 5
    contents[middle : middle + 200] = bytes(200)
    file.write_bytes(contents)
    tree = flux_tree(model, data, tmp_path, train={"batch_size": 1, "micro_batch_size": 1})
    tree["data"][0] |= {"videos_as_images": True, "frame_sampling": "chunks"}
    planned = inspect(config_of(tree), Inspecting(sample=0)).report
    assert planned["would_train"], planned["refused"]
    report = inspect(config_of(tree), Inspecting(sample=0, decode=True)).report
    assert [row["path"] for row in report["decoded"]["failed"]] == [str(file)]
    assert not report["would_train"]


def test_similar_media_on_both_sides_are_called_crossing(tree: dict[str, Any], tmp_path: Path) -> None:
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    with Image.open(tmp_path / "data" / "02.png") as image:
        other = add(held_out, "again.png", image.resize((100, 76)))
    changed = merged(tree, {"validation": {"data": [{"path": str(held_out), "buckets": [[1, 64, 64]]}], "every": 2}})
    near = inspect(config_of(changed), Inspecting()).report["duplicates"]["near"]
    assert (near["count"], near["crossing"]) == (1, 1)
    assert near["examples"][0]["paths"] == [str(tmp_path / "data" / "02.png"), str(other)]


class Page(HTMLParser):
    """The tags that are open, and what a page asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_shows_what_the_trainer_sees_and_needs_nothing_beside_it(tree: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "00.txt").write_text("<script>alert(1)</script> & more")
    found = inspect(config_of(tree), Inspecting())
    assert found.prepared is not None
    page = Page(as_page(found.report, found.prepared))
    assert page.open == []
    assert len(page.sources) == 6 + 5  # samples of the bucket, and those that lose most
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "<script>alert(1)</script> & more" in "".join(page.texts)
    ((bucket, shown),) = sheets(found.prepared)
    assert bucket == (1, 64, 64)
    job = found.prepared.plan.job(0, 0, view=0, caption=0)
    assert torch.equal(decode(job.target.path, job.target.view).pixels[0], torch.from_numpy(_array(shown[0].pictures[0])))
    assert shown[0].caption == "<script>alert(1)</script> & more"


def _array(picture: Image.Image) -> Any:
    import numpy as np

    return np.array(picture)


@pytest.mark.parametrize("defect", [None, "broken file", "no data", "bucket", "prompts"])
def test_the_status_is_that_of_training(
    tree: dict[str, Any], tmp_path: Path, defect: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train.steps=1"]
    match defect:
        case "broken file":
            (tmp_path / "data" / "00.png").write_bytes(b"no picture")
        case "no data":
            words.append("data.0.path=nowhere")
        case "bucket":
            words.append("data.0.buckets=[[1, 60, 64]]")
        case "prompts":
            words += ["validation.prompts=nowhere.json", "validation.every=1"]
    config = tmp_path / "c.json"
    config.write_text(json.dumps(tree))
    status = main(["data", "inspect", str(config), *words, "--json", "--output", str(tmp_path / "report.html")])
    report = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert status == main(["train", str(config), *words]) == (0 if defect is None else 2)
    assert report["would_train"] == (status == 0)
    error = capsys.readouterr().err
    if defect not in (None, "broken file"):
        assert report["refused"].split(": ")[0] in error


def test_a_page_of_another_kind_of_file_is_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text(json.dumps(tree))
    assert main(["data", "inspect", str(config), "--output", str(tmp_path / "report.pdf")]) == 2


def test_a_folder_that_stands_for_several_data_sets_is_told_as_these(model: Path, tmp_path: Path) -> None:
    for name, count in (("2_cats", 3), ("1_dogs", 2)):
        write_pictures(tmp_path / "data" / name, count, seed=count)
    tree = flux_tree(model, tmp_path / "data", tmp_path)
    (tmp_path / "data/1_dogs/00.caption").write_text("another")
    tree["data"][0] |= {"layout": "kohya"}
    report = inspect(config_of(tree), Inspecting()).report
    assert report["would_train"], report["refused"]
    assert sorted((Path(data["path"]).name, data["items"]) for data in report["data"]) == [("1_dogs", 2), ("2_cats", 3)]
    (dogs,) = [data for data in report["data"] if data["path"].endswith("1_dogs")]
    assert (dogs["layout"], dogs["why"]) == ("kohya", "data.layout: kohya")
    assert dogs["passed_over"] == {".caption, where a .txt is the caption": 1}
    lines = "\n".join(["1_dogs:", "  kohya (data.layout: kohya)", "  2 stills; 2 samples, 2 captions"])
    assert f"{lines}\n  not used: 1 .caption, where a .txt is the caption\n" in as_text(report)
