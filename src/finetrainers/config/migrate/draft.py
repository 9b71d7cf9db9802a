"""A configuration while it is translated: what of the source is still unread, and what becomes of each of its keys."""

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

from finetrainers.config.syntax import Tree

Leaf = TypeVar("Leaf")
OFF: tuple[Any, ...] = (None, False, 0, "", "none", "None", "false", "False", "no", "0", [], {})
"""Values with which a setting of another tool does nothing."""

_SECRET = re.compile(r"(api_?key|access_key|secret|password|(^|[._])token$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Note:
    """What became of one key of the source, where it did not simply become one of ours."""

    kind: Literal["lost", "differs", "idle"]
    """Nothing here does it; it is translated and means something else; or what it says is so here anyway."""
    key: str
    value: Any  # whatever the source holds
    text: str
    """Why, and what to do."""

    def __str__(self) -> str:
        value = "..." if _SECRET.search(self.key) else self.value if isinstance(self.value, str) else repr(self.value)
        shown = "" if self.value is None else f": {value}"
        return f"{self.key}{shown if len(shown) <= 80 else shown[:77] + '...'}: {self.text}"


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Name each setting by its path, as a.0.b; a list of plain values is one setting."""
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    else:
        return {key: value}
    found: dict[str, Any] = {}
    for name, inner in items:
        found |= flatten(inner, f"{key}.{name}" if key else str(name))
    return found


class Draft:
    """Takes settings of the source one by one, and notes what has no counterpart."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.left: dict[str, Any] = flatten(settings) if settings else {}
        """Settings that nothing has been done with yet, by path."""
        self.tree: Tree = {}
        """Ours, so far."""
        self.comments: dict[str, str] = {}
        """By the path of a key of ours, what to look at there."""
        self.notes: list[Note] = []
        self.prompts: list[Tree] = []
        """What validation generates: written to a file of its own."""

    def take(self, key: str, default: Any = None, read: Callable[[str, Any], Leaf] | None = None) -> Any:
        """Take a setting, by path: whoever calls answers for it. ``read(key, value)`` converts what is given."""
        value = self.left.pop(key, None)
        if value is None:
            return default
        return value if read is None else read(key, value)

    def take_table(self, key: str) -> Tree:
        """Take all settings below a path, each by what follows it."""
        found = {name[len(key) + 1 :]: self.left[name] for name in list(self.left) if name.startswith(f"{key}.")}
        for name in found:
            del self.left[f"{key}.{name}"]
        return found

    def count(self, key: str) -> int:
        """Items of the list of tables at a path."""
        heads = {name[len(key) + 1 :].partition(".")[0] for name in self.left if name.startswith(f"{key}.")}
        return len([head for head in heads if head.isdigit()])

    def put(self, ours: str, value: Any, comment: str | None = None) -> None:
        """Write a key of ours, by path; digits are indices."""
        node: Any = self.tree
        path = ours.split(".")
        for parent, after in pairwise(path):
            empty: Any = [] if after.isdigit() else {}
            if isinstance(node, list):
                if int(parent) == len(node):
                    node.append(empty)
                node = node[int(parent)]
            else:
                node = node.setdefault(parent, empty)
        node[path[-1]] = copy.deepcopy(value)  # YAML would make aliases of one list in two places
        if comment:
            self.comments[ours] = comment

    def move(self, theirs: str, ours: str, read: Callable[[str, Any], Any] | None = None, default: Any = None) -> Any:
        """Write a setting as a key of ours that means the same; where it is not given, the other tool's default."""
        is_given = self.left.get(theirs) is not None
        value = self.take(theirs, default, read)
        if value is not None:
            self.put(ours, value, None if is_given else "not given: their default")
        return value

    def differs(self, key: str, value: Any, text: str, ours: str | None = None) -> None:
        """Note that a setting is translated and means something else, also beside the key of ours."""
        self.notes.append(Note("differs", key, value, text))
        if ours is not None:
            self.comments[ours] = f"{key}: {text}"

    def lost(self, key: str, value: Any, text: str) -> None:
        """Note that nothing here does what a setting says."""
        self.notes.append(Note("lost", key, value, text))

    def idle(self, key: str, value: Any, text: str) -> None:
        """Note that a setting says what is so here anyway."""
        self.notes.append(Note("idle", key, value, text))

    def settle(self, idle: Mapping[str, str], lost: Mapping[str, str], *, prefix: str = "") -> None:
        """Note known settings that are not translated; one of ``lost`` that is off is idle."""
        for key in [name for name in self.left if name.startswith(prefix)]:
            name = key[len(prefix) :]
            if name in idle:
                self.idle(key, self.left.pop(key), idle[name])
            elif name in lost:
                value = self.left.pop(key)
                if is_off(value):
                    self.idle(key, value, "is off")
                else:
                    self.lost(key, value, lost[name])

    def finish(self, unknown: str) -> None:
        """Note whatever is left."""
        for key, value in self.left.items():
            self.lost(key, value, unknown)
        self.left.clear()


def is_off(value: Any) -> bool:
    """Whether a setting does nothing with this value."""
    return any(value is off or (type(value) is type(off) and value == off) for off in OFF)
