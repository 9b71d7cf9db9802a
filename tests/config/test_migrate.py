"""Configurations of other trainers: each key becomes one of ours, or is listed with the reason."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from migrations import SOURCES, Source

from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE
from finetrainers.config import load_config
from finetrainers.config.migrate.formats import Migration, migrate
from finetrainers.config.migrate.write import config_text
from finetrainers.config.syntax import parse_yaml
from finetrainers.errors import ConfigError

Place = tuple[str | int, ...]


@pytest.fixture
def translate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return lambda source: migrate(source.write(tmp_path))


def leaves(tree: Any, place: Place = ()) -> Iterator[Place]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield from leaves(value, (*place, key))
        else:
            yield (*place, key)


def changed(tree: Any, place: Place) -> Any:
    """The tree with another value at a place."""
    tree = copy.deepcopy(tree)
    node = tree
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = other(node[place[-1]])
    return tree


def other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value * 2 + 1
        case None:
            return "x"
        case "true" | "false":
            return "false" if value == "true" else "true"
        case str() if value.replace(".", "").replace("e-", "").isdigit():
            return str(float(value) * 2 + 1)
        case str():
            return f"{value}x"
        case [list(), *_]:
            return [[2 * value[0][0], *value[0][1:]], *value[1:]]
        case [first, *rest]:
            return [other(first), *rest]
    raise AssertionError(value)


def outcome(source: Source, translate: Any) -> Any:
    """All that somebody sees of a migration."""
    try:
        found: Migration = translate(source)
    except ConfigError as error:
        return str(error)
    return (
        found.tree,
        found.comments,
        found.prompts,
        found.processes,
        {(note.kind, note.key, repr(note.value)) for note in found.notes},
    )


@pytest.mark.parametrize("name", SOURCES)
def test_no_key_of_the_source_is_dropped_in_silence(name: str, translate: Any) -> None:
    """Another value of any key changes the configuration, or the list, or is an error."""
    source = SOURCES[name]
    before = outcome(source, translate)
    assert not isinstance(before, str), before
    silent: list[Place] = [
        place
        for place in leaves(source.tree)
        if outcome(replace(source, tree=changed(source.tree, place)), translate) == before
    ]
    for file, tree in source.files.items():
        for place in leaves(tree) if isinstance(tree, dict | list) else ():
            files = {**source.files, file: changed(tree, place)}
            if outcome(replace(source, files=files), translate) == before:
                silent.append((file, *place))
    assert silent == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_key_that_nobody_knows_is_listed(name: str, translate: Any) -> None:
    source = SOURCES[name]
    tree = copy.deepcopy(source.tree)
    (tree["config"]["process"][0]["train"] if "config" in tree else tree)["nobody_knows_this"] = 5
    notes = translate(replace(source, tree=tree)).notes
    assert [note.kind for note in notes if note.key.endswith("nobody_knows_this")] == ["lost"]


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_written_is_a_configuration_of_ours(name: str, translate: Any, tmp_path: Path) -> None:
    """With its prompts in a file of their own; comments change nothing of what is read."""
    assert (
        main(["migrate", SOURCES[name].write(tmp_path), "--output", "ours.yaml"]) == DONE if Path.cwd() == tmp_path else True
    )
    found = translate(SOURCES[name])
    text = config_text(found.tree, found.comments, ["head"])
    assert parse_yaml(text) == found.tree
    for comment in found.comments.values():
        assert f"# {' '.join(comment.split())}\n" in text
    config = load_config(tmp_path / "ours.yaml")
    assert (config.validation.prompts is not None) == bool(found.prompts)
