"""Names to adapters."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import TypeVar

from finetrainers.config.user_code import read_user_code
from finetrainers.errors import ConfigError
from finetrainers.models.base import ModelAdapter

AdapterClass = TypeVar("AdapterClass", bound=type[ModelAdapter])

ENTRY_POINT_GROUP = "finetrainers.models"
"""Entry points of this group name adapter classes of other packages."""

SETTING = "model.adapter"

_adapters: dict[str, type[ModelAdapter]] = {}


def register_model(name: str) -> Callable[[AdapterClass], AdapterClass]:
    """Make an adapter available as ``model.family`` in a config.

    Raises:
        ValueError: If another class has that name.
    """

    def decorate(adapter: AdapterClass) -> AdapterClass:
        known = _adapters.get(name)
        if known is not None and known.__qualname__ != adapter.__qualname__:
            raise ValueError(f"model {name!r} is registered twice: {known} and {adapter}")
        adapter.name = name
        _adapters[name] = adapter
        return adapter

    return decorate


def adapters() -> dict[str, type[ModelAdapter]]:
    """All registered adapters by family name, those of other packages' entry points included."""
    from finetrainers.models import cogvideox, cogview4, flux, hunyuan_video, ltx_video, wan  # noqa: F401 - importing registers them

    for entry in _entries():
        if entry.name not in _adapters:
            register_model(entry.name)(entry.load())
    return dict(sorted(_adapters.items()))


@cache
def _entries() -> EntryPoints:
    """Find the adapters of other packages: once, for the descriptions of all installed packages are read."""
    return entry_points(group=ENTRY_POINT_GROUP)


def get_adapter(name: str) -> type[ModelAdapter]:
    """Find the adapter registered under a family name.

    Raises:
        ConfigError: If there is none; names the nearest.
    """
    known = adapters()
    if name in known:
        return known[name]
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    raise ConfigError(f"model.family: there is no family {name!r}; {hint}")


def load_adapter(place: str) -> type[ModelAdapter]:
    """Find the adapter that ``path/to/file.py:ClassName`` names.

    Raises:
        ConfigError: If the file or the class is not there, or the file fails.
    """
    code = read_user_code(SETTING, place)
    adapter = code.load_class(ModelAdapter)  # type: ignore[type-abstract]
    if "name" not in vars(adapter):
        adapter.name = Path(code.file).stem
    return adapter


def adapter_of_pipeline(pipeline_class: str) -> tuple[type[ModelAdapter], str]:
    """Find the adapter and the task that a pipeline class of a model_index.json belongs to.

    Raises:
        ConfigError: If no family has it.
    """
    for adapter in adapters().values():
        for task, name in adapter.pipelines.items():
            if name == pipeline_class:
                return adapter, task
    known = ", ".join(name for adapter in adapters().values() for name in adapter.pipelines.values())
    raise ConfigError(
        f"model.path: no family samples with {pipeline_class}; known: {known}. "
        "Name one with model.family, or bring your own with model.adapter"
    )
