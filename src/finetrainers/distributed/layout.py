"""How the processes of a run share its work."""

from dataclasses import dataclass

from finetrainers.config.parallel import ParallelConfig
from finetrainers.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of the three axes of a mesh of processes, the last running fastest."""

    replicate: int = 1
    """Copies of the weights."""
    shard: int = 1
    """Processes that share one copy."""
    context: int = 1
    """Processes that share the tokens of one sample."""

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.replicate * self.shard * self.context

    @property
    def data_size(self) -> int:
        """Processes, or groups of them, that train on samples of their own."""
        return self.replicate * self.shard


def settle_layout(config: ParallelConfig, size: int) -> Layout:
    """Infer the sizes that are not given from the number of processes.

    Raises:
        ConfigError: If the sizes are impossible, naming possible ones.
    """
    replicate, shard, context = config.replicate, config.shard, config.context
    if context is None:
        rest, left = divmod(size, (replicate or 1) * (shard or 1))
        context = rest if replicate is not None and shard is not None and not left else 1
    if replicate is None and shard is None:
        shard = 1
    if shard is None:
        shard = max(1, size // ((replicate or 1) * context))
    if replicate is None:
        replicate = max(1, size // (shard * context))
    layout = Layout(replicate, shard, context)
    if layout.size != size:
        names = {"replicate": config.replicate, "shard": config.shard, "context": config.context}
        asked = ", ".join(f"parallel.{name}: {value}" for name, value in names.items() if value is not None)
        count = f"{size} process{'es' * (size > 1)}"
        raise ConfigError(
            f"{asked} cannot be with {count}: {_possible(config, size)}"
            + (". One process has one device: start several with torchrun, srun or finetrainers launch" if size == 1 else "")
        )
    return layout


def _possible(config: ParallelConfig, size: int) -> str:
    """Say which values are possible in place of those that are given."""
    divisors = [number for number in range(1, size + 1) if size % number == 0]
    given = [name for name in ("replicate", "shard", "context") if getattr(config, name) is not None]
    if len(given) == 1:
        return f"possible are {', '.join(map(str, divisors))}"
    return f"the product of {', '.join(given)} has to divide {size}, and to be it where all three are given"


def check_batch(layout: Layout, *, batch_size: int, micro_batch_size: int) -> None:
    """Refuse batches that do not spread evenly.

    Raises:
        ConfigError: With the nearest sizes that work.
    """
    unit = micro_batch_size * layout.data_size
    if batch_size % unit:
        below = batch_size - batch_size % unit
        sizes = " and ".join(str(size) for size in (below, below + unit) if size)
        raise ConfigError(
            f"train.batch_size: {batch_size} is not a multiple of {unit}, which is train.micro_batch_size "
            f"({micro_batch_size}) x the {layout.data_size} devices that take samples of their own; "
            f"the nearest that work: {sizes}"
        )
