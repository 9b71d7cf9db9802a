"""A run goes on with what it began with, wherever that is now: contents tell, and places may change."""

import re
from collections.abc import Mapping
from typing import Any, TypedDict

from finetrainers.config import Config, load_config
from finetrainers.errors import ConfigError
from finetrainers.training.checks.same_run import moved_places
from finetrainers.training.directory import save_config
from finetrainers.training.prepared import Prepared
from finetrainers.training.report import read_events
from finetrainers.training.session import Session

DATA = re.compile(r"data\.|conditioning")
HELD_OUT = "validation.data."
MODEL = "model."


class Contents(TypedDict):
    """Hashes of what a run is made of."""

    data: str
    held_out: str | None
    model: str


def check_contents(session: Session, prepared: Prepared) -> None:
    """Refuse other weights than a run began with, and other data in places that it did not name; then note the settings.

    Raises:
        ConfigError: Naming the keys.
    """
    refuse_other_contents(session.config, prepared)
    save_config(session.config)


def refuse_other_contents(config: Config, prepared: Prepared) -> None:
    """Refuse other contents than a run began with.

    Raises:
        ConfigError: Naming the keys.
    """
    file = config.output_dir / "config.yaml"
    before = last_start(config)
    now: Mapping[str, object] = contents(prepared)
    _check_weights(config, before, now["model"])
    moved = moved_places(load_config(file), config)
    for name, is_of in (("data", DATA.match), ("held_out", _is_held_out), ("model", _is_of_model)):
        keys = [f"{key}: {old!r} -> {new!r}" for key, old, new in moved if is_of(key)]
        lines = "\n  ".join(keys)
        if keys and name not in before:
            raise ConfigError(
                f"output_dir: {config.output_dir} holds a run of a version that noted no contents, and it has moved:\n  "
                f"{lines}\nGive the old place to continue it, or choose another output_dir"
            )
        if keys and before.get(name) != now[name]:
            raise ConfigError(
                f"output_dir: {config.output_dir} holds a run that began with other contents than are there:\n  {lines}\n"
                "Give the place of the same files to continue it, or choose another output_dir"
            )


def contents(prepared: Prepared) -> Contents:
    """Hashes of what a run is made of, as its event ``run`` has them."""
    held_out = prepared.held_out_plan
    return {
        "data": prepared.plan.fingerprint(),
        "held_out": None if held_out is None else held_out.fingerprint(),
        "model": prepared.model.fingerprint(),
    }


def _check_weights(config: Config, before: dict[str, Any], weights: object) -> None:
    recorded = before.get("model")
    if recorded is not None and recorded != weights:
        raise ConfigError(
            f"model.path: {config.model.path} has other weights than {config.output_dir} was begun with: bring these back "
            "to continue the run (of a model on the Hub: name its model.revision), or choose another output_dir"
        )


def last_start(config: Config) -> dict[str, Any]:
    """Read the last event ``run`` of a run; empty if it has none."""
    has_events = (config.output_dir / "events.jsonl").is_file()
    events = read_events(config.output_dir, {"run"}) if has_events else []
    return events[-1] if events else {}


def _is_held_out(key: str) -> bool:
    return key.startswith(HELD_OUT)


def _is_of_model(key: str) -> bool:
    return key.startswith(MODEL)
