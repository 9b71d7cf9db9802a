"""Compare plans with what one H200 has measured, and plan each model for small cards, and write the tables.

python scripts/plan_table.py                      # about a quarter of an hour on one core
python scripts/plan_table.py --only fits          # one table
python scripts/plan_table.py --print              # prints the tables, and changes nothing
python scripts/plan_table.py --plan "FLUX.1 dev" 24GB     # one row of "fits"
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from memory_table import DOCS, GIB, LORA, bucket_of, earlier_cost, filled, folder_of, opened, row, say

from finetrainers.config import load_config
from finetrainers.errors import ConfigError
from finetrainers.testing.real_sizes import PUBLISHED
from finetrainers.training.cost import predict_step
from finetrainers.training.plan.figures import Planned
from finetrainers.training.plan.gpus import find_gpu
from finetrainers.training.plan.run import Asked, plan
from finetrainers.training.plan.speed import Machine


class Measured(NamedTuple):
    """A step that was measured."""

    model: str
    dtype: torch.dtype
    """Of all that trained; in bfloat16 blocks were compiled."""
    seconds: float
    keys: Mapping[str, Any] = {}


MEASURED = (
    Measured("LTX-Video 2B", torch.float32, 0.293),
    Measured("Wan 2.1 1.3B", torch.float32, 1.58),
    Measured("Wan 2.1 14B", torch.float32, 7.76),
    Measured("HunyuanVideo", torch.float32, 6.83),
    Measured("CogVideoX-5b", torch.float32, 4.73),
    Measured("CogView4 6B", torch.float32, 0.64),
    Measured("LTX-Video 2B", torch.bfloat16, 0.189),
    Measured("LTX-Video 2B", torch.bfloat16, 0.106, {"train.gradient_checkpointing": False}),
    Measured("LTX-Video 2B", torch.bfloat16, 0.664, {"train.batch_size": 8, "train.micro_batch_size": 8}),
    Measured("Wan 2.1 1.3B", torch.bfloat16, 0.99),
    Measured("Wan 2.1 14B", torch.bfloat16, 5.25),
    Measured("HunyuanVideo", torch.bfloat16, 5.11),
    Measured("FLUX.1 dev", torch.bfloat16, 0.583),
)


SMALL = ("16GB", "24GB")


class Today(NamedTuple):
    """A step of this version that was measured by ``finetrainers bench`` of ``examples/bench``."""

    model: str
    is_compiled: bool
    allocated: float
    reserved: float
    seconds: float


TODAY = (
    Today("LTX-Video 2B", False, 6.11, 6.82, 0.341),
    Today("LTX-Video 2B", True, 6.03, 6.83, 0.1564),
    Today("FLUX.1 dev", False, 27.14, 27.59, 0.8451),
    Today("FLUX.1 dev", True, 27.12, 27.52, 0.515),
    Today("Wan 2.1 1.3B", True, 7.24, 8.76, 0.9881),
    Today("HunyuanVideo", True, 36.61, 38.26, 5.0789),
)


def today() -> Iterator[str]:
    """One row for each measured step of this version."""
    yield "| step | GiB allocated | GiB reserved | seconds |"
    yield "|---|---|---|---|"
    machine = Machine(find_gpu("h200"))
    for own in TODAY:
        title = f"{own.model}, {'compiled' if own.is_compiled else 'eager'}"
        say(title)
        config, model = opened(own.model, LORA, {"compile.kind": "regional"} if own.is_compiled else {})
        cost = predict_step(config, model, bucket_of(own.model))
        figures = (cost.peak_bytes / GIB, cost.reserved_bytes / GIB, machine.seconds(cost.work))
        yield row(title, *in_one((own.allocated, own.reserved, own.seconds), figures))


def table() -> Iterator[str]:
    """One row for each step whose seconds were measured."""
    yield "| LoRA of rank 128 | seconds: measured | counted | |"
    yield "|---|---|---|---|"
    machine = Machine(find_gpu("h200"))
    for own in MEASURED:
        title = f"{own.model}, {'compiled' if own.dtype == torch.bfloat16 else 'float32'}"
        title += "".join(f", {key.partition('.')[2]}: {str(value).lower()}" for key, value in own.keys.items())
        say(title)
        seconds = machine.seconds(earlier_cost(own.model, own.dtype, own.keys).work)
        yield row(title, f"{own.seconds:.3g}", f"{seconds:.3g}", off(seconds, own.seconds))


def in_one(known: Sequence[float], counted: Sequence[float]) -> Iterator[str]:
    """One cell for each figure: another's, the count, and how far off that is."""
    for other, own in zip(known, counted, strict=True):
        yield f"{other:.3g}, {own:.3g} ({off(own, other)})"


def off(counted: float, measured: float) -> str:
    """Say how far off a count is."""
    return f"{100 * (counted / measured - 1):+.0f} %"


def fits() -> Iterator[str]:
    """What is proposed of each model's bench for small cards."""
    yield "| model | card | may be counted | step | most, of stage | proposed |"
    yield f"|---|{'---|' * 5}"
    for name in PUBLISHED:
        for size in SMALL:
            yield fit_of(name, size)


def fit_of(name: str, size: str) -> str:
    """Plan one model's bench for one card."""
    say(f"{name}, {size}")
    file = DOCS.parent / f"examples/bench/{name.lower().replace(' ', '-')}.yaml"
    config = load_config(file, [f"model.path={folder_of(name)}"])
    try:
        found = plan(config, Asked(find_gpu(size), say=say))
    except ConfigError as error:
        say(str(error))
        return row(name, size.removesuffix("GB"), "", "-", "-", "nothing fits")
    peaks = {stage.stage: (stage.allocated or 0) / 1e9 for stage in found.stages}
    stage, most = max(peaks.items(), key=lambda own: own[1])
    title = proposed(found) if found.fits else "nothing fits"
    return row(
        name,
        size.removesuffix("GB"),
        f"{(found.limit or 0) / 1e9:.1f}",
        f"{peaks['step']:.1f}",
        f"{most:.1f}, {stage}",
        title,
    )


def proposed(found: Planned) -> str:
    """Name the keys that are added."""
    (chosen,) = (own for own in found.techniques if own.is_chosen)
    keys = {key.partition(".")[2]: str(value).lower() for key, value in chosen.keys.items()}
    for line in str(found.proposal).splitlines():
        key, _, value = line.strip().partition(": ")
        if key in ("text_encoder_weights", "vae_tiling"):  # of other stages than a step
            keys[key] = value
    return ", ".join(f"`{key}: {value}`" for key, value in keys.items()) or "as it is written"


TABLES = (
    ("plan.md", "today", today),
    ("measured_memory.md", "plan", table),
    ("cards.md", "fits", fits),
)


def main() -> None:
    """Make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the tables, and change no page")
    parser.add_argument("--only", choices=[name for _, name, _ in TABLES], help="name of one table")
    parser.add_argument("--plan", nargs=2, metavar=("MODEL", "CARD"), help="print one row of fits")
    options = parser.parse_args()
    if options.plan is not None:
        print(fit_of(*options.plan))
        return
    for file, name, make in TABLES:
        if options.only not in (None, name):
            continue
        lines = list(make())
        if options.print:
            print("\n".join(lines))
        else:
            (DOCS / file).write_text(filled((DOCS / file).read_text(), name, lines))


if __name__ == "__main__":
    main()
