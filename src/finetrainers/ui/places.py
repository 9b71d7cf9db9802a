"""What a configuration from a browser may name: paths in the folders that were given, and no code."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finetrainers.config.model import is_folder
from finetrainers.files.marks import is_run
from finetrainers.ui.folders import Folders
from finetrainers.ui.job import FOLDER

CODE_KEYS = re.compile(
    r"(model\.adapter|objective\.kind|conditioning(\.\d+)?\.signal|(validation\.)?data\.\d+\.layout|(track\.trackers|callbacks)\.\d+)"
)
CODE = re.compile(r"\.py\s*(:|$)")
PATH_KEYS = re.compile(
    r"(cache\.path|tuning\.start_from|validation\.prompts"
    r"|(validation\.)?data\.\d+\.(path|control_path|folders\..+))",
    re.DOTALL,  # the name of a part may hold anything
)
MODEL_KEYS = re.compile(r"model\.path|model\.components\..+\.path", re.DOTALL)
PART_KEYS = re.compile(r"model\.(components\..+\.)?(subfolder|revision)", re.DOTALL)
PROMPTS_FILE = "prompts.csv"
"""Prompts that were typed into the form."""
REMOTE = ("hf", "s3", "s3a", "gs", "gcs", "https")
"""Schemes of data on other machines."""
WAY_OUT = "is in none of the folders that this server was started with; start it with --data FOLDER, or take another"


def refused_places(tree: Mapping[str, Any], folders: Folders) -> Iterator[str]:
    """One line for each key that names what a browser may not: "key: value, and why"."""
    yield from _refused_output(tree.get("output_dir"), folders)
    for key, value in _texts(tree, ""):
        if CODE.search(value) or (CODE_KEYS.fullmatch(key) and ":" in value):
            yield f"{key}: {value!r} is code, which no browser may name; start this run with finetrainers train"
        elif PART_KEYS.fullmatch(key) and (value.startswith(("/", "~")) or ".." in re.split(r"[/\\]", value)):
            yield f"{key}: {value!r} leads out of the model; name what is in it"
        elif _is_outside(key, value, folders):
            yield f"{key}: {value} {WAY_OUT}"
    cache = tree.get("cache")
    if not (isinstance(cache, Mapping) and "path" in cache) and not folders.may_read(Path("cache")):
        yield f"cache.path: cache {WAY_OUT}"


def _is_outside(key: str, value: str, folders: Folders) -> bool:
    if value.startswith(f"{FOLDER}/"):  # a file of the form's own
        return value != f"{FOLDER}/{PROMPTS_FILE}"
    if MODEL_KEYS.fullmatch(key):
        return _is_local(value) and not folders.may_read(Path(value))
    return bool(PATH_KEYS.fullmatch(key)) and not _may_use(value, folders)


def _refused_output(value: Any, folders: Folders) -> Iterator[str]:
    if not isinstance(value, str):
        return
    full = Path(value).expanduser().resolve()
    root = next((root for root in folders.runs if full.is_relative_to(root) and full != root), None)
    if root is None:
        yield f"output_dir: {value} is in no folder of runs; give a name, such as crush"
    elif any(part.startswith(".") for part in full.relative_to(root).parts):
        yield f"output_dir: {value} is hidden; give a name that does not begin with a dot"
    elif any(is_run(above) for above in full.parents if above.is_relative_to(root)):
        yield f"output_dir: {value} is inside a run; give another name"
    elif is_run(full):
        yield f"output_dir: {value} is a run already; continue it on its own page, or give another name"
    elif full.is_dir() and any(full.iterdir()):
        yield f"output_dir: {value} holds files that no run made; give another name"


def _texts(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield prefix, node
    elif isinstance(node, Mapping):
        for name, inner in node.items():
            yield from _texts(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from _texts(inner, f"{prefix}.{index}")


def _may_use(value: str, folders: Folders) -> bool:
    if "://" in value:
        return urlsplit(value).scheme in REMOTE
    return folders.may_read(Path(value))


def _is_local(value: str) -> bool:
    return value.startswith(("/", ".", "~")) or "://" in value or is_folder(value)
