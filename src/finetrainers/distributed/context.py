"""Context parallelism: the processes of the context axis share the tokens of each sample.

Each of them computes its part of the tokens, and attention sees all: by an exchange of tokens against heads (Ulysses), after
which each process has some heads of all tokens, or by passing keys and values around (ring). The answer is put together on
all of them, and each takes the gradient of its own tokens: gradients are parts of the whole, which is their sum.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from finetrainers.config.parallel import ContextKind
from finetrainers.distributed.exchange import JointAttention, Place
from finetrainers.distributed.world import World
from finetrainers.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPlan:
    """How the processes of the context axis share the tokens of a denoiser. Modules are named as in ``named_modules``."""

    num_heads: int
    """Of each attention that is shared: with Ulysses, each process computes as many as all others."""
    modules: Mapping[str, Any]
    """What is split of the inputs and outputs of modules, and which outputs are put together: as ``_cp_plan`` of diffusers'
    models has it."""
    prompt: Place | None = None
    """Where the prompt stands in attention over all tokens, if each process has all of it: such attention is exchanged here,
    and computed by torch. None: diffusers exchanges it, and each process has what ``modules`` leaves it."""
    splits_prompt: bool = False
    """Whether ``modules`` splits the prompt, too: the number of its tokens has to be a multiple."""
    unshared: tuple[str, ...] = ()
    """Last names of attention modules whose keys each process has all of, such as those of the prompt."""
    counted: int | None = None
    """Place among a block's arguments of a number of leading tokens: each process is told that of its own part."""

    def takes(self, kind: ContextKind) -> bool:
        """Whether keys can be passed around: not beside those of a prompt that each process has."""
        return kind == "ulysses" or self.prompt is None


def share_tokens(
    denoiser: nn.Module, plan: ContextPlan | None, blocks: Sequence[str], world: World, kind: ContextKind = "ulysses"
) -> None:
    """Let a denoiser compute its part of the tokens of what it is asked, in training and when it generates.

    Call it on all processes, when adapters are in their place, and before anything is compiled.

    Args:
        denoiser: One component; the processes of the context axis have to ask it the same.
        plan: Of its adapter.
        blocks: Class names of its repeated blocks.
        world: All processes; if none share tokens, nothing is done.
        kind: How they do.

    Raises:
        ConfigError: If there is no plan.
    """
    size = world.layout.context
    if size == 1:
        return
    if plan is None or not plan.takes(kind):
        raise ConfigError(
            f"parallel.context_kind: {kind} is impossible for {type(denoiser).__name__}: its adapter has no plan"
        )
    assert world.mesh is not None, "there are several processes"
    part = Part(world.mesh["context"].get_group(), world.context_rank, size)
    own = [module for module in denoiser.modules() if type(module).__name__ in blocks]
    if plan.prompt is None:
        _let_dispatcher_exchange(denoiser, plan.unshared, world, kind)
    else:
        _exchange_in(own, part.group, plan.prompt)
    for name, rules in plan.modules.items():
        part.hook(denoiser.get_submodule(name), rules)
    if plan.counted is not None:
        for block in own:
            block.register_forward_pre_hook(part.counting(plan.counted))


def _exchange_in(blocks: Sequence[nn.Module], group: ProcessGroup, prompt: Place) -> None:
    """Let the attention of blocks be exchanged here."""
    attentions: list[Any] = [module for block in blocks for module in block.modules() if hasattr(module, "set_processor")]
    for attention in attentions:
        attention.set_processor(JointAttention(attention.processor, group, prompt))


def _let_dispatcher_exchange(denoiser: nn.Module, unshared: Sequence[str], world: World, kind: ContextKind) -> None:
    """Tell what computes attention to ask diffusers' dispatcher for that of all processes.

    As ``enable_parallelism`` does, which cannot be called on a CPU, and makes groups of processes of its own.
    """
    from diffusers import ContextParallelConfig
    from diffusers.models._modeling_parallel import ParallelConfig

    size = world.layout.context
    own = ContextParallelConfig(**{"ulysses_degree" if kind == "ulysses" else "ring_degree": size})
    assert world.mesh is not None, "there are several processes"
    # What its setup does, for which a mesh has two axes: one of them would have groups of a single process.
    own._rank, own._world_size, own._device = world.launch.rank, world.launch.size, world.device
    own._mesh = own._flattened_mesh = own._ulysses_mesh = own._ring_mesh = world.mesh["context"]
    own._ulysses_local_rank = own._ring_local_rank = world.context_rank
    config = ParallelConfig(context_parallel_config=own)
    for name, module in denoiser.named_modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_parallel_config") and name.rpartition(".")[2] not in unshared:
            processor._parallel_config = config


@dataclass(frozen=True, slots=True)
class Part:
    """The part of all tokens that one process has."""

    group: ProcessGroup
    rank: int
    size: int

    def take(self, tensor: Tensor, rule: Any) -> Tensor:
        """Take this process's part of a tensor; one of other dimensions than the rule expects holds the same for all."""
        if rule.expected_dims not in (None, tensor.ndim):
            return tensor
        if tensor.shape[rule.split_dim] % self.size:
            raise ConfigError(f"parallel.context: {self.size} processes cannot share {tensor.shape[rule.split_dim]} tokens")
        return tensor.chunk(self.size, dim=rule.split_dim)[self.rank]

    def hook(self, module: nn.Module, rules: Any) -> None:
        """Split inputs and outputs of a module, or put its output together, as diffusers' rules say."""
        if not isinstance(rules, Mapping):
            module.register_forward_hook(lambda _module, _args, output: _join(output, rules.gather_dim, self.group))
            return
        inputs = {name: rule for name, rule in rules.items() if isinstance(name, str)}
        outputs = {name: rule for name, rule in rules.items() if not isinstance(name, str)}
        if inputs:
            module.register_forward_pre_hook(self._splitting(module, inputs), with_kwargs=True)
        if outputs:
            module.register_forward_hook(lambda _module, _args, output: self._take_outputs(output, outputs))

    def _take_outputs(self, output: Any, rules: Mapping[int, Any]) -> Any:
        """Take this process's part of what a module returns: one tensor, or several."""
        if isinstance(output, Tensor):
            return self.take(output, rules[0])
        return tuple(self.take(each, rules[place]) for place, each in enumerate(output))

    def _splitting(
        self, module: nn.Module, inputs: Mapping[str, Any]
    ) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
        """Make a hook that splits arguments, be they told by place or by name."""
        places = {name: place for place, name in enumerate(signature(module.forward).parameters)}

        def split(_module: nn.Module, args: tuple[Any, ...], told: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            given, named = list(args), dict(told)
            for name, rule in inputs.items():
                if name in named:
                    named[name] = self._take_each(named[name], rule)
                elif places[name] < len(given):
                    given[places[name]] = self._take_each(given[places[name]], rule)
            return tuple(given), named

        return split

    def _take_each(self, value: Any, rule: Any) -> Any:
        """Take this process's part of a tensor, or of each of several by a rule of its own; of None, None."""
        if value is None:
            return None
        return self.take(value, rule) if isinstance(value, Tensor) else tuple(map(self.take, value, rule))

    def counting(self, place: int) -> Callable[..., tuple[Any, ...]]:
        """Make a hook that turns a number of leading tokens into that among this process's own, a block's first argument."""

        def count(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            own = args[0].shape[1]
            return *args[:place], min(max(args[place] - self.rank * own, 0), own), *args[place + 1 :]

        return count


def _join(part: Tensor, dim: int, group: ProcessGroup) -> Tensor:
    """Put the parts of a tensor together on all processes."""
    joined: Tensor = Gathered.apply(part, dim, group)  # type: ignore[no-untyped-call]  # torch's own
    return joined


class Gathered(torch.autograd.Function):
    """Puts the parts of a tensor together on all processes; each takes the gradient of its own."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, dim: int, group: ProcessGroup) -> Tensor:
        ctx.dim, ctx.group = dim, group
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(group.size())]
        distributed.all_gather(parts, part.contiguous(), group=group)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.chunk(ctx.group.size(), ctx.dim)[ctx.group.rank()], None, None
