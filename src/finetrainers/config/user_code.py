"""Python files of users, named as ``path/to/file.py:name``: a control signal of their own, a model of their own."""

import hashlib
import importlib.util
import sys
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path

from finetrainers.errors import ConfigError
from finetrainers.files.whole import DIGEST_BYTES


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
        loader = SourceFileLoader(f"finetrainers_own_{self.setting.replace('.', '_')}_{self.digest}", self.file)
        spec = importlib.util.spec_from_file_location(loader.name, self.file, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[loader.name] = module  # where dataclasses and pickle look for it
        try:
            exec(loader.source_to_code(self.source, self.file), vars(module))  # not exec_module: bytecode may be stale
        except Exception as error:
            del sys.modules[loader.name]
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{self.setting}: {self.file} fails when it is imported ({reason}); correct it") from error
        return vars(module).get(self.name)


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
        return UserCode(setting, str(file), name, file.read_bytes())
    except (OSError, RuntimeError, ValueError) as error:  # there is no such file, no such user, or a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{setting}: the file of {place!r} cannot be read ({reason}); name one that exists, as path/to/file.py:name"
        ) from error
