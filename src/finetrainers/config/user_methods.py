"""The methods of a user's class: each takes what it is called with, and none is a misspelt one of the base class."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from types import FunctionType

from finetrainers.errors import ConfigError

CLOSE = 0.8
"""From this ratio of common letters on, a name is taken for another one that is misspelt."""


def check_methods(found: type, base: type, where: str) -> None:
    """Refuse a class whose methods cannot be called as those of its base are, or are not called at all.

    Args:
        found: The user's class, derived from ``base``.
        base: What it is derived from.
        where: Key and file, for messages.

    Raises:
        ConfigError: Naming the first method that is wrong.
    """
    hooks = _functions(base)
    theirs = {name: method for name, method in _functions(found).items() if method is not hooks.get(name)}
    for name, method in theirs.items():
        if name in hooks and not _takes(method, hooks[name]):
            raise ConfigError(
                f"{where}: {found.__name__}.{name} takes {_written(method)}; define {name}{_written(hooks[name])}"
            )
    own = [name for name in theirs if name in vars(found) and name not in hooks]
    unused = [name for name in hooks if name not in theirs]
    for name in own:
        if close := get_close_matches(name, unused, n=1, cutoff=CLOSE):
            raise ConfigError(
                f"{where}: {found.__name__}.{name} is never called; did you mean {close[0]}? If not, rename it to _{name}"
            )
    if own and len(unused) == len(hooks):
        raise ConfigError(
            f"{where}: {found.__name__} has none of the methods that are called, but {', '.join(own)}; define one of "
            f"{', '.join(hooks)}"
        )


def _functions(kind: type) -> dict[str, Callable[..., object]]:
    """Find the public methods of a class that an object of it is asked for, in the order in which they are written."""
    names = dict.fromkeys(name for parent in kind.__mro__ for name in vars(parent) if not name.startswith("_"))
    found = {name: inspect.getattr_static(kind, name) for name in names}
    return {name: method for name, method in found.items() if isinstance(method, FunctionType)}


def _takes(method: Callable[..., object], hook: Callable[..., object]) -> bool:
    """Whether a method can be called as the base's is: all that this one needs, by position or by its name."""
    needed = [p for p in inspect.signature(hook).parameters.values() if p.default is p.empty]
    names = [p.name for p in needed if p.kind is p.KEYWORD_ONLY]
    by_name = dict.fromkeys(names)
    try:
        inspect.signature(method).bind(*[None] * (len(needed) - len(names)), **by_name)
    except TypeError:
        return False
    return True


def _written(method: Callable[..., object]) -> str:
    """Write what a method takes, without types."""
    signature = inspect.signature(method)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))
