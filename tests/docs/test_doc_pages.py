"""Pages that people finish: what they show of other files is what these say, and none is too long or stale."""

import argparse
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from loading import load_script
from packaging.version import Version
from test_docs import DOCS, ROOT

import finetrainers
from finetrainers.cli.commands import build_parser
from finetrainers.config import Config
from finetrainers.config.memory import WeightFormat
from finetrainers.config.optim import OwnOptimizer
from finetrainers.models import adapters
from finetrainers.optim.optimizers import EXTRAS
from finetrainers.training.plan.figures import StageName

FILL = load_script("fill_docs")
WORDS = load_script("words")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
GUIDE = sorted((DOCS / "guide").glob("*.md"))
FIRST_PAGES = [ROOT / "README.md", DOCS / "index.md", DOCS / "guide.md", DOCS / "quickstart.md", *GUIDE]
OWN_PAGES = [*FIRST_PAGES, *(DOCS / f"{name}.md" for name in ("glossary", "measured", "objectives", "quickstart_measures"))]
TEXTS = [
    file
    for folder in ("docs", "examples", "src", "scripts", "benchmarks")
    for file in (ROOT / folder).rglob("*")
    if file.suffix in {".md", ".py", ".yaml", ".yml", ".sh", ".toml"}
] + [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mkdocs.yml", "pyproject.toml", "Dockerfile", "Makefile")
]
OLDER_RELEASES = Version("0.2.0")
"""The last one of a-r-r-o-w/finetrainers, which has the same name where packages are installed from."""
LONGEST_CELL = 95


def own_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_what_pages_show_of_other_files_is_what_they_say() -> None:
    stale = [own_name(page) for page in FILL.PAGES if page.read_text() != FILL.filled(page)]
    assert not stale, "run scripts/fill_docs.py"


def test_what_was_counted_of_an_example_is_of_its_configuration_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = load_script("example_table")
    assert len(script.read_rows()) > 15
    assert script.stale() == [], "run scripts/example_table.py --only for each, and scripts/fill_docs.py"
    monkeypatch.setattr(script, "recipe_hash", lambda name: "changed")
    assert set(script.stale()) == set(script.read_rows())


def test_an_example_says_what_it_takes_whatever_stage_takes_most() -> None:
    assert set(FILL.STAGES) == set(get_args(StageName))


@pytest.mark.parametrize(
    "key, values",
    [
        ("memory.weights", get_args(WeightFormat)),
        ("memory.text_encoder_weights", get_args(WeightFormat)),
        ("optimizer.name", get_args(OwnOptimizer)),
    ],
)
def test_keys_for_a_small_card_name_the_extra_that_they_need(key: str, values: tuple[str, ...]) -> None:
    named = {value for value in values if FILL.needed(f"`{key}={value} memory.resident_blocks=0`")}
    packages = {"torchao", "bitsandbytes"}
    needing = {name for name, extra in EXTRAS.items() if extra in packages} | {"fp8_scaled", "int8", "nf4"}
    assert named == needing & set(values)
    both = FILL.needed("`memory.weights=int8 optimizer.name=adamw_8bit`")
    assert both == " (needs the extra `bitsandbytes` and `torchao`)"


def test_a_recipe_is_its_example_without_comments() -> None:
    file = ROOT / "examples/training/sft/ltx_video/crush_smol/config.yaml"
    shown = [
        text for page in (ROOT / "README.md", DOCS / "guide/first_run.md") for text in FILL.BLOCK.findall(page.read_text())
    ]
    assert shown == ["runs/ltx-crush"] * 2
    short = FILL.recipes()["runs/ltx-crush"]
    assert "#" not in short
    assert yaml.safe_load(short) == yaml.safe_load(file.read_text())


def test_the_tables_of_cards_have_every_model_that_is_counted() -> None:
    for table in (FILL.cards(), FILL.costs()):
        rows = re.findall(r"^\| \[([^]]+)\]\(models/(\w+)\.md\) \|", table, re.MULTILINE)
        assert [name for name, _ in rows] == [row["model"] for row in FILL.table_of("cards.md", "model | 12 GB")]
    assert {family for _, family in rows} == {
        name for name, own in adapters().items() if own.__module__.startswith("finetrainers.")
    }


@pytest.mark.parametrize(
    "cell, text_encoders, word",
    [("-", 1, "no"), ("4: 8.4", 10.8, "yes"), ("5: 8.4", 10.8, "preset"), ("1: 8.4", 10.9, "yes¹")],
)
def test_a_card_is_enough_if_step_and_captions_fit(cell: str, text_encoders: float, word: str) -> None:
    assert FILL.verdict(cell, text_encoders, 12) == word


def test_the_start_page_and_the_page_of_cards_say_the_same_of_each_plan() -> None:
    """One count: what a plan finds or does not find for a card is what the start page says of it, captions included."""
    shown = {
        row["model"]: dict(zip(FILL.CARDS, FILL.verdicts(row), strict=True))
        for row in FILL.table_of("cards.md", "model | 12 GB")
    }
    assert len(FILL.planned()) > 8
    for (model, card), proposed in FILL.planned().items():
        word = shown[model][card]
        assert (word == "no") == (proposed == FILL.NOTHING), (model, card)
        assert ("optimizer" in proposed or "name: adamw" in proposed) == (word == FILL.PLANNED), (model, card)
        assert word == FILL.PLANNED or ("text_encoder_weights" in proposed) == word.endswith("¹"), (model, card)


def test_a_page_of_a_model_begins_with_the_smallest_cards_that_fit() -> None:
    row = {"model": "Wan 2.1 1.3B", "12 GB": "8: 8.4", "16 GB": "8: 8.4", "24 GB": "5: 9", "48 GB": "2: 41.2"}
    both = "12 GB with `memory: {preset: auto, text_encoder_weights: fp8_e4m3}`"
    assert FILL.fitting(row) == f"48 GB, or of 16 GB with `memory: {{preset: auto}}`, or of {both}"
    for family in set(FILL.PAGES_OF_MODELS.values()):
        assert (DOCS / f"models/{family}.md").read_text().split("\n\n")[1] == "<!-- part: family -->"


def test_no_page_is_too_long() -> None:
    for page in FILL.PAGES:
        text = page.read_text()
        limit = WORDS.limit_of(str(page.relative_to(DOCS)) if page.is_relative_to(DOCS) else page.name, text)
        assert limit is None or WORDS.count_words(text) <= limit, own_name(page)


def test_words_are_what_one_reads() -> None:
    text = "# Two words\n\n| a | - |\n\n```sh\nnot read\n```\n<!-- table: x -->\nnot read\n<!-- end of table -->\n"
    assert WORDS.count_words(text) == 3


def test_no_cell_of_a_table_is_a_paragraph() -> None:
    for page in OWN_PAGES:
        rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
        cells = [re.sub(r"\]\([^)]*\)", "]", cell.strip()) for line in rows for cell in line.strip("|").split("|")]
        assert max(map(len, cells), default=0) <= LONGEST_CELL, own_name(page)


def test_no_address_but_the_one_constant_is_given_for_this_repository() -> None:
    """It is not published: an address that someone made up would be the first command that fails."""
    older = "https://github.com/a-r-r-o-w/finetrainers/"  # another project, cited as a source
    for file in TEXTS:
        text = file.read_text().replace(older, "")
        made_up = r"git\+|github\.com/[\w-]+/finetrainers|pip install (-U )?finetrainers$"
        assert not re.search(made_up, text, re.MULTILINE), file
        cloned = re.findall(r"git clone (\S+)", text)
        assert file.name == "fill_docs.py" or set(cloned) <= {FILL.REPOSITORY}, file
        addresses = set(re.findall(r"https?://[^\s)>\"']*finetrainers[^\s)>\"']*", text))
        assert all(re.match(r"https://huggingface\.co/(datasets/)?finetrainers/", own) for own in addresses), file


def test_extras_are_installed_from_the_checkout_as_the_guide_says() -> None:
    """By the name alone, pip would install the older program: each message and page has the one command that works."""
    shown = {file: re.findall(r"(\S*)finetrainers\[[\w{]", file.read_text()) for file in TEXTS}
    assert {file: found for file, found in shown.items() if set(found) - {"'./"}} == {}
    assert sum(map(len, shown.values())) > 8
    assert "pip install './finetrainers[" in (DOCS / "guide/first_run.md").read_text()


def test_the_version_is_none_of_an_older_project() -> None:
    assert Version(finetrainers.__version__).release > OLDER_RELEASES.release


def test_pages_of_the_guide_say_what_one_can_do_after_them() -> None:
    assert len(GUIDE) > 5
    for page in GUIDE:
        title, first = page.read_text().split("\n\n")[:2]
        assert title.startswith("# ")
        assert first.startswith("After this page you "), page
        assert f"(guide/{page.name})" in (DOCS / "guide.md").read_text(), "the path leads to it"


def test_runs_on_the_first_pages_are_those_of_recipes() -> None:
    known = {name: yaml.safe_load(text) for name, text in FILL.recipes().items()}
    shown = "\n".join(page.read_text() for page in FIRST_PAGES)
    for name, step in re.findall(r"\b(runs/[\w.-]+)(?:/\w+/step-(\d+))?", shown):
        assert name in known, name
        assert not step or int(step) % known[name]["checkpoint"]["every"] == 0, step
        assert not step or int(step) <= known[name]["train"]["steps"], step


def test_commands_and_files_that_measured_what_is_promised_are_there() -> None:
    named = re.findall(r"^- .* `([^`]+)`$", (DOCS / "measured.md").read_text(), re.MULTILINE)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert len(named) > 15
    for command in named:
        program, _, target = command.partition(" ")
        assert program in {"python", "pytest", "make", "finetrainers"}, command
        assert program not in {"python", "pytest"} or (ROOT / target).is_file(), command
        assert program != "make" or target in targets, command


def test_figures_of_the_quick_start_are_those_that_were_measured() -> None:
    page, measures = (DOCS / "quickstart.md").read_text(), (DOCS / "quickstart_measures.md").read_text()
    rows = re.findall(r"^\| ([\w ,-]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert len(rows) == 5
    for what, before, after in rows:
        assert re.search(rf"^\| {what} \| {before} \([^|]*\| {after} \(", measures, re.MULTILINE), what
    new = dict((what, after) for what, _, after in rows)["banners of colours that neither was trained on"]
    assert f"new banners: 0 % right before, {new} % after" in (DOCS / "measured.md").read_text()


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: own for action in found for name, own in action.choices.items()}


def test_the_changelog_names_each_family_and_command_and_section() -> None:
    assert re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE) == ["[Unreleased]"]
    families = {name for name, own in adapters().items() if own.__module__.startswith("finetrainers.")}
    commands = commands_of(build_parser())
    assert {"train", "quickstart"} <= set(commands)
    for name in (*families, *commands):
        assert re.search(rf"`{name}( \w+)?`", CHANGELOG), name
    for name in Config.model_fields:
        assert re.search(rf"`{name}\b|\b{name}\.", CHANGELOG), name


def test_links_to_the_parts_of_the_guide_that_was_one_page_lead_on() -> None:
    page = (DOCS / "guide.md").read_text()
    for anchor in (
        "3-a-configuration",
        "4-encode",
        "6-look-at-it",
        "7-stop-and-go-on",
        "8-bad-data",
        "memory",
        "from-python",
    ):
        assert f'<a id="{anchor}"></a>' in page
