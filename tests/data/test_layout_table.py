"""The table of docs/data_formats.md: every layout x {image, video} gives the same items, decoded to the right pixels."""

import re
from pathlib import Path

import pytest
from layout_makers import LAYOUT_MAKERS, Item
from media_factory import counter, read_counters, write_video
from PIL import Image
from test_media import view

from finetrainers.config.data import DataConfig
from finetrainers.data.catalog.catalog import Catalog, build_catalog
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.media.files import decode
from finetrainers.data.sources.items import LAYOUTS, list_items
from finetrainers.data.sources.layout import Wanted, choose_layout
from finetrainers.data.sources.place import place_of

FRAMES = {"image": 1, "video": 5}
CAPTIONS = ("A cat, asleep", "Ein Bär", "Rain on a roof", "Four", "Five")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Item]]:
    """Five items of each kind that show their numbers, or count from them."""
    folder = tmp_path_factory.mktemp("media")
    items: dict[str, list[Item]] = {"image": [], "video": []}
    for number, caption in enumerate(CAPTIONS):
        image, video = folder / f"{number}.png", folder / f"{number}.mp4"
        Image.fromarray(counter(16 * number)).save(image)
        write_video(video, [counter(16 * number + i) for i in range(FRAMES["video"])])
        items["image"].append((image.read_bytes(), image.name, caption))
        items["video"].append((video.read_bytes(), video.name, caption))
    return items


def catalog_of(path: Path | str, kind: str, folder: Path, **options: object) -> Catalog:
    config = DataConfig(path=str(path), buckets=[[FRAMES[kind], 64, 128]], fps=None, **options)
    memo = Memo(folder / "memo.sqlite")
    try:
        return build_catalog([config], memo, workers=2, progress=lambda done, total: None)
    finally:
        memo.close()


def shown(catalog: Catalog) -> dict[tuple[int, ...], list[str]]:
    """Captions of each item by the numbers that its frames show."""
    data = catalog.sets[0]
    bucket = catalog.buckets[0]
    found = {}
    for sample in range(catalog.num_samples):
        clip = decode(data.path(sample, "media"), view(num_frames=bucket[0], height=bucket[1], width=bucket[2]))
        found[tuple(read_counters(clip))] = data.table["captions"][int(data.item[sample])].as_py()
    return found


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("layout", LAYOUT_MAKERS)
def test_every_layout_gives_the_same_items_and_pixels(
    tmp_path: Path, media: dict[str, list[Item]], layout: str, kind: str
) -> None:
    path = LAYOUT_MAKERS[layout](tmp_path / "set", media[kind])
    options = {"layout": "kohya"} if layout == "kohya" else {}
    expected = {tuple(range(16 * n, 16 * n + FRAMES[kind])): [text] for n, text in enumerate(CAPTIONS)}
    assert shown(catalog_of(path, kind, tmp_path, **options)) == expected


REMOTE = [layout for layout in LAYOUT_MAKERS if layout != "kohya"]


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("layout", REMOTE)
def test_every_layout_gives_the_same_from_elsewhere(
    tmp_path: Path, media: dict[str, list[Item]], layout: str, kind: str
) -> None:
    import fsspec

    folder = f"/{tmp_path.name}"
    path = LAYOUT_MAKERS[layout](tmp_path / "set", media[kind])
    for file in path.parent.rglob("*") if path.is_file() else (tmp_path / "set").rglob("*"):
        if file.is_file():
            fsspec.filesystem("memory").pipe(f"{folder}/{file.relative_to(tmp_path / 'set')}", file.read_bytes())
    there = f"memory:/{folder}{str(path).removeprefix(str(tmp_path / 'set'))}"
    expected = {tuple(range(16 * n, 16 * n + FRAMES[kind])): [text] for n, text in enumerate(CAPTIONS)}
    assert shown(catalog_of(there, kind, tmp_path)) == expected


STREAMED = [layout for layout in LAYOUT_MAKERS if layout.startswith(("webdataset", "table", "saved"))]


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("layout", STREAMED)
def test_what_has_shards_gives_the_same_shard_by_shard(
    tmp_path: Path, media: dict[str, list[Item]], layout: str, kind: str
) -> None:
    path = LAYOUT_MAKERS[layout](tmp_path / "set", media[kind])
    config = DataConfig(path=str(path), buckets=[[FRAMES[kind], 64, 128]])
    place = place_of(config.path)
    chosen, _ = choose_layout(LAYOUTS, place, config)
    assert chosen is not None
    shards = chosen.shards(place, config)
    assert shards
    listed = [chosen.shard_items(ref, Wanted(config)).table for ref in shards]
    rows = [row for table in listed for row in table.select(["media", "captions"]).to_pylist()]
    whole = list_items(config).table.select(["media", "captions"]).to_pylist()
    assert sorted(rows, key=str) == sorted(whole, key=str)
    assert len(whole) == len(CAPTIONS)


def test_the_page_says_of_each_layout_what_is_tested() -> None:
    lines = (Path(__file__).parents[2] / "docs/data_formats.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| layout | `layout` |")) + 2
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : lines.index("", start)]]
    assert len(rows) == len(LAYOUT_MAKERS)
    for (_, name, *cells), layout in zip(rows, LAYOUT_MAKERS, strict=True):
        assert re.split("[.,]", layout)[0] == name.strip("`")
        assert cells == ["yes" if layout in tested else "no" for tested in (LAYOUT_MAKERS, REMOTE, STREAMED) for _ in FRAMES]
