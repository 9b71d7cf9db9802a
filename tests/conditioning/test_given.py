"""Given frames: which frames of a clip are given, how clean they are, and that they stand beside a control in one run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import config_of, curve, events_of, flux_tree, merged, write_pictures
from torch import Tensor

import finetrainers
from finetrainers.batch import Batch
from finetrainers.conditioning import GivenFrames
from finetrainers.distributed.world import alone
from finetrainers.models.noise import GIVEN_FRAME_MAX_SIGMA, NoiseLevels
from finetrainers.objectives.flow import FlowMatching
from finetrainers.testing.model_under_test import ModelUnderTest
from finetrainers.training.build import build_batches

GRAY = {"kind": "channel_concat", "signal": "gray"}


def uniforms(count: int, *columns: int, seed: int = 0) -> Tensor:
    """Draws on the grid, as data/draws.py makes them: multiples of 2^-24."""
    return torch.rand(count, *columns, generator=torch.Generator().manual_seed(seed))


LOGIT_NORMAL = NoiseLevels()

# -- the first frame --------------------------------------------------------------------------------------------------


def draws(
    count: int = 2000, frames: int = 4, levels: NoiseLevels = LOGIT_NORMAL, **settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The noise level of the clip, and what given frames make of it."""
    u = uniforms(count, 3)
    level = levels(u[:, 0], 256)
    given = GivenFrames(**settings).at(level, u[:, 1:], frames=frames)
    assert given.loss_mask is not None
    assert given.sigma.shape == given.loss_mask.shape == (count, frames)
    assert given.sigma.dtype == given.loss_mask.dtype == torch.float32
    return level, given.sigma, given.loss_mask


def test_without_given_frames_all_have_the_noise_level_of_the_clip_and_count() -> None:
    level = NoiseLevels()(uniforms(2000), 256)
    given = GivenFrames(probability=0.0).at(level, uniforms(2000, 2), frames=4)
    assert torch.equal(given.sigma, level[:, None].expand(-1, 4))
    assert given.loss_mask is None
    assert not given.mask.any()


def test_with_probability_1_every_first_frame_is_given() -> None:
    level, sigma, loss_mask = draws(probability=1.0)
    assert bool((loss_mask == torch.tensor([0.0, 1, 1, 1])).all())
    assert torch.equal(sigma[:, 1:], level[:, None].expand(-1, 3))
    assert bool((sigma[:, 0] <= GIVEN_FRAME_MAX_SIGMA).all())
    assert bool((sigma[:, 0] <= level).all())
    assert len(sigma[:, 0].unique()) > 1900


def test_a_given_frame_is_never_noisier_than_its_clip() -> None:
    """Also where the clip itself is nearly clean."""
    level, sigma, loss_mask = draws(probability=1.0, levels=NoiseLevels("uniform", shift=0.02))
    assert bool((level < GIVEN_FRAME_MAX_SIGMA).any())
    assert bool((sigma[:, 0] <= level).all())


def test_the_given_frames_are_as_many_as_is_asked_for() -> None:
    level, sigma, loss_mask = draws(20_000, probability=0.1)
    is_given = loss_mask[:, 0] == 0
    assert float(is_given.double().mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(sigma[~is_given], level[~is_given, None].expand(-1, 4))
    assert bool((loss_mask[:, 1:] == 1).all())
    levels = (float(level[rows].mean()) for rows in (is_given, ~is_given))
    assert next(levels) == pytest.approx(next(levels), abs=0.03)  # which frames are given has nothing to do with the level


def given_sets(kind: Any, count: int = 4000, frames: int = 4, probability: float = 1.0) -> Tensor:
    """Which frames are given, [count, frames], with the noise levels and what counts checked beside them."""
    given_frames = GivenFrames(kind, probability)
    u = uniforms(count, 1 + len(given_frames.draws(frames)) + len(given_frames.step_draws))
    level = NoiseLevels()(u[:, 0], 256)
    given = given_frames.at(level, u[:, 1:], frames=frames)
    mask, sigma, loss_mask = given.mask, given.sigma, given.loss_mask
    assert torch.equal(loss_mask[:, 0] == 0, mask[:, 0])  # later frames are given beside the clip, and stay noisy in it
    assert bool((loss_mask[:, 1:] == 1).all())
    assert torch.equal(sigma[:, 1:], level[:, None].expand(-1, frames - 1))
    assert bool((sigma[mask[:, 0], 0] <= GIVEN_FRAME_MAX_SIGMA).all())
    return mask


@pytest.mark.parametrize(
    "kind, pattern", [("first", [1, 0, 0, 0]), ("last", [0, 0, 0, 1]), ("first_and_last", [1, 0, 0, 1])]
)
def test_a_set_of_given_frames_is_the_one_that_is_asked_for(kind: Any, pattern: list[int]) -> None:
    assert bool((given_sets(kind) == torch.tensor(pattern, dtype=torch.bool)).all())
    some = given_sets(kind, probability=0.3)
    assert float(some.any(1).double().mean()) == pytest.approx(0.3, abs=0.03)
    assert bool((some[some.any(1)] == torch.tensor(pattern, dtype=torch.bool)).all())


def test_random_sets_are_of_any_size_and_any_frames() -> None:
    given = given_sets("random", frames=3)
    sizes = torch.bincount(given.sum(1), minlength=4).double() / len(given)
    torch.testing.assert_close(sizes, torch.tensor([0, 1, 1, 1]).double() / 3, rtol=0, atol=0.03)
    torch.testing.assert_close(given.double().mean(0), torch.full([3], 2 / 3).double(), rtol=0, atol=0.03)
    assert len(given.unique(dim=0)) == 7  # all but the empty one


@pytest.mark.parametrize("kind", ["first", "last", "first_and_last", "random"])
def test_an_image_has_no_frames_to_give(kind: Any) -> None:
    given_frames = GivenFrames(kind, probability=1.0)
    u = uniforms(50, len(given_frames.draws(1)) + len(given_frames.step_draws))
    assert not given_frames.at(uniforms(50), u, frames=1).mask.any()


def test_what_is_measured_is_given_what_training_always_gives() -> None:
    level = torch.tensor([0.7])
    sets: Any = (("first", [1, 0, 0]), ("last", [0, 0, 1]), ("first_and_last", [1, 0, 1]))
    for kind, expected in sets:
        always = GivenFrames(kind, probability=1.0).measured().at(level, uniforms(1, 2), frames=3)
        assert always.mask.tolist() == [[bool(frame) for frame in expected]]
        assert torch.equal(always.sigma, torch.tensor([[0.7 * (1 - expected[0]), 0.7, 0.7]]))
        assert always.loss_mask is not None
        assert always.loss_mask.tolist() == [[1.0 - expected[0], 1.0, 1.0]]
        sometimes = GivenFrames(kind, probability=0.9).measured().at(level, torch.zeros(1, 2), frames=3)
        assert not sometimes.mask.any()
        assert bool((sometimes.sigma == 0.7).all())
        assert sometimes.loss_mask is None


def test_an_image_is_never_given() -> None:
    level, sigma, loss_mask = draws(frames=1, probability=1.0)
    assert torch.equal(sigma, level[:, None])
    assert bool((loss_mask == 1).all())


@pytest.mark.parametrize("frames", [1, 4])
def test_whether_there_is_a_loss_mask_does_not_depend_on_what_a_batch_draws(frames: int) -> None:
    """A sample's loss is computed in one way, whoever shares its batch."""
    given_frames = GivenFrames(probability=0.1)
    is_given, is_not = (given_frames.at(torch.tensor([0.5]), torch.tensor([[u, 0.5]]), frames=frames) for u in (0.0, 0.9))
    assert bool(is_given.mask.any()) == (frames > 1)
    assert not is_not.mask.any()
    assert is_given.loss_mask is not None
    assert is_not.loss_mask is not None


def test_the_purposes_of_the_draws_are_those_of_earlier_versions() -> None:
    """A run of one of them goes on with the draws that it began with; later frames are drawn for the step since 0.5."""
    assert (FlowMatching().draws, FlowMatching().step_draws) == (("sigma",), ())
    assert (GivenFrames().draws(3), GivenFrames().step_draws) == (("first frame", "first sigma"), ())
    for kind in ("last", "first_and_last"):
        later = GivenFrames(kind)  # type: ignore[arg-type]
        assert (later.draws(3), later.step_draws) == (("first sigma",), ("given",))
    sets = GivenFrames("random")
    assert sets.draws(3) == ("first sigma", "given frame 1", "given frame 2")
    assert sets.step_draws == ("given", "given count", "given first")


# -- beside a control -------------------------------------------------------------------------------------------------


def test_given_frames_beside_a_control_draw_what_each_draws_alone(tiny_ltx: Path, tmp_path: Path) -> None:
    """One run trains and measures with both; which comes first in the list is all the same."""
    given = {"kind": "given_frames", "probability": 0.5}
    control = {**GRAY, "frames": "random", "probability": 0.5}
    first = ModelUnderTest({"path": str(tiny_ltx), "max_sequence_length": 16}, (17, 64, 64), tmp_path, given)

    def batches(conditioning: Any) -> list[Batch]:
        subject = replace(first, conditioning=conditioning)
        config = subject.config("run")
        made = build_batches(config, subject.prepared, objective=subject.objective, world=alone(), start=0, stop=6)
        return list(made)

    plain, shown = batches(given), batches(control)
    for both in (batches([given, control]), batches([control, given])):
        for batch, with_given, with_control in zip(both, plain, shown, strict=True):
            assert torch.equal(batch.noise, with_given.noise)
            assert torch.equal(batch.sigma, with_given.sigma)
            assert batch.loss_mask is not None
            assert with_given.loss_mask is not None
            assert torch.equal(batch.loss_mask, with_given.loss_mask)
            assert torch.equal(batch.prompt.given, with_given.prompt.given)  # type: ignore[arg-type]
            for name in ("latents", "mask"):
                assert torch.equal(getattr(batch.media["control"], name), getattr(with_control.media["control"], name))
            assert torch.equal(batch.sigma[:, 1:], with_control.sigma[:, 1:])
    assert len({tuple(row) for batch in plain for row in batch.prompt.given.tolist()}) == 2  # type: ignore[union-attr]
    assert len({tuple(row) for batch in shown for row in batch.media["control"].mask.tolist()}) > 2
    config = first.config("both", conditioning=[given, control], train={"steps": 2}, validation={"held_out": 0.3})
    finetrainers.train(config)
    assert len(curve(config.output_dir, "loss")) == 2
    assert len([event for event in events_of(config.output_dir) if event["event"] == "validation"]) == 2


def test_a_mapping_and_a_list_mean_one_run(tiny_flux: Path, tmp_path: Path) -> None:
    """Curves are equal to the bit, and a run that was begun with one goes on with the other."""
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "media", 2), tmp_path, conditioning=GRAY)
    as_list = {**tree, "conditioning": [GRAY]}
    train = {"steps": 2, "batch_size": 2, "micro_batch_size": 2}
    for name, written in (("mapping", tree), ("list", as_list)):
        finetrainers.train(config_of(merged(written, {"output_dir": str(tmp_path / name), "train": train})))
    facts = ("loss", "grad_norm")
    assert curve(tmp_path / "mapping", *facts) == curve(tmp_path / "list", *facts)
    for name, written in (("mapping", as_list), ("list", tree)):
        changes = {"output_dir": str(tmp_path / name), "train": {**train, "steps": 3}}
        finetrainers.train(config_of(merged(written, changes)))
    assert curve(tmp_path / "mapping", *facts) == curve(tmp_path / "list", *facts)
    assert len(curve(tmp_path / "list", *facts)) == 3
