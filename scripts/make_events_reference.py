"""Write the JSON schema of events.jsonl and the tables of docs/events.md from the classes; ``--check`` compares them."""

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from finetrainers.events import EVENTS, VERSION
from finetrainers.events.record import NOT_FINITE, Event, Record, own_fields

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "src/finetrainers/training/events.schema.json"
PAGE = ROOT / "docs/events.md"
START = "## All events\n"
"""Where the generated part of the page begins; what is before it is written by hand."""
NUMBER = {
    "description": "A number; JSON has no NaN and no infinity, so those are strings.",
    "anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}],
}
NAMED = {"$ref": "#/$defs/number"}
Tree = dict[str, Any]


def main() -> int:
    """Write both files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    is_check, num_stale = parser.parse_args().check, 0
    for file, text in ((SCHEMA, schema_text()), (PAGE, page_text())):
        found = file.read_text(encoding="utf-8") if file.exists() else ""
        if not is_check:
            file.write_text(text, encoding="utf-8")
        elif found != text:
            num_stale += 1
            lines = difflib.unified_diff(found.splitlines(), text.splitlines(), str(file), "the classes", lineterm="", n=0)
            print(*lines, sep="\n")
            print(f"{file} is stale: run python scripts/{Path(__file__).name}", file=sys.stderr)
    return int(num_stale > 0)


def schema_text() -> str:
    """Return the text of the schema's file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def schema() -> Tree:
    """Make the schema of a line: what all events have, and then what the one with its name has."""
    names = [kind.event for kind in EVENTS]
    common = {
        "v": {"const": VERSION, "description": "Version of this schema."},
        "time": {"type": "number", "description": "Seconds since 1970-01-01 UTC."},
        "event": {"enum": names, "description": "What has happened; the other fields depend on it."},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One line of events.jsonl",
        "description": "The machine interface of a run. New events and new fields keep the version; a field that changes "
        "its meaning raises it.",
        "type": "object",
        "properties": common,
        "required": list(common),
        "additionalProperties": True,
        "allOf": [{"if": {"properties": {"event": {"const": name}}}, "then": {"$ref": f"#/$defs/{name}"}} for name in names],
        "$defs": {"number": NUMBER} | {kind.event: _of_event(kind) for kind in EVENTS},
    }


def _of_event(kind: type[Event]) -> Tree:
    """Describe the fields of one event."""
    made = TypeAdapter(kind).json_schema()
    for base in kind.__mro__[1:]:  # pydantic reads the sentences of fields in the class itself alone
        if issubclass(base, Record) and base is not Record:
            for name, field in TypeAdapter(base).json_schema()["properties"].items():
                made["properties"][name] = {**field, **made["properties"][name]}
    own = _plain(made, made.get("$defs", {}), is_whole=True)
    return {"description": " ".join((kind.__doc__ or "").split()), **_fields(kind, own)}


def _fields(kind: type[Record], own: Tree) -> Tree:
    properties = {field.name: own["properties"][field.name] for field in own_fields(kind)}
    return {"properties": properties, "required": [name for name in properties if name in own["required"]]}


def _plain(tree: Any, parts: Tree, *, is_whole: bool = False) -> Any:
    """Leave out what pydantic adds, put parts in their places, and say of a field what it is where it is given."""
    if isinstance(tree, list):
        return [_plain(item, parts) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "$ref" in tree:
        part = dict(parts[tree["$ref"].rpartition("/")[2]])
        fields = {name: own for name, own in part["properties"].items() if name != "extra"}
        return _plain({"type": "object", "properties": fields, "required": part["required"]}, parts, is_whole=True)
    choices = tree.get("anyOf", [])
    if "default" in tree and {"type": "null"} in choices:
        choices = [choice for choice in choices if choice != {"type": "null"}]
    others = {key: value for key, value in tree.items() if key not in ("anyOf", "default", "description")}
    others = others if is_whole else {key: value for key, value in others.items() if key != "title"}
    named = {"description": " ".join(tree["description"].split())} if "description" in tree else {}
    if is_whole:
        return {key: {n: _plain(f, parts) for n, f in v.items()} if key == "properties" else v for key, v in others.items()}
    if choices == NUMBER["anyOf"]:
        return {**NAMED, **named}
    if "enum" in others:
        others.pop("type", None)
    merged = _merged([_plain(choice, parts) for choice in choices])
    return {**{key: _plain(value, parts) for key, value in others.items()}, **merged, **named}


def _merged(choices: list[Tree]) -> Tree:
    """Write something or null as one object with two types."""
    if len(choices) <= 1:
        return choices[0] if choices else {}
    types = [choice["type"] for choice in choices]
    return {key: value for choice in choices for key, value in choice.items()} | {"type": types}


def page_text() -> str:
    """Return the page: what is written by hand, then a table for each event."""
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(START)
    tree = schema()
    sections = [f"{START}\n{_table(tree)}"]
    for name, own in tree["$defs"].items():
        if name != "number":
            sections.append(f"## {name}\n\n{own['description']}\n\n{_table(own)}")
    return before + "\n".join(sections)


def _table(own: Tree) -> str:
    rows = [
        f"| `{name}` | {_type(field)} | {'always' if name in own['required'] else 'sometimes'} | {field['description']} |"
        for name, field in own["properties"].items()
    ]
    return "\n".join(["| field | type | given | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _type(field: Tree) -> str:
    """Say of a field what it is, in words."""
    match field:
        case {"const": value}:
            return f"`{value}`"
        case {"enum": list(values)}:
            return " or ".join(f"`{value}`" for value in values)
        case {"$ref": _}:
            return "number"
        case {"type": [*names]}:
            return " or ".join(names)
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}s"
        case {"type": "object", "additionalProperties": values}:
            return f"{_type(values)}s by name"
    return str(field["type"])


if __name__ == "__main__":
    sys.exit(main())
