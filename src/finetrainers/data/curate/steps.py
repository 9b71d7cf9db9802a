"""All steps, and those of a configuration, in order and checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetrainers.config.curate import BUILT_IN, PrepareConfig
from finetrainers.data.curate import (  # noqa: F401 - each registers its step
    aesthetic,
    caption,
    classify,
    clips,
    duplicates,
    keep,
    letterbox,
    measure,
    scenes,
)
from finetrainers.data.curate.expression import Kind
from finetrainers.data.curate.registry import FACTORIES, Context, OrderedStep, Step


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps that follow each other, and that are done at one go for a piece."""

    steps: tuple[tuple[int, Step], ...] = ()
    """Each with its place in the configuration."""
    ordered: tuple[int, OrderedStep] | None = None
    """In place of them: one that sees the pieces one after the other."""


def build_stages(config: PrepareConfig, origin_of: Callable[[int], str]) -> list[Stage]:
    """Make the steps of a configuration; models are loaded, and expressions checked.

    Raises:
        ConfigError: If a step cannot be made.
    """
    known: dict[str, Kind] = {name: "text" if name in ("kind", "caption") else "number" for name in BUILT_IN}
    found: list[tuple[int, Step | OrderedStep]] = []
    for place, section in enumerate(config.steps):
        for step in FACTORIES[section.kind](section, Context(f"steps.{place}", dict(known), origin_of)):
            found.append((place, step))
            known |= step.scores if isinstance(step, Step) else {}
    return list(_stages(found))


def _stages(found: Sequence[tuple[int, Step | OrderedStep]]) -> list[Stage]:
    stages: list[Stage] = []
    open_steps: list[tuple[int, Step]] = []
    for place, step in found:
        if isinstance(step, Step):
            open_steps.append((place, step))
            if not step.splits:
                continue
        stages += [Stage(tuple(open_steps))] if open_steps else []
        open_steps = []
        stages += [] if isinstance(step, Step) else [Stage(ordered=(place, step))]
    return [*stages, Stage(tuple(open_steps))] if open_steps else stages
