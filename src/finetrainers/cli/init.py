"""``finetrainers init``: asks what the model should learn, and writes a configuration for it."""

import argparse
import re
import shlex
import sys
import textwrap
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from finetrainers.cli.imports import uncollected
from finetrainers.cli.questions import NONE, WIDTH, Question
from finetrainers.errors import ConfigError
from finetrainers.files.storage import check_writable
from finetrainers.training.init.recipes import LEARNED, Kind

if TYPE_CHECKING:
    from finetrainers.training.init.answers import Answers
    from finetrainers.training.init.write import Written

DEFAULT_FILE = Path("config.yaml")
DESCRIPTION = (
    "Ask for the model, the data, what the model should learn, and the card; look at the data; and write a configuration "
    "with a reason for each line. No file is overwritten. Without a terminal, or with --yes, the options give the answers."
)


def add_init(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    init = commands.add_parser("init", help="ask a few questions, and write a configuration", description=DESCRIPTION)
    init.add_argument("config", metavar="CONFIG.yaml", nargs="?", type=Path, default=DEFAULT_FILE, help="file to write")
    init.add_argument("--model", help="folder or Hub id of a model in diffusers layout")
    init.add_argument("--data", metavar="FOLDER", help="folder of images or videos, or a metadata file")
    init.add_argument("--learn", metavar="WHAT", help=f"what the model should learn: {', '.join(LEARNED)}")
    init.add_argument("--trigger", metavar="WORD", help=f"trigger word to put before every caption; {NONE}: no trigger word")
    init.add_argument(
        "--pairs", metavar="FOLDER", help="images before the edit, or control files, with the file names of --data"
    )
    init.add_argument(
        "--card", help=f"GPU (rtx4090, h100 ...) or its memory (24GB) that the run should fit on; {NONE}: leave it open"
    )
    init.add_argument("--output", metavar="DIR", help="output_dir of the run; by default a new one in runs/")
    init.add_argument("--yes", action="store_true", help="ask nothing: use the suggestion wherever no option is given")
    init.set_defaults(run=run_init)


def run_init(options: argparse.Namespace, _: list[str]) -> None:
    """``init``."""
    check_file(options.config)
    is_asking = not options.yes and sys.stdin is not None and sys.stdin.isatty()
    answers = ask(options, is_asking=is_asking)
    _say("looking at the model and at the data")
    written = _written(answers, options.config, asks_again=is_asking and options.trigger is None)
    for line in written.lines:
        _say(line)
    for file in written.files:
        print(file, flush=True)
    _say(f"Read it, then: {shlex.join(['finetrainers', 'check', str(options.config)])}")


def _written(answers: "Answers", file: Path, *, asks_again: bool) -> "Written":
    """Write what was asked for; ask for another trigger word where the data needs one, which only a look at it shows."""
    with uncollected():
        from finetrainers.cli.imports import quiet_libraries

        quiet_libraries()
        from finetrainers.training.console.bar import Stages
        from finetrainers.training.init.write import make_config

    while True:
        try:
            with closing(Stages()) as stages:
                return make_config(answers, file, say=_say, bars=stages.show)
        except ConfigError as error:
            if not asks_again or not str(error).startswith(f"{TRIGGER.option}:"):
                raise
            _say(str(error))
        answers = replace(answers, trigger=TRIGGER.answer(None, is_asking=True, takes_suggested=False))


def check_file(file: Path) -> None:
    """Refuse a file that cannot be written, before anything is asked.

    Raises:
        ConfigError: Naming it.
    """
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError(f"init: {file} is no .yaml; name the file of the configuration")
    if file.exists() or file.is_symlink():
        raise ConfigError(f"init: {file} exists already, and is not overwritten; name another CONFIG.yaml, or remove it")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"init: there is no folder {file.parent} for {file.name}; make it, or name another CONFIG.yaml")
    check_writable("init", file.absolute().parent)


def ask(options: argparse.Namespace, *, is_asking: bool) -> "Answers":
    """Take answers from the options, and ask for the others.

    Raises:
        ConfigError: If an answer is wrong, or missing with nobody to ask.
    """
    from finetrainers.training.init.answers import Answers

    def answer(question: Question) -> str | None:
        given = getattr(options, question.option.removeprefix("--"))
        return question.answer(given, is_asking=is_asking, takes_suggested=options.yes)

    model, data, learn = (answer(question) for question in QUESTIONS)
    kind = next(own for own in get_args(Kind) if own == learn)
    needs_pairs = LEARNED[kind].needs == "pairs"
    if options.pairs is not None and not needs_pairs:
        raise ConfigError(f"--pairs: {options.pairs} has no effect with --learn {kind}; remove it")
    pairs = answer(PAIRS) if needs_pairs else None
    trigger, card = answer(TRIGGER), answer(CARD)
    assert model is not None
    assert data is not None
    return Answers(model, data, kind, trigger=trigger, pairs=pairs, card=card, output=options.output)


def _model(said: str) -> str:
    from finetrainers.config.model import is_folder

    if not is_folder(said) and not re.fullmatch(r"[\w.-]+/[\w.-]+", said):
        raise ConfigError(f"--model: {said!r} is neither a folder here nor an id on the Hub, such as Lightricks/LTX-Video")
    if is_folder(said) and not (Path(said).expanduser() / "model_index.json").is_file():
        raise ConfigError(
            f"--model: {said} has no model_index.json; name a folder in diffusers layout, or a Hub id such as "
            "Lightricks/LTX-Video"
        )
    return said


def _folder(option: str, said: str) -> str:
    if "://" not in said and not Path(said).expanduser().exists():
        raise ConfigError(f"{option}: there is no {said}; name the folder of your images or videos")
    return said


def _kind(said: str) -> str:
    if said not in LEARNED:
        raise ConfigError(f"--learn: there is no {said!r}; it is one of {', '.join(LEARNED)}")
    return said


def _word(said: str) -> str | None:
    word = said.strip()
    return None if word == NONE else word


def _pairs(said: str) -> str | None:
    return None if said == NONE else _folder("--pairs", said)


def _card(said: str) -> str | None:
    from finetrainers.training.plan.gpus import find_gpu

    if said == NONE:
        return None
    try:
        find_gpu(said)
    except ConfigError as error:
        raise ConfigError(f"--card: {str(error).removeprefix('--gpu: ')}; or {NONE}") from None
    return said


QUESTIONS = (
    Question("--model", "Which model? A folder, or an id on the Hub such as black-forest-labs/FLUX.1-dev.", _model),
    Question(
        "--data", "Where are your images or videos? A folder, or a metadata file.", lambda said: _folder("--data", said)
    ),
    Question(
        "--learn",
        "What should the model learn? " + "; ".join(f"{kind}: {own.title}" for kind, own in LEARNED.items()) + ".",
        _kind,
    ),
)
PAIRS = Question(
    "--pairs",
    "Where are the other images of the pairs: those before the edit, or the control files? A folder with the same file "
    f"names; {NONE}: a metadata file in the data names them.",
    _pairs,
    NONE,
)
TRIGGER = Question(
    "--trigger",
    "Which trigger word? It is put before every caption, and used alone where there is no caption. Choose a word without a "
    f"meaning; {NONE}: no trigger word.",
    _word,
    NONE,
)
CARD = Question(
    "--card",
    "Which GPU should the run fit on? A name such as rtx4090, or its memory such as 24GB. Predicting the memory takes a "
    f"minute, or several for a large model; {NONE}: leave it open.",
    _card,
    NONE,
)


def _say(message: str) -> None:
    indent = message[: len(message) - len(message.lstrip())]
    print(
        textwrap.fill(message, WIDTH, subsequent_indent=f"{indent}  ", break_on_hyphens=False), file=sys.stderr, flush=True
    )
