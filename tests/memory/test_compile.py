"""torch.compile of what trains: the same numbers without a graph break, one graph for all blocks, and a bound that speaks.

On a CPU the backend aot_eager stands for inductor: all is traced and no kernel is made.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Tree, config_of, curve, flux_tree, merged, write_pictures
from torch._dynamo.utils import counters

import finetrainers
from finetrainers.config import CompileConfig
from finetrainers.errors import ConfigError
from finetrainers.memory.compile import compile_denoiser, eager_modules, is_compiled, recompiles_explained
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, tracing

NAMES = ("recompile_limit", "accumulated_recompile_limit", "fail_on_recompile_limit_hit")
SETTINGS = {name: getattr(torch._dynamo.config, name) for name in NAMES}
EAGER = {"kind": "regional", "backend": "aot_eager"}
GRAY = {"kind": "channel_concat", "signal": "gray"}
CASES: dict[str, tuple[str, str, tuple[int, int, int], Any, Any]] = {
    "cogvideox": ("cogvideox", "5b", (9, 64, 64), LORA, {}),
    "cogview4": ("cogview4", "6b", (1, 64, 64), FULL, {}),
    "flux": ("flux", "dev", (1, 64, 64), LORA, GRAY),
    "hunyuan_video": ("hunyuan_video", "t2v", (9, 64, 64), LORA, {}),
    "ltx_video": ("ltx_video", "0.9.0", (9, 64, 64), FULL, {}),
    "wan": ("wan", "2.1-t2v", (9, 64, 64), LORA, {}),
}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Let no test find what another has compiled."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(SETTINGS):  # which hold for the whole process
        yield
    torch._dynamo.reset()


LONG = ("hunyuan_video", "wan")
"""Tracing their blocks takes longest; Wan's are compiled in test_techniques.py, too. For `make test-long`."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in CASES])
def test_compiled_blocks_compute_the_same_without_a_graph_break(
    name: str, tiny: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """With checkpointing, with a LoRA or at full rank, and with a control."""
    family, variant, size, tuning, conditioning = CASES[name]
    subject = ModelUnderTest({"path": str(tiny(family, variant))}, size, tmp_path, conditioning)
    found = []
    for sections in ({}, {"compile": EAGER, "train": {"gradient_checkpointing": True}}):
        trainer = subject.trainer(tuning, **sections)
        trainer.denoiser.train()
        losses = trainer.micro_losses(subject.batch)
        losses.mean().backward()
        found.append((losses.detach(), [p.grad for p in trainer.update.parameters]))
    (expected, plain), (answer, compiled) = found
    assert torch.equal(answer, expected)
    for one, other in zip(plain, compiled, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(other, one, rtol=0, atol=1e-6 * float(one.abs().max()))  # sums of another order
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]


def run(tree: Tree, directory: Path, **sections: Any) -> str:
    finetrainers.train(config_of(merged(tree, {"output_dir": str(directory), **sections})))
    return str(directory)


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Two buckets, and a prompt."""
    root = tmp_path_factory.mktemp("compiled")
    sizes = (64, 64), (64, 96)
    media = [write_pictures(root / f"media-{width}", 2, size=(height, width)) for height, width in sizes]
    (root / "prompts.json").write_text('[{"prompt": "a dog", "num_inference_steps": 2}]')
    tree = flux_tree(tiny_flux, media[0], root, validation={"prompts": str(root / "prompts.json")})
    sets = [{"path": str(path), "buckets": [[1, *size]]} for path, size in zip(media, sizes, strict=True)]
    return merged(tree, {"data": sets, "train": {"batch_size": 2, "micro_batch_size": 2}})


def test_a_compiled_run_is_the_run(tree: Tree, tmp_path: Path) -> None:
    one_size = {"data": tree["data"][:1], "train": {"steps": 2}}
    plain, compiled = (
        run(merged(tree, one_size), tmp_path / name, compile={"kind": "none"} if name == "plain" else EAGER)
        for name in ("plain", "compiled")
    )
    assert curve(compiled, "loss", "grad_norm") == curve(plain, "loss", "grad_norm")
    pictures = [Path(of) / "validation/step-000002/00.png" for of in (plain, compiled)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert counters["stats"]["unique_graphs"] > 0


def test_one_graph_too_many_ends_the_run_and_names_the_size(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compile\.max_graphs: .*of 1 x 8 x (8|12) .* in a batch of 2 need one more"):
        run(tree, tmp_path / "run", compile={**EAGER, "max_graphs": 1}, validation={"prompts": None})


class Block(torch.nn.Module):
    """One of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight).relu()


def graphs(**settings: Any) -> int:
    """How many graphs two blocks make for three lengths."""
    blocks = torch.nn.Sequential(Block(), Block())
    compile_denoiser(blocks, ("Block",), CompileConfig(backend="aot_eager", **settings))
    for length in (5, 6, 7):
        x = torch.randn(length, 4, requires_grad=True)
        torch.testing.assert_close(blocks(x), blocks[1].forward(blocks[0].forward(x)), rtol=0, atol=0)
    return int(counters["stats"]["unique_graphs"])


def test_blocks_share_their_graphs_and_a_dynamic_one_serves_all_sizes() -> None:
    assert graphs(kind="regional") == 3
    counters.clear()
    torch._dynamo.reset()
    assert graphs(kind="regional", dynamic=True) == 1
    counters.clear()
    torch._dynamo.reset()
    assert graphs(kind="full") == 3


def test_an_unknown_backend_is_refused_before_anything_is_loaded(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compile\.backend: torch has no 'inductr'; it has .*inductor"):
        run(tree, tmp_path / "run", compile={"kind": "full", "backend": "inductr"})
    with pytest.raises(ConfigError, match=r"compile\.dynamic: True has no effect with kind: none; set regional"):
        run(tree, tmp_path / "run", compile={"dynamic": True})


def test_blocks_of_another_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"compile\.kind: Linear has no blocks named Block, Other"):
        compile_denoiser(torch.nn.Linear(1, 1), ("Block", "Other"), CompileConfig(kind="regional"))


def test_no_hook_is_put_where_it_would_be_compiled() -> None:
    """Sampling looks before each module whether to stop."""
    inner = torch.nn.Sequential(torch.nn.Linear(1, 1))
    whole = torch.nn.Sequential(inner, torch.nn.ReLU())
    assert len(list(eager_modules(whole))) == len(list(whole.modules())) == 4
    inner.compile(backend="eager")
    assert is_compiled(inner)
    assert list(eager_modules(whole)) == [whole, whole[1]]


def test_a_compiler_that_fails_is_named_and_nothing_else_is_blamed() -> None:
    """Not the file of the user's adapter, which calls the denoiser."""

    def fails(graph: Any, inputs: Any) -> Any:
        raise ValueError("planted")

    doubled = torch.compile(lambda x: 2 * x, backend=fails)
    match = r"^compile\.kind: torch cannot compile the denoiser \(BackendCompilerFailed: .*planted.*\); set none"
    with pytest.raises(ConfigError, match=match), recompiles_explained((1, 4, 1, 8, 8)):
        doubled(torch.zeros(1, 2))
