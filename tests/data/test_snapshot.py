"""Snapshots: a second start finds what the first has found, and everything that has changed since."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from runs import write_pictures

from finetrainers.config import DataConfig
from finetrainers.data.cache.store import Cache
from finetrainers.data.cache.upkeep import remove_leftovers
from finetrainers.data.catalog import snapshot
from finetrainers.data.catalog.catalog import Catalog, build_catalog
from finetrainers.data.catalog.marks import Marks
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.snapshot import Snapshots
from finetrainers.data.streams import MEDIA, Stream

CONTROL = Stream("control", "condition")


def catalog_of(root: Path, config: DataConfig, *, keeps: bool = True, warn: Callable[[str], None] = pytest.fail) -> Catalog:
    """The catalog as a start with this cache finds it."""
    memo = Memo(root / "memo.sqlite")
    streams = (MEDIA, CONTROL) if config.folder_of("control") else (MEDIA,)
    try:
        return build_catalog(
            [config],
            memo,
            workers=1,
            progress=lambda done, total: None,
            streams=streams,
            warn=lambda _: None,  # of captions that are left over
            snapshots=Snapshots(root, warn) if keeps else None,
        )
    finally:
        memo.close()


def content(catalog: Catalog) -> tuple[object, ...]:
    (data,) = catalog.sets
    return catalog.fingerprint(), data.table.to_pydict(), data.problems, data.unlisted


def kept(root: Path) -> dict[str, int]:
    """Snapshots by name, with what is another number if one is written again."""
    return {file.name: file.stat().st_ino for file in (root / "snapshots").iterdir()}


def replace_in_place(file: Path, text: str) -> None:
    """Overwrite a file with as many bytes, and keep its time of change."""
    before = file.stat()
    assert len(text) == before.st_size
    with file.open("r+") as out:
        out.write(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_copy(file: Path) -> None:
    """Another picture of the same size and times takes the place of one."""
    before = file.stat()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(file.with_name("new.bmp"))
    assert file.with_name("new.bmp").stat().st_size == before.st_size
    os.utime(file.with_name("new.bmp"), ns=(before.st_atime_ns, before.st_mtime_ns))
    file.with_name("new.bmp").replace(file)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a picture of the same size and time": lambda data: replace_by_copy(data / "00.bmp"),
    "a caption overwritten": lambda data: replace_in_place(data / "01.txt", "picture NUMBER 1"),
    "an item more": lambda data: write_pictures(data / "more", 1, seed=5),
    "an item less": lambda data: (data / "01.png").unlink(),
    "a caption less": lambda data: (data / "01.txt").unlink(),
    "a control overwritten": lambda data: shutil.copy(data / "00.bmp", data.parent / "control" / "01.png"),
    "another name": lambda data: (data / "deep" / "00.png").rename(data / "deep" / "09.png"),
    "a link to another": lambda data: (
        (data.parent / "target").rename(data.parent / "old") or shutil.copy(data / "deep" / "00.png", data.parent / "target")
    ),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, one of them a link, with captions and controls."""
    root = tmp_path_factory.mktemp("snapshot")
    data = write_pictures(root / "data", 4)
    Image.new("RGB", (64, 64)).save(data / "00.bmp")
    (data / "00.png").unlink()
    write_pictures(data / "deep", 2, seed=3)
    shutil.copytree(data, root / "control", ignore=shutil.ignore_patterns("*.txt"))
    (data / "02.png").rename(root / "target")
    return root


def copied(original: Path, tmp_path: Path) -> DataConfig:
    for name in ("data", "control", "target"):
        (shutil.copytree if (original / name).is_dir() else shutil.copy)(original / name, tmp_path / name)
    (tmp_path / "data" / "02.png").symlink_to(tmp_path / "target")
    return DataConfig(
        path=str(tmp_path / "data"), control_path=str(tmp_path / "control"), buckets=((1, 64, 64),), on_error="skip"
    )


@pytest.mark.filterwarnings("ignore:.*caption files have no image or video next to them")
@pytest.mark.parametrize("change", CHANGES)
def test_a_second_start_finds_what_has_changed(original: Path, tmp_path: Path, change: str) -> None:
    config = copied(original, tmp_path)
    first = content(catalog_of(tmp_path, config))
    before = kept(tmp_path)
    assert content(catalog_of(tmp_path, config)) == first
    assert kept(tmp_path) == before  # recalled, or it would have been written again
    CHANGES[change](tmp_path / "data")
    second = content(catalog_of(tmp_path, config))
    assert second == content(catalog_of(tmp_path, config, keeps=False))
    assert second[:3] != first[:3]


def listed(tmp_path: Path, **settings: object) -> tuple[DataConfig, Path]:
    """A metadata file of pictures that lie beside its folder."""
    outside = write_pictures(tmp_path / "outside", 3)
    (tmp_path / "lists").mkdir()
    lines = "".join(f"../outside/{n:02d}.png,caption {n}\n" for n in range(3))
    (tmp_path / "lists" / "metadata.csv").write_text(f"file,caption\n{lines}")
    return DataConfig.model_validate({"path": str(tmp_path / "lists"), "buckets": ((1, 64, 64),), **settings}), outside


@pytest.mark.parametrize("path", ["lists", "lists/metadata.csv"])
def test_files_elsewhere_that_a_list_names_count_too(tmp_path: Path, path: str) -> None:
    config, outside = listed(tmp_path, path=str(tmp_path / path))
    first = content(catalog_of(tmp_path, config))
    shutil.copy(outside / "01.png", outside / "00.png")
    second = content(catalog_of(tmp_path, config))
    assert second == content(catalog_of(tmp_path, config, keeps=False)) != first


def test_a_second_start_does_not_look_for_the_folders_of_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, outside = listed(tmp_path)
    first, before = content(catalog_of(tmp_path, config)), kept(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_folders_of", lambda _: pytest.fail("all files are looked through"))
        assert content(catalog_of(tmp_path, config)) == first
    assert kept(tmp_path) == before
    shutil.copy(outside / "01.png", outside / "00.png")
    assert content(catalog_of(tmp_path, config)) != first


def test_with_folders_lists_and_folders_count_and_single_files_do_not(tmp_path: Path) -> None:
    config, outside = listed(tmp_path, recheck="folders")
    first = content(catalog_of(tmp_path, config))
    shutil.copy(outside / "01.png", outside / "00.png")
    assert content(catalog_of(tmp_path, config)) == first
    metadata = tmp_path / "lists" / "metadata.csv"
    replace_in_place(metadata, metadata.read_text().replace("caption 2", "CAPTION 2"))
    second = content(catalog_of(tmp_path, config))
    assert second == content(catalog_of(tmp_path, config, keeps=False)) != first
    write_pictures(outside / "x", 1)
    assert content(catalog_of(tmp_path, config))[0] == second[0]
    (outside / "00.png").replace(outside / "04.png")
    shutil.copy(outside / "02.png", outside / "00.png")
    assert content(catalog_of(tmp_path, config))[0] != second[0]


def test_files_count_behind_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    """Whichever of two files comes first in the folder, one is behind the link."""
    folder = tmp_path / "data"
    write_pictures(folder, count=4)
    for number in range(4):
        (folder / f"{number}-lost.png").symlink_to(tmp_path / "nowhere")

    def mark() -> str:
        marks = Marks("files")
        marks.add_tree(folder)
        return marks.hexdigest()

    found = [mark()]
    for file in sorted(folder.glob("*.txt")):
        replace_in_place(file, file.read_text().upper())
        found.append(mark())
    assert len(set(found)) == 5


def test_never_trusts_what_is_kept(tmp_path: Path) -> None:
    config, outside = listed(tmp_path, recheck="never")
    first = content(catalog_of(tmp_path, config))
    (outside / "00.png").unlink()
    assert content(catalog_of(tmp_path, config)) == first


@pytest.mark.parametrize("damage", ["cut", "empty", "other byte", "foreign"])
def test_what_is_damaged_is_made_anew(tmp_path: Path, damage: str) -> None:
    config, _ = listed(tmp_path)
    first = content(catalog_of(tmp_path, config))
    (file,) = (tmp_path / "snapshots").iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    broken = {
        "cut": whole[:middle],
        "empty": b"",
        "other byte": whole.replace(b"caption 1", b"caption 7"),
        "foreign": b"something else",
    }
    file.write_bytes(broken[damage])
    assert content(catalog_of(tmp_path, config)) == first
    assert file.read_bytes() == whole


def test_a_bad_file_is_tried_at_each_start(tmp_path: Path) -> None:
    """It may have been the disk: what is bad once is not remembered as bad."""
    config, outside = listed(tmp_path, on_error="skip")
    good = (outside / "00.png").read_bytes()
    (outside / "00.png").write_bytes(b"no picture")
    first = catalog_of(tmp_path, config)
    assert [Path(problem.path).name for problem in first.sets[0].problems] == ["00.png"]
    again = catalog_of(tmp_path, config)
    assert content(again) == content(first)
    (outside / "00.png").write_bytes(good)
    assert not catalog_of(tmp_path, config).sets[0].problems


@pytest.mark.parametrize("recheck", ["files", "folders", "never"])
def test_media_that_come_after_the_list_that_names_them_are_found(tmp_path: Path, recheck: str) -> None:
    config, outside = listed(tmp_path, path=str(tmp_path / "lists" / "metadata.csv"), on_error="skip", recheck=recheck)
    outside.rename(tmp_path / "elsewhere")
    assert len(catalog_of(tmp_path, config).sets[0].problems) == 3
    (tmp_path / "elsewhere").rename(outside)
    assert not catalog_of(tmp_path, config).sets[0].problems
    before = kept(tmp_path)
    assert len(catalog_of(tmp_path, config).sets[0].table) == 3
    assert kept(tmp_path) == before


def test_other_settings_of_the_same_files_recall_them(tmp_path: Path) -> None:
    """What an item becomes in training does not change what its files are."""
    config, _ = listed(tmp_path)
    catalog_of(tmp_path, config)
    before = kept(tmp_path)
    other = config.model_copy(update={"buckets": ((1, 32, 32),), "caption_prefix": "CRUSH", "repeats": 2.0})
    assert content(catalog_of(tmp_path, other)) == content(catalog_of(tmp_path, other, keeps=False))
    assert kept(tmp_path) == before


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    config, _ = listed(tmp_path)
    (tmp_path / "snapshots").write_text("in the way")
    said: list[str] = []
    assert content(catalog_of(tmp_path, config, warn=said.append)) == content(catalog_of(tmp_path, config, keeps=False))
    assert len(said) == 1
    assert "cannot be written" in said[0]


def test_two_starts_with_one_process_number_write_files_of_their_own_and_leftovers_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(file: Path, to: Path) -> Path:
        raise KeyboardInterrupt

    config, _ = listed(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                catalog_of(tmp_path, config)
    left = list((tmp_path / "snapshots").iterdir())
    assert len(left) == 2
    assert remove_leftovers(Cache(tmp_path)) == 0  # they may be being written
    for file in left:
        os.utime(file, (1e9, 1e9))
    assert remove_leftovers(Cache(tmp_path)) == 2
    assert not kept(tmp_path)


def test_a_layout_of_the_users_is_asked_at_each_start(tmp_path: Path) -> None:
    """What it reads may lie anywhere: nothing here would show that it has changed."""
    write_pictures(tmp_path / "data", 2)
    about = tmp_path / "elsewhere.txt"
    head = "from pathlib import Path\nfrom finetrainers import DataLayout, Item\nclass Mine(DataLayout):\n"
    body = f"    def items(self, path, config):\n        yield Item('00.png', Path({str(about)!r}).read_text())\n"
    (tmp_path / "mine.py").write_text(head + body)
    config = DataConfig(path=str(tmp_path / "data"), layout=f"{tmp_path}/mine.py:Mine", buckets=((1, 64, 64),))
    for caption in ("before", "after"):
        about.write_text(caption)
        catalog = catalog_of(tmp_path, config)
        assert catalog.sets[0].table["captions"].to_pylist() == [[caption]]
