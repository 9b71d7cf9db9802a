"""The recipes: what is learned x number of items -> rank, rate, passes, batch, held-out share.

Hardly any figure below was measured against another one. Where published recipes differ, ``low`` and ``high`` are their
range; a figure without a source is a convention of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["style", "subject", "effect", "motion", "edit", "control"]
Size = Literal["10-30", "30-100", "100+"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number to begin with, the range that others use, and the names of the sources."""

    value: float
    low: float
    high: float
    sources: tuple[str, ...] = ()
    """Names in ``SOURCES``; none: a convention."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train on so many items."""

    rank: Figure
    """Of the LoRA; alpha is the same, so that its output is not scaled."""
    passes: Figure
    """How often each item is trained on. Sources that name steps alone are counted for the middle of the column: 20 items,
    50, and 100 to 200."""
    batch_size: int
    """Items of one step. A convention: small for few items, so that there are a thousand steps or more."""
    held_out: float
    """Part of the items that is kept for the held-out loss. A convention: two or three of thirty, never more than 64."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What can be learned."""

    title: str
    rate: Figure
    """Factor of the learning rate that is usual for the model's family."""
    captions: str
    watch: str
    """What to look at while it trains."""
    needs: Literal["any", "clips", "pairs"]
    sources: tuple[str, ...]
    """Of ``captions``."""
    recipes: Mapping[Size, Recipe]


USUAL = Figure(1, 1, 1)
"""Published rates differ by family and hardly by what is learned."""


def _recipe(rank: Figure, passes: Figure, *, batch_size: int, held_out: float) -> Recipe:
    return Recipe(rank, passes, batch_size, held_out)


LEARNED: Mapping[Kind, Learned] = {
    "style": Learned(
        title="a style",
        rate=USUAL,
        captions="what is in the picture, in plain words; nothing about the style",
        watch="prompts for things that are not in the data: samples have the style and still show what is asked for",
        needs="any",
        sources=("captions",),
        recipes={
            "10-30": _recipe(
                Figure(16, 16, 32, ("klein", "flux-config")),
                Figure(60, 25, 100, ("klein", "flux-config", "hunyuan-style")),
                batch_size=1,
                held_out=0.1,
            ),
            "30-100": _recipe(
                Figure(32, 16, 32, ("flux-config", "wan-config")),
                Figure(40, 10, 80, ("flux-config",)),
                batch_size=2,
                held_out=0.1,
            ),
            "100+": _recipe(
                Figure(32, 16, 64, ("flux-config", "wan-config")),
                Figure(20, 5, 40, ("flux-config",)),
                batch_size=4,
                held_out=0.05,
            ),
        },
    ),
    "subject": Learned(
        title="a subject or character",
        rate=USUAL,
        captions="the trigger word, then what varies: pose, clothes, place, light; not the subject's own features",
        watch="the subject in places that are not in the data; once backgrounds of the data appear, it is too late",
        needs="any",
        sources=("captions",),
        recipes={
            "10-30": _recipe(
                Figure(16, 16, 32, ("klein", "flux-config", "wan-config")),
                Figure(80, 30, 400, ("klein", "flux-config", "flux-subject")),
                batch_size=1,
                held_out=0.1,
            ),
            "30-100": _recipe(
                Figure(32, 16, 32, ("klein", "flux-config", "wan-config")),
                Figure(40, 10, 80, ("flux-config",)),
                batch_size=2,
                held_out=0.1,
            ),
            "100+": _recipe(
                Figure(32, 16, 32, ("klein", "flux-config", "wan-config")),
                Figure(20, 5, 40, ("flux-config",)),
                batch_size=4,
                held_out=0.05,
            ),
        },
    ),
    "effect": Learned(
        title="an effect",
        rate=USUAL,
        captions="the trigger word, the object, and what happens to it, in the same words in all captions",
        watch="the effect on objects that are not in the data, from beginning to end",
        needs="any",
        sources=("motion-captions",),
        recipes={
            "10-30": _recipe(
                Figure(32, 32, 64, ("ltx-trainer", "ltx-effect", "cogvideox")),
                Figure(80, 60, 200, ("cogvideox", "ltx-trainer", "ltx-effect")),
                batch_size=1,
                held_out=0.1,
            ),
            "30-100": _recipe(
                Figure(32, 16, 64, ("ltx-trainer", "cogvideox")),
                Figure(40, 30, 40, ("cogvideox",)),
                batch_size=2,
                held_out=0.1,
            ),
            "100+": _recipe(
                Figure(64, 32, 128, ("cogvideox", "ltx-long")),
                Figure(40, 40, 126, ("cogvideox", "ltx-long")),
                batch_size=4,
                held_out=0.05,
            ),
        },
    ),
    "motion": Learned(
        title="a motion",
        rate=USUAL,
        captions="people and scene in full, and for the motion one fixed phrase with the trigger word",
        watch="the motion with other people and other scenes, at the speed of the data",
        needs="clips",
        sources=("motion-captions",),
        recipes={
            "10-30": _recipe(
                Figure(32, 16, 64, ("cogvideox", "wan-config")),
                Figure(80, 60, 200, ("cogvideox", "ltx-trainer", "ltx-effect")),
                batch_size=1,
                held_out=0.1,
            ),
            "30-100": _recipe(
                Figure(32, 16, 64, ("cogvideox", "wan-config")),
                Figure(40, 30, 40, ("cogvideox",)),
                batch_size=2,
                held_out=0.1,
            ),
            "100+": _recipe(
                Figure(64, 32, 128, ("cogvideox", "ltx-long")),
                Figure(40, 40, 126, ("cogvideox", "ltx-long")),
                batch_size=4,
                held_out=0.05,
            ),
        },
    ),
    "edit": Learned(
        title="an edit, from pairs",
        rate=USUAL,
        captions="the instruction: what to change, and into what",
        watch="pictures that are not in the data: everything that the prompt does not mention stays as it is",
        needs="pairs",
        sources=("kontext-pairs", "captions"),
        recipes={
            "10-30": _recipe(
                Figure(16, 16, 64, ("kontext-config", "edit-expressions")),
                Figure(100, 60, 150, ("kontext-config", "kontext-pairs", "edit-expressions")),
                batch_size=1,
                held_out=0.1,
            ),
            "30-100": _recipe(
                Figure(16, 16, 64, ("kontext-config", "edit-expressions")),
                Figure(60, 30, 100, ("kontext-config", "kontext-pairs", "edit-expressions")),
                batch_size=2,
                held_out=0.1,
            ),
            "100+": _recipe(
                Figure(32, 16, 64, ("kontext-config", "edit-expressions")),
                Figure(20, 10, 100, ("edit-expressions",)),
                batch_size=4,
                held_out=0.05,
            ),
        },
    ),
    "control": Learned(
        title="a control signal, from pairs",
        rate=Figure(0.5, 0.2, 1, ("control-examples", "control-flux")),
        captions="what is in the picture, worded like ordinary prompts for the model; no trigger word is needed",
        watch="controls that are not in the data: samples follow them",
        needs="pairs",
        sources=(),
        recipes={
            "10-30": _recipe(
                Figure(64, 64, 128, ("control-flux", "control-examples")), Figure(150, 60, 300), batch_size=1, held_out=0.1
            ),
            "30-100": _recipe(
                Figure(64, 64, 128, ("control-flux", "control-examples")), Figure(150, 60, 300), batch_size=4, held_out=0.1
            ),
            "100+": _recipe(
                Figure(128, 64, 128, ("control-flux", "control-examples")), Figure(100, 20, 300), batch_size=8, held_out=0.05
            ),
        },
    ),
}
"""All of them. Rates are those of the family times ``rate``."""

KINDS = tuple(LEARNED)
FEWEST = 10
"""Items below which no recipe here is meant; ``10-30`` is taken, without a held-out share."""


def size_of(items: int) -> Size:
    """Which column of the table a number of items belongs to."""
    return "10-30" if items < 30 else "30-100" if items < 100 else "100+"


def recipe_of(kind: Kind, items: int) -> Recipe:
    """Look up how to train something on so many items."""
    found = LEARNED[kind].recipes[size_of(items)]
    return found if items >= FEWEST else Recipe(found.rank, found.passes, found.batch_size, 0.0)
