"""Python files of users, named as ``path/to/file.py:name``: a model, a loss, a layout of data, a tracker of their own."""

import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import FrameType
from typing import TypeVar

from finetrainers.config.user_methods import check_methods
from finetrainers.errors import ConfigError, FinetrainersError
from finetrainers.files.whole import DIGEST_BYTES

Base = TypeVar("Base")

PLACE = re.compile(r".+\.py:[A-Za-z_]\w*")
"""What names an object in a file of the user's."""
MARK = "__finetrainers_user_code__"
"""Name under which a module of the user's holds its ``UserCode``."""
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
OURS = "finetrainers.training."
"""Modules that user code reaches only through us: what fails in them, though user code has called it, is no fault of its."""


BUILT_IN = {
    "wandb": "track.wandb: PROJECT",
    "trackio": "track.trackio: PROJECT",
    "tensorboard": "track.tensorboard: true",
}
"""What is on hand without a file, and how to ask for it."""


def is_place(value: str) -> bool:
    """Whether a value names an object in a file of the user's."""
    return PLACE.fullmatch(value) is not None


def check_places(places: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse values that name no object in a file.

    Raises:
        ValueError: Naming the first.
    """
    for place in places:
        if place in BUILT_IN:
            raise ValueError(f"{place!r} is not a file; set {BUILT_IN[place]}")
        if not is_place(place):
            raise ValueError(f"{place!r} is not path/to/file.py:Name; name the file and the class in it")
    return places


@dataclass(frozen=True, slots=True)
class UserCode:
    """The source of a user's file, as it was read."""

    setting: str
    """Key of the configuration that names it, for messages."""
    file: str
    name: str
    """What it is to define."""
    source: bytes

    @property
    def digest(self) -> str:
        """Hash of the source."""
        return hashlib.blake2b(self.source, digest_size=DIGEST_BYTES).hexdigest()

    def load(self) -> object:
        """Run the file as a module of its own, and return what it defines under the name; None if nothing.

        Raises:
            ConfigError: If the file fails.
        """
        return self._run().get(self.name)

    def load_class(self, base: type[Base]) -> type[Base]:
        """Run the file, and return the class that it defines under the name.

        Raises:
            ConfigError: If the file fails, or has no class of this base, or not a whole one, or with methods that cannot
                be called.
        """
        names = self._run()
        found = names.get(self.name)
        if not (isinstance(found, type) and issubclass(found, base)):
            others = [name for name, value in names.items() if _is_own(value, base, names["__name__"])]
            has = f" (it has {', '.join(others)})" if others else ""
            problem = f" has no {base.__name__} {self.name!r}; define it, derived from"
            if isinstance(found, type):
                problem = f": {self.name} is in the file, but is not a subclass of {base.__name__}; derive it from"
            raise ConfigError(f"{self.setting}: {self.file}{problem} finetrainers.{base.__name__}, or name another one{has}")
        missing: dict[str, str] = {
            name: ", ".join(inspect.signature(getattr(found, name)).parameters)
            for name in sorted(getattr(found, "__abstractmethods__", ()))
        }
        if missing:
            wanted = " and ".join(f"{name}({parameters})" for name, parameters in missing.items())
            raise ConfigError(f"{self.setting}: {self.file}: {self.name} has no {', '.join(missing)}; define {wanted}")
        check_methods(found, base, f"{self.setting}: {self.file}")
        return found

    def make(self, base: type[Base]) -> Base:
        """Make an object of the class that the file defines under the name.

        Raises:
            ConfigError: As ``check`` does.
        """
        return self.check(base)()

    def check(self, base: type[Base]) -> type[Base]:
        """Find the class that the file defines under the name, and that it is made without arguments; nothing is made.

        Raises:
            ConfigError: As ``load_class`` does, or if the class takes arguments.
        """
        found = self.load_class(base)
        needed = [
            p.name for p in inspect.signature(found).parameters.values() if p.default is p.empty and p.kind not in VARIADIC
        ]
        if needed:
            raise ConfigError(
                f"{self.setting}: {self.file}: {self.name} takes {', '.join(needed)}, and is made without arguments; give "
                "each a default"
            )
        return found

    def _run(self) -> dict[str, object]:
        """Run the file, unless this process has: whatever it does when it is imported, it does once."""
        place = f"{Path(self.file).absolute()}:{self.name}"
        key = hashlib.blake2b(place.encode(errors="surrogateescape"), digest_size=8).hexdigest()
        loader = SourceFileLoader(f"finetrainers_own_{self.setting.replace('.', '_')}_{key}_{self.digest}", self.file)
        if loader.name in sys.modules:
            return vars(sys.modules[loader.name])
        spec = importlib.util.spec_from_file_location(loader.name, self.file, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        vars(module)[MARK] = self
        sys.modules[loader.name] = module  # where dataclasses and pickle look for it
        try:
            with _importable(Path(self.file).absolute().parent):
                exec(loader.source_to_code(self.source, self.file), vars(module))  # not exec_module: bytecode may be stale
        except Exception as error:
            del sys.modules[loader.name]
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.file]
            where = f", line {lines[-1]}" if lines else ""
            reason = f"{type(error).__name__}: {error}{where}"
            raise ConfigError(f"{self.setting}: {self.file} fails when it is imported ({reason}); correct it") from error
        return vars(module)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a file of the user's import its neighbours; whatever is found elsewhere is found there first."""
    place = str(folder)
    if place in sys.path:
        yield
        return
    sys.path.append(place)
    try:
        yield
    finally:
        with suppress(ValueError):  # the file may have removed it
            sys.path.remove(place)


def _is_own(value: object, base: type, module: object) -> bool:
    """Whether a value is a class of this base that its module defines itself."""
    return isinstance(value, type) and issubclass(value, base) and value.__module__ == module


def read_user_code(setting: str, place: str) -> UserCode:
    """Read the file that ``path/to/file.py:name`` names.

    Raises:
        ConfigError: If it cannot be read.
    """
    path, _, name = place.rpartition(":")
    if not path or not name:
        raise ConfigError(f"{setting}: {place!r} is not path/to/file.py:name; name the file and what it defines")
    try:
        file = Path(path).expanduser()
        return UserCode(setting, str(file), name, _source_of(file))
    except (OSError, RuntimeError, ValueError) as error:  # there is no such file, no such user, or a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{setting}: the file of {place!r} cannot be read ({reason}); name one that exists, as path/to/file.py:name"
        ) from error


_kept: list[dict[Path, bytes]] = []
"""Sources that were read in the contexts of ``each_file_once``."""


@contextmanager
def each_file_once() -> Iterator[None]:
    """Read each file of the user's once in this context: what a run records is what it ran, whatever is edited meanwhile."""
    _kept.append({} if not _kept else _kept[-1])
    try:
        yield
    finally:
        _kept.pop()


def _source_of(file: Path) -> bytes:
    if not _kept:
        return file.read_bytes()
    place = file.absolute()
    if place not in _kept[-1]:
        _kept[-1][place] = file.read_bytes()
    return _kept[-1][place]


@contextmanager
def user_code_errors() -> Iterator[None]:
    """Raise what fails in a file of the user's as a ConfigError that shows the user's own lines.

    What fails in a library that the file calls is the file's, too; errors of ours are messages already.
    """
    try:
        yield
    except FinetrainersError:
        raise
    except Exception as error:
        said = about_user_code(error)
        if said is None:
            raise
        raise ConfigError(said) from error


def about_user_code(error: Exception) -> str | None:
    """Say where in a file of the user's an error comes from; None if it comes from nowhere there."""
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [number for number, (frame, _) in enumerate(frames) if MARK in frame.f_globals]
    if not own or any(_is_ours(frame) for frame, _ in frames[own[-1] :]):
        return None
    code: UserCode = frames[own[-1]][0].f_globals[MARK]
    reason = "; ".join((f"{type(error).__name__}: {error}".rstrip(": "), *getattr(error, "__notes__", ())))
    lines = traceback.StackSummary.extract(iter(frames[number] for number in own)).format()
    return f"{code.setting}: {code.name} fails ({reason}); correct this line, or what it reads:\n{''.join(lines).rstrip()}"


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(OURS)
