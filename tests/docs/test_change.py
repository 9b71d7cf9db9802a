"""The page "Change what it does": each of its examples is a file, and each file runs, stops and goes on."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

from finetrainers import train
from finetrainers.config import OptimizerConfig
from finetrainers.models import open_model
from finetrainers.optim.optimizers import build_optimizer
from finetrainers.training.objective import build_objective

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/change.md").read_text()
FILES = sorted(file for file in (ROOT / "examples").glob("custom_*/*.py") if file.parent.name != "custom_model")


def place(name: str) -> str:
    """File and class of an example, as a configuration names it."""
    (file,) = (file for file in FILES if f"class {name}(" in file.read_text())
    return f"{file}:{name}"


def test_the_page_shows_the_examples_as_they_are() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert sorted(blocks) == sorted(file.read_text() for file in FILES)
    assert all(f"`examples/{file.parent.name}/{file.name}`" in PAGE for file in FILES)
    assert len(PAGE.split()) <= 900


def test_the_examples_import_public_names_alone() -> None:
    code = "\n".join(file.read_text() for file in FILES)
    assert set(re.findall(r"^\s*(?:from|import) (finetrainers[.\w]*)", code, re.MULTILINE)) == {"finetrainers"}


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A run of two steps in which all of the page is plugged in, over pictures with a JSON file each."""
    root = tmp_path_factory.mktemp("change")
    data = write_pictures(root / "data", 3)
    for number, file in enumerate(sorted(data.glob("*.txt"))):
        about = {"video": f"{number:02d}.png", "texts": [file.read_text(), "another"]}
        file.with_suffix(".json").write_text(json.dumps(about))
        file.unlink()
    return flux_tree(
        tiny_flux,
        data,
        root,
        objective={"kind": place("Huber")},
        optimizer={"name": place("Lion"), "lr": 1e-3, "options": {"betas": [0.8, 0.9]}},
        train={"steps": 2, "batch_size": 1, "micro_batch_size": 1},
        loader={"workers": 1},
        track={"report": False, "trackers": [place("CsvTracker")]},
        callbacks=[place("Target")],
    ) | {"data": [{"path": str(data), "buckets": [[1, 64, 64]], "layout": place("JsonClips")}]}


def test_all_examples_in_one_run_which_stops_and_goes_on(tree: Tree, tmp_path: Path) -> None:
    """To the bit, the user's optimizer and loss included."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config_of(merged(tree, {"output_dir": str(whole)})))
    for steps in (1, 2):
        train(config_of(merged(tree, {"output_dir": str(parts), "train": {"steps": steps}})))
    figures = ("loss", "grad_norm", "lr")
    assert curve(parts, *figures) == curve(whole, *figures)
    rows = [row for row in csv.reader((parts / "numbers.csv").read_text().splitlines()) if row[1] == "train/loss"]
    assert [(int(step), float(loss)) for step, _, loss in rows] == [
        (n + 1, x[0]) for n, x in enumerate(curve(whole, "loss"))
    ]
    (run,) = (event for event in events_of(whole) if event["event"] == "run")
    assert run["sets"][0]["layout"] == "json_clips.py:JsonClips"
    assert run["sets"][0]["items"] == 3
    listed = {"callbacks.target.py:Target", "track.trackers.csv_tracker.py:CsvTracker"}
    assert set(run["code"]) == {"data.0.layout", "objective.kind", "optimizer.name", *listed}


def test_the_noise_levels_of_the_example_are_lower(tree: Tree) -> None:
    config = config_of(merged(tree, {"objective": {"kind": place("LowNoise")}}))
    own = build_objective(config, open_model(config.model))
    u = torch.linspace(0.05, 0.95, 10)[:, None]
    assert (own.sigma(u, tokens=16) < own.family.sigma(u, tokens=16)).all()
    assert torch.equal(own.sigma(u, tokens=16), own.family.sigma(u**2, tokens=16))


def test_the_optimizer_of_the_example_is_lion() -> None:
    """Two steps by hand: the sign of the momentum, and decay that is decoupled."""
    config = OptimizerConfig.model_validate(
        {"name": place("Lion"), "lr": 0.1, "weight_decay": 0.5, "options": {"betas": (0.9, 0.5)}}
    )
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = build_optimizer(config, [weight])
    for gradient in ([1.0, -1.0], [-4.0, 0.5]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    first = torch.tensor([1.0, -2.0]) * 0.95 - 0.1 * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(
        weight.detach(), first * 0.95 - 0.1 * torch.tensor([0.9 * 0.5 - 0.4, -0.9 * 0.5 + 0.05]).sign()
    )


def test_the_callback_of_the_example_ends_a_run(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from finetrainers import Callback
    from finetrainers.config.user_code import read_user_code

    target, trainer = read_user_code("callbacks.0", place("Target")).make(Callback), SimpleNamespace(is_over=False)
    ended = []
    for loss in [1.0, *[0.04] * 60]:
        target.after_step(trainer, SimpleNamespace(loss=loss))
        ended.append(trainer.is_over)
    assert ended.index(True) == next(n for n in range(61) if 0.04 + 0.96 * 0.9**n < 0.05)
