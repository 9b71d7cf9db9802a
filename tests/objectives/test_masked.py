"""A loss that counts where a mask is white: in the formula, and in runs over folders with masks beside the media."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures
from torch import Tensor

from finetrainers import Batch, ConfigError, DataError, OwnObjective, Predict, Prompt, Stream, encode, train
from finetrainers.batch import Medium
from finetrainers.config.objective import KINDS
from finetrainers.models import open_model
from finetrainers.objectives import OBJECTIVES
from finetrainers.objectives.base import losses_of
from finetrainers.objectives.diffusion import Diffusion
from finetrainers.objectives.flow import FlowMatching
from finetrainers.objectives.masked import Masked
from finetrainers.sampling.sampler import write_video
from finetrainers.training.build import build_steps
from finetrainers.training.objective import build_objective
from finetrainers.training.prepare import prepare
from finetrainers.training.windows import encode_steps

LOSSES = ("loss", "grad_norm")
FRAMES = 3
COUNTED = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
FAMILIES = {  # each with the frames that count
    "flow": (FlowMatching(), None),
    "weighted": (FlowMatching(weighting="sigma_sqrt"), COUNTED),
    "v": (Diffusion(alphas_cumprod=(0.9, 0.5, 0.1)), None),
    "measured": (FlowMatching().measured(), COUNTED),
}


def batch_of(mask: Tensor, *, available: int = FRAMES, loss_mask: Tensor | None = None) -> Batch:
    """Two samples of three frames with a mask [2, 1, F, 4, 4]."""
    generator = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(2, 4, FRAMES, 4, 4, generator=generator) for _ in range(2))
    sigma = torch.rand(2, FRAMES, generator=generator)
    shown = (torch.arange(FRAMES) < available).float().expand(2, -1)
    prompt, counted = Prompt({}, torch.zeros(2)), torch.ones(2, FRAMES) if loss_mask is None else loss_mask
    return Batch(torch.arange(2), latents, noise, sigma, counted, prompt, {"mask": Medium(mask, shown)})


def loss(objective: Any, batch: Batch, answer: Tensor | None = None) -> Tensor:
    """Of a model that answers the same whatever it is asked."""
    if answer is None:
        answer = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(5))
    return losses_of(objective, lambda *_: answer, batch)  # type: ignore[arg-type]


def half(value: float = 0.0) -> Tensor:
    """White but for the right half, which has this value."""
    mask = torch.ones(2, 1, FRAMES, 4, 4)
    mask[..., 2:] = value
    return mask


@pytest.mark.parametrize(("family", "counted"), FAMILIES.values(), ids=FAMILIES)
def test_where_the_mask_is_black_the_target_may_be_anything(family: FlowMatching, counted: Tensor | None) -> None:
    batch = batch_of(half(), loss_mask=counted)
    before = loss(Masked(family), batch)
    batch.latents[..., 2:] += 100
    assert torch.equal(loss(Masked(family), batch), before)
    batch.latents[..., :2] += 0.1
    assert not torch.isclose(loss(Masked(family), batch), before).any()


@pytest.mark.parametrize(("family", "counted"), FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_an_all_white_mask_is_the_plain_loss(family: FlowMatching, counted: Tensor | None, floor: float) -> None:
    batch = batch_of(half(1.0), loss_mask=counted)
    torch.testing.assert_close(loss(Masked(family, floor=floor), batch), loss(family, batch))


@pytest.mark.parametrize(("family", "counted"), FAMILIES.values(), ids=FAMILIES)
def test_how_much_is_masked_does_not_change_the_scale(family: FlowMatching, counted: Tensor | None) -> None:
    """The loss is that of the white part alone; grey counts less, and how grey all of it is does not matter."""
    batch, answer = batch_of(half(), loss_mask=counted), torch.randn(2, 4, FRAMES, 4, 4)
    white = replace(batch, latents=batch.latents[..., :2], noise=batch.noise[..., :2])
    found = loss(Masked(family), batch, answer)
    torch.testing.assert_close(found, loss(family, white, answer[..., :2]))
    torch.testing.assert_close(loss(Masked(family), batch_of(half() / 4, loss_mask=counted), answer), found)
    grey, floor = batch_of(half(0.2), loss_mask=counted), Masked(family, floor=0.2)
    torch.testing.assert_close(loss(Masked(family), grey, answer), loss(floor, batch, answer))
    assert not torch.isclose(loss(floor, batch, answer), found).any()


@pytest.mark.parametrize(("family", "counted"), FAMILIES.values(), ids=FAMILIES)
def test_an_all_black_mask_teaches_nothing(family: FlowMatching, counted: Tensor | None) -> None:
    """Alone among others: no loss and no gradient, and nothing undefined."""
    mask = half()
    mask[0] = 0
    batch = batch_of(mask, loss_mask=counted)
    answer = torch.ones_like(batch.latents, requires_grad=True)
    losses = loss(Masked(family), batch, answer)
    losses.sum().backward()
    assert answer.grad is not None
    assert (losses.tolist()[0], answer.grad[0].any().item()) == (0.0, False)
    assert (losses.tolist()[1] > 0, answer.grad[1].any().item()) == (True, True)


def test_a_mask_that_is_shorter_than_its_clip_holds_on() -> None:
    """So one picture masks all frames."""
    short = half()
    short[:, :, 1:] = 0  # as zeros follow a medium that is shorter
    assert torch.equal(
        loss(Masked(FlowMatching()), batch_of(short, available=1)), loss(Masked(FlowMatching()), batch_of(half()))
    )


def test_the_table_has_the_kinds_of_the_configuration() -> None:
    assert ("auto", *OBJECTIVES) == KINDS


# -- runs -------------------------------------------------------------------------------------------------------------


def write_masks(folder: Path, count: int, colour: str, *, right: str | None = None) -> Path:
    """Pictures of one colour, or of another in the right half."""
    folder.mkdir(parents=True)
    for number in range(count):
        mask = Image.new("RGB", (64, 64), colour)
        mask.paste(colour if right is None else right, (32, 0, 64, 64))
        mask.save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def base(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("masked")
    for name, colour, right in (("white", "white", None), ("black", "black", None), ("half", "white", "black")):
        write_masks(root / name, 4, colour, right=right)
    return flux_tree(
        tiny_flux,
        write_pictures(root / "data", 4),
        root,
        train={"steps": 2, "batch_size": 2, "micro_batch_size": 1},
        validation={"held_out": 0.4, "noise_levels": 2},
    )


def masked(base: Tree, masks: str, **sections: Any) -> Tree:
    tree = merged(base, {"objective": {"kind": "masked"}, **sections})
    tree["data"][0]["folders"] = {"mask": str(Path(base["output_dir"]).parent / masks)}
    return tree


def run(tree: Tree, output_dir: Path) -> tuple[list[float], list[float]]:
    """Train; return losses and gradient norms, and what is measured."""
    train(config_of({**tree, "output_dir": str(output_dir)}))
    measured = [event["held_out_loss"] for event in events_of(output_dir) if event["event"] == "validation"]
    return [number for step in curve(output_dir, *LOSSES) for number in step], measured


@pytest.mark.parametrize(
    "sections",
    [{}, {"tuning": {"kind": "full"}}, {"conditioning": {"kind": "channel_concat", "signal": "gray"}}],
    ids=["lora", "full", "control"],
)
def test_a_run_learns_and_measures_where_its_masks_are_white(base: Tree, tmp_path: Path, sections: Tree) -> None:
    plain = run(merged(base, sections), tmp_path / "plain")
    white = run(masked(base, "white", **sections), tmp_path / "white")
    for found, wanted in zip(white, plain, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)
    black = run(masked(base, "black", **sections), tmp_path / "black")
    assert {*black[0], *black[1]} == {0.0}
    for found, wanted in zip(run(masked(base, "half", **sections), tmp_path / "half"), plain, strict=True):
        assert 0 not in found
        assert found != pytest.approx(wanted, rel=1e-3)


def test_masks_that_are_black_all_over_are_named(base: Tree, tmp_path: Path) -> None:
    """One of four, where the other three are black by half."""
    masks = write_masks(tmp_path / "masks", 4, "white", right="black")
    Image.new("L", (64, 64)).save(masks / "02.png")
    tree = masked(base, "half", cache={"path": str(tmp_path / "cache")}, train={"steps": 9})
    tree["data"][0]["folders"] = {"mask": str(masks)}
    del tree["validation"]
    encode(config_of({**tree, "output_dir": str(tmp_path / "run")}))
    warnings = [event["message"] for event in events_of(tmp_path / "run") if event["event"] == "warning"]
    assert warnings == [f"1 items of mask show nothing but black; the first is of {masks}/02.png"]


def test_what_black_counts_is_a_key(base: Tree) -> None:
    config = config_of(masked(base, "half", objective={"kind": "masked", "mask_floor": 0.25}))
    objective = build_objective(config, open_model(config.model))
    assert isinstance(objective, Masked)
    assert objective.floor == objective.measured().floor == 0.25


def test_clips_with_given_frames_are_masked_by_pictures(tiny_ltx: Path, tmp_path: Path) -> None:
    """A mask lies on the grid of the latents, whatever their frames, and given frames do not count."""
    (tmp_path / "clips").mkdir()
    for number in range(2):
        pictures = [Image.effect_noise((64, 64), 40 + 10 * number).convert("RGB") for _ in range(9)]
        write_video(tmp_path / f"clips/{number:02d}.mp4", pictures, 8.0)
        (tmp_path / f"clips/{number:02d}.txt").write_text("noise")
    write_masks(tmp_path / "half", 2, "white", right="black")
    tree = flux_tree(tiny_ltx, tmp_path / "clips", tmp_path, objective={"kind": "masked"}, train={"steps": 2})
    tree["model"]["task"] = "image-to-video"
    tree["data"][0] |= {"buckets": [[9, 64, 64]], "folders": {"mask": str(tmp_path / "half")}}
    config = config_of(tree)
    prepared = prepare(config, open_model(config.model), torch.device("cpu"), progress=lambda *_: None, warn=lambda _: None)
    prepared = encode_steps(prepared, config, 0)[0]
    batch = build_steps(prepared, prepared.objective)[0]
    mask = batch.media["mask"]
    assert batch.latents.shape[2] == 2
    assert mask.latents.shape == (4, 1, *batch.latents.shape[2:])
    columns = torch.arange(mask.latents.shape[-1]) < mask.latents.shape[-1] // 2
    assert torch.equal(mask.latents[:, :, 0], columns.float().expand_as(mask.latents[:, :, 0]))
    before = loss(prepared.objective, batch)
    batch.latents[..., ~columns] += 100
    batch.latents[:, :, 0] += 100
    assert torch.equal(loss(prepared.objective, batch), before)
    assert all(number > 0 for number in run(tree, tmp_path / "run")[0])


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            {},
            r"data\.0\.folders\.mask: nothing in .* names the mask files that .* needs; set it to the folder of the mask",
        ),
        ({"mask": "nowhere"}, r"data\.0\.folders\.mask: there is no folder 'nowhere'"),
        ({"control": "a", "mask": "b"}, r"data\.0\.folders\.control: a has no effect: this run reads only files of mask"),
    ],
)
def test_masks_that_are_missing_are_told_by_their_name(base: Tree, folders: Tree, message: str) -> None:
    tree = masked(base, "white")
    tree["data"][0]["folders"] = folders
    config = config_of(tree)
    with pytest.raises((ConfigError, DataError), match=message):
        prepare(config, open_model(config.model), torch.device("cpu"), progress=lambda *_: None, warn=lambda _: None)


# -- the user's own ---------------------------------------------------------------------------------------------------


class Reading(OwnObjective):
    """Sees two streams of its own: pixels of files at the size of latents, and latents of what is computed."""

    streams = (Stream("weight", "condition", encoder="none"), Stream("copy", "condition"))

    def losses(self, predict: Predict, batch: Batch) -> Tensor:
        noised = self.family.noised(batch)
        weight, copy = (batch.media[name].latents for name in ("weight", "copy"))
        assert weight.shape == (len(batch.positions), 1, *batch.latents.shape[2:])
        assert copy.shape == batch.latents.shape
        assert (batch.latents - copy).square().mean() < 0.1 * copy.square().mean()  # but for what the posterior draws
        return self.family.mean((predict(noised.x, noised.sigma, batch).float() - noised.target).square() * weight, noised)


def test_an_objective_of_the_users_own_names_streams(base: Tree, tmp_path: Path) -> None:
    """With white weights and copies of the media it is the plain loss, in training and for held-out samples."""
    tree = merged(base, {"objective": {"kind": f"{__file__}:Reading"}})
    path = tree["data"][0]["path"]
    (tmp_path / "copies").symlink_to(path)
    tree["data"][0]["folders"] = {"weight": str(Path(path).with_name("white")), "copy": str(tmp_path / "copies")}
    with pytest.raises(DataError, match=r"data\.0\.folders\.copy: .* holds the media themselves"):
        run(tree, tmp_path / "refused")
    (tmp_path / "copies").unlink()
    tree["data"][0]["folders"]["copy"] = str(write_pictures(tmp_path / "copies", 4))
    for found, wanted in zip(run(tree, tmp_path / "own"), run(base, tmp_path / "plain"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("streams", ["Stream('weight', 'condition')", "['weight']", "('weight',)"])
def test_streams_are_a_tuple_of_streams(base: Tree, tmp_path: Path, streams: str) -> None:
    code = "from finetrainers import OwnObjective, Stream\nclass Mine(OwnObjective):\n    losses = None\n    streams = "
    (tmp_path / "mine.py").write_text(code + streams)
    config = config_of(merged(base, {"objective": {"kind": f"{tmp_path}/mine.py:Mine"}}))
    with pytest.raises(ConfigError, match=r"mine\.py: Mine\.streams is no tuple of Stream; write streams = "):
        build_objective(config, open_model(config.model))
