"""From a file or a command of another trainer to a configuration of ours, and a list of what has no counterpart."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetrainers.config.load import parse_config
from finetrainers.config.migrate import ai_toolkit, diffusion_pipe, musubi, original, simpletuner
from finetrainers.config.migrate.command import find_command, num_processes
from finetrainers.config.migrate.draft import Draft, Note
from finetrainers.config.migrate.values import parse
from finetrainers.config.syntax import Tree
from finetrainers.errors import ConfigError

NAMES = ("finetrainers", "ai-toolkit", "simpletuner", "musubi-tuner", "diffusion-pipe")
"""Trainers whose configurations are read; the first is this one before version 1."""
NEEDED = {"ai-toolkit": ("job", "config"), "simpletuner": ("model_family",), "diffusion-pipe": ("model", "dataset")}
"""Keys that a file has to have."""
PROGRAMS = {"finetrainers": original, "musubi-tuner": musubi}
"""Those that are configured by a command."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A configuration of another trainer, translated."""

    name: str
    """Whose it was."""
    tree: Tree
    """Ours, without the prompts."""
    comments: Mapping[str, str]
    """By the path of a key of ours, what to look at there."""
    notes: tuple[Note, ...]
    """What became of all other keys of the source."""
    prompts: tuple[Tree, ...]
    """What validation generates."""
    processes: int
    """Devices that the source trained on, as far as it says."""


def migrate(source: str, name: str | None = None) -> Migration:
    """Translate a file, or a command that trains, given as its words.

    Args:
        source: Path of a file, or the command.
        name: Whose it is, one of ``NAMES``; by default it is recognised by what it holds.

    Raises:
        ConfigError: If it is none of these, or cannot become a valid configuration.
    """
    if name is not None and name not in NAMES:
        raise ConfigError(f"--from: {name!r} is none of {', '.join(NAMES)}")
    path = _file(source)
    content = source if path is None else _read(path)
    folder = Path() if path is None else path.parent
    suffix = ".sh" if path is None else path.suffix.lower()
    where = "the command" if path is None else str(path)  # whose words may be secret
    name, draft, processes = _translate(content, suffix, folder, name, where)
    _check(draft, name)
    return Migration(name, draft.tree, draft.comments, tuple(draft.notes), tuple(draft.prompts), processes)


def _check(draft: Draft, name: str) -> None:
    """Check what has come out, with the file of prompts that it will have."""
    validation = dict(draft.tree.get("validation", {}))
    if draft.prompts:
        validation["prompts"] = "prompts.json"
    elif "every" in validation and not validation.get("data"):
        draft.idle("validation", draft.tree["validation"].pop("every"), "how often to sample means nothing without prompts")
        validation.pop("every")
    if not draft.tree.get("validation", True):
        del draft.tree["validation"]
    tree = {**draft.tree, "validation": validation} if validation else draft.tree
    parse_config(tree, origin=f"what a configuration of {name} becomes")


def _file(source: str) -> Path | None:
    """The file that a source names; None for a command."""
    path = Path(source).expanduser()
    try:
        if path.is_file():
            return path
    except OSError:  # a command is longer than a name may be
        return None
    if " " in source.strip():
        return None
    raise ConfigError(f"migrate: there is no file {source}; a command is given in quotes")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _translate(content: str, suffix: str, folder: Path, name: str | None, where: str) -> tuple[str, Draft, int]:
    if suffix in (".sh", "", ".txt", ".bash", ".bat") or (suffix == ".env" and "train.py" in content):
        return _translate_command(content, folder, name, where)
    if suffix == ".env":
        return "simpletuner", simpletuner.migrate(simpletuner.read_env(content), folder), 1
    tree = parse(content, suffix, where)
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} holds {type(tree).__name__}, not keys and values; give the trainer's main configuration")
    if "directory" in tree:
        raise ConfigError(f"{where} describes data sets alone; give the main configuration, which names it")
    name = name or recognise(tree)
    missing = [key for key in NEEDED.get(name or "", ()) if not {key, f"--{key}"} & tree.keys()]
    if missing:
        raise ConfigError(
            f"{where}: a configuration of {name} has {', '.join(missing)}; give its main file, or another --from"
        )
    match name:
        case "ai-toolkit":
            return name, ai_toolkit.migrate(tree), 1
        case "simpletuner":
            return name, simpletuner.migrate(tree, folder), simpletuner.processes(tree)
        case "diffusion-pipe":
            return name, diffusion_pipe.migrate(tree, folder), 1
        case "musubi-tuner" | "finetrainers":
            raise ConfigError(f"{where}: {name} is configured by a command; give the script, or the command in quotes")
    raise ConfigError(f"{where} is not recognised; say whose it is by --from: {', '.join(NAMES)}")


def _translate_command(content: str, folder: Path, name: str | None, where: str) -> tuple[str, Draft, int]:
    for trainer, module in PROGRAMS.items():
        found = find_command(content, module.PROGRAM) if name in (None, trainer) else None
        if found is not None:
            before, program, after = found
            draft = module.migrate(before, program, after, folder)
            processes = num_processes(before)
            if processes > 1:
                draft.differs(
                    "launcher", f"{processes} processes", f"start it with finetrainers launch --gpus {processes} CONFIG"
                )
            return trainer, draft, processes
    raise ConfigError(
        f"{where}: no command trains with {' or '.join(PROGRAMS)}: there is neither train.py nor *_train_network.py"
    )


def recognise(tree: Mapping[str, Any]) -> str | None:
    """Tell whose configuration a tree is, by keys that it has to have."""
    if "job" in tree and isinstance(tree.get("config"), Mapping) and "process" in tree["config"]:
        return "ai-toolkit"
    plain = {str(key).removeprefix("--").replace("-", "_") for key in tree}
    if "model_family" in plain or "data_backend_config" in plain:
        return "simpletuner"
    if isinstance(tree.get("model"), Mapping) and "type" in tree["model"] and "dataset" in tree:
        return "diffusion-pipe"
    if {"model_name", "dataset_config"} <= plain:
        return "finetrainers"
    if "network_module" in plain or "datasets" in tree:
        return "musubi-tuner"
    return None
