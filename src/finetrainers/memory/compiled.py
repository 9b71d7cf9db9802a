"""Compiled code where memory is counted: what it would keep, and how many kernels it would be, without compiling any.

torch traces a block and splits it into a forward and a backward graph as it does for inductor, which decides what is kept
between the two. Each graph is then run so that only what a fused kernel would write takes memory: what matrix products and
attention read and return, and what the graph answers. All between is inside of kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from finetrainers.config import CompileConfig
from finetrainers.memory.meta import META
from finetrainers.memory.meter import Meter

BACKEND = "finetrainers_counted"
"""Name among torch's backends."""


def counted_compile(config: CompileConfig) -> CompileConfig:
    """Compile the same parts by what counts them."""
    if config.kind == "none":
        return config
    if BACKEND not in torch.compiler.list_backends(exclude_tags=()):
        torch._dynamo.register_backend(compiler_fn=_backend, name=BACKEND)
    return CompileConfig(kind=config.kind, backend=BACKEND)


def _backend(graph: fx.GraphModule, inputs: Sequence[Any]) -> Any:
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    compiled = aot_autograd(
        fw_compiler=partial(_fused, is_forward=True),
        bw_compiler=partial(_fused, is_forward=False),
        partition_fn=partial(min_cut_rematerialization_partition, compiler="inductor"),
        decompositions=select_decomp_table(),
    )
    return compiled(graph, inputs)


def _fused(graph: fx.GraphModule, _inputs: Sequence[Any], *, is_forward: bool) -> Callable[[list[Any]], Any]:
    plan = _Plan(graph.graph)

    def run(inputs: list[Any]) -> Any:
        # What a forward graph makes is kept for the backward pass, which the meter tells by this.
        with torch.set_grad_enabled(is_forward):
            return plan.run(inputs)

    run._boxed_call = True  # type: ignore[attr-defined]  # inputs are dropped as soon as nothing reads them
    return run


def is_kernel_of_its_own(func: Any) -> bool:
    """Whether an operation is not fused with those around it: it is counted as matrix products and attention are."""
    packet = getattr(func, "_overloadpacket", None)
    namespace = getattr(func, "namespace", "")
    return packet in flop_registry or namespace not in ("aten", "prims", "")


@dataclass(slots=True)
class _Plan:
    """A graph, of which it is settled what takes memory."""

    graph: fx.Graph
    written: set[fx.Node] = field(default_factory=set)
    """Nodes that kernels write."""
    dropped: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)
    """By node after which nothing reads them."""
    reads: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)
    """What there is in memory of what a node is made of."""

    def __post_init__(self) -> None:
        for node in self.graph.nodes:
            if node.op == "call_function" and is_kernel_of_its_own(node.target):
                self.written.add(node)
                self._write(node.all_input_nodes)
            elif node.op == "output":
                self._write(node.all_input_nodes)
        last: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            self.reads[node] = self._sources(node)
            if node in self.written or node.op in ("output", "placeholder") or _is_alias(node):
                last |= dict.fromkeys([*self.reads[node], node], node)
        for node, end in last.items():
            self.dropped.setdefault(end, []).append(node)

    def _write(self, nodes: Sequence[fx.Node]) -> None:
        """Have these in memory, or what they are views of."""
        for node in nodes:
            if _is_alias(node):
                self._write(node.all_input_nodes[:1])
            elif node.op == "call_function":
                self.written.add(node)

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        found: dict[fx.Node, None] = {}
        for source in node.all_input_nodes:
            if source.op == "placeholder" or source in self.written or self._is_there(source):
                found[source] = None
            else:
                found |= dict.fromkeys(self.reads[source])
        return list(found)

    def _is_there(self, node: fx.Node) -> bool:
        """Whether a node is a view of what is in memory."""
        while _is_alias(node):
            node = node.all_input_nodes[0]
        return node.op in ("placeholder", "get_attr") or node in self.written

    def run(self, inputs: list[Any]) -> Any:
        """Answer what the graph would."""
        places = (node for node in self.graph.nodes if node.op == "placeholder")
        values: dict[fx.Node, Any] = dict(zip(places, inputs, strict=True))
        inputs.clear()
        for node in self.graph.nodes:
            if node.op == "output":
                return tree_map(partial(_value, values), node.args[0])
            if node.op == "get_attr":
                values[node] = getattr(self.graph.owning_module, node.target)
            elif node in self.written or (_is_alias(node) and self._is_there(node)):
                values[node] = self._made(node, values)
            for own in self.dropped.get(node, ()):
                values.pop(own, None)
        raise AssertionError("a graph without an output")

    def _made(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if is_kernel_of_its_own(node.target) or _is_alias(node):
            args, kwargs = tree_map(partial(_value, values), (node.args, dict(node.kwargs)))
            return _ran(node.target, args, kwargs)
        made = tree_map(_empty, node.meta["val"])
        meter = Meter.current()
        if meter is not None:
            read = [values[own] for own in self.reads[node]]
            meter.work.note_fused([own for own in read if isinstance(own, Tensor)], tree_leaves(made))
        return made


def _ran(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operation; the state of random numbers, with which attention may be computed again, is left out."""
    from torch._prims.rng_prims import run_and_save_rng_state, run_with_rng_state

    if func is run_and_save_rng_state:
        return torch.empty(0), args[0](*args[1:], **kwargs)
    if func is run_with_rng_state:
        return args[1](*args[2:], **kwargs)
    return func(*args, **kwargs)


def _value(values: dict[fx.Node, Any], own: Any) -> Any:
    return values[own] if isinstance(own, fx.Node) else own


def _empty(own: Any) -> Any:
    if not isinstance(own, Tensor):
        return own
    return torch.empty_strided(own.shape, own.stride(), dtype=own.dtype, device=META)


def _is_alias(node: fx.Node) -> bool:
    """Whether a node is a view of another, or one of several answers."""
    if node.op != "call_function":
        return False
    if getattr(node.target, "__name__", "") == "getitem":
        return True
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.returns:
        return False
    info = schema.returns[0].alias_info
    return info is not None and not info.is_write
