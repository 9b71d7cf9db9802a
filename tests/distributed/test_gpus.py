"""What needs NCCL: the layouts of the table on two GPUs, attention by ring, and a run that goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import ranks
from layouts import ALONE, LAYOUTS, Figures, differences, run_layout
from runs import curve, flux_tree, merged, write_pictures
from table_cases import FIRSTS, Tree, make_trees

from finetrainers.config import dump_config, parse_config

BOUND = 1e-3
"""float32 on two GPUs adds up in other orders, and kernels of other batch sizes differ."""
ROWS = [f"{family}, {kind}" for family in FIRSTS for kind in ("LoRA", "full")]
FOR_TWO = ("DDP 2", "FSDP 2", "Ulysses 2")
RINGS = ("flux", "wan", "ltx_video")
RING = {"parallel": {"context_kind": "ring"}, "attention": {"train": "_native_flash"}, "model": {"dtype": "bfloat16"}}
IN_BFLOAT16 = 0.05
"""Losses; a ring weighs parts that are rounded."""

pytestmark = pytest.mark.multi_gpu(2)


def on_gpu(trees: dict[str, Tree]) -> dict[str, Tree]:
    return {name: merged(tree, {"train": {"device": "cuda"}}) for name, tree in trees.items()}


def folder_of(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("layout", FOR_TWO)
def test_layouts_take_the_steps_of_one_gpu(layout: str, tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    trees = on_gpu(make_trees(tiny, folder_of(tmp_path / "runs"), ROWS))
    alone = run_layout(ALONE, trees, tmp_path / "alone", device="cuda")
    for name, run in run_layout(layout, trees, tmp_path / "both", device="cuda").items():
        one = alone[name]
        assert isinstance(run, Figures), f"{name}: {run}"
        assert isinstance(one, Figures), f"{name}: {one}"
        assert max(differences(run, one).values()) < BOUND, name


@pytest.mark.parametrize("family", RINGS)
def test_a_ring_takes_the_steps_of_one_gpu(family: str, tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    name = f"{family}, LoRA"
    trees = on_gpu(make_trees(tiny, folder_of(tmp_path / "runs"), [name]))
    narrow = {name: merged(trees[name], {key: RING[key] for key in ("attention", "model")})}
    one = run_layout(ALONE, narrow, tmp_path / "alone", device="cuda")[name]
    ring = {name: merged(narrow[name], {"parallel": {**LAYOUTS["Ulysses 2"], **RING["parallel"]}})}
    (run, same) = (found[name] for found in ranks_of(ring, tmp_path / "both"))
    assert run == same
    assert isinstance(one, Figures)
    assert isinstance(run, Figures), run
    assert differences(run, one)["loss"] < IN_BFLOAT16


def ranks_of(trees: dict[str, Tree], folder: Path) -> list[dict[str, Figures | str]]:
    from layouts import run_cases

    found: list[dict[str, Figures | str]] = ranks.results(run_cases, 2, trees, "cuda", folder=folder)
    return found


@pytest.mark.parametrize("parallel", [LAYOUTS["DDP 2"], LAYOUTS["FSDP 2"]], ids=["DDP", "FSDP"])
def test_a_run_on_two_gpus_goes_on(parallel: dict[str, int], tiny_flux: Path, tmp_path: Path) -> None:
    """Two and two steps are four, checkpoints included."""
    pictures = write_pictures(tmp_path / "pictures", 4)
    tree = flux_tree(tiny_flux, pictures, tmp_path, train={"device": "cuda", "micro_batch_size": 1}, parallel=parallel)
    runs = {"whole": [4], "parts": [2, 4]}
    for name, stops in runs.items():
        for stop in stops:
            file = tmp_path / f"{name}-{stop}.yaml"
            own = {"output_dir": str(tmp_path / name), "train": {"steps": stop}}
            file.write_text(dump_config(parse_config(merged(tree, own))))
            ended = ranks.results(ranks.command, 2, "train", str(file), folder=tmp_path / f"ranks-{name}-{stop}")
            assert ended == [0, 0]
    whole, parts = (curve(tmp_path / name, "loss", "grad_norm") for name in runs)
    assert len(whole) == 4
    assert parts == [pytest.approx(step, rel=BOUND) for step in whole]
