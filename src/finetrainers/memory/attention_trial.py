"""The trial of attention backends, in a process of its own: a kernel that fails may take its process with it.

    python -m finetrainers.memory.attention_trial ASKED ANSWERS

ASKED is a JSON file; a line of JSON is added to ANSWERS when a backend begins, and when it is done.
Shape letters as in ``finetrainers.memory.attention_calls``.
"""

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetrainers.memory.attention import attention
from finetrainers.memory.attention_calls import Call, Tensors

TOLERANCES = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Largest relative error (norm of the difference by norm) of answer and gradients, by data type, against math in float32.
Right kernels are a quarter of it away or less, wrong ones a hundred times as far; float32 has room for TF32 products."""
NUM_TIMED = 5
REFERENCE_ROWS = 1024
"""Queries whose scores are computed at once in the reference: all of a long clip would not fit into memory."""

Compute = Callable[[Call, Tensors], Tensor]
"""Computes a call: [B, H, S, D]."""


def backend_of(name: str) -> Compute:
    """Find what computes attention with a backend, as it does in the denoiser."""

    def compute(call: Call, t: Tensors) -> Tensor:
        options: dict[str, Any] = {"scale": call.scale, "is_causal": call.is_causal, "enable_gqa": call.enable_gqa}
        with attention(name, is_dispatched=call.is_dispatched):
            if not call.is_dispatched:
                return torch.nn.functional.scaled_dot_product_attention(t.query, t.key, t.value, t.mask, **options)
            from diffusers.models.attention_dispatch import dispatch_attention_fn

            query, key, value = (part.transpose(1, 2) for part in (t.query, t.key, t.value))
            answer: Tensor = dispatch_attention_fn(query, key, value, attn_mask=t.mask, **options)
            return answer.transpose(1, 2)

    return compute


class WrongAnswerError(Exception):
    """A backend computes something else than attention."""


def milliseconds(
    compute: Compute, calls: Sequence[tuple[Call, int]], device: torch.device, *, needs_backward: bool
) -> float:
    """Check a backend on each call, and measure how long all of them take, each as often as it is counted.

    Raises:
        WrongAnswerError: If an answer or a gradient is not that of the reference.
    """
    total = 0.0
    for call, count in calls:
        torch.manual_seed(0)
        tensors = call.make(device)
        found = _run(compute, call, tensors, needs_backward=needs_backward)
        error, tolerance = relative_error(call, tensors, found), TOLERANCES[tensors.query.dtype]
        if not error <= tolerance:  # so that nan is wrong too
            raise WrongAnswerError(f"wrong by {error:.2g}, where {tolerance:g} is allowed in {call.query.dtype}")
        del found
        total += count * _timed(lambda: _run(compute, call, tensors, needs_backward=needs_backward), device)  # noqa: B023
    return total


def _run(compute: Compute, call: Call, tensors: Tensors, *, needs_backward: bool) -> list[Tensor]:
    """Return the answer, and the gradients of queries, keys and values if they are needed."""
    leaves = [part.detach().requires_grad_(needs_backward) for part in (tensors.query, tensors.key, tensors.value)]
    with torch.set_grad_enabled(needs_backward):
        answer = compute(call, replace(tensors, query=leaves[0], key=leaves[1], value=leaves[2]))
    gradients = torch.autograd.grad(answer, leaves, tensors.gradient) if needs_backward else ()
    return [answer.detach(), *gradients]


def _timed(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds that something takes, in the median."""
    found: list[float] = []
    for _ in range(NUM_TIMED):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            stream = torch.cuda.current_stream(device)  # of this device, which need not be the current one
            start.record(stream)
            run()
            end.record(stream)
            end.synchronize()
            found.append(start.elapsed_time(end))
        else:
            began = time.perf_counter()
            run()
            found.append(1000 * (time.perf_counter() - began))
    return float(statistics.median(found))


def relative_error(call: Call, tensors: Tensors, found: Sequence[Tensor]) -> float:
    """Largest relative error of an answer [B, H, S, D] and of the gradients, if there are any, over all heads together."""
    differences, norms = ([0.0] * len(found) for _ in range(2))
    for (queries, keys), reference in _reference(call, tensors, needs_backward=len(found) > 1):
        places = (queries, queries, keys, keys)
        for index, (own, right) in enumerate(zip(found, reference, strict=True)):
            differences[index] += float((own[places[index]].double() - right).square().sum())
            norms[index] += float(right.double().square().sum())
    return max(
        (difference / norm) ** 0.5 if norm else difference for difference, norm in zip(differences, norms, strict=True)
    )


def _reference(call: Call, t: Tensors, *, needs_backward: bool) -> Iterator[tuple[tuple[Any, Any], list[Tensor]]]:
    """Attention by its formula in float32, one head of the keys after the other, with all heads of queries that share it.

    Yields:
        Places of the heads of queries and of keys; answer, and gradients of queries, keys and values.
    """
    group = t.query.shape[1] // t.key.shape[1]
    for row in range(len(t.key)):
        for head in range(t.key.shape[1]):
            queries, keys = (row, slice(head * group, (head + 1) * group)), (row, slice(head, head + 1))
            own = [part.detach().float() for part in (t.query[queries], t.key[keys], t.value[keys])]
            mask = None if t.mask is None else t.mask.expand(*t.query.shape[:3], t.key.shape[2])[queries]
            yield (queries, keys), _of_head(call, own, mask, t.gradient[queries] if needs_backward else None)


def _of_head(call: Call, own: Sequence[Tensor], mask: Tensor | None, gradient: Tensor | None) -> list[Tensor]:
    """Answer [G, S, D] of the heads of queries that share one of keys and values, and the gradients of the three."""
    query, key, value = own
    key, value = (part.requires_grad_(gradient is not None) for part in (key, value))
    scale = query.shape[-1] ** -0.5 if call.scale is None else call.scale
    answers, of_queries, of_keys, of_values = [], [], torch.zeros_like(key), torch.zeros_like(value)
    for start in range(0, query.shape[1], REFERENCE_ROWS):
        rows = slice(start, start + REFERENCE_ROWS)
        part = query[:, rows].clone().requires_grad_(gradient is not None)
        scores = scale * part @ key.transpose(1, 2)
        if call.is_causal:
            places = torch.arange(start, start + part.shape[1], device=part.device)
            is_later = torch.arange(key.shape[1], device=part.device) > places[:, None]
            scores = scores.masked_fill(is_later, -torch.inf)
        if mask is not None:
            hides = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask[:, rows], -torch.inf) if hides else scores + mask[:, rows].float()
        answer = scores.softmax(-1) @ value
        answers.append(answer.detach())
        if gradient is not None:
            found = torch.autograd.grad(answer, (part, key, value), gradient[:, rows].float())
            of_queries.append(found[0])
            of_keys += found[1]
            of_values += found[2]
    gradients = [] if gradient is None else [torch.cat(of_queries, 1), of_keys, of_values]
    return [torch.cat(answers, 1), *gradients]


def is_well(device: torch.device) -> bool:
    """Whether a device still computes, after an error on it: an illegal access to memory spoils all that follows."""
    try:
        return float(torch.ones(2, device=device).sum()) == 2
    except RuntimeError:
        return False


def main(asked: Path, answers: Path) -> None:
    """Try one backend after the other, and tell how each did."""
    tree = json.loads(asked.read_text(encoding="utf-8"))
    device = torch.device(tree["device"])
    calls = [(Call.from_json(call), count) for call, count in tree["calls"]]
    module, _, name = tree["backends_of"].partition(":")
    find: Callable[[str], Compute] = getattr(importlib.import_module(module), name)
    torch.backends.cuda.matmul.allow_tf32 = False  # of the reference
    with answers.open("a", encoding="utf-8") as file:

        def tell(**fields: object) -> None:
            file.write(json.dumps(fields) + "\n")
            file.flush()

        for backend in tree["backends"]:
            tell(backend=backend)
            try:
                taken = milliseconds(find(backend), calls, device, needs_backward=tree["needs_backward"])
            except Exception as error:  # noqa: BLE001  # whatever a kernel raises: it is not taken, and the others are tried
                lines = str(error).strip().splitlines() or [""]
                tell(backend=backend, milliseconds=None, reason=f"{type(error).__name__}: {lines[0]}")
                if not is_well(device):
                    os._exit(1)  # the next process goes on with the others
            else:
                tell(backend=backend, milliseconds=taken, reason=None)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
