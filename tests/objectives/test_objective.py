"""Noise levels, corruption, targets and weights, by the identities that define them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from torch import Tensor

from finetrainers.conditioning import GivenFrames
from finetrainers.config import ObjectiveConfig
from finetrainers.models.noise import (
    NoiseLevels,
    ResolutionShift,
    cosmap_sigma,
    logit_normal_sigma,
    mode_sigma,
    shift_sigma,
    timestep_of,
    uniform_sigma,
)
from finetrainers.objectives.diffusion import Diffusion
from finetrainers.objectives.flow import FlowMatching, Noised, cosmap_weight, sigma_sqrt_weight

examples = settings(deadline=None, database=None, derandomize=True, max_examples=60)

STEP = 2.0**-24
"""Spacing of the uniform draws, as data/draws.py makes them."""
GRID = torch.cat([torch.arange(4096) * STEP, torch.arange(0, 2**24, 2**10 - 1) * STEP, 1 - torch.arange(4096, 0, -1) * STEP])
"""Draws in [0, 1), dense at both ends; the first is 0 and the last 1 - 2^-24."""
SHIFTS = st.floats(0.05, 20)
LEVELS = st.one_of(
    st.builds(NoiseLevels, st.sampled_from(["uniform", "cosmap"]), shift=SHIFTS),
    st.builds(NoiseLevels, st.just("mode"), mode_scale=st.floats(-1, 1.75), shift=SHIFTS),
    st.builds(
        NoiseLevels, st.just("logit_normal"), logit_mean=st.floats(-5, 5), logit_std=st.floats(0.01, 50), shift=SHIFTS
    ),
)


def uniforms(count: int, *columns: int, seed: int = 0) -> Tensor:
    """Draws on the grid, as data/draws.py makes them: multiples of 2^-24."""
    return torch.rand(count, *columns, generator=torch.Generator().manual_seed(seed))


# -- noise levels -----------------------------------------------------------------------------------------------------


@examples
@given(LEVELS)
def test_noise_levels_lie_between_0_and_1_for_every_draw(levels: NoiseLevels) -> None:
    sigma = levels(GRID.float(), 256)
    assert sigma.dtype == torch.float32
    assert bool(((sigma > 0) & (sigma < 1)).all())


@examples
@given(LEVELS)
def test_noise_levels_are_monotone_in_the_draw(levels: NoiseLevels) -> None:
    """They are quantile functions; that of mode is written as falling."""
    difference = levels(GRID.sort().values, 256).diff()
    assert bool((difference * (-1 if levels.kind == "mode" else 1) >= 0).all())


@examples
@given(LEVELS)
def test_noise_levels_are_rounded_to_no_grid(levels: NoiseLevels) -> None:
    """With 1000 time steps, as in other trainers, at most 1000 of these levels would differ."""
    u = uniforms(20_000)
    sigma = levels(u, 256).double()
    inner = sigma[(sigma > 1e-3) & (sigma < 1 - 1e-3)]
    assume(len(inner) > 10_000)  # else most are at an end, where float32 has few
    assume(levels.kind != "logit_normal" or levels.logit_std > 0.3)
    assert len(inner.unique()) > 0.95 * len(inner)
    assert ((1000 * inner - (1000 * inner).round()).abs() < 1e-3).double().mean() < 0.05


@pytest.mark.parametrize("kind", ["uniform", "logit_normal", "mode", "cosmap"])
def test_draws_from_both_ends_give_levels_that_mirror_each_other(kind: str) -> None:
    """0 is drawn as often as 1 - 2^-24: no draw is an outlier beyond what the distribution has."""
    levels = NoiseLevels(kind)
    mirrored = levels(GRID.float(), 1) + levels((1 - STEP - GRID).float(), 1)
    torch.testing.assert_close(mirrored, torch.ones_like(mirrored), rtol=0, atol=1e-6)


def test_uniform_is_the_draw_itself() -> None:
    u = uniforms(1000).double()
    assert torch.equal(uniform_sigma(u), u)
    torch.testing.assert_close(NoiseLevels("uniform")(u, 1), u.float(), rtol=0, atol=2 * STEP)


@examples
@given(st.floats(-3, 3), st.floats(0.1, 3), st.floats(0.001, 0.999))
def test_logit_normal_has_the_distribution_function_of_the_sigmoid_of_a_normal(mean, std, u) -> None:
    sigma = logit_normal_sigma(torch.tensor(u, dtype=torch.float64), mean, std)
    normal = torch.distributions.Normal(*torch.tensor([mean, std], dtype=torch.float64))
    torch.testing.assert_close(normal.cdf(torch.logit(sigma)), torch.tensor(u, dtype=torch.float64), rtol=0, atol=1e-9)


def test_logit_normal_draws_have_the_median_and_spread_that_are_asked_for() -> None:
    logits = torch.logit(NoiseLevels("logit_normal", logit_mean=-0.5, logit_std=1.5)(uniforms(200_000), 1).double())
    assert float(logits.mean()) == pytest.approx(-0.5, abs=0.02)
    assert float(logits.std()) == pytest.approx(1.5, rel=0.01)


def test_mode_with_scale_0_is_uniform() -> None:
    u = uniforms(1000).double()
    torch.testing.assert_close(mode_sigma(u, 0.0), 1 - u, rtol=0, atol=1e-15)


@examples
@given(st.floats(-1, 1.75))
def test_mode_keeps_both_ends_and_the_middle(scale: float) -> None:
    sigma = mode_sigma(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), scale)
    torch.testing.assert_close(sigma, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scale", "is_more"), [(1.29, True), (-1.0, False)])
def test_mode_prefers_the_middle_above_0_and_the_ends_below(scale: float, is_more: bool) -> None:
    sigma = mode_sigma(uniforms(10_000).double(), scale)
    in_the_middle = float(((sigma > 0.25) & (sigma < 0.75)).double().mean())
    assert abs(in_the_middle - 0.5) > 0.1
    assert (in_the_middle > 0.5) == is_more


def test_cosmap_has_the_signal_to_noise_ratio_of_the_cosine_schedule() -> None:
    """Log of (1 - sigma) / sigma is log of cos(pi u / 2) / sin(pi u / 2)."""
    u = uniforms(1000).double().clamp(1e-6, 1 - 1e-6)
    sigma = cosmap_sigma(u)
    torch.testing.assert_close((1 - sigma) / sigma, torch.cos(math.pi / 2 * u) / torch.sin(math.pi / 2 * u))


def test_cosmap_weight_is_the_density_of_cosmap_noise_levels() -> None:
    """The density at a quantile is one over the slope of the quantile function."""
    u = uniforms(1000).double().requires_grad_()
    sigma = cosmap_sigma(u)
    (slope,) = torch.autograd.grad(sigma.sum(), u)
    torch.testing.assert_close(cosmap_weight(sigma.detach()), 1 / slope)


def test_cosmap_weight_is_a_density() -> None:
    middles = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert float(cosmap_weight(middles).mean()) == pytest.approx(1, abs=1e-8)


def test_sigma_sqrt_weight_makes_an_error_of_the_velocity_one_of_the_data_per_noise() -> None:
    sigma, error = uniforms(100).double() + 1e-3, torch.randn(100, dtype=torch.float64)
    torch.testing.assert_close(sigma_sqrt_weight(sigma) * (sigma * error) ** 2, error**2)


# -- shift ------------------------------------------------------------------------------------------------------------


@examples
@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_shifts_are_a_group(a: float, b: float) -> None:
    sigma = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(shift_sigma(shift_sigma(sigma, a), b), shift_sigma(sigma, a * b))
    torch.testing.assert_close(shift_sigma(shift_sigma(sigma, a), 1 / a), sigma)
    assert torch.equal(shift_sigma(sigma, 1.0), sigma)


@examples
@given(st.floats(-2, 2), st.floats(0.1, 2), st.floats(0.05, 20))
def test_a_shift_moves_the_mean_of_logit_normal(mean: float, std: float, shift: float) -> None:
    u = uniforms(100).double() + STEP / 2
    shifted = shift_sigma(logit_normal_sigma(u, mean, std), shift)
    torch.testing.assert_close(shifted, logit_normal_sigma(u, mean + math.log(shift), std))


def test_noise_levels_apply_their_shift_after_the_distribution() -> None:
    u = uniforms(1000)
    for kind in ("uniform", "logit_normal", "mode", "cosmap"):
        plain = NoiseLevels(kind)(u, 256)
        torch.testing.assert_close(NoiseLevels(kind, shift=3.0)(u, 256), shift_sigma(plain, 3.0), rtol=1e-5, atol=1e-6)
        assert bool((NoiseLevels(kind, shift=3.0)(u, 256) > plain).all())


def test_the_resolution_shift_passes_its_two_points() -> None:
    shift = ResolutionShift(base_tokens=1024, base_mu=0.95, max_tokens=4096, max_mu=2.05)
    assert shift(1024) == pytest.approx(math.exp(0.95))
    assert shift(4096) == pytest.approx(math.exp(2.05))


@examples
@given(st.integers(1, 100_000))
def test_the_resolution_shift_is_that_of_the_pipelines(tokens: int) -> None:
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    assert ResolutionShift()(tokens) == pytest.approx(math.exp(calculate_shift(tokens)))
    ltx = ResolutionShift(base_tokens=1024, base_mu=0.95, max_tokens=4096, max_mu=2.05)
    assert ltx(tokens) == pytest.approx(math.exp(calculate_shift(tokens, 1024, 4096, 0.95, 2.05)))


def test_the_resolution_shift_is_that_of_the_scheduler() -> None:
    """Training and sampling agree on what a noise level of this resolution is."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = math.log(ResolutionShift()(1000))
    u = uniforms(100).double()
    expected = torch.from_numpy(scheduler.time_shift(mu, 1.0, u.numpy()))
    torch.testing.assert_close(shift_sigma(u, ResolutionShift()(1000)), expected)


def test_noise_levels_take_the_shift_of_their_tokens() -> None:
    u, levels = uniforms(100), NoiseLevels("logit_normal", shift=ResolutionShift())
    for tokens in (64, 4096):
        fixed = NoiseLevels("logit_normal", shift=ResolutionShift()(tokens))
        assert torch.equal(levels(u, tokens), fixed(u, tokens))
    assert bool((levels(u, 4096) > levels(u, 64)).all())


# -- corruption, target, loss -----------------------------------------------------------------------------------------


def levels_with(u: Tensor, *, probability: float, frames: int) -> tuple[Tensor, Tensor | None]:
    """Noise levels and what counts where first frames are given, by draws [B, 3]."""
    given = GivenFrames(probability=probability).at(FlowMatching().sigma(u[:, :1], tokens=256), u[:, 1:], frames=frames)
    return given.sigma, given.loss_mask


def noised_with(objective: FlowMatching, sigma: Tensor, loss_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Noised]:
    generator = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(*sigma.shape[:1], 4, sigma.shape[1], 2, 3, generator=generator) for _ in range(2))
    return latents, noise, objective.corrupt(latents, noise, sigma=sigma, loss_mask=loss_mask)


def test_the_true_velocity_leads_back_to_the_data_and_on_to_the_noise() -> None:
    sigma = uniforms(3, 5)
    latents, noise, noised = noised_with(FlowMatching(), sigma)
    s = sigma.view(3, 1, 5, 1, 1)
    torch.testing.assert_close(noised.x - s * noised.target, latents)
    torch.testing.assert_close(noised.x + (1 - s) * noised.target, noise)


def test_both_ends_of_the_path_are_data_and_noise() -> None:
    latents, noise, clean = noised_with(FlowMatching(), torch.zeros(2, 3))
    _, _, pure = noised_with(FlowMatching(), torch.ones(2, 3))
    assert torch.equal(clean.x, latents)
    assert torch.equal(pure.x, noise)


def test_each_frame_has_the_noise_of_its_own_level() -> None:
    sigma = torch.tensor([[0.0, 1.0, 0.0]])
    latents, noise, noised = noised_with(FlowMatching(), sigma)
    assert torch.equal(noised.x[:, :, 0], latents[:, :, 0])
    assert torch.equal(noised.x[:, :, 1], noise[:, :, 1])
    assert torch.equal(noised.x[:, :, 2], latents[:, :, 2])


def naive_loss(prediction: Tensor, noised: Noised, weight: object) -> Tensor:
    """As one would write it on paper: a sum over all that counts, one number at a time."""
    losses = []
    for b in range(len(prediction)):
        errors = []
        for f in range(prediction.shape[2]):
            if noised.loss_mask[b, f]:
                squares = (prediction[b, :, f].double() - noised.target[b, :, f].double()) ** 2
                errors.append(float(weight(float(noised.sigma[b, f]))) * float(squares.mean()))
        losses.append(sum(errors) / len(errors))
    return torch.tensor(losses)


@pytest.mark.parametrize(
    ("weighting", "weight"),
    [
        ("none", lambda s: 1),
        ("sigma_sqrt", lambda s: 1 / s**2),
        ("cosmap", lambda s: 2 / (math.pi - 2 * math.pi * s + 2 * math.pi * s**2)),
    ],
)
def test_the_loss_is_the_weighted_mean_over_the_frames_that_count(weighting, weight) -> None:
    objective = FlowMatching(weighting=weighting)
    sigma, loss_mask = levels_with(uniforms(16, 3), probability=0.5, frames=3)
    assert 0 < int(loss_mask[:, 0].sum()) < 16
    _, _, noised = noised_with(objective, sigma, loss_mask)
    prediction = torch.randn(noised.x.shape, generator=torch.Generator().manual_seed(2))
    loss = objective.loss(prediction, noised)
    assert (loss.shape, loss.dtype) == ((16,), torch.float32)
    torch.testing.assert_close(loss, naive_loss(prediction, noised, weight))


def test_the_loss_of_a_sample_does_not_depend_on_its_batch() -> None:
    objective = FlowMatching()
    sigma, loss_mask = levels_with(uniforms(8, 3), probability=0.5, frames=3)
    _, _, noised = noised_with(objective, sigma, loss_mask)
    whole = objective.loss(torch.zeros_like(noised.x), noised)
    for b in range(8):
        one = Noised(*(t[b : b + 1] for t in (noised.x, noised.sigma, noised.target, noised.loss_mask)))
        torch.testing.assert_close(objective.loss(torch.zeros_like(one.x), one), whole[b : b + 1])


@pytest.mark.parametrize("objective", [FlowMatching(), FlowMatching().measured(), FlowMatching(weighting="cosmap")])
def test_no_mask_is_a_mask_of_all_frames(objective: FlowMatching) -> None:
    """Up to rounding, and where it is measured to the bit; none of a sample's frames counts more than another's."""
    sigma = uniforms(5, 3)
    _, _, plain = noised_with(objective, sigma)
    _, _, masked = noised_with(objective, sigma, torch.ones_like(sigma))
    prediction = torch.randn(plain.x.shape, generator=torch.Generator().manual_seed(2))
    losses = [objective.loss(prediction, noised) for noised in (plain, masked)]
    torch.testing.assert_close(losses[0], losses[1])
    assert torch.equal(*losses) or not objective.is_measured
    if objective.weighting == "none":
        torch.testing.assert_close(losses[0], (prediction - plain.target).square().mean(dim=(1, 2, 3, 4)))


def test_the_true_velocity_has_no_loss() -> None:
    _, _, noised = noised_with(FlowMatching(), uniforms(3, 2))
    assert torch.equal(FlowMatching().loss(noised.target, noised), torch.zeros(3))


def test_what_is_given_does_not_count_whatever_is_predicted() -> None:
    objective = FlowMatching()
    sigma, loss_mask = levels_with(uniforms(4, 3), probability=1.0, frames=3)
    _, _, noised = noised_with(objective, sigma, loss_mask)
    prediction = noised.target.clone()
    prediction[:, :, 0] += 100
    prediction.requires_grad_()
    loss = objective.loss(prediction, noised)
    assert torch.equal(loss, torch.zeros(4))
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    assert not bool(gradient.any())


@pytest.mark.parametrize("weighting", ["none", "sigma_sqrt", "cosmap"])
def test_a_given_frame_without_any_noise_makes_no_undefined_loss(weighting) -> None:
    """The draw of its noise level can be 0, where 1 / sigma^2 is infinite."""
    objective = FlowMatching(weighting=weighting)
    sigma, loss_mask = levels_with(torch.tensor([[0.5, 0.0, 0.0]]), probability=1.0, frames=2)
    assert float(sigma[0, 0]) == 0
    _, _, noised = noised_with(objective, sigma, loss_mask)
    assert bool(torch.isfinite(objective.loss(torch.zeros_like(noised.x), noised)).all())


def test_the_loss_is_float32_whatever_the_prediction_is() -> None:
    _, _, noised = noised_with(FlowMatching(), uniforms(3, 2))
    prediction = torch.randn(noised.x.shape).bfloat16()
    loss = FlowMatching().loss(prediction, noised)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, FlowMatching().loss(prediction.float(), noised))


def test_defaults_are_those_of_the_configuration() -> None:
    config, levels = ObjectiveConfig(), NoiseLevels()
    assert (config.logit_mean, config.logit_std, config.mode_scale) == (
        levels.logit_mean,
        levels.logit_std,
        levels.mode_scale,
    )


# -- a range of noise levels ------------------------------------------------------------------------------------------

RANGES = st.tuples(st.floats(0, 0.8), st.floats(0.05, 1.0)).map(lambda pair: (pair[0], min(1.0, pair[0] + pair[1])))


@examples
@given(levels=LEVELS, between=RANGES)
def test_levels_of_an_expert_stay_in_its_range(levels: NoiseLevels, between: tuple[float, float]) -> None:
    sigma = replace(levels, between=between)(uniforms(500), 256)
    low, high = between
    assert bool((sigma >= low - 1e-6).all())
    assert bool((sigma <= high + 1e-6).all())


@pytest.mark.parametrize("kind", ["uniform", "logit_normal", "mode", "cosmap"])
@pytest.mark.parametrize("between", [(0.0, 0.875), (0.875, 1.0), (0.3, 0.6)])
def test_levels_of_an_expert_are_those_of_the_whole_that_fall_into_its_range(kind, between) -> None:
    """Same distribution: the quantiles of one are the quantiles of the other, of which only those inside are kept."""
    levels = NoiseLevels(kind, shift=2.5)
    u = (torch.arange(200_001).double() / 200_001).float()
    whole = levels(u, 1).sort().values
    inside = whole[(whole >= between[0]) & (whole <= between[1])]
    own = replace(levels, between=between)(u, 1).sort().values
    parts = torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99])
    torch.testing.assert_close(torch.quantile(own, parts), torch.quantile(inside, parts), rtol=0, atol=2e-4)


def test_the_whole_range_changes_no_bit() -> None:
    u = uniforms(1000)
    assert torch.equal(NoiseLevels(between=(0.0, 1.0))(u, 1), NoiseLevels()(u, 1))


# -- v-prediction -----------------------------------------------------------------------------------------------------

ALPHAS = tuple(torch.linspace(0.999, 0.0, 1000).tolist())


def test_v_leads_back_to_the_data_and_to_the_noise() -> None:
    sigma = uniforms(3, 1).expand(3, 5).contiguous()
    latents, noise, noised = noised_with(Diffusion(alphas_cumprod=ALPHAS), sigma)
    alpha = torch.tensor(ALPHAS)[timestep_of(sigma)][:, None, :, None, None]
    torch.testing.assert_close(alpha.sqrt() * noised.x - (1 - alpha).sqrt() * noised.target, latents)
    torch.testing.assert_close((1 - alpha).sqrt() * noised.x + alpha.sqrt() * noised.target, noise)


def test_the_last_time_step_is_pure_noise() -> None:
    sigma = torch.full((2, 3), 1 - 2.0**-24)
    latents, noise, noised = noised_with(Diffusion(alphas_cumprod=ALPHAS), sigma)
    assert torch.equal(noised.x, noise)
    assert torch.equal(noised.target, -latents)


def test_uniform_levels_reach_every_time_step_alike() -> None:
    u = (torch.arange(100_000).double() / 100_000).float()
    counts = torch.bincount(timestep_of(NoiseLevels("uniform")(u, 1)), minlength=1000)
    assert len(counts) == 1000
    assert counts.min() >= 99
    assert counts.max() <= 101
