"""What the command line says of words that it does not take, and of those that it takes."""

import argparse
import shlex
from pathlib import Path

import pytest

from finetrainers.cli.commands import build_parser
from finetrainers.cli.entry import main
from finetrainers.cli.status import USER_ERROR


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sample run --prompt a --steps=3", "sample: there is no option --steps; did you mean --num-inference-steps?"),
        ("report run --ouput a.html", "report: there is no option --ouput; did you mean --output?"),
        ("cache prune --max-gib 3", "cache prune: there is no option --max-gib; did you mean --max-gb?"),
        ("cache show --max-gb 1", "cache show: there is no option --max-gb"),
        ("models --jsn", "models: there is no option --jsn; did you mean --json?"),
        ("export run --to comfyui --lora", "export: there is no option --lora"),
        ("report my run", "report: takes no further word 'run'; put a name with spaces in quotes"),
    ],
)
def test_a_word_that_a_command_does_not_take_is_answered(words: str, said: str, capsys) -> None:
    assert main(words.split()) == USER_ERROR
    command = said.partition(":")[0]
    assert " ".join(capsys.readouterr().err.split()) == f"finetrainers: {said}; finetrainers {command} --help lists all"


@pytest.mark.parametrize(
    "command", ["train", "encode", "check", "plan", "rehearse", "bench", "data inspect", "launch --cpu 1"]
)
def test_a_name_that_the_shell_has_split_is_recognized(command: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my own run.yaml").write_text("output_dir: run")
    assert main([*command.split(), "my", "own", "run.yaml", "train.steps=3"]) == USER_ERROR
    told = " ".join(capsys.readouterr().err.split())
    assert told == "finetrainers: there is no my, but there is 'my own run.yaml': put a name with spaces in quotes"


def test_the_help_of_each_command_says_what_it_does_and_what_each_argument_is() -> None:
    def each(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
        groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        return [parser, *(own for group in groups for inner in group.choices.values() for own in each(inner))]

    found = each(build_parser())
    assert len(found) > 25
    assert [parser.prog for parser in found if not parser.description] == []
    arguments = [(parser.prog, action) for parser in found for action in parser._actions]
    groups = (argparse._SubParsersAction,)
    assert [(name, own.dest) for name, own in arguments if not own.help and not isinstance(own, groups)] == []


def test_commands_that_are_named_to_users_hold_names_with_spaces(tmp_path: Path, monkeypatch, capsys) -> None:
    """`migrate` ends with the next command; what it names is there, as a shell reads it."""
    monkeypatch.chdir(tmp_path)
    command = "python train.py --model_name ltx_video --pretrained_model_name_or_path owner/model --training_type lora"
    given = f"{command} --dataset_config data.json --output_dir out --train_steps 5"
    (tmp_path / "data.json").write_text('{"datasets": [{"data_root": "data", "video_resolution_buckets": [[9, 64, 64]]}]}')
    assert main(["migrate", given, "--output", "my own.yaml"]) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    *_, file = shlex.split(last)
    assert Path(file).is_file(), last
