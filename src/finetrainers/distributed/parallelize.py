"""Weights that several processes share: each holds a part of every weight, and has all of a block while it computes it.

FSDP2, and HSDP where there are copies too. Gradients of the parts are sums over all processes, never means.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.experimental import implicit_replication

from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.parts import with_part

GROUP_NUMEL = 1 << 20
"""Numbers from which modules of another data type than the rest of their block are gathered by themselves; smaller ones are
held by each process."""
LITTLE = 0.1
"""Part of all weights up to which those that train are little: gradients of a step add up whole, and are shared out once."""


def local_of(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds: all of it, if nobody shares it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: DTensor) -> Tensor:
    """Return all of a tensor, on the device of its processes, wherever its parts rest. All of them have to ask for it."""
    local = local_of(tensor.detach()).to(tensor.device_mesh.device_type)
    return with_part(tensor, local).full_tensor()


def beside_parts() -> AbstractContextManager[None]:
    """Let tensors that each process has whole, and the same, be computed with beside those of which it has a part."""
    return implicit_replication()


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module as it was before its weights were shared."""
    own = type(module)
    return own if not isinstance(module, FSDPModule) else own.__mro__[own.__mro__.index(FSDPModule) + 1]


def as_shard(whole: Tensor, mesh: DeviceMesh) -> DTensor:
    """Keep this process's part [ceil(N / processes), ...] of a tensor [N, ...] that each has whole; nothing is sent.

    Args:
        whole: The tensor.
        mesh: Of the processes that share one copy; peft takes an axis of this name for one that changes no sizes.
    """
    rows = -(-whole.shape[0] // mesh.size())
    first = mesh.get_local_rank() * rows
    own = whole.detach()[first : first + rows].clone()
    made: DTensor = DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())
    return made


def copy_whole(own: Tensor, whole: Tensor) -> None:
    """Copy a tensor into one of the same size, of which this process may hold a part."""
    if isinstance(own, DTensor):
        assert own.device_mesh.ndim == 1, "shards of a denoiser that is not yet complete"
        whole = as_shard(whole, own.device_mesh).to_local()
    local_of(own).copy_(whole)


def share(denoiser: Any, blocks: Sequence[nn.Module], mesh: DeviceMesh, config: ParallelConfig) -> None:
    """Let processes share the weights of a denoiser, which is complete: what trains is settled, what compiles is compiled.

    Weights that train are kept in float32, whatever type they compute in: they are the masters. Some of a block's weights
    may be shards already.

    Args:
        denoiser: One of diffusers' models, called as a whole.
        blocks: Its repeated blocks, in the order in which they are computed.
        mesh: Of one axis, or of two: copies, and processes that share one.
        config: Says when weights are let go, where they rest, and how far ahead they are gathered.
    """
    # Nothing that diffusers' blocks return is changed in place: gradients of all families are those of one process.
    computed: torch.dtype = denoiser.dtype
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    for unit in (*blocks, denoiser):
        others = _Others(unit)
        for module in others.groups:
            _share(module, mesh, config)
        _share(unit, mesh, config, ignored=others.ignored)
    _say_dtype(denoiser, computed)
    shared: list[FSDPModule] = [block for block in blocks if isinstance(block, FSDPModule)]
    if config.prefetch > 1:
        for number, block in enumerate(shared):
            block.set_modules_to_forward_prefetch(shared[number + 1 : number + 1 + config.prefetch])
            block.set_modules_to_backward_prefetch(shared[max(0, number - config.prefetch) : number][::-1])


def _share(module: nn.Module, mesh: DeviceMesh, config: ParallelConfig, *, ignored: set[nn.Parameter] | None = None) -> None:
    """Share the weights of one module that are gathered together, but for those that are shared already."""
    ignored = ignored or set()
    own = [(m, name, p) for m, name, p in _parameters(module) if p not in ignored]
    trained = [p for _, _, p in own if p.requires_grad]
    computed = trained[0].dtype if trained and trained[0].dtype != torch.float32 else None
    parts: list[tuple[nn.Module, str, DTensor]] = []
    for owner, name, parameter in own:
        value: Tensor = parameter.detach()
        if parameter.requires_grad:
            value = value.float()
        if isinstance(value, DTensor):
            parts.append((owner, name, value))
            value = torch.empty(value.shape, dtype=value.dtype, device="meta")
        if value is not parameter:
            owner._parameters[name] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    del own, trained
    shared: Any = fully_shard(
        module,
        mesh=mesh,
        reshard_after_forward=config.reshard,
        mp_policy=MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32, cast_forward_inputs=False),
        offload_policy=_offload(config, mesh),
        ignored_params=ignored,
    )
    shared.set_gradient_divide_factor(1.0)
    shared.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    for owner, name, part in parts:
        empty = owner.get_parameter(name)
        assert isinstance(empty, DTensor)
        local = part.to_local().cpu() if config.offload else part.to_local()
        filled = with_part(empty, local)
        owner.load_state_dict({name: filled}, strict=False, assign=True)


def _say_dtype(denoiser: Any, computed: torch.dtype) -> None:
    """Let a denoiser say what it computes in, which pipelines ask for, and not in what its parts are kept.

    By a class of its own, as it has one from FSDP already.
    """
    own = type(denoiser)
    facts = {"dtype": property(lambda _: computed), "_orig_cls_mro_index": own.__mro__.index(plain_class(denoiser)) + 1}
    denoiser.__class__ = type(own.__name__, (own,), facts)


def _offload(config: ParallelConfig, mesh: DeviceMesh) -> OffloadPolicy:
    return CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if config.offload else OffloadPolicy()


def _parameters(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield the parameters of a module and its parts with their owners, but for parts that share theirs already."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield module, name, parameter
    for child in module.children():
        if not isinstance(child, FSDPModule):
            yield from _parameters(child)


class _Others:
    """Parameters of a block that cannot be gathered with the most of it, whose type is another.

    All that trains in one group has one type; and where that is narrow, so has all else that is computed in it.
    """

    def __init__(self, unit: nn.Module) -> None:
        found = [parameter for _, _, parameter in _parameters(unit)]
        counts: dict[torch.dtype, int] = {}
        for parameter in found:
            if parameter.requires_grad:
                counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.numel()
        main = max(counts, key=lambda dtype: counts[dtype], default=torch.float32)
        self._apart = {
            parameter
            for parameter in found
            if parameter.dtype != main and (parameter.requires_grad or (main != torch.float32 and _is_float32(parameter)))
        }
        self.groups = list(self._find_groups(unit)) if self._apart else []
        """Modules large enough to be gathered by themselves."""
        grouped = {parameter for module in self.groups for parameter in module.parameters()}
        self.ignored = {_make_whole(*place) for place in _parameters(unit) if place[2] in self._apart - grouped}
        """What each process holds, and sums the gradients of."""

    def _find_groups(self, module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if isinstance(child, FSDPModule):
                continue
            own = list(child.parameters())
            is_apart = bool(own) and all(parameter in self._apart for parameter in own)
            has_one_type = len({parameter.dtype for parameter in own}) == 1
            if is_apart and has_one_type and sum(parameter.numel() for parameter in own) >= GROUP_NUMEL:
                yield child
            else:
                yield from self._find_groups(child)


def _make_whole(owner: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
    """Return a parameter that is whole in each process, in the place of its parts."""
    if isinstance(parameter, DTensor):
        owner._parameters[name] = nn.Parameter(parameter.full_tensor().detach(), requires_grad=parameter.requires_grad)
    whole = owner._parameters[name]
    assert whole is not None
    return whole


def _is_float32(parameter: nn.Parameter) -> bool:
    return parameter.dtype == torch.float32


def shared_modules(module: nn.Module) -> list[FSDPModule]:
    """List the parts of a module whose weights are shared."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def let_go(module: object) -> None:
    """Free weights that were gathered and kept: what is gathered next is what the parts are by then."""
    if isinstance(module, nn.Module):
        for part in shared_modules(module):
            part.reshard()


def begin_anew(denoiser: nn.Module) -> None:
    """Forget a forward pass of a whole denoiser that was cut off."""
    if isinstance(denoiser, FSDPModule):
        denoiser.reset_iter_state()


class Sharing:
    """The parts of a denoiser whose weights are shared, while it trains."""

    def __init__(self, denoiser: nn.Module, trained: Iterable[nn.Parameter]) -> None:
        """Look at how much of a denoiser trains."""
        self._parts = shared_modules(denoiser)
        total = sum(parameter.numel() for parameter in denoiser.parameters())
        self._is_little = sum(parameter.numel() for parameter in trained) <= LITTLE * total

    def before_backward(self, *, is_last: bool) -> None:
        """Say whether the backward pass that begins is the last of its step.

        Gradients of little wait whole for it, and are sent once. Those of much are shared out in each backward pass, which
        leaves no process the whole of them; copies add up theirs in the last.
        """
        for part in self._parts:
            if self._is_little:
                part.set_requires_gradient_sync(is_last, recurse=False)
            else:
                part.set_requires_all_reduce(is_last, recurse=False)

    def let_go(self) -> None:
        """Free weights that were gathered and kept: what is gathered next is what the parts are by then."""
        for part in self._parts:
            part.reshard()
