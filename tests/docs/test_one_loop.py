"""SFT and Control are one program: what runs every step, keeps and measures does not know which of them it serves."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from test_docs import DOCS, FENCE, ROOT

PACKAGE = ROOT / "src/finetrainers"
PAGE = (DOCS / "trainer/control-measured.md").read_text()
SHARED = [
    *(f"training/{name}.py" for name in ("trainer", "checkpoint/checkpoints", "checkpoint/saving", "validation/validate")),
    "encoding/encoder.py",
    "data/cache/store.py",
]
COUNT = re.compile(r"^ +(\d+) (src/finetrainers/conditioning/\w+\.py|total)$", re.MULTILINE)
SLACK = 0.1
"""Part by which a count of lines in the documentation may be old."""


def searched() -> tuple[re.Pattern[str], list[str]]:
    """The pattern and the files of the search on the page, braces expanded as bash does it."""
    (command,) = (text for language, text in FENCE.findall(PAGE) if language == "sh" and text.startswith("git grep"))
    words = shlex.split(command)
    dashes = words.index("--")
    return re.compile(words[dashes - 1]), [file for word in words[dashes + 1 :] for file in expanded(word)]


def expanded(word: str) -> list[str]:
    """Expand the braces of a word, if there are some."""
    parts = re.fullmatch(r"(.*)\{(.*)\}(.*)", word)
    return [word] if parts is None else [f"{parts[1]}{name}{parts[3]}" for name in parts[2].split(",")]


def found(pattern: re.Pattern[str], file: Path) -> list[str]:
    """The lines that git grep would print."""
    lines = enumerate(file.read_text().splitlines(), 1)
    return [f"{file.relative_to(ROOT)}:{number}:{line}" for number, line in lines if pattern.search(line)]


def branches(source: str) -> list[str]:
    """What code asks of the kind of a conditioning: its class, or an attribute ``kind`` of something named so."""
    asked = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Attribute(attr="conditioning") | ast.Name(id="conditioning"), attr="kind"):
                asked.append(ast.unparse(node))
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                if re.fullmatch(r"\w*(ChannelConcat|NoConditioning|ConditioningConfig)\w*", name):
                    asked.append(name)
            case ast.Constant(value="channel_concat"):
                asked.append("channel_concat")
    return asked


def test_the_search_on_the_page_finds_nothing() -> None:
    pattern, files = searched()
    assert files == [f"src/finetrainers/{name}" for name in SHARED]
    assert [line for name in files for line in found(pattern, ROOT / name)] == []


def test_the_search_finds_what_there_is() -> None:
    """Where the kinds differ it finds them, and it would find a branch on the kind."""
    pattern, _ = searched()
    assert len(found(pattern, PACKAGE / "conditioning/__init__.py")) >= 2
    assert pattern.search('    if config.conditioning.kind == "none":')
    assert pattern.search("        return isinstance(trainer.conditioning, ChannelConcat)")


@pytest.mark.parametrize("name", SHARED)
def test_shared_code_has_no_branch_on_the_kind(name: str) -> None:
    assert branches((PACKAGE / name).read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "if config.conditioning.kind != 'none': pass",
        "conditioning.kind",
        "from finetrainers.config import NoConditioning",
        "match config:\n    case config.ChannelConcatConfig(): pass",
        "section['kind'] == 'channel_concat'",
    ],
)
def test_a_branch_would_be_found(line: str) -> None:
    assert branches(line)
    assert branches((PACKAGE / "conditioning/__init__.py").read_text())


def test_the_counts_of_lines_on_the_page_are_about_right() -> None:
    told = {name: int(count) for count, name in COUNT.findall(PAGE)}
    files = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in PACKAGE.glob("conditioning/*.py")}
    assert told.keys() == files.keys() | {"total"}
    assert told["total"] == sum(count for name, count in told.items() if name != "total")
    for name, count in {**files, "total": sum(files.values())}.items():
        assert abs(told[name] - count) <= max(5, SLACK * count), f"{name} has {count} lines"
