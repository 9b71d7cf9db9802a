"""Commands as a shell reads them: the words of the one that trains, out of a line or of a script with variables."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetrainers.errors import ConfigError

Value = str | list[str]
"""Of a variable, or of an array."""
NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_ASSIGNMENT = re.compile(rf"({NAME})(\+?)=(.*)", re.DOTALL)
_VARIABLE = re.compile(rf"\$(?:\{{(?P<inner>[^}}]*)\}}|(?P<name>{NAME}))")
_KEYWORDS = ("export", "then", "do", "else", "local", "readonly")


def commands(script: str) -> Iterator[list[str]]:
    """Yield the words of each command of a script, with variables that it sets in their place.

    Loops and conditions are not followed: what stands in them is read once, in order.

    Raises:
        ConfigError: If quotes are left open.
    """
    variables: dict[str, Value] = {}
    for statement in _statements(script.replace("\\\r\n", " ").replace("\\\n", " ")):
        left = list(statement)
        while left and left[0] in _KEYWORDS:
            del left[0]
        while left and (assignment := _ASSIGNMENT.fullmatch(left[0])):
            _assign(assignment, left, variables)
        if left:
            yield [word for part in left for word in _expand(part, variables)]


def _assign(assignment: re.Match[str], left: list[str], variables: dict[str, Value]) -> None:
    """Take an assignment off the words of a statement: a variable is one of them, an array goes on to its end."""
    name, more, value = assignment.groups()
    if value == "(":
        end = left.index(")") if ")" in left else len(left)
        found: Value = [word for part in left[1:end] for word in _expand(part, variables)]
        del left[: end + 1]
    else:
        found = " ".join(_expand(value if '"' in value or "'" in value else f'"{value}"', variables))
        del left[0]
    variables[name] = _joined(variables.get(name), found) if more else found


def _joined(before: Value | None, more: Value) -> Value:
    if isinstance(before, list) or isinstance(more, list):
        listed = before if isinstance(before, list) else ([before] if before else [])
        return [*listed, *(more if isinstance(more, list) else [more])]
    return (before or "") + more


_TOKEN = re.compile(
    r"""(?P<comment>(?<![^\s;&|(])\#[^\n]*)|(?P<word>(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|\$\([^)]*\)|[^\s;&|()'"\\])+)"""
    r"""|(?P<open>\()|(?P<close>\))|(?P<end>[;&|\n]+)|(?P<quote>['"])""",
    re.DOTALL | re.VERBOSE,
)
"""What a script consists of, besides blanks."""


def _statements(script: str) -> Iterator[list[str]]:
    """Cut a script into commands, and these into words that still have their quotes; an array is one of several words."""
    parts: list[str] = []
    is_array = False
    for token in _TOKEN.finditer(f"{script}\n"):
        match token.lastgroup:
            case "word":
                parts.append(token[0])
            case "open":
                is_array = bool(parts) and parts[-1].endswith("=")
                parts[-1:] = [f"{parts[-1]}("] if is_array else parts[-1:]
            case "close":
                parts += [")"] if is_array else []
                is_array = False
            case "end" if not is_array:
                yield parts
                parts = []
            case "quote":
                raise ConfigError(f"the command leaves {token[0]} open; close it")


def _expand(part: str, variables: Mapping[str, Value]) -> list[str]:
    """Make words of one that still has its quotes: variables outside of quotes may become several words, or none."""
    words = [""]
    is_quoted = False
    for piece in re.findall(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|(?:\\.|[^'\"])+", part, re.DOTALL):
        if piece[0] == "'":
            words[-1], is_quoted = words[-1] + piece[1:-1], True
            continue
        inner = piece[1:-1] if piece[0] == '"' else piece
        is_quoted = is_quoted or piece[0] == '"'
        array = re.fullmatch(rf"\$\{{({NAME})\[[@*]\]\}}", inner)
        if array:
            value = _value(array[1], variables)
            return list(value) if isinstance(value, list) else [value]
        filled = _VARIABLE.sub(lambda found: _text(found, variables), inner)
        if piece[0] == '"' or filled == inner:
            words[-1] += re.sub(r'\\(["\\$`])', r"\1", filled) if piece[0] == '"' else re.sub(r"\\(.)", r"\1", filled)
        else:
            first, *rest = filled.split() or [""]
            words[-1] += first
            words += rest
    return [word for word in words if word or is_quoted]


def _text(found: re.Match[str], variables: Mapping[str, Value]) -> str:
    name, _, default = (found["name"] or found["inner"]).partition(":-")
    value = _value(name, variables, default if _ else None)
    return " ".join(value) if isinstance(value, list) else value


def _value(name: str, variables: Mapping[str, Value], default: str | None = None) -> Value:
    value = variables.get(name, os.environ.get(name, default))
    return f"${name}" if value is None else value


def flags(words: Sequence[str]) -> dict[str, Any]:
    """Read ``--name value``, ``--name=value`` and ``--name``, which is true; several values make a list.

    What stands before the first of them is left out; - in names is _.
    """
    found: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, has_value, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = value if has_value else True
        elif name:
            before = found[name]
            found[name] = word if before is True else [*(before if isinstance(before, list) else [before]), word]
    return found


def find_command(script: str, is_trainer: "re.Pattern[str]") -> tuple[list[str], str, list[str]] | None:
    """Find the command that trains: the words before its program, the program, and those after it.

    Raises:
        ConfigError: If two of them train with different settings.
    """
    found: list[tuple[list[str], str, list[str]]] = []
    for parts in commands(script):
        index = next((i for i, part in enumerate(parts) if is_trainer.search(part)), None)
        if index is not None:
            found.append((parts[:index], parts[index], parts[index + 1 :]))
    if len({tuple(after) for _, _, after in found}) > 1:
        raise ConfigError(
            f"the script has {len(found)} commands that train, with different settings; give one of them in quotes"
        )
    for word in found[-1][2] if found else ():
        if unset := _VARIABLE.search(word):
            raise ConfigError(
                f"{word}: {unset[0]} is set neither by the script nor in this shell; set it, and migrate again"
            )
    return found[-1] if found else None


def num_processes(before: Sequence[str]) -> int:
    """Processes that a launcher's words ask for: torchrun's and accelerate's options."""
    given = flags(before)
    for name in ("num_processes", "nproc_per_node"):
        if str(given.get(name, "")).isdigit():
            nodes = str(given.get("nnodes", "1")) if name == "nproc_per_node" else "1"
            return int(given[name]) * (int(nodes) if nodes.isdigit() else 1)
    return 1
