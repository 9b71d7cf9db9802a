"""What all samples of an optimizer step share, so that every process calls the denoiser equally often: how it is drawn."""

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from finetrainers.batch import Batch, Encoded, Posterior
from finetrainers.conditioning import GivenFrames
from finetrainers.data.conditions import draw, draw_both
from finetrainers.data.frames import FrameSelection
from finetrainers.data.loader import make_batch
from finetrainers.models.experts import Experts, expert_of
from finetrainers.models.noise import NoiseLevels, ResolutionShift
from finetrainers.objectives.flow import FlowMatching

BOUNDARY, FRAMES, TOKENS, SEED = 0.875, 4, 700, 11
DEVIATIONS = 4.5
"""Standard deviations of a binomial that a count may lie beside its mean: one count in 150,000 would not."""
LEVELS = NoiseLevels("logit_normal", shift=3.0, cuts=(BOUNDARY,))
EXPERTS = Experts({"transformer": torch.nn.Identity(), "transformer_2": torch.nn.Identity()}, [BOUNDARY, 0.0])


def assert_as_likely(count: int, among: int, probability: float) -> None:
    deviation = math.sqrt(among * probability * (1 - probability))
    assert abs(count - among * probability) <= DEVIATIONS * deviation, (
        f"{count} of {among}, where {probability} are expected"
    )


def distance(levels: Tensor, expected: NoiseLevels) -> float:
    """Largest difference of two distribution functions, as Kolmogorov and Smirnov have it."""
    whole = expected((torch.arange(100_000).double() + 0.5) / 100_000, TOKENS).sort().values
    place = torch.searchsorted(whole, levels.sort().values) / len(whole)
    return float((place - (torch.arange(len(levels)) + 0.5) / len(levels)).abs().max())


@pytest.mark.parametrize(
    "levels",
    [
        LEVELS,
        NoiseLevels("mode", shift=ResolutionShift(), cuts=(0.4, 0.9)),
        NoiseLevels("uniform", between=(0.1, 0.9), cuts=(0.3,)),
    ],
    ids=["logit-normal", "falling, three experts", "a part"],
)
def test_the_noise_levels_of_a_sample_are_distributed_as_without_experts(levels: NoiseLevels) -> None:
    """Of each place in the batch; and an expert gets as many steps as the distribution has noise levels in its range."""
    count, objective = 1000, FlowMatching(levels)
    whole = NoiseLevels(levels.kind, shift=levels.shift, between=levels.between)
    drawn = torch.stack([sigma_of(objective, step, range(3 * step, 3 * step + 3)) for step in range(count)])
    edges = (levels.between[0], *levels.cuts, levels.between[1] + 1e-6)
    for row in range(3):
        assert distance(drawn[:, row], whole) < 2 / math.sqrt(count)  # 1 in 1500 would be farther
    every = whole((torch.arange(100_000).double() + 0.5) / 100_000, TOKENS)
    for low, high in zip(edges, edges[1:], strict=False):
        inside = (drawn >= low) & (drawn < high)
        assert bool((inside.all(1) == inside.any(1)).all()), "one step has noise levels of two experts"
        assert_as_likely(int(inside[:, 0].sum()), count, float(((every >= low) & (every < high)).double().mean()))


def sigma_of(objective: FlowMatching, step: int, positions: Any) -> Tensor:
    u = draw_both(objective.draws, objective.step_draws, torch.tensor(positions), step=step, seed=SEED)
    return objective.sigma(u, tokens=TOKENS)


def test_the_high_noise_expert_has_the_share_that_the_documentation_states() -> None:
    """Logit-normal with shift 3: 20 % from 0.875 on, and 14 % from 0.9 on, to the grid of the draws."""
    for boundary, share in ((0.875, 0.1984), (0.9, 0.1360)):
        levels = NoiseLevels("logit_normal", shift=3.0, cuts=(boundary,))
        below, above = (levels.of_one_expert(1 - share + change, tokens=1).between for change in (-1e-4, 1e-4))
        assert below[1] < boundary
        assert above == (boundary, 1.0)


def test_a_level_of_the_lower_expert_is_never_rounded_to_the_boundary() -> None:
    highest = torch.tensor([1 - 2.0**-24])
    for boundary in (0.875, 0.9, 0.3):
        lower = NoiseLevels("logit_normal", shift=3.0, cuts=(boundary,)).of_one_expert(0.0, tokens=1)
        assert float(lower(highest, 1)) < float(torch.tensor(boundary))
        assert float(lower(highest, 1)) == pytest.approx(boundary, abs=1e-5)


def test_random_sets_of_frames_are_as_likely_as_before() -> None:
    """Each size from one frame to all, and each set of a size; with a probability, or none at all."""
    count, probability = 20_000, 0.6
    sets = masks_of(GivenFrames("random", probability), count)
    assert_as_likely(int((~sets.any(1)).sum()), count, 1 - probability)
    for size in range(1, FRAMES + 1):
        for chosen in combinations(range(FRAMES), size):
            pattern = torch.zeros(FRAMES, dtype=torch.bool).index_fill(0, torch.tensor(chosen), True)
            found = int((sets == pattern).all(1).sum())
            assert_as_likely(found, count, probability / FRAMES / math.comb(FRAMES, size))


@pytest.mark.parametrize("kind", ["first", "last", "first_and_last"])
def test_sets_of_fixed_frames_are_given_with_their_probability(kind: Any) -> None:
    count, probability = 20_000, 0.3
    assert_as_likely(int(masks_of(GivenFrames(kind, probability), count).any(1).sum()), count, probability)


def masks_of(given_frames: GivenFrames, count: int) -> Tensor:
    """Frames that the first sample is given in each of many steps of three samples, [count, F]."""
    steps = torch.arange(count)
    draws = given_frames.draws(FRAMES), given_frames.step_draws
    u = torch.cat([draw(draws[0], 3 * steps, seed=SEED), draw(draws[1], steps, seed=SEED)], dim=1)
    return given_frames.at(torch.full([count], 0.5), u, frames=FRAMES).mask


# -- batches ----------------------------------------------------------------------------------------------------------


def batch_of(step: int, positions: Any, kind: Any = "random") -> Batch:
    """Of experts, later frames and references at once, of which no family has all."""
    one = Posterior(torch.zeros(1, FRAMES, 2, 2), None)
    pictures = {f"reference.{number}": Posterior(torch.ones(1, 1, 2, 2), None) for number in range(2)}
    sample = Encoded({"media": one, **pictures}, {"prompt_embeds": torch.zeros(2, 3)}, fps=8.0)
    return make_batch(
        list(positions),
        [sample] * len(positions),
        seed=SEED,
        step=step,
        objective=FlowMatching(LEVELS),
        given_frames=GivenFrames(kind, 0.7),
        tokens=TOKENS,
        padding=0,
        selections={"reference": FrameSelection(dropout=0.4)},
    )


def decisions(batch: Batch) -> list[tuple[Any, ...]]:
    """What decides for each sample how often the denoiser is called, and with how many tokens."""
    assert batch.level is not None
    assert batch.prompt.given is not None
    experts = [expert_of(EXPERTS, level) is EXPERTS.transformer for level in batch.level.split(1)]
    shown = [tuple(bool(medium.is_shown[row]) for medium in batch.media.values()) for row in range(len(experts))]
    return list(zip(experts, batch.prompt.given[:, 1:].sum(1).tolist(), shown, strict=True))


@pytest.mark.parametrize("kind", ["random", "last"])
def test_all_samples_of_a_step_share_what_decides_the_calls(kind: Any) -> None:
    """Whole, in rows of several processes and in micro-batches; and all that is possible comes in some step."""
    found = set()
    for step in range(20):
        positions = range(8 * step, 8 * step + 8)
        batch = batch_of(step, positions, kind)
        (shared,) = set(decisions(batch))
        found.add(shared)
        for size in (1, 4):
            parts = [batch_of(step, positions[start : start + size], kind) for start in range(0, 8, size)]
            assert torch.equal(torch.cat([part.sigma for part in parts]), batch.sigma)
            assert torch.equal(torch.cat([part.prompt.given for part in parts]), batch.prompt.given)  # type: ignore[misc]
            assert {own for part in parts for own in decisions(part)} == {shared}
        assert {own for micro in batch.split(3) for own in decisions(micro)} == {shared}
        assert len(batch.sigma[:, 1].unique()) == 8  # the levels within the range are each sample's own
    experts, counts, shown = zip(*found, strict=True)
    assert set(experts) == {True, False}
    assert set(counts) == (set(range(FRAMES)) if kind == "random" else {0, 1})
    assert set(shown) == {(True, True), (False, False)}


def test_first_frames_are_each_samples_own() -> None:
    """They stand in their place, and change neither the calls nor the tokens: a step has samples of both kinds."""
    given = torch.stack([batch_of(step, range(8 * step, 8 * step + 8), "first").prompt.given for step in range(20)])  # type: ignore[misc]
    assert not given[:, :, 1:].any()
    assert any(0 < int(own.sum()) < 8 for own in given)
    assert_as_likely(int(given[:, :, 0].sum()), 160, 0.7)


def test_references_are_shown_with_their_probability() -> None:
    shown = [bool(batch_of(step, [step]).media["reference.0"].is_shown) for step in range(150)]
    assert_as_likely(sum(shown), 150, 0.6)


def test_the_level_of_a_batch_is_that_of_its_clip_and_stays_on_the_cpu() -> None:
    """Whatever frames are given, wherever the batch is, and for any rows of it."""
    batch = batch_of(3, range(24, 32), "first")
    expected = sigma_of(FlowMatching(LEVELS), 3, range(24, 32))
    away = batch.to(torch.device("meta"))
    for own, rows in (
        (batch, slice(8)),
        (away, slice(8)),
        (away.rows(slice(2, 5)), slice(2, 5)),
        (away.split(3)[1], slice(3, 6)),
    ):
        assert own.level is not None
        assert torch.equal(own.level, expected[rows])
