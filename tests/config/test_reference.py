"""The sections themselves: every key is described, listed and read by the code."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

import finetrainers.config
from finetrainers.cli.help import config_help
from finetrainers.config import Config
from finetrainers.config.base import Section
from finetrainers.config.curate import PrepareConfig
from finetrainers.config.reference import keys, sections_at

SOURCE = Path(finetrainers.__file__).parent
UNREAD: dict[str, str] = {}
"""Keys that no code reads, with the reason."""


def all_sections() -> list[type[Section]]:
    """Each class of the configuration, wherever it is nested."""
    return sorted(
        (s for s in Section.__subclasses__() if s.__module__.startswith("finetrainers.")), key=lambda s: s.__name__
    )


def all_fields() -> list[tuple[type[BaseModel], str]]:
    return [(section, name) for section in all_sections() for name in section.model_fields]


@cache
def attributes_read(*, inside_config: bool) -> frozenset[str]:
    """Names that are read as ``something.name`` in the files of the package."""
    files = [f for f in SOURCE.rglob("*.py") if ((SOURCE / "config") in f.parents) == inside_config]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    return frozenset(n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load))


@cache
def read_by_properties() -> frozenset[str]:
    """Names that properties of sections read, where other files read the property (``views`` through ``num_views``)."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (SOURCE / "config").rglob("*.py")]
    functions = {n.name: n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and is_property(n)}
    wanted = [name for name in functions if name in attributes_read(inside_config=False)]
    read: set[str] = set()
    while wanted:
        body = functions[wanted.pop()]
        names = {n.attr for n in ast.walk(body) if isinstance(n, ast.Attribute)} - read
        wanted += [name for name in names if name in functions]
        read |= names
    return frozenset(read)


def is_property(function: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "property" for d in function.decorator_list)


def test_all_sections_are_part_of_the_configuration() -> None:
    """Every class is reachable from Config, so that the tests below miss none and none is dead."""
    reachable = {definition for definition in Config.model_json_schema()["$defs"]} | {"Config"}
    in_files_of_their_own = {"PromptConfig", "PrepareConfig", *PrepareConfig.model_json_schema()["$defs"]}
    assert {section.__name__ for section in all_sections()} == reachable | in_files_of_their_own


@pytest.mark.parametrize(("section", "name"), all_fields(), ids=lambda x: getattr(x, "__name__", x))
def test_every_key_is_read_by_code_that_acts_on_it(section, name) -> None:
    is_read = name in attributes_read(inside_config=False) | read_by_properties()
    assert is_read != (f"{section.__name__}.{name}" in UNREAD)


@pytest.mark.parametrize(("section", "name"), all_fields(), ids=lambda x: getattr(x, "__name__", x))
def test_every_key_has_a_sentence(section, name) -> None:
    field = section.model_fields[name]
    if isinstance(field.default, Section) or name in {"model", "data", "conditioning", "tuning", "objective", "output"}:
        return  # a section: its own docstring describes it
    assert re.match(r"^([A-Z]|trackio).{9,}[.]$", " ".join((field.description or "").split())), field.description


@pytest.mark.parametrize("section", all_sections(), ids=lambda s: s.__name__)
def test_every_section_has_a_sentence(section) -> None:
    assert re.match(r"^[A-Z].{4,}[.]$", section.__doc__.split("\n")[0])


def fields_in_schema() -> Iterator[str]:
    """All keys, as the JSON schema has them: made by pydantic, not by the walk that is tested."""
    schema = Config.model_json_schema()

    def walk(node: dict, prefix: str) -> Iterator[str]:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        for name, child in node.get("properties", {}).items():
            inner = list(walk(child, f"{prefix}{name}."))
            yield from inner
            if not inner or any("items" in option for option in options(child)):
                yield f"{prefix}{name}"
        for option in options(node):
            if option is not node:
                yield from walk(option, prefix)
        if isinstance(node.get("items"), dict):
            yield from walk(node["items"], f"{prefix}N.")
        if isinstance(node.get("additionalProperties"), dict):
            yield from walk(node["additionalProperties"], f"{prefix}NAME.")

    def options(node: dict) -> list[dict]:
        return [node, *node.get("anyOf", ()), *node.get("oneOf", ())]

    return walk(schema, "")


def test_the_reference_lists_every_key_of_the_schema() -> None:
    listed = {key.name for key in keys()}
    assert listed == set(fields_in_schema()) - {"data"}  # one has no sentence of its own: its keys have


@pytest.mark.parametrize(
    ("name", "type_", "default", "bounds"),
    [
        ("output_dir", "Path", None, ""),
        ("seed", "int", "42", ">= 0, <= 9223372036854775807"),
        ("train.clip_norm", "float", "1.0", "> 0"),
        ("optimizer.beta1", "float", "0.9", ">= 0, < 1"),
        ("objective.mode_scale", "float", "1.29", ">= -1, <= 1.75"),
        ("objective.shift", "float > 0 | auto | resolution", "auto", ""),
        ("checkpoint.resume", "latest | int >= 0", "latest", ""),
        ("train.gradient_checkpointing", "bool", "false", ""),
        ("train.ema_decay", "float | null", "null", "> 0, < 1"),
        (
            "data.N.buckets",
            "auto | int >= 1 | list of [int >= 1, int >= 1, int >= 1] at least 1 | section",
            "auto",
            "",
        ),
        ("data.N.buckets.frames", "list of int >= 1", "[1]", "at least 1"),
        ("model.components.NAME.dtype", "float32 | bfloat16 | float16 | null", "null", ""),
        ("attention.validate", "str", "auto", ""),
        ("parallel.shard", "int | null", "null", ">= 1"),
    ],
)
def test_the_reference_has_type_default_and_bounds(name, type_, default, bounds) -> None:
    (key,) = [key for key in keys() if key.name == name]
    assert (key.type, key.default, key.bounds) == (type_, default, bounds)


def test_keys_of_one_kind_of_tuning_say_so() -> None:
    sentences = {key.name: [k.sentence for k in keys() if k.name == key.name] for key in keys()}
    assert [s.split("]")[0] for s in sentences["tuning.rank"]] == ["[kind: lora", "[kind: lokr"]
    assert sentences["tuning.modules"][0].startswith("[kind: full] ")


@pytest.mark.parametrize(
    ("parents", "known", "unknown"),
    [
        ([], "train", "steps"),
        (["train"], "steps", "train"),
        (["data", 0], "path", "data"),
        (["validation", "data", "1"], "path", "held_out"),
        (["model", "components", "vae"], "subfolder", "vae"),
        (["data", 0, "buckets"], "pixels", "path"),
        (["tuning"], "modules", "kindly"),
    ],
)
def test_hints_know_what_exists_at_a_place(parents, known, unknown) -> None:
    assert known in sections_at(parents)
    assert unknown not in sections_at(parents)


@pytest.mark.parametrize("command", ["train", "encode"])
def test_help_shows_every_key_with_sentence_default_and_bounds(command) -> None:
    text = " ".join(config_help(command).split())
    for key in keys():
        default = "required" if key.default is None else f"default {key.default or repr('')}"
        facts = "; ".join(part for part in (key.type, key.bounds, default) if part)
        assert f"{key.name} ({facts}) {key.sentence}" in text
