"""Count what one of 1 to 1024 devices holds and sends in a step of real-size models, for docs/measured_scale.md.

    python scripts/scale_table.py             # about a minute on one core
    python scripts/scale_table.py --print     # prints the tables, and changes nothing

Shapes are those of the models' own modules on the meta device. How they are cut and moved is the formula of
``finetrainers.training.plan.scale``, which tests compare with real shards and with counted bytes.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from memory_table import DOCS, FULL, GIB, LORA, VIDEO, filled, opened, row, say

from finetrainers.distributed.layout import Layout
from finetrainers.memory.meta import fused_attention
from finetrainers.memory.meter import Meter
from finetrainers.models.blocks import named_blocks
from finetrainers.training.cost import build_meta_trainer
from finetrainers.training.plan.scale import (
    FLOAT32_BYTES,
    KINDS,
    Unit,
    gathered_bytes,
    groups_of,
    is_little,
    sent,
    traffic_of_tokens,
    traffic_of_weights,
    trained_numel,
    units_of,
)
from finetrainers.training.synthetic import synthetic_batch

MODELS = ("Wan 2.1 14B", "HunyuanVideo")
TUNINGS: Mapping[str, Mapping[str, Any]] = {"LoRA": LORA, "full rank": FULL}
SHORT = [25, *VIDEO[1:]]
"""A second bucket: what activations take of one token more is the slope between the two."""
COUNTS = (1, 8, 64, 256, 1024)
NODE, CONTEXT = 8, 4
"""GPUs of a host; those that share the tokens of a sample."""
STATES = 2
"""Of AdamW, for each number that trains."""
GATHERED_BLOCKS = 3
"""What is in flight: the block that is computed, the next one, and the buffer that it is gathered into."""


@dataclass(frozen=True)
class Subject:
    """What was read off a model."""

    units: Sequence[Unit]
    num_tokens: int
    fixed_bytes: float
    """Of activations, whatever the number of tokens."""
    token_bytes: float
    width: int
    """Of all heads together."""
    channels: int
    """Of a token of the answer."""
    attentions: int

    def activations(self, context: int) -> float:
        """Bytes of a micro-batch of one sample."""
        return self.fixed_bytes + self.token_bytes * self.num_tokens / context


@cache
def subject_of(name: str, tuning: str) -> Subject:
    """Build a run's trainer without memory, and take a forward and a backward pass of two sizes."""
    say(f"{name}, {tuning}")
    config, model = opened(name, TUNINGS[tuning], {})
    (tokens, most), (fewer, less) = (
        (model.adapter.grid.num_tokens(size), _peak(config, model, size)) for size in (VIDEO, SHORT)
    )
    token_bytes = (most - less) / (tokens - fewer)
    denoiser = build_meta_trainer(config, model).denoiser
    settings: Any = denoiser.config
    return Subject(
        units=units_of(denoiser, model.adapter.blocks),
        num_tokens=tokens,
        fixed_bytes=most - token_bytes * tokens,
        token_bytes=token_bytes,
        width=settings.num_attention_heads * settings.attention_head_dim,
        channels=model.adapter.grid.channels * model.adapter.grid.patch**2,
        attentions=len(named_blocks(denoiser, model.adapter.blocks)),
    )


def _peak(config: Any, model: Any, bucket: Any) -> int:
    """Bytes of activations and temporaries at the peak of a micro-batch of one sample."""
    trainer, meter = build_meta_trainer(config, model), Meter()
    batch = trainer.on_device(synthetic_batch(config, model, bucket, 1, device=torch.device("cpu")))
    trainer.denoiser.train()
    meter.label("host", [*trainer.denoiser.parameters(), *trainer.denoiser.buffers(), *trainer.update.parameters])
    with torch.random.fork_rng(devices=[]), fused_attention(), meter, trainer.attention():
        trainer.update.backward(trainer.micro_losses(batch), batch_size=1)
    gradients = [own.grad for own in (*trainer.update.parameters, *trainer.denoiser.parameters()) if own.grad is not None]
    meter.label("host", gradients)
    return meter.usage().peak_bytes


def layouts(count: int) -> Iterator[tuple[str, Layout]]:
    """Ways to use so many devices."""
    yield ("one" if count == 1 else "DDP"), Layout(replicate=count)
    if count == 1:
        return
    yield ("FSDP" if count == NODE else "HSDP"), Layout(count // NODE, NODE)
    if count > NODE:
        yield "FSDP", Layout(1, count)
    yield ("HSDP, Ulysses" if count > NODE else "FSDP, Ulysses"), Layout(count // NODE, NODE // CONTEXT, CONTEXT)


def memory_of(subject: Subject, layout: Layout) -> dict[str, float]:
    """Bytes that one device holds, by what they are."""
    units = subject.units
    sharing = layout.shard * layout.context if layout.shard > 1 else 1
    trained = trained_numel(units, sharing) / sharing
    found = {"weights": sum(gathered_bytes(unit, sharing) for unit in units) / sharing, "gathered": 0.0}
    if sharing > 1:  # those that train rest in float32, as masters
        found["weights"] -= sum(w.padded(sharing) * w.num_bytes for unit in units for w in unit if w.is_trained) / sharing
        found["gathered"] = _in_flight(units, sharing)
    found["masters, states"] = (1 + STATES) * FLOAT32_BYTES * trained
    found["gradients"] = FLOAT32_BYTES * (trained_numel(units) if is_little(units) else trained)
    found["activations"] = subject.activations(layout.context)
    return found


def _in_flight(units: Sequence[Unit], sharing: int) -> float:
    """Bytes of what is gathered at once, and of gradients of one block on their way into shards."""
    *blocks, root = units
    largest = max(blocks, key=lambda unit: gathered_bytes(unit, sharing))
    found = gathered_bytes(root, sharing) + GATHERED_BLOCKS * gathered_bytes(largest, sharing)
    if not is_little(units):
        found += sum(w.padded(sharing) * (w.num_bytes + FLOAT32_BYTES) for w in largest if w.is_trained)
    return found


def sent_by(subject: Subject, layout: Layout) -> dict[str, float]:
    """Bytes that one device sends in a step of one micro-batch, by kind."""
    traffic = traffic_of_weights(subject.units, layout, micro_batches=1)
    traffic += traffic_of_tokens(
        layout,
        num_tokens=subject.num_tokens,
        width=subject.width,
        channels=subject.channels,
        attentions=subject.attentions,
        micro_batches=1,
        num_bytes=2,
        is_checkpointed=True,
    )
    return sent(traffic, groups_of(layout))


def table(name: str, tuning: str) -> Iterator[str]:
    """One row for each number of devices and layout."""
    subject = subject_of(name, tuning)
    parts = list(memory_of(subject, Layout()))
    yield f"| GPUs | layout | samples | GiB | {' | '.join(parts)} | {' | '.join(KINDS)} |"
    yield f"|---|---|---|---|{'---|' * (len(parts) + len(KINDS))}"
    for count in COUNTS:
        for title, layout in layouts(count):
            memory, moved = memory_of(subject, layout), sent_by(subject, layout)
            sizes = "x".join(str(size) for size in (layout.replicate, layout.shard, layout.context))
            yield row(
                str(count),
                f"{title} {sizes}",
                str(layout.data_size),
                f"**{sum(memory.values()) / GIB:.1f}**",
                *(f"{memory[part] / GIB:.1f}" for part in parts),
                *(f"{moved[kind] / GIB:.1f}" if kind in moved else "" for kind in KINDS),
            )


def main() -> None:
    """Make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the tables, and change no page")
    options = parser.parse_args()
    page = DOCS / "measured_scale.md"
    for name in MODELS:
        for tuning in TUNINGS:
            lines = list(table(name, tuning))
            if options.print:
                print("\n".join([f"{name}, {tuning}", *lines, ""]), flush=True)
            else:
                page.write_text(filled(page.read_text(), f"{name}, {tuning}", lines))


if __name__ == "__main__":
    main()
