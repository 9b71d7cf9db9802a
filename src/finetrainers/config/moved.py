"""Keys that have moved: what to write instead, and what they mean in the configuration that an earlier run has saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetrainers.config.syntax import Tree

GIVEN_FRAMES = {"given_frames": ("frames", "auto"), "first_frame_probability": ("probability", None)}
"""Keys that ``objective`` had: what they are called in the condition, and their defaults."""


def about_moved(place: Sequence[str | int], value: Any, tree: Mapping[str, Any]) -> str | None:
    """Say what to write instead of a key that has moved; None where the key was never there."""
    match list(place):
        case ["objective", "given_frames" | "first_frame_probability"]:
            return f"has moved; {_way_out(tree)}"
        case ["conditioning", "dropout"] | ["conditioning", int(), "dropout"]:
            shown = f"; write probability: {_shown_as_often(value)}" if isinstance(value, int | float) else ""
            return f"has become probability, that of conditioning on the control{shown}"
        case _:
            return None


def _way_out(tree: Mapping[str, Any]) -> str:
    """Name the condition that takes the place of the keys of ``objective``, and where to write it."""
    condition, others = _given_frames(tree["objective"]), tree.get("conditioning")
    if len(condition) == 1:
        return "this is the default, so remove it"
    text = f"{{{', '.join(f'{key}: {value}' for key, value in condition.items())}}}"
    if isinstance(others, list) and others:
        return f"add {text} to the list conditioning"
    if isinstance(others, dict) and others.get("kind", "none") != "none":
        return f"make conditioning a list, and add {text} to it"
    return f"write conditioning: {text}"


def _given_frames(objective: Mapping[str, Any]) -> Tree:
    """Make a condition of the keys that ``objective`` had, as far as they say something."""
    said = {name: objective[key] for key, (name, default) in GIVEN_FRAMES.items() if objective.get(key, default) != default}
    return {"kind": "given_frames", **said}


def _shown_as_often(dropout: float) -> float:
    return round(1 - dropout, 12)


def is_saved(path: Path) -> bool:
    """Whether a file is the configuration that a run has saved: its events lie beside it."""
    return path.name == "config.yaml" and path.with_name("events.jsonl").is_file()


def translate(tree: Tree) -> Tree:
    """Give the configuration that a run of an earlier version has saved the keys of this one; the run stays the same."""
    objective, written = tree.get("objective"), tree.get("conditioning", {"kind": "none"})
    conditions = [_translated(condition) for condition in (written if isinstance(written, list) else [written])]
    changed: Tree = {"conditioning": conditions if isinstance(written, list) else conditions[0]}
    if isinstance(objective, dict) and objective.keys() & GIVEN_FRAMES:
        changed["objective"] = {key: value for key, value in objective.items() if key not in GIVEN_FRAMES}
        given_frames = _given_frames(objective)
        if len(given_frames) > 1:
            others = [condition for condition in conditions if condition != {"kind": "none"}]
            changed["conditioning"] = [*others, given_frames] if others else given_frames
    return {**tree, **changed}


def _translated(condition: Any) -> Any:  # of a file that somebody may have edited
    if not (isinstance(condition, dict) and isinstance(condition.get("dropout"), int | float)):
        return condition
    return {key: value for key, value in condition.items() if key != "dropout"} | {
        "probability": _shown_as_often(condition["dropout"])
    }
