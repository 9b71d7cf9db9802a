"""Learning from pairs: Diffusion-DPO, in the formula and in runs over folders with rejected media beside."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures
from torch import Tensor
from torch.nn.functional import softplus

from finetrainers import Batch, ConfigError, DataError, Prompt, train
from finetrainers.batch import Medium
from finetrainers.models import open_model
from finetrainers.objectives.base import losses_of
from finetrainers.objectives.diffusion import Diffusion
from finetrainers.objectives.flow import FlowMatching
from finetrainers.objectives.preference import Preference
from finetrainers.sampling.sampler import write_video
from finetrainers.training.objective import build_objective
from finetrainers.training.prepare import prepare

FAMILIES = {"flow": FlowMatching(), "v": Diffusion(alphas_cumprod=(0.9, 0.5, 0.1))}


class Answers:
    """A model that answers each x by itself, and a base that answers otherwise; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        self.asked.append((x, sigma))
        return 0.5 * x

    def base(self, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        self.asked.append((x, sigma))
        return -0.1 * x


def pairs(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    latents, rejected, noise = (torch.randn(3, 4, 1, 4, 4, generator=generator) for _ in range(3))
    sigma, ones = torch.rand(3, 1, generator=generator), torch.ones(3, 1)
    media = {"rejected": Medium(rejected, ones)}
    return Batch(torch.arange(3), latents, noise, sigma, ones, Prompt({}, torch.zeros(3)), media)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_loss_is_that_of_the_paper_in_velocities(family: FlowMatching) -> None:
    """-log sigmoid(-beta / 2 ((win - base win) - (lose - base lose))), with plain means of squared errors."""
    batch, answers, errors = pairs(), Answers(), []
    for latents in (batch.latents, batch.media["rejected"].latents):
        noised = family.noised(replace(batch, latents=latents))
        errors += [(factor * noised.x - noised.target).square().mean((1, 2, 3, 4)) for factor in (0.5, -0.1)]
    win, base_win, lose, base_lose = errors
    found = losses_of(Preference(family, beta=3.0), answers, batch)
    torch.testing.assert_close(found, softplus(1.5 * ((win - base_win) - (lose - base_lose))))


def test_both_of_a_pair_have_one_noise_and_one_noise_level() -> None:
    """The noise is what is left of x without the latents' part."""
    batch, answers = pairs(), Answers()
    losses_of(Preference(FlowMatching(), beta=1.0), answers, batch)
    sigma = batch.sigma[:, None, :, None, None]
    seen = {tuple(x.flatten().tolist()): s for x, s in answers.asked}
    assert len(answers.asked) == 4
    assert len(seen) == 2
    for latents, (x, told) in zip((batch.latents, batch.media["rejected"].latents), answers.asked[::2], strict=True):
        torch.testing.assert_close(x, (1 - sigma) * latents + sigma * batch.noise)
        assert torch.equal(told, batch.sigma)


def test_a_pair_that_is_turned_round_is_preferred_the_other_way() -> None:
    """-log p and -log(1 - p), of one probability that the paper's model of preference gives."""
    batch = pairs()
    turned = replace(batch, latents=batch.media["rejected"].latents, media={"rejected": Medium(batch.latents, batch.sigma)})
    objective = Preference(FlowMatching(), beta=2.0)
    chances = [torch.exp(-losses_of(objective, Answers(), each)) for each in (batch, turned)]
    torch.testing.assert_close(chances[0] + chances[1], torch.ones(3))
    assert not torch.allclose(chances[0], chances[1], rtol=1e-2)


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("preference")
    tree = flux_tree(
        tiny_flux,
        write_pictures(root / "data", 4),
        root,
        objective={"kind": "dpo", "beta": 50.0},
        optimizer={"lr": 0.02},
        train={"steps": 6, "batch_size": 2, "micro_batch_size": 1},
        validation={"held_out": 0.4, "noise_levels": 2},
    )
    tree["data"][0]["folders"] = {"rejected": str(write_pictures(root / "rejected", 4, seed=1))}
    return tree


@pytest.mark.parametrize("micro", [1, 2])
def test_a_run_comes_to_prefer_its_media(base: Tree, tmp_path: Path, micro: int) -> None:
    """The model begins as the base, at log 2, and leaves it for the better; so do pairs that are held out."""
    train(config_of(merged(base, {"output_dir": str(tmp_path / "run"), "train": {"micro_batch_size": micro}})))
    losses = [loss for (loss,) in curve(tmp_path / "run", "loss")]
    measured = [event["held_out_loss"] for event in events_of(tmp_path / "run") if event["event"] == "validation"]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert min(losses) < math.log(2) - 1e-3
    assert measured[0] == pytest.approx(math.log(2), abs=1e-6)
    assert len(set(measured)) == 2


def test_how_strongly_the_base_holds_is_a_key(base: Tree) -> None:
    config = config_of(base)
    objective = build_objective(config, open_model(config.model))
    assert isinstance(objective, Preference)
    assert objective.beta == objective.measured().beta == 50.0


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"tuning": {"kind": "full"}},
            r"objective\.kind: dpo compares with the base model, of which tuning\.kind: full leaves",
        ),
        (
            {"conditioning": {"kind": "channel_concat", "signal": "gray"}},
            r"objective\.kind: dpo compares with the base model, of which conditioning\.kind: channel_concat leaves",
        ),
        ({"data": []}, r"data\.0\.folders\.rejected: nothing in .* names the rejected files that .* needs"),
    ],
)
def test_pairs_and_a_base_are_needed(base: Tree, sections: Tree, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        planned(merged(base, {**sections, "data": [{**base["data"][0], "folders": {}}]}))


def planned(tree: Tree) -> Any:
    config = config_of(tree)
    return prepare(config, open_model(config.model), torch.device("cpu"), progress=lambda *_: None, warn=lambda _: None)


@pytest.mark.parametrize(("frames", "is_taken"), [(1, False), (8, False), (9, True), (17, True)])
def test_a_rejected_clip_is_as_long_as_what_is_preferred(
    tiny_ltx: Path, tmp_path: Path, frames: int, is_taken: bool
) -> None:
    """What is not there could not be told from what is preferred; more than a bucket takes is not asked for."""
    for folder, count in (("data", 17), ("rejected", frames)):
        (tmp_path / folder).mkdir()
        pictures = [Image.new("RGB", (64, 64), (20 * number % 256, 0, 0)) for number in range(count)]
        if count == 1:
            pictures[0].save(tmp_path / folder / "clip.png")
        else:
            write_video(tmp_path / folder / "clip.mp4", pictures, 8.0)
    (tmp_path / "data/clip.txt").write_text("red")
    tree = flux_tree(tiny_ltx, tmp_path / "data", tmp_path, objective={"kind": "dpo"})
    tree["data"][0] |= {"buckets": [[9, 64, 64]], "folders": {"rejected": str(tmp_path / "rejected")}}
    if is_taken:
        assert planned(tree).plan.num_samples == 1
    else:
        with pytest.raises(
            DataError, match=rf"its rejected .*: has {frames} frames where the media have 17; make it as long"
        ):
            planned(tree)
