"""Streams: an item's media by name, through folders, catalog, plan, cache and loader; none of these knows a kind."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from runs import config_of, flux_tree, write_pictures

import finetrainers.data.streams as streams_module
from finetrainers.conditioning import Conditioning
from finetrainers.config import DataConfig, parse_config
from finetrainers.data.catalog.catalog import Catalog, Dataset
from finetrainers.data.loader import read_encoded
from finetrainers.data.media.files import decode
from finetrainers.data.media.signals import Signal
from finetrainers.data.order.plan import Plan
from finetrainers.data.sources.items import list_items
from finetrainers.data.streams import MEDIA, Stream, streams_of
from finetrainers.encoding.budget import Budget
from finetrainers.encoding.cells import cell_means
from finetrainers.errors import ConfigError, DataError
from finetrainers.models import open_model
from finetrainers.training import prepare as prepare_module
from finetrainers.training.prepare import prepare
from finetrainers.training.windows import encode_steps

IDENTITY = Signal("identity")
FILES, MASK = Stream("control", "condition"), Stream("mask", "condition")
TEXT, LATENTS = "0638ea4937dcfbc71a0446b0d9e1400be53dbbb7", "b732a8084b77f8248f8abbd884cd7e89f5445219"


def one_item(frames: int | None) -> Catalog:
    """A clip, and perhaps a control of so many frames."""
    media, control = (np.arange(start, start + 16, dtype=np.uint8)[None] for start in (0, 100))
    none = np.zeros(1, np.int64)
    columns: dict[str, Any] = {"media": ["/data/a.mp4"], "captions": [["A cat"]]}
    data = Dataset(
        config=DataConfig(path="/data", buckets=[[9, 64, 96]], resize="random_crop", horizontal_flip=True),  # type: ignore[arg-type]
        table=pa.table(columns if frames is None else columns | {"control": ["/depth/a.mp4"]}),
        digests={"media": media} if frames is None else {"media": media, "control": control},
        frames={"media": np.array([9])} if frames is None else {"media": np.array([9]), "control": np.array([frames])},
        fps=np.array([16.0]),
        item=none,
        chunk=none.astype(np.int32),
        bucket=none.astype(np.int32),
        num_captions=none + 1,
        problems=(),
    )
    return Catalog((data,), ((9, 64, 96),))


@pytest.mark.parametrize(
    ("stream", "frames", "key", "fingerprint"),
    [
        (None, None, LATENTS, "2b65d81c58eb5dec"),
        (Signal("identity"), None, LATENTS, "29995b1f5de007c2"),
        (Signal("gray"), None, "ead151e68466cea5dd28d504e2b63cbaa6d61dc6", "59058e3979cde908"),
        (Signal("blur", (("sigma", 4.0),)), None, "d3e8da47d2cd58e87d13e4a9960e727edab3ff60", "454cd256167603ba"),
        (Signal("/x/mine.py:f", file_digest="ab"), None, "3848e2fe9bfa3332bed5ba8b79b34a232e642b87", "00f3f4ccbbcfcaaa"),
        (FILES, 9, "dc9574b7e7c52b913f8f60c1b9edc8f3ed91482d", "6abc716a6da72203"),
        (FILES, 7, "578791f99db02f18b163b2110f784ad4f1c11842", "6abc716a6da72203"),
    ],
    ids=["none", "identity", "gray", "blur", "own function", "files", "shorter files"],
)
def test_caches_and_runs_of_earlier_versions_stay_valid(
    stream: Stream | Signal | None, frames: int | None, key: str, fingerprint: str
) -> None:
    """Keys and fingerprints as they were when a sample had latents and perhaps a control, of one item of each kind."""
    stream = Stream("control", "condition", signal=stream) if isinstance(stream, Signal) else stream
    streams = (MEDIA,) if stream is None else (MEDIA, stream)
    plan = Plan(one_item(frames), 7, "vae", "text", streams=streams, frame_step=4)
    job = plan.job(0, 3, view=1, caption=0)
    assert plan.fingerprint() == fingerprint
    assert job.keys == (TEXT, LATENTS, key)[: 1 + len(streams)]
    assert [job.key for job in plan.media_jobs(0, 1).values()] == list(job.keys[1:])
    assert (job.target.key, list(job.media)) == (LATENTS, [each.name for each in streams])


def test_streams_differ_by_name_and_share_the_view() -> None:
    """The same files as a control and as a mask are two items, of one view."""
    control, gray = Stream("control", "condition", signal=Signal("gray")), Stream("mask", "condition", signal=Signal("gray"))
    plan = Plan(one_item(None), 7, "vae", "text", streams=(MEDIA, control, gray), frame_step=4)
    job = plan.job(0, 0, view=1, caption=0)
    assert len(set(job.keys)) == 4
    assert len({item.view for item in job.media.values()}) == 1


@dataclass
class Part:
    streams: tuple[Stream, ...] = ()


def test_the_parts_of_a_run_say_what_they_need() -> None:
    assert streams_of() == streams_of(Conditioning()) == (MEDIA,)
    assert streams_of(Part((FILES,)), Part((MASK, FILES))) == (MEDIA, FILES, MASK)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (Stream("control", "target"), "'control' means something else already"),
        (Stream("media", "condition"), "'media' means something else already"),
        (Stream("captions", "condition"), "'captions' means something else already"),
        (Stream("mask", "condition", follows="control"), "'mask' follows 'control'; a stream has to follow 'media'"),
        (Stream("audio", "target", follows=None), "'audio' follows None; a stream has to follow 'media'"),
    ],
)
def test_streams_that_cannot_be_made_are_refused(stream: Stream, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        streams_of(Part((FILES,)), Part((stream,)))


# Files


def listed(path: Path, **options: Any) -> Any:
    config = DataConfig.model_validate({"path": str(path), "buckets": [[1, 64, 64]], **options})
    return list_items(config, ["control", "mask"])


def test_files_of_several_streams_come_from_columns_and_folders(tmp_path: Path) -> None:
    for name in ("media", "depth", "masks"):
        write_pictures(tmp_path / name, 2)
    rows = [f"media/0{i}.png,A cat,depth/0{i}.png,masks/0{1 - i}.png" for i in range(2)]
    (tmp_path / "items.csv").write_text("\n".join(["file_name,text,depth,mask", *rows]))
    table = listed(tmp_path / "items.csv", columns={"control": "depth"}).table
    assert table["control"].to_pylist() == [f"{tmp_path}/depth/0{i}.png" for i in range(2)]
    assert table["mask"].to_pylist() == [f"{tmp_path}/masks/0{1 - i}.png" for i in range(2)]
    assert table.equals(listed(tmp_path / "items.csv", control_column="depth").table)
    folders = {"control": str(tmp_path / "depth"), "mask": str(tmp_path / "masks")}
    table = listed(tmp_path / "media", folders=folders).table
    assert table["mask"].to_pylist() == [f"{tmp_path}/masks/0{i}.png" for i in range(2)]
    assert table.equals(listed(tmp_path / "media", control_path=folders["control"], folders={"mask": folders["mask"]}).table)


def test_a_column_that_is_named_for_one_stream_is_not_found_for_another(tmp_path: Path) -> None:
    for name in ("media", "depth", "masks"):
        write_pictures(tmp_path / name, 1)
    lines = ["file_name,text,control,source", "media/00.png,A cat,masks/00.png,depth/00.png"]
    (tmp_path / "items.csv").write_text("\n".join(lines))
    table = listed(tmp_path / "items.csv", columns={"mask": "control"}).table
    assert table["mask"].to_pylist() == [f"{tmp_path}/masks/00.png"]
    assert table["control"].to_pylist() == [f"{tmp_path}/depth/00.png"]


def test_an_item_without_a_file_of_a_stream_is_named_with_the_stream(tmp_path: Path) -> None:
    for name in ("media", "depth", "media/masks"):
        write_pictures(tmp_path / name, 2)
    (tmp_path / "media/masks/01.png").unlink()
    folders = {"control": str(tmp_path / "depth"), "mask": str(tmp_path / "media/masks")}
    listing = listed(tmp_path / "media", folders=folders)
    assert listing.table["media"].to_pylist() == [f"{tmp_path}/media/00.png"]  # and the folder of masks holds no items
    (problem,) = listing.problems
    assert problem.path == f"{tmp_path}/media/01.png"
    assert problem.reason.startswith(f"has no mask {tmp_path}/media/masks/01, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folders": {"control": "depth"}}, r"data\.folders\.mask: nothing in .* names the mask files that the run needs"),
        ({"folders": {"control": "depth", "mask": "nowhere"}}, r"data\.folders\.mask: there is no folder 'nowhere'"),
        ({"control_path": "depth", "columns": {"mask": "m"}}, r"data\.columns: .* has no effect on the layout"),
    ],
)
def test_a_data_set_without_the_files_of_a_stream_is_told_the_key(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("media", "depth"):
        write_pictures(tmp_path / name, 1)
    with pytest.raises(DataError, match=message):
        listed(tmp_path / "media", **options)


def test_files_of_a_stream_are_named_once() -> None:
    for one, other in (
        ({"control_path": "a"}, {"folders": {"control": "b"}}),
        ({"control_column": "a"}, {"columns": {"control": "b"}}),
        ({"columns": {"mask": "a"}}, {"folders": {"mask": "b"}}),
        ({"control_column": "a"}, {"control_path": "b"}),
    ):
        with pytest.raises(ValueError, match=r"both name the (control|mask) files: give one of them"):
            DataConfig.model_validate({"path": "/data", "buckets": [[1, 8, 8]], **one, **other})


# A run


class Masked(Conditioning):
    """A condition that is not the control."""

    streams = (
        MASK,
        Stream("gray", "condition", signal=Signal("gray")),
        Stream("cells", "condition", "none", signal=IDENTITY),
    )


def test_a_stream_of_a_part_is_encoded_and_read_by_its_name(
    tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step between the part that names a stream and its latents knows what it is."""
    monkeypatch.setattr(prepare_module, "build_conditioning", lambda _: Masked())
    media, masks = write_pictures(tmp_path / "media", 2), write_pictures(tmp_path / "masks", 2, seed=1)
    data = [{"path": str(media), "buckets": [[1, 64, 64]], "folders": {"mask": str(masks)}}]
    config = parse_config({**flux_tree(tiny_flux, media, tmp_path), "data": data})
    model = open_model(config.model)
    prepared = prepare(config, model, torch.device("cpu"), progress=lambda *_: None, warn=lambda _: None)
    prepared = encode_steps(prepared, config, 0)[0]
    assert len(list((tmp_path / "cache" / "latents").rglob("*.safetensors"))) == 8
    for job in prepared.plan.step(prepared.order, 0):
        sample = read_encoded(prepared.encoder.cache, job)
        assert list(sample.media) == ["media", "mask", "gray", "cells"]
        assert Path(job.media["mask"].path) == masks / Path(job.target.path).name
        assert len({float(posterior.mean.sum()) for posterior in sample.media.values()}) == 4
        size = prepared.encoder.cache.file("latents", job.media["cells"].key).stat().st_size
        assert 0 <= Budget(prepared.encoder).latents_bytes(job, job.media["cells"]) - size < 1000
        pixels = decode(Path(job.target.path), job.target.view).pixels[None]
        step = model.adapter.grid.vae_step
        assert torch.equal(sample.media["cells"].mean, cell_means(pixels, step=step, frame_step=1)[0])
        assert sample.media["cells"].mean.shape[1:] == sample.media["media"].mean.shape[1:]


def test_a_folder_of_a_stream_that_nobody_reads_is_refused(tiny_flux: Path, tmp_path: Path) -> None:
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "media", 2), tmp_path)
    tree["data"][0]["folders"] = {"mask": "masks"}
    config = config_of(tree)
    with pytest.raises(ConfigError, match=r"data\.0\.folders\.mask: masks has no effect: this run reads no files next to"):
        prepare(config, open_model(config.model), torch.device("cpu"), progress=lambda *_: None, warn=lambda _: None)


@pytest.mark.parametrize(
    "place",
    ["data/catalog/*.py", "data/order/*.py", "data/cache/*.py", "encoding/*.py", "data/streams.py", "data/loader.py"],
)
def test_the_way_from_files_to_batches_knows_no_kind(place: str) -> None:
    """The word control is nowhere in it."""
    package = Path(streams_module.__file__).parents[1]
    files = sorted(package.glob(place))
    assert files
    assert [line for file in files for line in file.read_text().splitlines() if "control" in line.lower()] == []
