"""``finetrainers examples``: lists the examples that ship with the package, and copies them."""

import argparse
import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from finetrainers.errors import ConfigError

FOLDER = "examples"
CONFIG = "config.yaml"
"""A folder that holds it is one example; elsewhere each file is one."""
TEXTS = frozenset({".md", ".yaml", ".json", ".py", ".sh"})
NAMED = re.compile(rf"(?<![\w/.-]){FOLDER}/[\w./-]*[\w-]")
"""Files of examples, as texts of examples name them: from the folder that they are started in."""


def add_examples(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    examples = commands.add_parser("examples", help="list the examples of the package, or copy one")
    examples.set_defaults(run=run_list)
    actions = examples.add_subparsers(dest="examples_command", metavar="list | copy")
    actions.add_parser("list", help="list the examples (default)").set_defaults(run=run_list)
    copy = actions.add_parser("copy", help="copy an example into the working directory")
    copy.add_argument("name", metavar="NAME", help="as listed, or the last part of it")
    copy.set_defaults(run=run_copy)


def run_list(_: argparse.Namespace, __: list[str]) -> None:
    """``examples list``."""
    for name in example_names(examples_root()):
        print(name)


def run_copy(options: argparse.Namespace, _: list[str]) -> None:
    """``examples copy``."""
    root = examples_root()
    name = choose_example(example_names(root), options.name)
    copied = copy_example(root, name, Path.cwd())
    for file in copied:
        print(file)
    if (root / name).is_dir():
        print(f"Read {Path(FOLDER, name, 'README.md')}; its commands run from this folder as they are written.")


def examples_root() -> Path:
    """Folder of the examples: of the installed package, or of the checkout that it is imported from.

    Raises:
        ConfigError: If there are none.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package / FOLDER, package.parents[1] / FOLDER):
        if (root / "training").is_dir():
            return root
    raise ConfigError(
        f"examples: there are none in {package}, which was installed without them; take them from the repository"
    )


def example_names(root: Path) -> list[str]:
    """Names of all examples, relative to their folder."""
    files = [file.relative_to(root) for file in _files(root)]
    folders = {file.parent for file in files if file.name == CONFIG}
    alone = {file for file in files if not folders & set(file.parents)}
    return sorted(str(path) for path in folders | alone)


def choose_example(names: list[str], wanted: str) -> str:
    """Find the example of a name, or the only one whose name ends in it.

    Raises:
        ConfigError: If there is none, or several.
    """
    wanted = wanted.strip("/").removeprefix(f"{FOLDER}/")
    found = [name for name in names if name == wanted] or [name for name in names if name.endswith(f"/{wanted}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"examples: several end in {wanted!r}: {', '.join(found)}; give more of the name")
    by_end = {name.rpartition("/")[2]: name for name in names}
    close = difflib.get_close_matches(wanted, [*names, *by_end], n=1)
    hint = f"; did you mean {by_end.get(close[0], close[0])!r}?" if close else ""
    raise ConfigError(f"examples: there is no {wanted!r}{hint} 'finetrainers examples' lists all")


def copy_example(root: Path, name: str, to: Path) -> list[Path]:
    """Copy an example and the files of others that its texts name, to the same places below a folder; return the new files.

    Raises:
        ConfigError: If a file is there already and differs; then nothing is copied.
    """
    from finetrainers.files.whole import whole_file

    contents = {Path(FOLDER) / file.relative_to(root): file.read_bytes() for file in _needed(root, name)}
    new = {}
    for file, content in contents.items():
        there = to / file
        if not there.exists():
            new[file] = content
        elif not there.is_file() or there.read_bytes() != content:
            raise ConfigError(
                f"examples: {there} exists already and differs; it is not overwritten: move it, or go elsewhere"
            )
    for file, content in new.items():
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(to / file) as temporary:
            temporary.write_bytes(content)
    return list(new)


def _needed(root: Path, name: str) -> list[Path]:
    """Files of an example, and those of other examples that their texts name."""
    found = dict.fromkeys(_files(root / name))
    for file in list(found):
        if file.suffix in TEXTS:
            named = [root.parent / path for path in NAMED.findall(file.read_text(encoding="utf-8"))]
            found |= dict.fromkeys(other for other in named if other.is_file())
    return list(found)


def _files(path: Path) -> Iterator[Path]:
    """All files of an example, but for what Python and runs leave behind."""
    if path.is_file():
        yield path
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("."):
            yield file
