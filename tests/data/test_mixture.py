"""Mixing: what is asked of each data set is what the steps take of it, whatever the batches and buckets are."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings, strategies as st
from media_factory import write_counter
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

import finetrainers.data.catalog.probe as probe_module
from finetrainers import train
from finetrainers.batch import Batch
from finetrainers.config import DataConfig
from finetrainers.data.catalog.catalog import Catalog, Dataset, build_catalog
from finetrainers.data.catalog.left_out import BadViews
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.media.files import probe
from finetrainers.data.order.mixture import Mixture, mixture
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Plan
from finetrainers.errors import DataError
from finetrainers.objectives.base import losses_of
from finetrainers.training.trainer import Trainer

BUCKETS = ((1, 64, 64), (1, 64, 96), (9, 64, 64))


def make_set(buckets: list[int], **config: Any) -> Dataset:
    """A sample in each of these buckets."""
    count = len(buckets)
    return Dataset(
        config=DataConfig(path="/data", buckets=BUCKETS, **config),
        table=pa.table({"media": [f"/{i}.mp4" for i in range(count)], "captions": [["a"]] * count}),
        digests={"media": np.zeros((count, 16), np.uint8)},
        frames={"media": np.full(count, 9)},
        fps=np.zeros(count),
        item=np.arange(count),
        chunk=np.zeros(count, np.int32),
        bucket=np.array(buckets, np.int32),
        num_captions=np.ones(count, np.int64),
        problems=(),
    )


def make_plan(*sets: Dataset, batch_size: int = 1, seed: int = 0) -> tuple[Plan, Order]:
    catalog = Catalog(sets, BUCKETS)
    return Plan(catalog, seed, "vae", "text"), Order(seed, batch_size, catalog.groups())


def mix_of(made: tuple[Plan, Order], steps: int) -> list[Mixture]:
    return mixture(made[0].choices, made[1], steps)


members = st.lists(st.integers(0, 2), min_size=1, max_size=12)
weights = st.sampled_from([0.1, 0.25, 1, 2, 3.5, 10])
mixes = st.lists(st.tuples(members, weights), min_size=2, max_size=4)


@settings(deadline=None, max_examples=60)
@given(mixes, st.integers(1, 7), st.integers(1, 5), st.integers(0, 9), st.sampled_from(["weight", "repeats"]))
def test_whole_epochs_take_of_each_set_what_is_asked(
    mix: list[tuple[list[int], float]], batch_size: int, epochs: int, seed: int, key: str
) -> None:
    """But for less than one sample of each bucket of the set, and those that wait for a full batch."""
    plan, order = make_plan(
        *(make_set(buckets, **{key: number}) for buckets, number in mix), batch_size=batch_size, seed=seed
    )
    shares = [Fraction(str(number)) * (1 if key == "weight" else len(buckets)) for buckets, number in mix]
    steps = order.first_step(epochs)
    told = mix_of((plan, order), steps)
    total = steps * batch_size
    num_groups = sum(len(set(buckets)) for buckets, _ in mix)
    waiting = len(order.buckets) * (batch_size - 1)
    for own, share in zip(told, shares, strict=True):
        asked = share / sum(shares)
        assert own["asked"] == float(asked)
        taken = own["images"] + own["videos"]
        assert own["taken"] == (taken / total if total else 0)
        assert abs(taken - asked * total) < num_groups + waiting


@settings(deadline=None, max_examples=40)
@given(mixes, st.integers(1, 7), st.integers(0, 60), st.booleans())
def test_the_mix_that_is_told_is_that_of_the_steps(
    mix: list[tuple[list[int], float]], batch_size: int, steps: int, has_bad: bool
) -> None:
    """Counted sample by sample, with those that stand in for bad ones."""
    sets = [make_set(buckets, weight=number) for buckets, number in mix]
    plan, order = make_plan(*sets, batch_size=batch_size)
    bad = BadViews.of([(0, 0, 0)] if has_bad and sum(buckets.count(mix[0][0][0]) for buckets, _ in mix) > 1 else [], 1)
    plan = Plan(plan.catalog, 0, "vae", "text", bad=bad)
    expected = [{"images": 0, "videos": 0} for _ in sets]
    owners = [(number, bucket) for number, (buckets, _) in enumerate(mix) for bucket in buckets]
    for step in range(steps):
        positions = step * batch_size + np.arange(batch_size)
        for sample in plan.choices.at(order, positions)[0].tolist():
            number, bucket = owners[sample]
            expected[number]["videos" if bucket == 2 else "images"] += 1
    assert [{key: own[key] for key in ("images", "videos")} for own in mix_of((plan, order), steps)] == expected


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_weights_are_shares_of_the_samples_whatever_the_sizes(batch_size: int) -> None:
    """Where all of it divides, to the sample: 5 pictures get three times as much as 40 clips."""
    made = make_plan(make_set([2] * 40, weight=0.25), make_set([0, 0, 0, 0, 1], weight=0.75), batch_size=batch_size)
    told = mix_of(made, made[1].first_step(4))
    assert [(own["asked"], own["taken"]) for own in told] == [(0.25, 0.25), (0.75, 0.75)]
    assert [(own["images"], own["videos"]) for own in told] == [(0, 160), (480, 0)]


def test_an_epoch_passes_once_over_the_set_that_is_shown_least_often() -> None:
    _, order = make_plan(make_set([0] * 10, weight=1), make_set([0] * 4, weight=1))
    shown = np.bincount(order.steps(0, order.first_step(1))[1].ravel(), minlength=14)
    assert shown[:10].tolist() == [1] * 10
    assert set(shown[10:].tolist()) == {2, 3}
    assert shown[10:].sum() == 10


def test_a_weight_of_a_set_without_samples_is_an_error() -> None:
    with pytest.raises(DataError, match=r"data\.1\.weight: 2 cannot be met: /data has no sample to train on"):
        make_plan(make_set([0], weight=1), make_set([], weight=2))
    assert make_plan(make_set([0]), make_set([], repeats=2.0))[1].buckets == [0]


@pytest.fixture(scope="module")
def two_sets(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Few pictures of a style with three quarters of the samples, and more of another kind that count half."""
    root = tmp_path_factory.mktemp("mixture")
    tree = flux_tree(tiny_flux, root, root)
    tree["data"] = [
        {"path": str(write_pictures(root / name, count, seed=count)), "buckets": [[1, 64, 64]], "weight": weight}
        for name, count, weight in [("style", 2, 3), ("people", 4, 1)]
    ]
    tree["data"][1]["loss_weight"] = 0.5
    return tree


def test_a_run_reports_the_mix_that_it_trained_on(two_sets: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each sample counts what its set says: of 16, four count half."""
    seen: list[float] = []
    original = Trainer.micro_losses

    def micro_losses(trainer: Trainer, batch: Batch) -> torch.Tensor:
        if batch.noise.is_meta:  # where attention is chosen for a GPU
            return original(trainer, batch)
        losses, plain = original(trainer, batch), losses_of(trainer.objective, trainer.predict, batch)
        weight = torch.ones(len(plain)) if batch.weight is None else batch.weight.cpu()
        assert torch.equal(losses.cpu(), plain.cpu() * weight)
        seen.extend(weight.tolist())
        return losses

    monkeypatch.setattr(Trainer, "micro_losses", micro_losses)
    report = train(config_of(two_sets)).report
    assert sorted(seen) == [0.5] * 4 + [1.0] * 12
    run = next(event for event in events_of(two_sets["output_dir"]) if event["event"] == "run")
    expected = [("style", 2, 0.75, 0.75, 12, 0), ("people", 4, 0.25, 0.25, 4, 0)]
    for mix in (report["mix"], run["mix"]):
        told = [(Path(own["path"]).name, *(own[key] for key in list(own)[1:])) for own in mix]
        assert told == expected


def test_what_samples_count_scales_their_gradient_and_no_held_out_loss(two_sets: Tree, tmp_path: Path) -> None:
    """Twice as much for all, in micro-batches: twice the loss and twice the gradient of the first step."""
    write_pictures(tmp_path / "held-out", 2, seed=9)
    held_out = {"path": str(tmp_path / "held-out"), "buckets": [[1, 64, 64]]}
    curves, held = [], []
    for factor in (1.0, 2.0):
        sections = {"output_dir": str(tmp_path / str(factor)), "train": {"steps": 1, "micro_batch_size": 2}}
        tree = merged(two_sets, {**sections, "validation": {"data": [held_out]}})
        tree["data"] = [{**data, "loss_weight": factor * data.get("loss_weight", 1)} for data in tree["data"]]
        train(config_of(tree))
        curves.append(curve(tree["output_dir"], "loss", "grad_norm")[0])
        held.append(next(e["held_out_loss"] for e in events_of(tree["output_dir"]) if e["event"] == "validation"))
    assert curves[1] == pytest.approx([2 * number for number in curves[0]], rel=1e-6)
    assert held[0] == held[1]


def build(directory: Path, *configs: DataConfig) -> Catalog:
    memo = Memo(directory / "memo.sqlite")
    try:
        return build_catalog(configs, memo, workers=1, progress=lambda done, total: None)
    finally:
        memo.close()


def test_one_set_at_several_resolutions_is_looked_at_once_and_held_out_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same path twice, with other buckets: no file is read again, and none is trained on here and held out there."""
    write_pictures(tmp_path / "data", 12)
    looks: list[object] = []
    monkeypatch.setattr(probe_module, "probe", lambda file: looks.append(file) or probe(file))
    sizes = [((1, 64, 64),), ((1, 96, 96),)]
    catalog = build(tmp_path, *(DataConfig(path=str(tmp_path / "data"), buckets=size, weight=1) for size in sizes))
    assert len(looks) == len(set(looks)) == 12
    assert [len(data.item) for data in catalog.sets] == [12, 12]
    assert not any(data.problems for data in catalog.sets)
    for part in catalog.split(0.3):
        low, high = (sorted(data.path(n, "media") for n in range(len(data.item))) for data in part.sets)
        assert low == high
    made = Plan(catalog, 0, "vae", "text"), Order(0, 2, catalog.groups())
    jobs = made[0].distinct(made[1], 0, made[1].first_step(1))
    assert len(jobs.latents()) == len({job.key for job in jobs.latents()}) == 24
    assert len({job.key for job in jobs.texts()}) == 12
    assert [own["taken"] for own in mix_of(made, made[1].first_step(1))] == [0.5, 0.5]


def test_clips_are_no_stills_of_another_set_of_the_same_folder(tmp_path: Path) -> None:
    """Of a folder with pictures and clips, a set with image buckets alone takes clips only where it is told to."""
    write_pictures(tmp_path / "data", 3)
    for number in range(2):
        write_counter(tmp_path / "data" / f"clip{number}.mp4", num_frames=9, height=64, width=64)
        (tmp_path / "data" / f"clip{number}.txt").write_text("a clip")
    images = {"path": str(tmp_path / "data"), "buckets": ((1, 64, 64),), "on_error": "skip"}
    videos = DataConfig(path=str(tmp_path / "data"), buckets=((9, 64, 64),), on_error="skip", fps=None)
    for flag, expected in ((False, (3, 2)), (True, (5, 2))):
        catalog = build(tmp_path, DataConfig.model_validate({**images, "videos_as_images": flag}), videos)
        made = Plan(catalog, 0, "vae", "text"), Order(0, 1, catalog.groups())
        told = mix_of(made, made[1].first_step(1))
        assert (told[0]["images"], told[1]["videos"]) == expected
        assert told[0]["videos"] == told[1]["images"] == 0
