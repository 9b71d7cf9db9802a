"""Two small runs with reports, that differ in the learning rate."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import Tree, config_of, flux_tree, merged, write_pictures

import finetrainers

NASTY = "a <script>alert('x')</script> & \"picture\" | of | [all](javascript:x) `things`"


@pytest.fixture(scope="session")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The first run; read its directory, never write into it."""
    root = tmp_path_factory.mktemp("reported")
    data = write_pictures(root / "data", 6)
    (data / "00.txt").write_text(NASTY)
    prompts = [{"prompt": NASTY, "num_inference_steps": 1, "seed": 7}, {"prompt": "two", "num_inference_steps": 1}]
    (root / "prompts.json").write_text(json.dumps(prompts))
    validation = {"prompts": str(root / "prompts.json"), "held_out": 0.2}
    return flux_tree(
        tiny_flux, data, root, validation=validation, track={"report": True}, train={"batch_size": 2, "micro_batch_size": 2}
    )


@pytest.fixture(scope="session")
def train(tree: Tree) -> Callable[..., Path]:
    """Trains the first run with changes, into a folder beside it."""

    def make(name: str, **changes: Any) -> Path:
        own = Path(tree["output_dir"]).with_name(name)
        finetrainers.train(config_of(merged(tree, {"output_dir": str(own), **changes})))
        return own

    return make


@pytest.fixture(scope="session")
def first(train: Callable[..., Path]) -> Path:
    return train("run")


@pytest.fixture(scope="session")
def second(train: Callable[..., Path]) -> Path:
    return train("slower", optimizer={"lr": 5e-4}, validation={"prompts": None})
