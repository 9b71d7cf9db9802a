"""Whether the state of a checkpoint is one of this run."""

from pathlib import Path
from typing import Any

from torch import Tensor

from finetrainers.distributed.parts import Part
from finetrainers.errors import CheckpointError
from finetrainers.training.checkpoint.state import SavedParts, SavedTensor, leaves

WAY_BACK = "Was model, tuning or optimizer changed? Change it back, or choose another output_dir"


def check_match(own: dict[str, Any], saved: dict[str, Any], directory: Path) -> None:
    """Refuse a checkpoint that does not fit the run, before anything of the run is changed.

    Raises:
        CheckpointError: Naming what does not.
    """
    _check_parts(own, saved, directory)
    _check_fit(own, saved, directory)


def _check_fit(own: dict[str, Any], saved: dict[str, Any], directory: Path) -> None:
    """Refuse a checkpoint that has what the run has no place for, or lacks what the run needs.

    What is left out of a state would start from zero, in silence. Only, some optimizers add numbers to their parameter
    groups when they first step, and an expert whose noise levels were not drawn yet had no gradient, and has no averages.

    Raises:
        CheckpointError: Naming it.
    """
    wanted, found = dict(leaves(own)), dict(leaves(saved))
    of_groups = [path for path in wanted if path[:2] == ("optimizer", "param_groups")]
    groups, entries = {path[:3] for path in of_groups}, {path[:4] for path in of_groups}
    stepped = {path[2] for path in found if path[:2] == ("optimizer", "state")}
    surplus = {path for path in found.keys() - wanted.keys() if path[:3] not in groups or path[:4] in entries}
    missing = {
        path
        for path in wanted.keys() - found.keys()
        if not stepped or path[:2] != ("optimizer", "state") or path[2] in stepped
    }
    other = {path for path in wanted.keys() & found.keys() if _form(found[path]) != _form(wanted[path])}
    other = {path for path in other if path[0] in ("model", "ema")}  # some averages begin as another shape
    for paths, fault in (
        (surplus, "it has {}, which the run has no place for"),
        (missing, "it lacks {}, which the run needs"),
        (other, "its {} has another shape or type than the run's"),
    ):
        if paths:
            what = fault.format(".".join(min(paths)))
            raise CheckpointError(f"{directory} does not fit this configuration: {what}. {WAY_BACK}")


def _check_parts(own: dict[str, Any], saved: dict[str, Any], directory: Path) -> None:
    """Refuse numbers in blocks of few bits that are cut otherwise than the weights are here: a block is of one process.

    Raises:
        CheckpointError: Naming them.
    """
    wanted, found = dict(leaves(own)), dict(leaves(saved))
    wrong: list[tuple[int, str]] = []
    for path in wanted.keys() | found.keys():
        here, there = wanted.get(path), found.get(path)
        if isinstance(here, Part) or isinstance(there, SavedParts):
            boxes = there.parts.keys() if isinstance(there, SavedParts) else ()
            if not (isinstance(here, Part) and (here.box in boxes or not here.box.num_elements)):
                wrong.append((max(1, len(boxes)), ".".join(path)))
    if wrong:
        count, name = max(wrong)  # small weights have fewer parts than there were processes
        raise CheckpointError(
            f"{directory}: {name} is kept in few bits, whose blocks end where the parts of {count} "
            f"process{'es' * (count > 1)} end: set parallel.shard as it was, or begin a new output_dir with "
            "tuning.start_from"
        )


def _form(leaf: object) -> tuple[object, ...]:
    """What two tensors have in common of which one can be put in place of the other."""
    return (tuple(leaf.shape), str(leaf.dtype)) if isinstance(leaf, Tensor | SavedTensor) else ()
