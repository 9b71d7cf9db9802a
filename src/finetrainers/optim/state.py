"""The state of an optimizer by the names of its parameters, as a tree of plain tensors and values."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from finetrainers.distributed.parts import Part, part_of

PART = "part"
"""Entry of a weight's state, of what belongs to this process's part of the weight."""
Names = Mapping[nn.Parameter, str]
KERNELS = ("foreach", "fused")
"""Entries of parameter groups that say which of torch's kernels step: the machine decides, not the one that saved."""
Tree = Any  # what optimizers hold: checked where it is written
NESTED_8_BIT = "__bnb_optimizer_quant_state__"
LOW_BIT = ("OptimState4bit", "OptimState8bit", "OptimStateFp8")
"""Tensors of torchao that are made of several: no file knows them, so they are taken apart."""


def optimizer_state(optimizer: Optimizer, names: Names, shared: Mapping[str, DTensor] | None = None) -> dict[str, Tree]:
    """Return state and parameter groups with names in place of the parameters; tensors are the optimizer's own.

    Args:
        optimizer: Whose state it is.
        names: Of all that it steps.
        shared: The weights, by their names, of which it steps this process's part as if that was the whole.
    """
    known = {name: optimizer.state[p] for p, name in names.items() if optimizer.state.get(p)}
    for name, weight in (shared or {}).items():
        if name in known:
            known[name] = _bound(known[name], weight)
    return {
        "state": {name: apart(entries) for name, entries in known.items()},
        "param_groups": [{**group, "params": [names[p] for p in group["params"]]} for group in optimizer.param_groups],
    }


def as_of_today(saved: Mapping[str, Tree]) -> dict[str, Tree]:
    """Return the state of an earlier version in today's form: bitsandbytes used to put its own into a dict."""
    states = saved["state"].items()
    flat = {name: {**own, **own.get(NESTED_8_BIT, {})} for name, own in states}
    for entries in flat.values():
        entries.pop(NESTED_8_BIT, None)
    return {**saved, "state": flat}


def load_optimizer_state(optimizer: Optimizer, names: Names, saved: Mapping[str, Tree]) -> None:
    """Put a state back that ``optimizer_state`` has returned, its tensors on the devices on which they belong.

    Not by ``Optimizer.load_state_dict``: it turns what was kept in few bits into the type of the parameter.

    Raises:
        ValueError: If parameters or their groups are not the same.
    """
    own = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    found = [group["params"] for group in saved["param_groups"]]
    if own != found:
        raise ValueError("the groups of the optimizer's parameters differ")
    parameters = {name: parameter for parameter, name in names.items()}
    optimizer.state.clear()
    for name, entries in saved["state"].items():
        optimizer.state[parameters[name]] = _together(_unbound(entries))
    for group, entries in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({key: _together(value) for key, value in entries.items() if key not in ("params", *KERNELS)})


def _bound(entries: Mapping[str, Tree], weight: DTensor) -> dict[str, Tree]:
    """Bind the tensors of one weight's state to this process's part of it.

    They mean nothing to others, which may even have other entries: small parts keep their state in float32.
    """
    own = {key: value for key, value in entries.items() if isinstance(value, Tensor) and value.ndim}
    return {**{key: value for key, value in entries.items() if key not in own}, PART: part_of(weight, own)}


def _unbound(entries: Mapping[str, Tree]) -> dict[str, Tree]:
    """Undo ``_bound``."""
    plain = dict(entries)
    part = plain.pop(PART, None)
    return {**plain, **part.value} if isinstance(part, Part) else dict(entries)


@contextmanager
def no_learning_rate(optimizer: Optimizer) -> Iterator[None]:
    """Let a step change no weight."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = torch.zeros_like(rate) if isinstance(rate, Tensor) else 0.0
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def apart(value: Tree) -> Tree:
    """Take tensors apart that are made of others."""
    match value:
        case Part():
            return replace(value, value=apart(value.value))
        case Tensor() if type(value).__name__ in LOW_BIT:
            made: Any = value
            names, facts = made.__tensor_flatten__()  # torch's protocol of such tensors
            plain = [str(fact) if isinstance(fact, torch.dtype) else _listed(fact) for fact in facts]
            return {"made_of": type(value).__name__, **{name: getattr(value, name) for name in names}, "facts": plain}
        case Mapping():
            return {key: apart(item) for key, item in value.items()}
        case list() | tuple():
            items = [apart(item) for item in value]
            return items if isinstance(value, list) else tuple(items)
    return value


def _together(value: Tree) -> Tree:
    """Undo ``apart``."""
    match value:
        case {"made_of": str(kind), "facts": list(facts), **parts} if kind in LOW_BIT:
            from torchao.optim import subclass_4bit, subclass_8bit, subclass_fp8

            modules = (subclass_4bit, subclass_8bit, subclass_fp8)
            known = {name: getattr(module, name) for name in LOW_BIT for module in modules if name in vars(module)}
            *others, dtype = facts
            others = [torch.Size(fact) if isinstance(fact, list) else fact for fact in others]
            return known[kind](*parts.values(), *others, getattr(torch, dtype.removeprefix("torch.")))
        case Mapping():
            return {key: _together(item) for key, item in value.items()}
        case list() | tuple():
            items = [_together(item) for item in value]
            return items if isinstance(value, list) else tuple(items)
    return value


def tensors_of(tree: Tree, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the plain tensors of a state, with their places; float8 as bytes, which more operations take."""
    match apart(tree):
        case Part(value=inner):
            yield from tensors_of(inner, path)
        case Tensor() as tensor:
            yield path, tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
        case Mapping() as entries:
            for key, item in entries.items():
                yield from tensors_of(item, f"{path}/{key}")
        case list() | tuple() as items:
            for index, item in enumerate(items):
                yield from tensors_of(item, f"{path}/{index}")


def _listed(fact: object) -> object:
    return list(fact) if isinstance(fact, tuple) else fact
