"""What ``check`` and ``rehearse`` look at before the data: processes, packages, accounts, folders, and the model's files."""

from pathlib import Path

import torch

from finetrainers.config import Config, MemoryConfig
from finetrainers.data.cache.store import MEMO_FILE
from finetrainers.data.catalog.memo import copy_memo
from finetrainers.distributed.launch import Launch
from finetrainers.distributed.layout import Layout, check_batch, settle_layout
from finetrainers.distributed.world import World
from finetrainers.models import Model, open_model
from finetrainers.optim.optimizers import check_optimizer
from finetrainers.training.auto import Settled, settle
from finetrainers.training.check.accounts import check_accounts
from finetrainers.training.check.findings import Findings
from finetrainers.training.check.places import check_places
from finetrainers.training.checks.files import check_files
from finetrainers.training.checks.parts import without_start
from finetrainers.training.checks.sharing import check_sharing
from finetrainers.training.fit.choice import as_recorded
from finetrainers.training.track.track import check_trackers
from finetrainers.training.user_code import check_user_code

STAND_IN_LR = 1e-4
"""Nothing else that is checked depends on it."""


def settled_of(config: Config, findings: Findings) -> Settled | None:
    """Settle what is left to the model, a rate that nobody states apart; None where more than that is wrong."""
    settled: Settled | None = None
    with findings.part("what is left to the model") as part:
        settled = settle(config)
    if part.errors and part.errors[0].startswith("optimizer.lr: auto"):
        rated = config.optimizer.model_copy(update={"lr": STAND_IN_LR})
        with findings.part("what else is left to the model") as part:
            settled = settle(config.model_copy(update={"optimizer": rated}))
    if settled is not None:
        part.notes += [*settled.lines(), *settled.notes]
    return settled


def layout_of(config: Config, processes: int | None, findings: Findings) -> Layout | None:
    """Say how the run's processes share its work, as many as are asked for or as its sizes say; None where that is wrong."""
    asked = config.parallel.replicate, config.parallel.shard, config.parallel.context
    size = processes
    if size is None:
        size = 1
        for number in asked:
            size *= number or 1
    with findings.part("processes and batch") as part:
        part.notes.append(f"{size} process{'es' * (size > 1)}")
        layout = settle_layout(config.parallel, size)
        check_batch(layout, batch_size=config.train.batch_size, micro_batch_size=config.train.micro_batch_size)
        check_sharing(config, layout)
        return layout
    return None


def check_around(config: Config, findings: Findings) -> tuple[Config, int | None]:
    """Check what is around a run; return it with the techniques that it was begun with, and the step to go on from."""
    with findings.part("package of the optimizer"):
        check_optimizer(config.optimizer, config.schedule)
    with findings.part("packages of trackers"):
        check_trackers(config.track)
        check_user_code(config)
    check_accounts(config, findings)
    with findings.part("techniques"):
        config = as_recorded(config)
    resumed = check_places(config, findings)
    return (config if resumed is None else without_start(config)), resumed


def without_auto(config: Config) -> Config:
    """Leave out what the memory of a GPU decides."""
    given = {key: getattr(config.memory, key) for key in config.memory.model_fields_set}
    if "auto" not in (config.memory.preset, config.memory.resident_blocks):
        return config
    settled = {key: value for key, value in given.items() if value != "auto" and key != "budget"}
    return config.model_copy(update={"memory": MemoryConfig(**settled)})


def checked_model(config: Config, findings: Findings, *, is_resumed: bool) -> Model | None:
    """Open the model, and look at its local files; None if it cannot be opened."""
    model: Model | None = None
    with findings.part("model"):
        model = open_model(config.model, config.memory)
    if model is not None:
        with findings.part("files of the model"):
            check_files(config, model, is_resumed=is_resumed)
    return model


def world_of(layout: Layout, device: torch.device) -> World:
    """Make the first of a run's processes, without the others."""
    return World(device, Launch(size=layout.size, local_size=layout.size), layout)


def with_cache_in(config: Config, folder: Path) -> Config:
    """Let what planning writes lie in another folder than the user's, to which what is known of media is copied."""
    copy_memo(config.cache.path / MEMO_FILE, folder / MEMO_FILE)
    return config.model_copy(update={"cache": config.cache.model_copy(update={"path": folder})})
