"""Snippets of README, documentation and examples run as they stand, with what a plain install brings and nothing else."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from argparse import ArgumentParser, _SubParsersAction
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import flux_tree, write_pictures
from snippets import ROOT, WEIGHTS, Snippet, make_world, not_installed, shortened, snippets
from test_examples import RELEASES

from finetrainers.cli.bench import bench_parser
from finetrainers.cli.check import check_parser
from finetrainers.cli.commands import build_parser
from finetrainers.cli.data import inspect_parser
from finetrainers.cli.launch import launch_parser
from finetrainers.cli.plan import plan_parser
from finetrainers.cli.rehearse import rehearse_parser
from finetrainers.config import Config, find_file, parse_config
from finetrainers.config.curate import PrepareConfig
from finetrainers.config.prompts import parse_prompt
from finetrainers.models import adapters

PYTHON, DATA, SHELL = snippets("python"), snippets("yaml", "json", "toml"), snippets("sh", "bash", "shell", "console")
RUN = [snippet for snippet in PYTHON if snippet.reason is None]
MOST_NOT_RUN = 3
"""Snippets of Python with a reason why they are not run."""
RUNS_TESTS = frozenset({"pytest"})
BASE: dict[str, Any] = {"output_dir": "runs/x", "model": {"path": "owner/model"}}
DATA_SET = {"path": "data", "buckets": [[1, 64, 64]]}
OWN_OPTIONS: dict[str, Callable[[], ArgumentParser]] = {
    "bench": bench_parser, "launch": launch_parser, "rehearse": rehearse_parser, "plan": plan_parser, "data": inspect_parser,
    "check": check_parser,
}  # fmt: skip
"""Commands whose options are read once overrides have been told apart from them."""


# -- Python -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blocked() -> frozenset[str]:
    return not_installed(keeps=RUNS_TESTS)


@pytest.fixture(scope="module")
def release(tiny: Callable[[str, str], Path]) -> Callable[[str], Path]:
    """The tiny twin of a model, by its name on the Hub."""
    families = {"CogVideoX": "cogvideox", "CogView4": "cogview4", "FLUX": "flux", "Hunyuan": "hunyuan_video"}
    families |= {"LTX": "ltx_video", "Wan": "wan"}

    def make(name: str) -> Path:
        return tiny(next(family for begin, family in families.items() if name.startswith(begin)), RELEASES[name])

    return make


def test_what_a_plain_install_lacks_is_known(blocked: frozenset[str]) -> None:
    assert blocked >= {"cv2", "imageio", "torchao", "wandb"}
    assert not blocked & {"torch", "diffusers", "finetrainers", "av", "pytest", "peft", "PIL"}


@pytest.fixture(scope="module")
def outcomes(
    blocked: frozenset[str],
    release: Callable[[str], Path],
    tiny_flux: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """What came of all snippets of Python, which one process runs: an empty text, or the error."""
    root, jobs = tmp_path_factory.mktemp("snippets"), []
    for number, snippet in enumerate(RUN):
        folder = root / str(number)
        folder.mkdir()
        make_world(snippet, release, folder)
        for name in re.findall(r'load_config\("([\w.]+)"', snippet.text):
            model = release("LTX-Video") if "(49, " in snippet.text else tiny_flux
            tree = flux_tree(model, write_pictures(folder / "data", 4), folder)
            (folder / name).write_text(yaml.safe_dump(tree))
        told = {"name": str(snippet), "page": str(snippet.page), "folder": str(folder), "code": shortened(snippet.text)}
        jobs.append({**told, "writes": re.findall(r'(?:write_video|save)\("([\w.]+)"', snippet.text)})
    work = root / "work.json"
    work.write_text(json.dumps({"missing": sorted(blocked), "jobs": jobs}))
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("plain_install.py")), str(work)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads((root / "outcomes.json").read_text()))


@pytest.mark.parametrize("snippet", RUN, ids=str)
@pytest.mark.long
def test_a_snippet_runs(snippet: Snippet, outcomes: dict[str, str]) -> None:
    assert not outcomes[str(snippet)]


def test_every_family_has_a_page_with_a_snippet_that_draws_with_weights() -> None:
    drawing = {one.page.stem for one in PYTHON if one.page.parent.name == "models" and WEIGHTS.search(one.text)}
    assert drawing == set(adapters())


def test_few_snippets_are_not_run_and_each_says_why() -> None:
    left_out = [one for one in PYTHON if one.reason is not None]
    assert all(len(str(one.reason).split()) > 1 for one in left_out)
    assert len(left_out) <= MOST_NOT_RUN < len(PYTHON) / 4


# -- configurations and other data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("snippet", [one for one in DATA if one.reason is None], ids=str)
def test_a_configuration_is_valid_whole_or_as_a_part(snippet: Snippet) -> None:
    """Parts stand on a base that has what is required; besides, there are prompts, recipes of data, events and projects."""
    tree = tomllib.loads(snippet.text) if snippet.language == "toml" else yaml.safe_load(snippet.text)
    match tree:
        case {"v": _, "event": _} | {"project": _}:  # of events, tests/docs/test_docs.py
            return
        case [{"prompt": _}, *_]:
            for row in tree:
                parse_prompt(row, "prompt")
        case [{"kind": "classify" | "scenes" | "clips"}, *_]:
            PrepareConfig.model_validate({"input": "raw", "output": {"path": "out"}, "steps": tree})
        case {"steps": _}:
            PrepareConfig.model_validate(tree)
        case dict() if tree.keys() <= Config.model_fields.keys():
            sets = [{**DATA_SET, **own} for own in tree.get("data", [{}])]
            parse_config({**BASE, **tree, "data": sets})
        case _:
            pytest.fail("is no configuration, and no other file of ours; say why in a comment <!-- not run: ... -->")


# -- commands ---------------------------------------------------------------------------------------------------------


def commands() -> Iterator[Any]:
    """Lines of shell snippets that begin one of our commands."""
    for snippet in (one for one in SHELL if one.reason is None):
        counted = Counter[str]()
        for line in re.sub(r"\\\n\s*", " ", snippet.text).splitlines():
            found = re.match(r"(?:\$ |srun |torchrun .*-m )?finetrainers (.*)", line.strip())
            if found is not None:
                counted[found[1].split()[0]] += 1
                command = found[1].split()[0]
                yield pytest.param(found[1], id=f"{snippet}-{command}-{counted[command]}")


@cache
def parser_of(words: tuple[str, ...]) -> ArgumentParser:
    """The parser of a command, or of its action."""
    parser = build_parser()
    for word in words:
        (choices,) = (action for action in parser._actions if isinstance(action, _SubParsersAction))
        parser = choices.choices[word]
    return parser


def options_of(words: list[str]) -> set[str]:
    """All options of a command and of its actions."""
    command = words[0]
    parsers = [parser_of((command,)), *([OWN_OPTIONS[command]()] if command in OWN_OPTIONS else [])]
    actions = [action for parser in parsers for action in parser._actions]
    inner = [own for action in actions if isinstance(action, _SubParsersAction) for own in action.choices.values()]
    return {option for action in [*actions, *(a for own in inner for a in own._actions)] for option in action.option_strings}


def is_key(override: str) -> bool:
    """Whether an override names a section or key that a configuration has, or a recipe of data."""
    name = override.lstrip("-").partition("=")[0].partition(".")[0]
    return name in Config.model_fields or name in PrepareConfig.model_fields


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_has_the_options_that_it_is_given(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0], comments=True)
    if re.search(r"[\[|]", line.replace("'[[", "").replace("|| ", "")):  # a synopsis: of its options, the names
        named = set(re.findall(r"--[\w-]+", line.replace("--section.key", "")))
        assert named <= options_of(words), line
        return
    command, *rest = words
    if command in ("train", "encode") or words[:2] == ["data", "prepare"]:
        file, overrides = find_file(rest[command == "data" :])
        assert all(is_key(override) for override in overrides if override.startswith("-") or "=" in override), line
    elif command in OWN_OPTIONS:
        own, _, _ = " ".join(map(shlex.quote, rest[command == "data" :])).partition(" -- ")
        _, left = OWN_OPTIONS[command]().parse_known_args(shlex.split(own))
        assert all(is_key(word) for word in left if word.startswith("-") or "=" in word), line
    else:
        build_parser().parse_args(words)


def test_there_are_snippets_of_all_kinds() -> None:
    pages = {str(one.page.relative_to(ROOT)) for one in (*PYTHON, *DATA, *SHELL)}
    assert {"README.md", "docs/cli.md", "docs/python.md"} <= pages
    assert min(len(PYTHON), len(DATA), len(list(commands()))) >= 10
