"""Writes the same items in every layout: ``LAYOUT_MAKERS[name](folder, items)`` returns what ``data.path`` is to be.

An item is (bytes of the medium, its name such as "a.png", its caption).
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

Item = tuple[bytes, str, str]
Maker = Callable[[Path, Sequence[Item]], Path]


def put_media(folder: Path, items: Sequence[Item]) -> None:
    """The media as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for data, name, _ in items:
        (folder / name).write_bytes(data)


def sidecars(folder: Path, items: Sequence[Item], suffix: str = ".txt") -> Path:
    put_media(folder, items)
    for _, name, caption in items:
        (folder / name).with_suffix(suffix).write_text(caption, encoding="utf-8")
    return folder


def lists(folder: Path, items: Sequence[Item]) -> Path:
    put_media(folder, items)
    (folder / "videos.txt").write_text("\n".join(name for _, name, _ in items))
    (folder / "captions.txt").write_text("\n".join(caption for _, _, caption in items))
    return folder


def records(items: Sequence[Item]) -> list[dict[str, str]]:
    return [{"file_name": name, "text": caption} for _, name, caption in items]


def metadata_jsonl(folder: Path, items: Sequence[Item]) -> Path:
    put_media(folder, items)
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records(items)))
    return folder


def metadata_json(folder: Path, items: Sequence[Item]) -> Path:
    put_media(folder, items)
    (folder / "metadata.json").write_text(json.dumps(records(items)))
    return folder


def metadata_csv(folder: Path, items: Sequence[Item]) -> Path:
    put_media(folder, items)
    lines = "".join(f'{name},"{caption}"\n' for _, name, caption in items)
    (folder / "metadata.csv").write_text(f"file_name,text\n{lines}")
    return folder


def metadata_parquet(folder: Path, items: Sequence[Item]) -> Path:
    put_media(folder, items)
    pq.write_table(pa.Table.from_pylist(records(items)), folder / "metadata.parquet")
    return folder


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar archive of files, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def webdataset(folder: Path, items: Sequence[Item]) -> Path:
    """One shard an item, with captions as text."""
    for number, (data, name, caption) in enumerate(items):
        stem = Path(name).stem
        write_tar(folder / f"{number:06d}.tar", [(name, data), (f"{stem}.txt", caption.encode())])
    return folder


def webdataset_json(folder: Path, items: Sequence[Item]) -> Path:
    """One shard of all items, given as a file, with captions as a key of objects."""
    members = []
    for data, name, caption in items:
        members += [(f"{Path(name).stem}.json", json.dumps({"caption": caption, "id": 3}).encode()), (name, data)]
    return write_tar(folder / "all.tar", members)


STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def embedded(items: Sequence[Item]) -> pa.Table:
    """As ``datasets`` writes media: bytes and a name."""
    cells = pa.array([{"bytes": data, "path": name} for data, name, _ in items], STRUCT)
    return pa.table({"image": cells, "text": [caption for _, _, caption in items]})


def table_parquet(folder: Path, items: Sequence[Item]) -> Path:
    """Two row groups and more, of bytes with names, as on the Hub."""
    (folder / "data").mkdir(parents=True)
    pq.write_table(embedded(items), folder / "data/train-00000-of-00001.parquet", row_group_size=2)
    return folder


def table_bytes(folder: Path, items: Sequence[Item]) -> Path:
    """Bytes without names, given as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"video": [data for data, _, _ in items], "prompt": [caption for _, _, caption in items]})
    pq.write_table(table, folder / "all.parquet", row_group_size=1)
    return folder / "all.parquet"


def table_paths(folder: Path, items: Sequence[Item]) -> Path:
    """Names of files beside the tables."""
    put_media(folder, items)
    for number, record in enumerate(records(items)):
        pq.write_table(pa.Table.from_pylist([record]), folder / f"part-{number}.parquet")
    return folder


def table_arrow(folder: Path, items: Sequence[Item]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.feather.write_feather(embedded(items), folder / "all.feather", chunksize=2, compression="zstd")
    return folder


def saved(folder: Path, items: Sequence[Item]) -> Path:
    """Written by ``datasets``, with several batches and files."""
    import datasets

    features = datasets.Features({"image": datasets.Image(decode=False), "text": datasets.Value("string")})
    rows = [{"image": {"bytes": data, "path": name}, "text": caption} for data, name, caption in items]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder, num_shards=2)
    return folder


def saved_splits(folder: Path, items: Sequence[Item]) -> Path:
    """Written by ``datasets`` as train and test: what is in test is not part of it."""
    import datasets

    rows = [{"video": {"bytes": data, "path": None}, "caption": caption} for data, _, caption in items]
    train = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({"train": train, "test": train.select([0])}).save_to_disk(folder)
    return folder


def imagefolder(folder: Path, items: Sequence[Item]) -> Path:
    """A metadata file in the folder of each split; one split is train."""
    metadata_jsonl(folder / "train", items)
    metadata_csv(folder / "test", items[:1])
    return folder


def kohya(folder: Path, items: Sequence[Item]) -> Path:
    """One folder that names its repeats, with captions in ``.caption``."""
    return sidecars(folder / "10_cats animal", items, suffix=".caption")


LAYOUT_MAKERS: dict[str, Maker] = {
    "sidecars": sidecars,
    "lists": lists,
    "metadata.csv": metadata_csv,
    "metadata.json": metadata_json,
    "metadata.jsonl": metadata_jsonl,
    "metadata.parquet": metadata_parquet,
    "webdataset": webdataset,
    "webdataset, json": webdataset_json,
    "table, parquet": table_parquet,
    "table, bytes": table_bytes,
    "table, paths": table_paths,
    "table, arrow": table_arrow,
    "saved": saved,
    "saved, splits": saved_splits,
    "imagefolder": imagefolder,
    "kohya": kohya,
}
"""By the name of the layout, and of its variant."""
