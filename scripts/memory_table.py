"""Count what steps of real-size models take, without a GPU; write tables of docs/measured_memory.md and docs/cards.md.

    python scripts/memory_table.py             # about five minutes on one core
    python scripts/memory_table.py --print     # prints the tables, and changes nothing

A further row is one line of ``ROWS``: a title, and what it sets. Sets that this version, or a package that is missing, makes
impossible are said so in the table.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from finetrainers.config import Bucket, CompileConfig, Config, parse_config
from finetrainers.errors import FinetrainersError
from finetrainers.memory.compiled import counted_compile
from finetrainers.memory.meter import CATEGORIES
from finetrainers.models import Model, open_model
from finetrainers.optim.optimizers import build_optimizer
from finetrainers.optim.schedules import build_schedule
from finetrainers.optim.update import Update
from finetrainers.testing.real_sizes import PUBLISHED, defaults_of, write_published
from finetrainers.training.cost import StepCost, build_meta_trainer, measure_steps, predict_step
from finetrainers.training.fit.choice import USABLE
from finetrainers.training.fit.sets import SETS
from finetrainers.training.fit.trials import try_sets
from finetrainers.training.trainer import Trainer

DOCS = Path(__file__).parents[1] / "docs"
GIB = 2**30
BYTES = 2
"""Of a weight in bfloat16."""
VIDEO: Bucket = (49, 512, 768)
IMAGE: Bucket = (1, 1024, 1024)
LORA: Mapping[str, Any] = {"kind": "lora", "rank": 128, "alpha": 128}
FULL: Mapping[str, Any] = {"kind": "full"}

# What one H200 measured, in GiB allocated at the peak, of two earlier states of this code: LoRA all in float32, and all in
# bfloat16, the latter compiled block by block.
MEASURED: Mapping[str, tuple[float | None, float | None]] = {
    "LTX-Video 2B": (6.0, 5.0),
    "Wan 2.1 1.3B": (8.2, 6.5),
    "Wan 2.1 14B": (46.8, 40.8),
    "HunyuanVideo": (37.5, 34.9),
    "CogVideoX-5b": (20.1, None),
    "FLUX.1 dev": (None, 25.5),
    "CogView4 6B": (15.1, None),
}

NF4_HOST: Mapping[str, Any] = {"memory.weights": "nf4", "memory.activations": "host"}

# Title, what trains, and further keys. All have gradient checkpointing, AdamW and a batch of one.
ROWS: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = (
    ("LoRA", LORA, {}),
    ("LoRA, int8 weights", LORA, {"memory.weights": "int8"}),
    ("LoRA, nf4 weights", LORA, {"memory.weights": "nf4"}),
    (
        "LoRA, nf4, Adam of 8 bits without masters",
        LORA,
        {"memory.weights": "nf4", "optimizer.name": "adamw_8bit", "optimizer.masters": "stochastic_rounding"},
    ),
    ("LoRA, nf4, inputs of blocks on the host", LORA, NF4_HOST),
    ("LoRA, nf4, the same, 8-bit AdamW", LORA, {**NF4_HOST, "optimizer.name": "adamw_8bit"}),
    (
        "LoRA, int8, streamed, inputs on the host",
        LORA,
        {"memory.weights": "int8", "memory.activations": "host", "memory.resident_blocks": 0},
    ),
    (
        "LoRA, int8, the same, Adam of 8 bits without masters",
        LORA,
        {
            "memory.weights": "int8",
            "memory.activations": "host",
            "memory.resident_blocks": 0,
            "optimizer.name": "adamw_8bit",
            "optimizer.masters": "stochastic_rounding",
        },
    ),
    ("full rank", FULL, {}),
    ("full rank, no masters", FULL, {"optimizer.masters": "stochastic_rounding"}),
    (
        "full rank, 8 bits, in backward, no masters",
        FULL,
        {
            "optimizer.name": "adamw_8bit",
            "optimizer.masters": "stochastic_rounding",
            "optimizer.in_backward": True,
            "train.clip_norm": float("inf"),
        },
    ),
    (
        "full rank, state on the CPU, streamed",
        FULL,
        {"optimizer.state": "cpu", "memory.activations": "host", "memory.resident_blocks": 0},
    ),
)
SMALL = ("LTX-Video 2B", "CogVideoX-5b", "HunyuanVideo")
"""Models of which all rows of full rank are shown."""
CARDS = (12, 16, 24, 48, 80)
"""GB."""


class PlainUpdate(Update):
    """As an earlier version updated: weights that train have no masters, whatever their type."""

    def __init__(self, trainer: Trainer, config: Config, dtype: torch.dtype) -> None:
        trained = {name: own for name, own in trainer.denoiser.named_parameters() if own.requires_grad}
        weights = {}
        for name, own in trained.items():  # new ones, without the hooks of their masters
            module, _, attribute = name.rpartition(".")
            weights[name] = nn.Parameter(own.detach().to(dtype))
            setattr(trainer.denoiser.get_submodule(module), attribute, weights[name])
        self.optimizer = build_optimizer(config.optimizer, list(weights.values()))
        self.parameters = list(weights.values())
        self.schedule = build_schedule(config.schedule, self.optimizer, steps=config.train.steps)
        self._clip_norm, self.ema, self.is_in_backward, self.is_whole = config.train.clip_norm, None, False, True
        self._sharing = None

    def reduce(self, figures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return figures, nn.utils.get_total_norm([own.grad for own in self.parameters if own.grad is not None])

    def clip(self, norm: torch.Tensor) -> None:
        nn.utils.clip_grads_with_norm_(self.parameters, self._clip_norm, norm)

    def step(self, *, is_finite: bool) -> None:
        self.optimizer.step()

    def drop_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)


def bucket_of(name: str) -> Bucket:
    """Frames, height and width of what a model is counted for."""
    return IMAGE if PUBLISHED[name].is_image else VIDEO


@cache
def folder_of(name: str) -> Path:
    """Write a model's configs, once."""
    return write_published(name, Path(tempfile.mkdtemp()) / "model")


def config_of(name: str, tuning: Mapping[str, Any], keys: Mapping[str, Any]) -> Config:
    """Make the configuration of a run of a model."""
    model = PUBLISHED[name]
    tree: dict[str, Any] = {
        "output_dir": "/tmp/none",
        "model": {"path": str(folder_of(name)), **model.model},
        "data": [{"path": "/tmp/none", "buckets": [bucket_of(name)]}],
        "tuning": dict(tuning),
        "optimizer": {"lr": 1e-4},
        "train": {"gradient_checkpointing": True, "device": "cpu"},
    }
    for key, value in keys.items():
        section, _, own = key.partition(".")
        tree.setdefault(section, {})[own] = value
    return parse_config(tree)


def opened(name: str, tuning: Mapping[str, Any], keys: Mapping[str, Any]) -> tuple[Config, Model]:
    """Make the configuration of a run, and open its model."""
    config = config_of(name, tuning, keys)
    return config, open_model(config.model)


def earlier_cost(name: str, dtype: torch.dtype, keys: Mapping[str, Any] | None = None) -> StepCost:
    """Count a step of LoRA as an earlier version took it, with all that trains in one type; in bfloat16 it was compiled."""
    config, model = opened(name, LORA, keys or {})
    if dtype == torch.bfloat16:
        config = config.model_copy(update={"compile": counted_compile(CompileConfig(kind="regional"))})
    trainer = build_meta_trainer(config, model)
    trainer.update = PlainUpdate(trainer, config, dtype)
    return measure_steps(trainer, config, model, bucket_of(name))


def against_measured() -> Iterator[str]:
    """Compare what is counted with what a GPU has measured."""
    yield "| model | LoRA in float32: measured | counted | | LoRA in bfloat16: measured | counted | |"
    yield "|---|---|---|---|---|---|---|"
    for name, both in MEASURED.items():
        cells = []
        for measured, dtype in zip(both, (torch.float32, torch.bfloat16), strict=True):
            if measured is None:
                cells += ["-", "-", ""]
                continue
            counted = earlier_cost(name, dtype).peak_bytes / GIB
            cells += [f"{measured:.1f}", f"{counted:.1f}", f"{100 * (counted / measured - 1):+.0f} %"]
        yield row(name, *cells)


def peaks() -> Iterator[str]:
    """What steps take today, by category."""
    yield f"| model | what | GiB | {' | '.join(CATEGORIES)} | TFLOP |"
    yield f"|---|---|---|{'---|' * len(CATEGORIES)}---|"
    for name in PUBLISHED:
        for title, tuning, keys in ROWS:
            if keys and tuning is FULL and name not in SMALL:
                continue
            say(f"{name}, {title}")
            try:
                config, model = opened(name, tuning, keys)
                cost = predict_step(config, model, bucket_of(name))
            except (FinetrainersError, RuntimeError, NotImplementedError, AttributeError) as error:
                yield row(name, title, "not counted", *[""] * len(CATEGORIES), "")
                say(f"  {str(error).splitlines()[-1].strip()}")
                continue
            parts = [f"{cost.usage.peak[category] / GIB:.1f}" for category in CATEGORIES]
            yield row(name, title, f"**{cost.peak_bytes / GIB:.1f}**", *parts, f"{cost.usage.flop / 1e12:.0f}")


def cards() -> Iterator[str]:
    """For each model, the first of the sets of ``memory.preset: auto`` that fits on a card."""
    yield f"| model | {' | '.join(f'{card} GB' for card in CARDS)} |"
    yield f"|---|{'---|' * len(CARDS)}"
    for name in PUBLISHED:
        say(f"{name}, cards")
        config = config_of(name, LORA, {})
        train = config.train.model_copy(update={"gradient_checkpointing": False})
        train.model_fields_set.discard("gradient_checkpointing")
        model = open_model(config.model)
        tried = []
        for own in try_sets(config.model_copy(update={"train": train}), model, SETS):
            if own.peak_bytes is not None:
                tried.append(own)
                if own.peak_bytes <= USABLE * min(CARDS) * 1e9:
                    break
        yield row(name, *(card_cell(tried, card) for card in CARDS))


def sizes() -> Iterator[str]:
    """Count what each model takes on the disk, in bfloat16."""
    yield "| model | denoiser | text encoders | VAE | all |"
    yield "|---|---|---|---|---|"
    for name, model in PUBLISHED.items():
        with torch.device("meta"):
            denoiser = getattr(diffusers, model.denoiser).from_config({**defaults_of(model.denoiser), **model.settings})
            texts = [make_text_encoder(*own) for own in model.texts.values()]
            vae = getattr(diffusers, model.vae["_class_name"]).from_config(dict(model.vae))
        parts = [BYTES * sum(own.numel() for one in ones for own in one.parameters()) for ones in ([denoiser], texts, [vae])]
        yield row(name, *(f"{part / 1e9:.1f}" for part in parts), f"{sum(parts) / 1e9:.0f}")


def make_text_encoder(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Make a text encoder by its class in transformers."""
    own = getattr(transformers, name)
    made: nn.Module = own(own.config_class(**settings))
    return made


def card_cell(tried: Sequence[Any], card: int) -> str:
    """Name the first set that fits on a card, with what it takes."""
    for trial in tried:
        if trial.peak_bytes <= USABLE * card * 1e9:
            return f"{number_of(trial.techniques)}: {trial.peak_bytes / 1e9:.1f}"
    return "-"


def number_of(techniques: Mapping[str, Any]) -> int:
    """Number of the set that techniques are, as ``sets`` lists them."""
    return next(number for number, own in enumerate(SETS, 1) if same(own, techniques))


def same(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether two sets are one; a share of blocks is a number of them by now."""
    return wanted.keys() == found.keys() and all(
        wanted[key] == found[key] or (type(wanted[key]).__name__ == "Fraction" and found[key]) for key in wanted
    )


def sets() -> Iterator[str]:
    """List the sets by their numbers."""
    yield "| set | keys |"
    yield "|---|---|"
    for number, own in enumerate(SETS, 1):
        yield row(str(number), ", ".join(f"`{key}: {written(value)}`" for key, value in own.items()))


def written(value: Any) -> str:
    """Write a value as a file has it."""
    return f"{value} of the blocks" if type(value).__name__ == "Fraction" else str(value).lower()


def row(*cells: str) -> str:
    """Write a line of a table."""
    return f"| {' | '.join(cells)} |"


def say(line: str) -> None:
    """Tell how far it has come."""
    print(line, file=sys.stderr, flush=True)


TABLES = {
    "measured_memory.md": {"peaks": peaks, "against measured": against_measured},
    "cards.md": {"cards": cards, "sizes": sizes, "sets": sets},
}


def filled(page: str, name: str, lines: Sequence[str]) -> str:
    """Put a table between its marks in a page."""
    begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    assert pattern.search(page), f"no mark {begin!r}"
    return pattern.sub(lambda _: "\n".join([begin, "", *lines, "", end]), page, count=1)


def main() -> None:
    """Make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the tables, and change no page")
    parser.add_argument("--only", help="name of one table")
    options = parser.parse_args()
    for file, tables in TABLES.items():
        for name, make in tables.items():
            if options.only not in (None, name):
                continue
            lines = list(make())
            if options.print:
                print("\n".join(lines), flush=True)
            else:
                (DOCS / file).write_text(filled((DOCS / file).read_text(), name, lines))


if __name__ == "__main__":
    main()
