"""A translated configuration as text: YAML with a comment above each line that deserves a look."""

import re
from collections.abc import Mapping, Sequence

import yaml

from finetrainers.config.migrate.draft import Note
from finetrainers.config.syntax import Tree, dump_yaml

TITLES = {
    "lost": "No counterpart here",
    "differs": "Translated, with another meaning",
    "idle": "Not needed: off, or so here anyway",
}
"""Headings of the list, in its order."""
SECTIONS = (
    "output_dir", "seed", "model", "data", "conditioning", "tuning", "objective", "optimizer", "schedule", "train", "loader",
    "cache", "checkpoint", "validation", "parallel", "attention", "memory", "compile", "track",
)  # fmt: skip
"""The order in which sections are written; others follow."""

_BUCKET = re.compile(r"- - (\d+)\n +- (\d+)\n +- (\d+)$", re.MULTILINE)


def config_text(tree: Tree, comments: Mapping[str, str], head: Sequence[str] = ()) -> str:
    """Write a tree as YAML; ``comments`` are by the path of a key."""
    ordered = {name: tree[name] for name in (*SECTIONS, *tree) if name in tree}
    text = _BUCKET.sub(r"- [\1, \2, \3]", dump_yaml(ordered))
    lines = text.splitlines()
    places = _lines(yaml.compose(text, yaml.SafeLoader), ())
    for path, line in sorted(places.items(), key=lambda found: -found[1]):
        if path in comments:
            indent = lines[line][: len(lines[line]) - len(lines[line].lstrip())]
            lines.insert(line, f"{indent}# {' '.join(comments[path].split())}")
    return "\n".join([*(f"# {line}" for line in head), *lines]) + "\n"


def _lines(node: yaml.Node | None, path: tuple[str, ...]) -> dict[str, int]:
    """Line of each key, by its path."""
    found: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            found[".".join(inner)] = key.start_mark.line
            found |= _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found |= _lines(value, (*path, str(index)))
    return found


def notes_text(notes: Sequence[Note]) -> str:
    """List what became of keys that did not simply become ours."""
    lines: list[str] = []
    for kind, title in TITLES.items():
        found = [note for note in notes if note.kind == kind]
        if found:
            lines += [f"{title} ({len(found)}):", *(f"  {note}" for note in found)]
    return "\n".join(lines) or "Every key has become one of ours."
