"""A plan as text of at most 100 columns."""

import textwrap
from collections.abc import Sequence

from finetrainers.training.bench.run import named
from finetrainers.training.bench.table import GIB, aligned, gib
from finetrainers.training.plan.figures import Planned, Stage, Step, Technique

WIDTH = 98
PARTS = ("weights", "gradients", "optimizer", "activations", "temporary")


def plan_table(planned: Planned) -> str:
    """Print what a run takes, and what is proposed."""
    blocks = [_head(planned), _memory(planned.stages), _times(planned), _disk(planned)]
    if planned.between is not None:
        blocks.append(_devices(planned))
    if planned.techniques:
        blocks.append(_techniques(planned.techniques))
    blocks.append(_errors(planned))
    if planned.proposal is not None:
        blocks.append(_verdict(planned))
    return "\n\n".join("\n".join(block) for block in blocks)


def _head(planned: Planned) -> list[str]:
    where = "" if planned.gpu is None else f" on {planned.gpus} x {planned.gpu}"
    limit = "" if planned.limit is None else f"; {planned.limit / GIB:.1f} GiB of it may be counted"
    return [f"{planned.family}, {planned.num_trained:,} numbers train{where}{limit}"]


def _memory(stages: Sequence[Stage]) -> list[str]:
    rows: list[tuple[str, ...]] = [("GiB", "allocated", "reserved", *PARTS, "host")]
    for own in stages:
        parts = (gib(own.parts.get(part, 0)) for part in PARTS)
        rows.append((own.stage, gib(own.allocated), gib(own.reserved), *parts, gib(own.host)))
    notes = [f"  {own.stage}: {own.note}" for own in stages if own.note]
    return [*aligned(rows), *notes]


def _times(planned: Planned) -> list[str]:
    rows: list[tuple[str, ...]] = [("bucket", "tokens", "TFLOP", "s/step", "host link GB")]
    rows += [_step(own) for own in planned.steps]
    run = planned.run
    lines = aligned(rows)
    if run.seconds is None:
        return [*lines, "  seconds: name a kind of GPU with --gpu, such as h100, or give --measured"]
    parts = {name: seconds for name, seconds in planned.steps[0].parts.items() if seconds >= 0.005 * run.seconds / run.steps}
    shown = ", ".join(f"{name.replace('_', ' ')} {seconds:.3g}" for name, seconds in parts.items())
    told = [f"{run.steps:,} steps {_duration(run.seconds)}"]
    told += [] if run.encode_seconds is None else [f"encoding {_duration(run.encode_seconds)}"]
    told += [f"validation {_duration(run.validation_seconds)}"] if run.validation_seconds else []
    told += [] if run.cost is None else [f"cost {run.cost:.2f} at {run.price:g} an hour and GPU"]
    return [*lines, *_wrapped(f"seconds by kernel: {shown}"), *_wrapped("run: " + "; ".join(told))]


def _step(own: Step) -> tuple[str, ...]:
    seconds = "-" if own.seconds is None else f"{own.seconds:.3f}"
    return named(own.bucket), str(own.tokens), f"{own.tflop:.4g}", seconds, f"{own.link_bytes / 1e9:.1f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


def _disk(planned: Planned) -> list[str]:
    own = planned.disk
    cache = (
        "none, for items are in memory"
        if own.cache == 0
        else f"{own.item / 1e6:.1f} MB an item, at most (--items N says how many there are)"
        if own.cache is None
        else f"{own.cache / 1e9:.2f} GB of {own.items:,} items of {own.item / 1e6:.1f} MB at most"
    )
    return _wrapped(
        f"disk: cache {cache}; checkpoints {own.checkpoints / 1e9:.2f} GB ({own.checkpoint / 1e9:.2f} each, one more "
        f"while it is written); weights {own.weights / 1e9:.2f} GB a step that is exported"
    )


def _devices(planned: Planned) -> list[str]:
    own = planned.between
    assert own is not None
    sent = ", ".join(f"{kind} {num_bytes / 1e9:.2f}" for kind, num_bytes in own.sent.items())
    time = "" if own.seconds is None else f"; {own.seconds:.3f} s, if nothing of it hides behind computing"
    return _wrapped(
        f"devices: replicate {own.replicate}, shard {own.shard}, context {own.context}; each sends in a step, in GB: "
        f"{sent}{time}"
    )


def _techniques(techniques: Sequence[Technique]) -> list[str]:
    rows = [("step GB", "s/step", "techniques, the fastest first; * is taken")]
    for own in techniques:
        keys = (
            ", ".join(f"{key.partition('.')[2]}: {_value(value)}" for key, value in own.keys.items()) or "as it is written"
        )
        peak = "-" if own.allocated is None else f"{own.allocated / 1e9:.1f}"
        seconds = "-" if own.seconds is None else f"{own.seconds:.3f}"
        mark = "* " if own.is_chosen else ""
        rows.append((peak, seconds, f"{mark}{keys} ({own.reason})" if own.reason else f"{mark}{keys}"))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = []
    for peak, seconds, keys in rows:
        lead = f"{peak:>{widths[0]}}  {seconds:>{widths[1]}}  "
        lines += textwrap.wrap(lead + keys, WIDTH, subsequent_indent=" " * len(lead))
    return lines


def _value(value: bool | int | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _errors(planned: Planned) -> list[str]:
    own = planned.errors
    seconds = "" if planned.run.seconds is None else f", seconds {own.seconds:.0%}"
    return _wrapped(f"error: allocated {own.allocated:.0%}, reserved {own.reserved:.0%}{seconds}; {own.basis}")


def _verdict(planned: Planned) -> list[str]:
    over = [own.stage for own in planned.stages if planned.limit is not None and (own.allocated or 0) > planned.limit]
    if over:
        return _wrapped(f"It does not fit: {', '.join(over)} needs more than {gib(planned.limit)} GiB.")
    left_out = [part for own in planned.stages for part in own.note.split("; ") if part.startswith("not counted: ")]
    fits = f"It fits, as far as it was counted ({'; '.join(left_out)})." if left_out else "It fits."
    told = _wrapped(f"{fits} The configuration, to be given to finetrainers train:")
    return [*told, "", str(planned.proposal).rstrip()]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")
