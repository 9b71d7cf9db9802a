"""Pictures of a size of their own beside the media: their sizes, the order, their items in the cache, and their latents."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from media_factory import write_counter
from PIL import Image
from runs import flux_tree, write_pictures

import finetrainers.data.catalog.probe as probe_module
from finetrainers.batch import Encoded, Posterior
from finetrainers.conditioning import Conditioning
from finetrainers.config import Bucket, Config, DataConfig, parse_config
from finetrainers.data.catalog.catalog import Catalog, Dataset, build_catalog, view_of
from finetrainers.data.catalog.left_out import LeftOut
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.pictures import Pictures
from finetrainers.data.conditions import make_media
from finetrainers.data.frames import FrameSelection
from finetrainers.data.loader import read_encoded
from finetrainers.data.media.files import decode
from finetrainers.data.order.jobs import LatentsJob, SampleJob
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Plan
from finetrainers.data.streams import MEDIA, Stream, streams_of
from finetrainers.encoding.budget import Budget
from finetrainers.errors import ConfigError, DataError
from finetrainers.files.whole import hash_file
from finetrainers.models import open_model
from finetrainers.training import prepare as prepare_module
from finetrainers.training.checks.parts import check_mirrors
from finetrainers.training.console.announce import about_data
from finetrainers.training.prepare import prepare
from finetrainers.training.prepared import Prepared
from finetrainers.training.windows import encode_steps

SQUARE, WIDE = (1, 64, 64), (1, 64, 96)
REFERENCE = Stream(
    "reference", "condition", follows=None, is_many=True, sizes=(SQUARE, WIDE, (1, 96, 64)), samples_posterior=False
)
STREAMS = (MEDIA, REFERENCE)
CONTROL = Stream("control", "condition")


def named(media: str, *references: str) -> dict[str, Any]:
    return {"file_name": media, "text": f"{media} edited", "reference": list(references)}


def edit_pairs(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A list of targets and references, all of which are files of the folder."""
    file = folder / "items.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.Table.from_pylist(list(rows)), file)
    return file


def picture(file: Path, height: int, width: int, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def data_of(path: Path, **options: Any) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), "buckets": [list(SQUARE)], **options})


def catalog_of(memo: Path, *configs: DataConfig, streams: Sequence[Stream] = STREAMS) -> Catalog:
    known = Memo(memo / "memo.sqlite")
    try:
        return build_catalog(configs, known, workers=1, progress=lambda done, total: None, streams=streams)
    finally:
        known.close()


def shape_of(job: SampleJob) -> list[tuple[str, Bucket]]:
    return [(name, (item.view.num_frames, item.view.height, item.view.width)) for name, item in job.media.items()]


# The stream


def test_a_stream_may_follow_nothing_if_it_has_sizes() -> None:
    class Part:
        streams = (REFERENCE,)

    assert streams_of(Part()) == STREAMS
    assert [(s.has_files, s.has_own_size) for s in STREAMS] == [(False, False), (True, True)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ()}, "'reference' follows None; a stream has to follow 'media', or list the sizes of its own"),
        ({"follows": "media"}, "'reference' follows 'media', and so has one file for each item, of the size of that"),
        ({"follows": "media", "sizes": ()}, "'reference' follows 'media', and so has one file for each item"),
        ({"sizes": ((9, 64, 64),)}, "has to be images in files: of 1 frame each"),
        ({"signal": streams_of()[0].transform}, "has to be images in files"),
        ({"name": "reference.0"}, "'reference.0' has a dot, after which the images of a stream are numbered"),
    ],
)
def test_impossible_streams_are_refused(change: dict[str, Any], message: str) -> None:
    class Part:
        streams = (replace(REFERENCE, **change),)

    with pytest.raises(ConfigError, match=message):
        streams_of(Part())


def test_media_beside_pictures_of_their_own_size_are_not_mirrored(pairs: Any) -> None:
    plain = {"path": "a", "buckets": [list(SQUARE)]}
    data = [plain, {**plain, "horizontal_flip": True}]
    check_mirrors(parse_config({"output_dir": "run", "model": {"path": "model"}, "data": data}), (MEDIA, CONTROL))
    with pytest.raises(
        ConfigError, match=r"^data\.1\.horizontal_flip: true would mirror media and not their references; rem"
    ):
        pairs(data=data)


# The catalog


def test_each_picture_is_given_the_size_of_the_nearest_proportions(tmp_path: Path) -> None:
    """However small it is, and whatever the bucket, the crop and the window of the media are; it shows its middle."""
    sizes = {"tall": (30, 20), "wide": (200, 320), "tiny": (5, 6), "long": (8, 80)}
    for name, (height, width) in sizes.items():
        picture(tmp_path / f"{name}.png", height, width)
    picture(tmp_path / "a.png", 64, 64)
    file = edit_pairs(tmp_path, [named("a.png", "tall.png", "wide.png", "tiny.png", "long.png")])
    options = {"resize": "random_crop", "views": 2}
    plan = Plan(catalog_of(tmp_path, data_of(file, **options)), 0, "vae", "text", streams=STREAMS)
    for view in (0, 1):
        job = plan.job(0, 0, view=view, caption=0)
        assert shape_of(job)[1:] == [
            ("reference.0", (1, 96, 64)),
            ("reference.1", WIDE),
            ("reference.2", SQUARE),
            ("reference.3", WIDE),
        ]
        assert {(item.view.resize, item.view.crop) for name, item in job.media.items() if name != "media"} == {
            ("center_crop", (0.5, 0.5))
        }
    wide = job.media["reference.1"]
    with Image.open(wide.path) as image:
        expected = image.crop((10, 0, 310, 200)).resize((96, 64))
    shown = decode(Path(wide.path), wide.view).pixels[0].float()
    assert (shown - torch.from_numpy(np.array(expected)).float()).abs().mean() < 6


def test_of_a_stream_of_one_file_each_item_has_one(tmp_path: Path) -> None:
    write_pictures(tmp_path / "media", 2)
    write_pictures(tmp_path / "before", 2, size=(64, 96), seed=1)
    config = data_of(tmp_path / "media", folders={"reference": str(tmp_path / "before")})
    streams = (MEDIA, replace(REFERENCE, is_many=False))
    plan = Plan(catalog_of(tmp_path, config, streams=streams), 0, "vae", "text", streams=streams)
    for sample in range(2):
        jobs = plan.media_jobs(sample, 0)
        assert [(name, Path(job.path).parent.name) for name, job in jobs.items()] == [
            ("media", "media"),
            ("reference.0", "before"),
        ]
        assert Path(jobs["reference.0"].path).name == Path(jobs["media"].path).name
        assert jobs["reference.0"].digest == hash_file(Path(jobs["reference.0"].path)).hex()


def three_pairs(folder: Path) -> Path:
    for number, name in enumerate(("a", "b", "c", "r", "s")):
        picture(folder / f"{name}.png", 64, 64, seed=number)
    return edit_pairs(folder, [named("a.png", "r.png"), named("b.png", "s.png", "r.png"), named("c.png", "r.png")])


def test_bad_references_are_named_with_their_items(tmp_path: Path) -> None:
    """A video, an animation, damage, an empty file: all of them in one message, or left out."""
    file = three_pairs(tmp_path)
    write_counter(tmp_path / "clip.mp4", 5, height=64, width=64)
    write_counter(tmp_path / "moving.gif", 3, height=64, width=64)
    (tmp_path / "torn.png").write_bytes((tmp_path / "s.png").read_bytes()[:500])
    (tmp_path / "empty.png").write_bytes(b"")
    rows = [named("a.png", "r.png", "clip.mp4"), named("b.png", "torn.png", "moving.gif"), named("c.png", "r.png")]
    for number in range(2):
        picture(tmp_path / f"d{number}.png", 64, 64, seed=9 + number)
    edit_pairs(tmp_path, [*rows, named("d0.png", "empty.png"), named("d1.png")])
    with pytest.raises(DataError, match="data: 4 bad samples") as error:
        catalog_of(tmp_path, data_of(file))
    for line in (
        f"a.png: its reference {tmp_path}/clip.mp4: is a video of 5 frames, where an image is needed; save one of its",
        f"b.png: its reference {tmp_path}/torn.png: cannot be decoded",
        f"; its reference {tmp_path}/moving.gif: is a video of 3 frames",
        f"d0.png: its reference {tmp_path}/empty.png: the file is empty (zero bytes)",
        "d1.png: items.parquet names no reference for it",
    ):
        assert line in str(error.value)
    catalog = catalog_of(tmp_path, data_of(file, on_error="skip"))
    assert [Path(catalog.sets[0].path(sample, "media")).name for sample in range(catalog.num_samples)] == ["c.png"]


def test_each_picture_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many items share it, in all data sets and in a second run; progress counts each."""
    looked: list[str] = []
    look = probe_module.probe

    def counted(path: Path) -> Any:
        looked.append(path.name)
        return look(path)

    monkeypatch.setattr(probe_module, "probe", counted)
    file = three_pairs(tmp_path)
    told: list[tuple[int, int]] = []
    memo = Memo(tmp_path / "memo.sqlite")
    for _ in range(2):
        build_catalog([data_of(file)], memo, workers=1, progress=lambda *done: told.append(done), streams=STREAMS)
    memo.close()
    assert sorted(looked) == ["a.png", "b.png", "c.png", "r.png", "s.png"]
    assert told == 2 * [(3, 5), (5, 5)]


@pytest.mark.parametrize("change", ["content", "number", "order", "sizes", "nothing"])
def test_what_changes_in_references_changes_the_fingerprint(tmp_path: Path, change: str) -> None:
    file, streams = three_pairs(tmp_path), STREAMS
    before = Plan(catalog_of(tmp_path, data_of(file)), 0, "vae", "text", streams=streams).fingerprint()
    rows = [named("a.png", "r.png"), named("b.png", "s.png", "r.png"), named("c.png", "r.png")]
    if change == "content":
        picture(tmp_path / "s.png", 64, 64, seed=77)
    elif change == "number":
        edit_pairs(tmp_path, [*rows[:2], named("c.png", "r.png", "r.png")])
    elif change == "order":
        edit_pairs(tmp_path, [rows[0], named("b.png", "r.png", "s.png"), rows[2]])
    elif change == "sizes":
        streams = (MEDIA, replace(REFERENCE, sizes=(WIDE,)))
    after = Plan(catalog_of(tmp_path, data_of(file), streams=streams), 0, "vae", "text", streams=streams).fingerprint()
    assert (after == before) == (change == "nothing")


def test_the_split_goes_by_the_media_alone(tmp_path: Path) -> None:
    file = three_pairs(tmp_path)
    train, held_out = catalog_of(tmp_path, data_of(file)).split(0.4)
    plain = catalog_of(tmp_path, data_of(file), streams=(MEDIA,)).split(0.4)
    assert [part.sets[0].item.tolist() for part in (train, held_out)] == [part.sets[0].item.tolist() for part in plain]
    train.check_apart(held_out)
    plan = Plan(held_out, 0, "vae", "text", streams=STREAMS)
    jobs = plan.held_out(5)
    counts = {"a.png": 1, "b.png": 2, "c.png": 1}
    assert jobs
    assert [len(job.media) - 1 for job in jobs] == [counts[Path(job.target.path).name] for job in jobs]


# The order


def make_set(name: str, random: np.random.Generator, *, num_items: int, most: int = 3, **config: Any) -> Dataset:
    """Items of few contents with one to ``most`` references of three sizes; some items have two windows."""
    counts = random.integers(1, most + 1, num_items)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    files = [f"/{name}/r{i}.png" for i in range(offsets[-1])]
    references = [files[start:stop] for start, stop in zip(offsets[:-1], offsets[1:], strict=True)]
    item = np.repeat(np.arange(num_items), random.integers(1, 3, num_items))
    table = {"media": [f"/{name}/{i}.mp4" for i in range(num_items)], "captions": [["a"]] * num_items}
    return Dataset(
        config=DataConfig(path=f"/{name}", buckets=(SQUARE,), **config),
        table=pa.table({**table, "reference": pa.array(references, pa.large_list(pa.large_string()))}),
        digests={"media": random.integers(0, 3, (num_items, 16), np.uint8)},
        frames={"media": np.full(num_items, 9)},
        fps=np.zeros(num_items),
        item=item,
        chunk=np.zeros(len(item), np.int32),
        bucket=random.integers(0, 2, len(item)).astype(np.int32),
        num_captions=np.ones(num_items, np.int64),
        problems=(),
        pictures={
            "reference": Pictures(
                REFERENCE.sizes,
                offsets,
                random.integers(0, 256, (len(files), 16), np.uint8),
                random.integers(0, 3, len(files)).astype(np.uint16),
            )
        },
    )


def make_plan(seed: int, *, num_items: int = 12, most: int = 3) -> Plan:
    random = np.random.default_rng(seed)
    views = {"views": 2, "resize": "random_crop"}
    sets = make_set("a", random, num_items=num_items, most=most, **views), make_set("b", random, num_items=5, most=most)
    return Plan(Catalog(sets, (SQUARE, WIDE)), seed, "vae", "text", streams=STREAMS)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), batch_size=st.integers(1, 4))
def test_the_samples_of_a_step_have_equal_shapes_and_each_comes_once_an_epoch(seed: int, batch_size: int) -> None:
    """Of all media, the references by number; a remainder is carried over, and no sample is dropped."""
    plan = make_plan(seed)
    groups = plan.catalog.groups()
    assert sorted(np.concatenate([group.samples for group in groups]).tolist()) == list(range(plan.catalog.num_samples))
    order = Order(seed, batch_size, groups)
    epochs = 2 * batch_size
    for step in range(order.first_step(epochs)):
        jobs = plan.step(order, step)
        assert len({tuple(shape_of(job)) for job in jobs}) == 1
        assert len({job.bucket for job in jobs}) == 1
    shown = Counter(int(sample) for step in range(order.first_step(epochs)) for sample in order.step(step).samples)
    by_bucket: dict[int, list[int]] = {}
    for group in groups:
        by_bucket.setdefault(group.bucket, []).extend(group.samples.tolist())
    for samples in by_bucket.values():  # what is left of a bucket is less than a batch
        assert epochs * len(samples) - sum(shown[sample] for sample in samples) < batch_size
        assert max(shown[sample] for sample in samples) <= epochs


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_groups_are_numbered_by_what_the_samples_have(seed: int) -> None:
    """Not by where they are: data sets in another order have the same numbers for the same shapes."""
    catalog = make_plan(seed).catalog
    turned = Catalog(catalog.sets[::-1], catalog.buckets)

    def numbers(catalog: Catalog) -> dict[str, int]:
        return {catalog.about_shape(int(sample)): group.bucket for group in catalog.groups() for sample in group.samples}

    assert numbers(catalog) == numbers(turned)
    assert sorted(numbers(catalog).values()) == list(range(len(numbers(catalog))))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), length=st.integers(0, 20))
def test_what_is_encoded_is_what_the_steps_read(seed: int, length: int) -> None:
    plan = make_plan(seed)
    order = Order(seed, 2, plan.catalog.groups())
    jobs = plan.distinct(order, 0, length)
    expected = [item for step in range(length) for job in plan.step(order, step) for item in job.media.values()]
    assert list(dict.fromkeys(jobs.latents())) == list(dict.fromkeys(expected))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_references_that_break_later_are_replaced_by_samples_of_equal_shape(seed: int) -> None:
    plan = make_plan(seed, num_items=30, most=1)
    order = Order(seed, 2, plan.catalog.groups())
    sample = int(order.step(0).samples[0])
    assume(len(order.samples_of(order.step(0).bucket)) > 2)  # an item may have two windows
    bad = plan.media_jobs(sample, 0)["reference.0"]
    others = plan.leaving_out([LeftOut(bad.key, bad.digest, bad.path, "is torn", 0)])
    ((data, problem),) = others.problems([LeftOut(bad.key, bad.digest, bad.path, "is torn", 0)])
    assert problem.path == plan.media_jobs(sample, 0)["media"].path
    assert problem.reason == f"its reference {bad.path}: is torn"
    for step in range(20):
        before, after = plan.step(order, step), others.step(order, step)
        assert [shape_of(job) for job in before] == [shape_of(job) for job in after]
        for old, new in zip(before, after, strict=True):
            assert bad not in new.media.values()
            assert (old == new) == (bad not in old.media.values())


# Keys


def test_a_picture_that_is_target_and_reference_is_one_item(tmp_path: Path) -> None:
    """A pair that is learned in both directions is encoded once; not so where items of the media hold more than latents."""
    for number, name in enumerate("ab"):
        picture(tmp_path / f"{name}.png", 80, 80, seed=number)
    file = edit_pairs(tmp_path, [named("a.png", "b.png"), named("b.png", "a.png")])
    plan = Plan(catalog_of(tmp_path, data_of(file)), 0, "vae", "text", streams=STREAMS)
    one, other = (plan.media_jobs(sample, 0) for sample in range(2))
    assert one["media"].key == other["reference.0"].key != one["reference.0"].key == other["media"].key
    holding_more = replace(plan, takes_image=True)
    keys = {job.key for sample in range(2) for job in holding_more.media_jobs(sample, 0).values()}
    assert len(keys) == 4
    another_vae = replace(plan, latents_encoder="another")
    assert not keys & {job.key for sample in range(2) for job in another_vae.media_jobs(sample, 0).values()}
    own = view_of(plan.catalog.sets[0], 0, view=0, bucket=SQUARE)
    assert one["reference.0"].view == own


# Latents


def encoded(*stds: torch.Tensor | None) -> Encoded:
    """A sample of two latent frames with references of one."""
    media = Posterior(torch.zeros(1, 2, 2, 2), None)
    references = {f"reference.{n}": Posterior(torch.full((1, 1, 2, 3), float(n)), std) for n, std in enumerate(stds)}
    return Encoded({"media": media, **references}, {}, 0.0)


def test_all_references_of_a_step_are_shown_or_none_and_are_not_padded() -> None:
    samples, positions = [encoded(None, None)] * 64, torch.arange(64)
    selections = {"reference": FrameSelection(dropout=0.5)}
    steps = [
        make_media(samples[:2], positions[:2], seed=3, step=step, selections=selections, frames=5, padding=3)
        for step in range(64)
    ]
    masks = torch.stack([own[f"reference.{n}"].mask for own in steps for n in range(2)]).view(64, -1)
    assert all(len(own.unique()) == 1 for own in masks)
    assert 16 < int(masks[:, 0].sum()) < 48
    step = int(masks[:, 0].argmax())
    made = make_media(samples, positions, seed=3, step=step, selections=selections, frames=5, padding=3)
    assert {name: tuple(medium.latents.shape) for name, medium in made.items()} == {
        "reference.0": (64, 1, 1, 2, 3),
        "reference.1": (64, 1, 1, 2, 3),
    }
    assert torch.equal(made["reference.0"].mask, made["reference.1"].mask)
    assert made["reference.0"].mask.tolist() == [[1.0]] * 64
    alone = [
        make_media([sample], positions[row : row + 1], seed=3, step=step, selections=selections, frames=5, padding=3)
        for row, sample in enumerate(samples)
    ]
    for name, medium in made.items():
        assert torch.equal(medium.mask, torch.cat([own[name].mask for own in alone]))
        assert torch.equal(medium.latents, torch.cat([own[name].latents for own in alone]))


def test_latents_are_drawn_for_each_picture_if_they_are_at_all() -> None:
    std = torch.ones(1, 1, 2, 3)
    made = make_media([encoded(std, None, std)], torch.tensor([5]), seed=3, step=0, selections={}, frames=2, padding=0)
    first, mode, third = (made[f"reference.{n}"].latents for n in range(3))
    assert torch.equal(mode, torch.ones(1, 1, 1, 2, 3))
    assert not torch.equal(first, third - 2)
    assert (first != 0).all()


# A run


class Edits(Conditioning):
    streams = (REFERENCE,)
    frames = {"reference": FrameSelection(dropout=0.1)}


@pytest.fixture
def pairs(tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Six targets, each of which also is a reference; some have two, of two sizes."""
    monkeypatch.setattr(prepare_module, "build_conditioning", lambda _: Edits())
    names = [picture(tmp_path / "data" / f"{n}.png", 64, 64, seed=n).name for n in range(6)]
    for number in range(2):
        picture(tmp_path / "data" / f"wide{number}.png", 64, 96, seed=50 + number)
    rows = [named(name, names[(n + 1) % 6], *(["wide0.png"] if n % 3 == 0 else [])) for n, name in enumerate(names)]
    tree = flux_tree(tiny_flux, edit_pairs(tmp_path / "data", rows), tmp_path, train={"batch_size": 1, "steps": 8})
    tree["train"]["micro_batch_size"] = 1

    def make(**sections: Any) -> tuple[Prepared, Config]:
        config = parse_config({**tree, **sections})
        model = open_model(config.model)
        return prepare(config, model, torch.device("cpu"), progress=lambda *_: None, warn=lambda _: None), config

    return make


def size_of_file(prepared: Prepared, job: LatentsJob) -> int:
    return prepared.encoder.cache.file("latents", job.key).stat().st_size


def test_references_are_encoded_as_they_are_and_read_by_number(pairs: Any, tmp_path: Path) -> None:
    """As the mode of the posterior, though the family samples it; each picture once, whatever it is used for."""
    prepared, config = pairs()
    prepared, stop = encode_steps(prepared, config, 0)
    assert stop == 8
    assert len(list((tmp_path / "cache" / "latents").rglob("*.safetensors"))) == 7
    for step in range(6):
        (job,) = prepared.plan.step(prepared.order, step)
        sample = read_encoded(prepared.encoder.cache, job)
        assert list(sample.media) == list(job.media)
        assert sample.media["media"].std is not None
        for name, item in list(job.media.items())[1:]:
            assert sample.media[name].std is None
            stored = prepared.encoder.cache.read("latents", item.key)[0]
            assert torch.equal(sample.media[name].mean, stored["mean"])
            vae_step = prepared.model.adapter.grid.vae_step
            assert sample.media[name].mean.shape[1:] == (1, item.view.height // vae_step, item.view.width // vae_step)
            assert 0 <= Budget(prepared.encoder).latents_bytes(job, item) - size_of_file(prepared, item) < 1000


def test_windows_of_a_small_cache_hold_the_references_of_their_steps(pairs: Any, tmp_path: Path) -> None:
    prepared, config = pairs()
    encode_steps(prepared, config, 0)
    cache = prepared.encoder.cache
    total = sum(entry.bytes for entry in cache.entries())
    wanted = [prepared.plan.step(prepared.order, step) for step in range(8)]
    expected = [read_encoded(cache, job).media for (job,) in wanted]
    prepared, config = pairs(cache={"path": str(tmp_path / "small"), "workers": 1, "max_gb": 0.8 * total / 1e9})
    start = windows = 0
    while start < 8:
        prepared, stop = encode_steps(prepared, config, start)
        windows += 1
        assert stop > start
        assert sum(entry.bytes for entry in prepared.encoder.cache.entries()) <= 0.8 * total
        for step in range(start, stop):
            (job,) = prepared.plan.step(prepared.order, step)
            assert job == wanted[step][0]
            media = read_encoded(prepared.encoder.cache, job).media
            assert {name: own.mean.tolist() for name, own in media.items()} == {
                name: own.mean.tolist() for name, own in expected[step].items()
            }
        start = stop
    assert windows > 1


def test_a_warning_names_the_sizes_that_fill_no_batch(pairs: Any) -> None:
    """A batch of four of the two samples that have two references, of which one is wide."""
    prepared, config = pairs(train={"batch_size": 4, "micro_batch_size": 4, "steps": 1, "device": "cpu"})

    messages = [message for message in about_data(config, prepared) if "too few samples" in message]
    assert [message.partition(" has ")[0] for message in messages] == [
        "bucket [1, 64, 64] with reference [1, 64, 64], [1, 64, 96]"
    ]
