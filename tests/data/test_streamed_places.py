"""Runs on shards of any format and in any place: they train on what the same shards in a local folder are."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
pytest.importorskip("aiohttp")

import pyarrow.parquet as pq
from layout_makers import Item, embedded, write_tar
from pyarrow import feather
from runs import config_of, curve, flux_tree, write_pictures
from servers import Bucket, Web, s3_server, web_server

from finetrainers import train

SHARDS, ITEMS, STEPS = 3, 2, 2


def write_tars(folder: Path, shards: Sequence[Sequence[Item]]) -> None:
    for number, items in enumerate(shards):
        members = [
            (f"{name[:-4]}{end}", own)
            for data, name, text in items
            for end, own in ((".png", data), (".txt", text.encode()))
        ]
        write_tar(folder / f"{number}.tar", members)


def write_parquet(folder: Path, shards: Sequence[Sequence[Item]]) -> None:
    for number, items in enumerate(shards):
        pq.write_table(embedded(items), folder / f"{number}.parquet", row_group_size=1)


def write_arrow(folder: Path, shards: Sequence[Sequence[Item]]) -> None:
    for number, items in enumerate(shards):
        feather.write_feather(embedded(items), folder / f"{number}.arrow", compression="uncompressed")


FORMATS: dict[str, Callable[[Path, Sequence[Sequence[Item]]], None]] = {
    "tar": write_tars,
    "parquet": write_parquet,
    "arrow": write_arrow,
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same items as shards of each format."""
    root = tmp_path_factory.mktemp("formats")
    folder = write_pictures(root / "pictures", SHARDS * ITEMS)
    items = [(file.read_bytes(), file.name, file.with_suffix(".txt").read_text()) for file in sorted(folder.glob("*.png"))]
    for name, write in FORMATS.items():
        (root / name).mkdir()
        write(root / name, [items[start : start + ITEMS] for start in range(0, len(items), ITEMS)])
    return root


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    import botocore.session

    with s3_server() as (address, requests):
        client = botocore.session.get_session().create_client("s3", endpoint_url=address)
        client.create_bucket(Bucket="streamed")
        yield Bucket("streamed", client, requests)


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with web_server() as server:
        yield server


def trained(model: Path, place: str, root: Path) -> list[tuple[float, ...]]:
    """Train with a cache of its own, so that everything is read from the place."""
    streamed = {"path": place, "buckets": [[1, 64, 64]], "stream": True, "chapter_items": 2 * ITEMS}
    tree = flux_tree(model, root, root, train={"steps": STEPS, "batch_size": 3, "micro_batch_size": 3})
    train(config_of({**tree, "data": [streamed]}))
    return curve(root / "run", "loss", "grad_norm")


@pytest.fixture(scope="module")
def local(sets: Path, tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[tuple[float, ...]]]:
    """The curve of a run on the local folder of a format, trained once."""
    found: dict[str, list[tuple[float, ...]]] = {}

    def of(kind: str) -> list[tuple[float, ...]]:
        if kind not in found:
            found[kind] = trained(tiny_flux, str(sets / kind), tmp_path_factory.mktemp(kind))
        return found[kind]

    return of


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("parquet", "s3"),
        ("arrow", "web"),
        pytest.param("tar", "s3", marks=LONG),
        pytest.param("tar", "web", marks=LONG),
        pytest.param("parquet", "web", marks=LONG),
        pytest.param("arrow", "s3", marks=LONG),
    ],
)
def test_a_run_on_remote_shards_is_the_run_on_the_local_ones(
    sets: Path,
    bucket: Bucket,
    web: Web,
    local: Callable[[str], list[tuple[float, ...]]],
    tiny_flux: Path,
    tmp_path: Path,
    kind: str,
    where: str,
) -> None:
    """Several chapters, to the bit."""
    if where == "s3":
        place = bucket.put_folder(sets / kind, kind)
    else:
        for file in sorted((sets / kind).iterdir()):
            web.put(f"{kind}/{file.name}", file.read_bytes(), cut=1)  # each connection breaks once
        place = f"{web.address}/{kind}/{{0..{SHARDS - 1}}}.{kind}"
    assert len(local(kind)) == STEPS
    assert trained(tiny_flux, place, tmp_path) == local(kind)


@pytest.mark.parametrize("kind", ["parquet", pytest.param("arrow", marks=LONG)])
def test_a_run_on_tables_takes_the_samples_of_the_same_tar_shards(
    local: Callable[[str], list[tuple[float, ...]]], kind: str
) -> None:
    assert local(kind) == local("tar")
