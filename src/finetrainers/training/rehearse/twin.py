"""The configuration of the twin's run: the user's own, but for sizes, counts, places, and what a laptop does not have."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetrainers.config import Config, parse_config
from finetrainers.config.attention import AUTO
from finetrainers.config.data import Buckets
from finetrainers.config.validation import ValidationConfig
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.distributed.layout import Layout
from finetrainers.memory.attention import NATIVE
from finetrainers.models import Model, Request
from finetrainers.models.grid import Grid

Tree = dict[str, Any]
Size = tuple[int, int, int]
FIRST_STEPS, STEPS = 2, 3
"""Optimizer steps before the run is saved and started again, and in all."""
PROCESSES = 2
"""Of a twin whose run shares the work, whatever their number."""
LONG_SIDE = 4
"""Tokens of the longer side of a bucket, about; sides are even numbers of them, which two processes can share."""
MAX_PROMPTS = 2
MAX_HELD_OUT = 2
PORTABLE_ATTENTION = (AUTO, NATIVE, "_native_math", "_native_efficient")
"""Backends of attention that a CPU has as well."""
PARALLEL_ONLY = ("reshard", "offload", "prefetch")
"""Keys of ``parallel`` that have no effect where weights are not shared."""


def twin_tree(config: Config, twin: Model, places: tuple[Path, Path], *, leave_out: Callable[[str], None]) -> Tree:
    """Make the twin's configuration, but for how processes share its work.

    Args:
        config: Of the user's, with absolute paths.
        twin: The model in small.
        places: Of the twin, for the run and for its cache.
        leave_out: Takes what the twin does otherwise than the run will.
    """
    tree = copied(config.model_dump(by_alias=True, exclude_unset=True))  # not as JSON, which has no infinity
    run, cache = places
    tree["output_dir"] = str(run)
    tree["cache"] = {**tree.get("cache", {}), "path": str(cache)}
    tree["model"] |= {"path": twin.pretrained.config.path, "revision": None}
    for component in tree["model"].get("components", {}).values():
        component |= {"path": None, "revision": None, "subfolder": None}
    _shorten(tree, config)
    _take_away_devices(tree, config, leave_out)
    _take_away_accounts(tree, config, leave_out)
    shortest = _latent_frames(config)
    for name, sets in (("data", tree["data"]), ("validation.data", tree.get("validation", {}).get("data", ()))):
        real = config.data if name == "data" else config.validation.data
        for data, section in zip(sets, real, strict=True):
            data["buckets"] = _small_buckets(section.buckets, twin.adapter.grid, shortest)
    if config.references is not None:
        _shrink_references(tree, twin.adapter.grid)
    return tree


def _shorten(tree: Tree, config: Config) -> None:
    """Take few steps of few samples, all of them saved."""
    train = tree.setdefault("train", {})
    micro = min(config.train.micro_batch_size, 2)
    accumulation = min(config.train.batch_size // config.train.micro_batch_size, 2)
    train |= {"steps": FIRST_STEPS, "micro_batch_size": micro, "batch_size": micro * accumulation, "device": "cpu"}
    if config.optimizer.in_backward:
        train["batch_size"] = micro
    if config.schedule.warmup_steps:
        tree["schedule"]["warmup_steps"] = 1
    tree["checkpoint"] = {**tree.get("checkpoint", {}), "every": FIRST_STEPS, "resume": "latest"}
    if "workers" in tree.get("loader", {}):
        tree["loader"]["workers"] = min(config.loader.workers, 1)
    if "validation" in tree:
        tree["validation"] |= _few_measured(config.validation)


def _few_measured(config: ValidationConfig) -> Tree:
    """Validate as often and on as much as a twin does, where the run does at all: what follows from it stays possible."""
    few: Tree = {}
    if config.every is not None:
        few["every"] = FIRST_STEPS
    if config.has_held_out:
        few["max_items"] = min(config.max_items, MAX_HELD_OUT)
    if config.items:
        few["items"] = min(config.items, MAX_HELD_OUT)
    if config.has_held_out or config.items:
        few["noise_levels"] = min(config.noise_levels, 2)
    return few


def _take_away_devices(tree: Tree, config: Config, leave_out: Callable[[str], None]) -> None:
    """Compute on the CPU: what only a GPU can do is left out."""
    leave_out("speed and memory on a GPU: the twin computes on the CPU; finetrainers plan and bench tell of them")
    for key, backend in (("train", config.attention.train), ("validate", config.attention.validation)):
        if backend not in PORTABLE_ATTENTION:
            tree["attention"][key] = AUTO
            leave_out(f"attention.{key}: {backend}, which needs a GPU: the twin uses torch's own attention")
    if tree.pop("compile", None) is not None and config.compile.kind != "none":
        leave_out(f"compile.kind: {config.compile.kind}, which needs minutes: the twin is not compiled")
    memory, asked = tree.get("memory", {}), config.memory
    if "auto" in (asked.preset, asked.resident_blocks):
        leave_out("memory: auto, which the GPU's memory decides: finetrainers plan shows what it would choose")
        for key in ("preset", "budget", "resident_blocks"):
            memory.pop(key, None)
    elif asked.resident_blocks != "all":
        memory["resident_blocks"] = min(int(asked.resident_blocks), 1)
    if config.tuning.start_from is not None:
        tree["tuning"].pop("start_from")
        leave_out("tuning.start_from: its weights are checked against the model, and do not fit the twin")


def _take_away_accounts(tree: Tree, config: Config, leave_out: Callable[[str], None]) -> None:
    """Send nothing anywhere."""
    for name in ("wandb", "trackio"):
        if tree.get("track", {}).pop(name, None) is not None:
            leave_out(f"track.{name}: the twin sends nothing; package and login are checked")
    if tree.get("track", {}).pop("trackers", None):
        leave_out("track.trackers: the twin sends nothing; they are loaded, and not called")
    for key in ("push_to_hub", "hub_repo", "hub_private"):
        tree.pop(key, None)
    if config.push_to_hub:
        leave_out("push_to_hub: the twin pushes nothing; what the token may do is checked where the Hub can be reached")


def _latent_frames(config: Config) -> int:
    """Latent frames that clips of the twin have at least: what the control shows has to be among them."""
    index = 0 if config.control is None or config.control.frames != "index" else config.control.frame_index
    return max(3, index + 1)


def _small_buckets(buckets: Buckets, grid: Grid, shortest: int) -> list[list[int]]:
    """Shrink each size, all of one shape to one; a budget is written out."""
    return [list(size) for size in dict.fromkeys(small_size(own, grid, shortest) for own in resolve_buckets(buckets))]


def small_size(size: Size, grid: Grid, shortest: int = 3) -> Size:
    """Shrink (frames, height, width): images stay images, clips clips, and proportions about the same."""
    frames, height, width = size
    unit = 2 * grid.vae_step * grid.patch
    longer = max(height, width)
    rows, columns = (max(1, round(side / longer * LONG_SIDE / 2)) for side in (height, width))
    latents = 1 + (frames - 1) // grid.vae_frame_step
    few = 1 if latents == 1 else 1 + (min(latents, shortest) - 1) * grid.vae_frame_step
    return grid.nearest((few, rows * unit, columns * unit))


def _shrink_references(tree: Tree, grid: Grid) -> None:
    conditions = tree["conditioning"]
    for condition in conditions if isinstance(conditions, list) else [conditions]:
        if condition.get("kind") == "references":
            unit = 2 * grid.vae_step * grid.patch
            condition |= {"step": unit, "pixels": unit * unit * LONG_SIDE}


def copied(tree: Tree) -> Tree:
    """A copy of plain values, all sequences lists."""
    found: Tree = json.loads(json.dumps(tree, default=str))
    return found


def share(tree: Tree, layout: Layout | None, turn: int) -> Tree:
    """Return the configuration for two processes that share one axis of those that the run has, each in its turn."""
    tree = copied(tree)
    parallel = tree.pop("parallel", {})
    for axis in ("replicate", "shard", "context", "context_kind"):
        parallel.pop(axis, None)
    axes = axes_of(layout)
    if not axes:
        return tree
    axis = axes[turn % len(axes)]
    if axis != "shard":
        parallel = {key: value for key, value in parallel.items() if key not in PARALLEL_ONLY}
    elif not isinstance(parallel.get("reshard", True), bool):
        parallel.pop("reshard")  # groups of processes: there are as many as are in one
    tree["parallel"] = {**parallel, axis: PROCESSES}
    tree["train"]["batch_size"] *= PROCESSES
    return tree


def axes_of(layout: Layout | None) -> list[str]:
    """Axes that several processes share."""
    return [] if layout is None else [axis for axis in ("shard", "context", "replicate") if getattr(layout, axis) > 1]


def write_prompts(requests: Sequence[Request], twin: Model, file: Path) -> None:
    """Write a few of the prompts for the twin: small and in few steps, those with pictures first."""
    chosen = sorted(requests, key=lambda own: -len(own.pictures))[:MAX_PROMPTS]
    rows = [prompt_of(request, twin.adapter.grid) for request in chosen]
    file.write_text(json.dumps(rows), encoding="utf-8")


def prompt_of(request: Request, grid: Grid) -> Tree:
    """One prompt with the keys of a prompts file."""
    told = asdict(request)
    frames, height, width = small_size(request.size, grid)
    row = {"prompt": request.prompt, "num_frames": frames, "height": height, "width": width, "num_inference_steps": 2}
    row |= {"guidance_scale": request.guidance, "negative_prompt": request.negative_prompt, "fps": request.fps}
    row |= {"seed": request.seed, "image": told["image"], "last_image": told["last_image"], "control": request.control}
    return row | {"reference": list(request.references)}


def twin_config(tree: Tree) -> Config:
    """Check a twin's configuration as a user's is."""
    return parse_config(tree, origin="the twin's configuration")
