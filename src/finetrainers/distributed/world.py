"""The processes of a run, one a device: which this one is, and what they do together. Nothing else asks for a rank."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store, _abort_process_group

from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.board import Board, LeftToOthersError, Place
from finetrainers.distributed.ending import end_undisturbed
from finetrainers.distributed.groups import by_bytes
from finetrainers.distributed.launch import Launch, read_launch
from finetrainers.distributed.layout import Layout, settle_layout
from finetrainers.distributed.meet import meet, watch_others
from finetrainers.distributed.talk import Talk
from finetrainers.distributed.watch import Watch
from finetrainers.errors import ConfigError

Value = TypeVar("Value")
AXES = ("replicate", "shard", "context")
BUCKET_BYTES = 1 << 26
"""Of what is added up at once: bounds what is held beside the tensors themselves."""


@dataclass(frozen=True)
class World:
    """All processes of a run, seen from one of them. Alone it costs nothing."""

    device: torch.device
    launch: Launch = field(default_factory=Launch)
    layout: Layout = field(default_factory=Layout)
    mesh: DeviceMesh | None = None
    """With the axes replicate, shard and context; None alone."""
    talk: Talk = field(default_factory=lambda: Talk(0, 1))
    replica: Talk = field(default_factory=lambda: Talk(0, 1))
    """Among the processes that hold one copy of the weights together: they ask it in step, or not at all."""
    board: Board = field(default_factory=Board)
    watch: Watch = field(default_factory=Watch)
    """Of whether the others are still there."""

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that holds the run directory."""
        return self.launch.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.launch.size == 1

    @property
    def name(self) -> str:
        """Of this process, in logs."""
        return f"rank-{self.launch.rank}"

    @property
    def data_rank(self) -> int:
        """Which of the groups of processes with samples of their own this one is of."""
        return self.launch.rank // self.layout.context

    @property
    def context_rank(self) -> int:
        """Which part of its samples' tokens this process has."""
        return self.launch.rank % self.layout.context

    @cached_property
    def weights_mesh(self) -> DeviceMesh | None:
        """Mesh of the copies, if there are several, and of the processes that share one; None if each has all weights.

        All processes have to ask for it the first time.
        """
        layout = self.layout
        if layout.shard == 1:
            return None
        sharing = self._replica_size
        if layout.replicate == 1:
            return init_device_mesh(self.device.type, (sharing,), mesh_dim_names=("fsdp",))
        return init_device_mesh(self.device.type, (layout.replicate, sharing), mesh_dim_names=("replicate", "fsdp"))

    @property
    def num_replicas(self) -> int:
        """Copies of the weights, each of one process or of several: what needs no gradient is divided among them."""
        return self.layout.replicate

    @property
    def replica_index(self) -> int:
        """Which of them this process has, or has a part of."""
        return self.launch.rank // self._replica_size

    @property
    def is_first_of_replica(self) -> bool:
        """Whether this process is the one that writes what its copy makes."""
        return self.launch.rank % self._replica_size == 0

    @property
    def shares_weights(self) -> bool:
        """Whether others have to ask their part of a copy whenever this process does."""
        return self._replica_size > 1

    @property
    def _replica_size(self) -> int:
        return self.layout.shard * self.layout.context

    def all_devices(self) -> DeviceMesh:
        """All processes as a mesh of one axis; all of them call this together."""
        return init_device_mesh(self.device.type, (self.launch.size,), mesh_dim_names=("all",))

    def rows(self, batch_size: int) -> slice:
        """Samples of an optimizer step that this process takes."""
        own = batch_size // self.layout.data_size
        return slice(self.data_rank * own, (self.data_rank + 1) * own)

    def replica_rows(self, count: int) -> range:
        """Numbers of what this process's copy does, of ``count`` that are divided among all copies."""
        return range(self.replica_index, count, self.num_replicas)

    def first(self, do: Callable[[], Value]) -> Value:
        """Let the first process do something, and all have what comes of it, be it an error."""
        return self.talk.first(do)

    def lead(self) -> AbstractContextManager[None]:
        """Let the first process run the body before the others do; if it fails, they do not begin."""
        return self.talk.lead()

    def together(self) -> AbstractContextManager[None]:
        """Let an error in the body of any process be one of all of them, as soon as they are through it."""
        return self.talk.together()

    @contextmanager
    def apart(self) -> Iterator[Place]:
        """Let each process do a part of some work at its own pace; at the end an error of any is one of all of them.

        Who calls ``Place.look`` now and then in the body leaves it soon after another process has failed.
        """
        place = Place(self.launch.rank, self.launch.size, f"work {self.board.number()}", self.board)
        with self.together():
            try:
                yield place
            except LeftToOthersError:
                pass  # whose error is raised
            except Exception:
                place.fail()
                raise

    def agree(self, is_so: bool) -> bool:
        """Whether any process says so."""
        return any(self.talk.gather(is_so))

    @torch.no_grad()
    def sums(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes: bit for bit the same in each of them."""
        if self.is_alone:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket]).float()  # narrower sums would round at each process
            distributed.all_reduce(flat)
            for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))


def alone(device: torch.device | None = None) -> World:
    """Return the world of one process."""
    return World(torch.device("cpu") if device is None else device)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group tensors of one type on one device, in their order."""
    for _, alike in itertools.groupby(tensors, key=lambda tensor: (tensor.dtype, tensor.device)):
        yield from by_bytes(alike, lambda tensor: tensor, BUCKET_BYTES)


@contextmanager
def join(config: ParallelConfig, device: str) -> Iterator[World]:
    """Meet the other processes of this run, if it was launched with some, and part from them at the end.

    Args:
        config: How they share the work.
        device: ``train.device``.

    Raises:
        ConfigError: If the sizes are impossible, if there is no device for this process, or if the others do not come.
        OtherProcessError: If another process failed, or is gone.
    """
    launch = read_launch(os.environ)
    if launch.size == 1:
        yield World(pick_device(device), launch, settle_layout(config, 1))
        return
    store = meet(launch)
    watch = watch_others(launch, store)
    try:
        with watch.telling():
            talk = Talk(launch.rank, launch.size, PrefixStore("talk", store), look=watch.look)
            with talk.together():
                layout, own = settle_layout(config, launch.size), pick_device(device, launch)
            _check_devices(talk, own)
            _check_layouts(talk, layout)
            mesh = _make_mesh(launch, layout, own, store)
            index, place = divmod(launch.rank, layout.shard * layout.context)
            named = PrefixStore(f"replica/{index}", store)
            replica = Talk(place, layout.shard * layout.context, named, look=watch.look)
            yield World(own, launch, layout, mesh, talk, replica, Board(PrefixStore("board", store)), watch)
            distributed.destroy_process_group()
    except BaseException:
        end_undisturbed()
        raise
    finally:
        if distributed.is_initialized():
            _abort_process_group()  # which waits for nobody
        watch.leave()


def _make_mesh(launch: Launch, layout: Layout, device: torch.device, store: Store) -> DeviceMesh:
    """Let collectives begin."""
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if is_cuda else "gloo",
        store=PrefixStore("collectives", store),
        rank=launch.rank,
        world_size=launch.size,
    )
    return init_device_mesh(device.type, (layout.replicate, layout.shard, layout.context), mesh_dim_names=AXES)


def _check_devices(talk: Talk, own: torch.device) -> None:
    """Refuse processes that do not have one device each, of one kind.

    Raises:
        ConfigError: Naming two of them.
    """
    uuid = str(torch.cuda.get_device_properties(own).uuid) if own.type == "cuda" else None
    found = talk.gather((own.type, uuid))
    for rank, (kind, device) in enumerate(found):
        if kind != found[0][0]:
            raise ConfigError(
                f"train.device: process 0 has {found[0][0]} and process {rank} has {kind}: set train.device to what all have"
            )
        if device is not None and (kind, device) in found[:rank]:
            raise ConfigError(
                f"train.device: the processes {found.index((kind, device))} and {rank} have one CUDA device between them; "
                "start as many processes as there are devices"
            )


def _check_layouts(talk: Talk, own: Layout) -> None:
    """Refuse processes that were given different ones: they would wait for each other in different groups.

    Raises:
        ConfigError: Naming two of them.
    """
    found = [", ".join(f"{name} {size}" for name, size in asdict(layout).items()) for layout in talk.gather(own)]
    for rank, layout in enumerate(found):
        if layout != found[0]:
            raise ConfigError(f"parallel: process 0 was given {found[0]}, and process {rank} {layout}; give all the same")


def pick_device(name: str, launch: Launch = Launch()) -> torch.device:  # noqa: B008 - frozen
    """Turn ``train.device`` into a device; of several processes of a host, each has its own.

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if launch.size > 1 and device.type == "cuda":
            device = _own_device(name, launch)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"train.device: {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def _own_device(name: str, launch: Launch) -> torch.device:
    """Which of a host's CUDA devices is this process's; a launcher may show each process only its own."""
    if ":" in name:
        raise ConfigError(f"train.device: {name} is one device, and there are {launch.size} processes; set cuda")
    count = torch.cuda.device_count()
    if launch.local_rank >= count != 1:
        raise ConfigError(
            f"train.device: this host has {count} CUDA devices, and more processes; start as many, or set train.device: cpu"
        )
    return torch.device("cuda", min(launch.local_rank, count - 1))
