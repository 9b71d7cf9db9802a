"""The weights that a run leaves, in diffusers' layout."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import finetrainers
from finetrainers.config import Config
from finetrainers.errors import CheckpointError
from finetrainers.export.export import expert_suffix
from finetrainers.export.saved import export_saved
from finetrainers.files.steps import name_of_step, step_directory, step_folders
from finetrainers.files.whole import MANIFEST, listed, whole_directory
from finetrainers.models import Model
from finetrainers.sampling.prompts import usual_size
from finetrainers.training.cards.card import remove_card
from finetrainers.training.cards.cards import Cards
from finetrainers.training.cards.words import base_name, trigger_words
from finetrainers.training.checkpoint.staging import copied, to_host
from finetrainers.training.trainer import Trainer
from finetrainers.training.validation.validate import eval_weights
from finetrainers.tuning import ExportFacts, Tuning
from finetrainers.tuning.exported import COMPONENT


@dataclass(frozen=True, slots=True)
class StagedComponent:
    """Weights of a component that are meant for use."""

    part: nn.Module
    """The component itself."""
    tensors: Mapping[str, Tensor]
    """In the host's memory, apart from those that train; none in a process that writes none."""
    facts: ExportFacts


@dataclass(frozen=True, slots=True)
class StagedWeights:
    """Weights that are meant for use, as they are to be written."""

    step: int
    components: Sequence[StagedComponent]
    events: Sequence[torch.cuda.Event]
    """After which the copies are there."""


def export_weights(trainer: Trainer, config: Config, model: Model, tuning: Tuning) -> Path:
    """Stage the weights that are meant for use and write them at once, in a run of one process."""
    return write_weights(stage_weights(trainer, config, model, tuning), config, tuning)


def stage_weights(trainer: Trainer, config: Config, model: Model, tuning: Tuning) -> StagedWeights:
    """Copy the weights that are meant for use: all processes do it together, and the first has them then.

    One tensor at a time is gathered from those that have parts of it.
    """
    facts, metadata = export_facts(trainer, config, model), file_metadata(config, model, step=trainer.step)
    components, devices = [], []
    with eval_weights(trainer), trainer.update.masters(), torch.no_grad():
        for component, part in model.denoisers.split(trainer.denoiser).items():
            own = replace(facts[component], metadata={**metadata, COMPONENT: component})
            tensors = {}
            for name, tensor in tuning.exported(part, own):
                full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor  # all do, in this order
                if trainer.world.is_first:
                    tensors[name] = to_host(full)
                    devices.append(full.new_empty(0))
            components.append(StagedComponent(part, tensors, own))
        events = copied(devices)
    return StagedWeights(trainer.step, components, events)


def write_weights(
    staged: StagedWeights,
    config: Config,
    tuning: Tuning,
    *,
    spared: Callable[[Collection[int]], int | None] = lambda _: None,
    cards: Cards | None = None,
) -> Path:
    """Write weights into weights/step-000500, in diffusers' layout; the first process does, be it beside training.

    ``cards`` writes their model card.

    Then those of the oldest steps beyond ``checkpoint.keep_weights`` are removed, but for the one that ``spared`` names of
    some steps.

    Raises:
        CheckpointError: If they cannot be written.
    """
    directory = step_directory(config.output_dir / "weights", staged.step)
    for event in staged.events:
        event.synchronize()
    try:
        with whole_directory(directory) as temporary:
            for component in staged.components:
                tuning.export(component.part, component.tensors, temporary, component.facts)
            export_saved(temporary, config, staged.step)
        if cards is not None:
            cards.write(staged.step, {component.facts.component: component.facts for component in staged.components})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory}: the weights cannot be written: {error}; make room or fix it, and start the run again"
        ) from error
    rotate_weights(config, staged.step, spared)
    return directory


def rotate_weights(config: Config, newest: int, spared: Callable[[Collection[int]], int | None]) -> None:
    """Remove the oldest weights beyond ``checkpoint.keep_weights``, but for the newest and the spared ones."""
    keep = config.num_kept_weights
    others = {step: folder for step, folder in step_folders(config.output_dir / "weights").items() if step != newest}
    kept = spared([*others, newest])
    for step, folder in [] if keep is None else list(others.items())[: max(0, len(others) + 1 - keep)]:
        if step != kept:
            _remove_exported(folder)


def _remove_exported(directory: Path) -> None:
    """Remove the files that a run exported into a directory, and the directory unless it holds something else."""
    files = listed(directory)
    if files is None:  # no run made it, or not as a whole
        return
    remove_card(directory)
    for name in [*files, MANIFEST]:  # the manifest is the last: whatever stops this, the next time goes on
        if ".." not in Path(name).parts and not Path(name).is_absolute():
            (directory / name).unlink(missing_ok=True)
    for folder in [*sorted((f for f in directory.rglob("*") if f.is_dir()), reverse=True), directory]:
        with suppress(OSError):  # not empty
            folder.rmdir()


def export_facts(trainer: Trainer, config: Config, model: Model) -> dict[str, ExportFacts]:
    """What the export of each trained component has to know."""
    facts, parts = {}, model.denoisers.split(trainer.denoiser)
    stem = name_of_step(config.output_dir.resolve().name, trainer.step)
    for component, part in parts.items():
        settings = trainer.conditioning.exported_settings(part, model.adapter)
        facts[component] = ExportFacts(
            component,
            model.pipeline_class,
            trainer.dtype,
            settings,
            trainer.conditioning.drawing_class(model),
            f"{stem}{expert_suffix(config, component, tuple(parts))}.safetensors",
        )
    return facts


def file_metadata(config: Config, model: Model, *, step: int) -> dict[str, str]:
    """What an exported file says of itself, for people and for programs that list models.

    The names of ``modelspec`` are those of https://github.com/Stability-AI/ModelSpec. There is no time and no folder among
    them: equal runs write equal files.
    """
    base, kind = base_name(config), config.tuning.kind
    control = "" if config.control is None else "-control"
    adapter = "" if kind == "full" else f"/{kind}"
    _, height, width = usual_size(config.data[0].buckets, model)
    triggers = ", ".join(trigger_words(config))
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{model.adapter.architecture}{control}{adapter}",
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"{base}, {triggers or 'tuned'} ({kind}, {step} steps)",
        "modelspec.resolution": f"{width}x{height}",
        "finetrainers.version": finetrainers.__version__,
        "finetrainers.base_model": base,
        "finetrainers.family": model.adapter.name,
        "finetrainers.task": model.task,
        "finetrainers.tuning": kind,
        "finetrainers.steps": str(step),
    }
    return metadata | ({"modelspec.trigger_phrase": triggers} if triggers else {})
