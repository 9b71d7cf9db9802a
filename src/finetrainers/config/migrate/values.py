"""Values as other tools write them: numbers may be text, switches may be words, paths may be elsewhere."""

import json
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetrainers.config.syntax import Switch, parse_yaml
from finetrainers.errors import ConfigError

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def integer(key: str, value: Any) -> int:
    """Read a whole number."""
    number_read = number(key, value)
    if not math.isfinite(number_read) or number_read != int(number_read):
        raise ConfigError(f"{key}: {value!r} is not a whole number; write one")
    return int(number_read)


def count(key: str, value: Any) -> int:
    """Read a whole number that is at least 1."""
    found = integer(key, value)
    if found < 1:
        raise ConfigError(f"{key}: {value!r} is less than 1; write 1 or more")
    return found


def numbers(key: str, value: Any) -> list[float]:
    """Read a list of numbers above 0."""
    found = [number(key, item) for item in value] if isinstance(value, list) else [number(key, value)]
    if not found or min(found) <= 0:
        raise ConfigError(f"{key}: {value!r} are not numbers above 0; write a list of them")
    return found


def lists(key: str, value: Any, *, lengths: tuple[int, ...]) -> list[list[int]]:
    """Read a list of lists of whole numbers, such as sizes."""
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(item, list) and len(item) in lengths for item in value)
    ):
        raise ConfigError(f"{key}: {value!r}; expected a list of lists of {' or '.join(map(str, lengths))} numbers")
    return [[count(key, part) for part in item] for item in value]


def tables(key: str, value: Any) -> list[dict[str, Any]]:
    """Read a list of tables."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError(f"{key}: expected a list of tables, not {value!r}")
    return value


def table(key: str, value: Any) -> dict[str, Any]:
    """Read a table."""
    if not isinstance(value, dict):
        raise ConfigError(f"{key}: expected keys and values, not {value!r}")
    return value


def number(key: str, value: Any) -> float:
    """Read a number."""
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{key}: {value!r} is not a number; write one")


def switch(key: str, value: Any) -> bool:
    """Read a switch; a flag of a command line without a value is on."""
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise ConfigError(f"{key}: {value!r} is neither true nor false; write one of them")


def text(key: str, value: Any) -> str:
    """Read text; a number or a switch is its word."""
    if isinstance(value, list | dict):
        raise ConfigError(f"{key}: {value!r} is not text; write one word or path")
    return str(value)


def betas(key: str, value: Any) -> tuple[float, float]:
    """Read two numbers, in a list or as 0.9,0.99 or (0.9, 0.99)."""
    parts = value if isinstance(value, list) else str(value).strip("()[] ").split(",")
    found = [number(key, part) for part in parts]
    if len(found) != 2:
        raise ConfigError(f"{key}: {value!r} are not two numbers; write them as 0.9,0.99")
    return found[0], found[1]


def one_of(*names: str) -> Callable[[str, Any], str]:
    """Read one of some names."""

    def read(key: str, value: Any) -> str:
        if value not in names:
            raise ConfigError(f"{key}: {value!r} is none of {', '.join(names)}; write one of them")
        return str(value)

    return read


def words(_: str, value: Any) -> list[str]:
    """Read a list of words; a single one may stand alone, and be separated by commas."""
    if isinstance(value, list):
        return [str(item) for item in value]
    return [part.strip() for part in str(value).split(",") if part.strip()]


def size(key: str, value: str) -> tuple[int, int]:
    """Read 1024x768, or one number for both: width and height."""
    found = re.fullmatch(r"(\d+)(?:\.0*)?(?:x(\d+))?", value.lower())
    if found is None:
        raise ConfigError(f"{key}: {value!r} is not a size; write it as 1024x768")
    return int(found[1]), int(found[2] or found[1])


DTYPES = {
    "bf16": "bfloat16", "bfloat16": "bfloat16", "fp16": "float16", "float16": "float16",
    "fp32": "float32", "float32": "float32", "float": "float32", "no": "float32",
}  # fmt: skip
"""Types of numbers, by the names that other tools have for them."""


def dtype(key: str, value: Any) -> str:
    """Read a type of numbers."""
    name = str(value).lower().removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"{key}: {value!r} is none of {', '.join(DTYPES)}; write one of them")
    return DTYPES[name]


def find_beside(name: str, folder: Path) -> Path | None:
    """Find a file that a source names: from the current folder, as the tools do, else from the folder of the source."""
    for path in (Path(name).expanduser(), folder / name, folder / Path(name).name):
        if path.is_file():
            return path
    return None


def read_beside(key: str, name: str, folder: Path) -> Any:
    """Read a JSON, YAML or TOML file that a source names.

    Raises:
        ConfigError: If it is not there, or cannot be parsed.
    """
    path = find_beside(name, folder)
    if path is None:
        raise ConfigError(
            f"{key}: {name} is found neither from here nor next to its configuration; give the command from the folder in "
            "which the other tool is started"
        )
    return parse(path.read_text(encoding="utf-8-sig"), path.suffix, str(path))


def parse(content: str, suffix: str, where: str) -> Any:
    """Parse JSON, TOML or YAML by the suffix of the file.

    Raises:
        ConfigError: If it is none.
    """
    try:
        match suffix.lower():
            case ".toml":
                return tomllib.loads(content)
            case ".json":
                return json.loads(content)
            case _:
                return _plain(parse_yaml(content))
    except ValueError as error:
        raise ConfigError(f"{where} cannot be parsed: {error}") from None


def _plain(value: Any) -> Any:
    """Make booleans of the words yes, no, on and off, which they are for other tools."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.lower() in ("yes", "on") if isinstance(value, Switch) else value
