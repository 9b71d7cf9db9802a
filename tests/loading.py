"""Files of Python that are no part of a package, as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).parents[1] / "scripts"


def load_file(file: Path, *, is_known: bool = False) -> ModuleType:
    """Run a file as a module, anew each time; ``is_known`` lets others import it by its name from then on."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if is_known:
        sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def load_script(name: str, *, is_known: bool = False) -> ModuleType:
    """As ``load_file``, of a file of scripts/."""
    return load_file(SCRIPTS / f"{name}.py", is_known=is_known)
