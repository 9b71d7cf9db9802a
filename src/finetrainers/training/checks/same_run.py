"""What a run cannot change while it goes on."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from finetrainers.config import Config
from finetrainers.config.differing import Difference, differences
from finetrainers.config.run import FIXED
from finetrainers.config.user_code import is_place
from finetrainers.errors import ConfigError
from finetrainers.files.steps import step_folders
from finetrainers.files.whole import to_json
from finetrainers.training.objective import SETTING
from finetrainers.training.report import read_events
from finetrainers.training.user_code import DECIDING, changed_code

WEIGHTS_FIT = ("model.", "tuning.")
"""Settings without which exported weights do not fit a run; so it is with conditions, but for given frames."""

CODE = re.compile(
    r"(conditioning[.\d]*)\.signal|objective\.kind|optimizer\.name|model\.adapter|(validation\.)?data\.\d+\.layout"
)
"""Keys whose values may be an object in a file of the user's."""
UNFIXED = re.compile(r"(validation\.)?data\.\d+\.recheck")
"""Keys in sections that a run cannot change which do not change the run."""
PLACES = re.compile(
    r"(validation\.)?data\.\d+\.(path|control_path|folders\..+)|model\.(path|components\..+\.path)|tuning\.start_from|"
    + CODE.pattern
)
"""Keys of places: the same contents may be elsewhere now, which is looked at once they are read."""


def check_same_run(old: Config, new: Config) -> None:
    """Refuse to continue a run with settings that would make it another one.

    Raises:
        ConfigError: Naming each key that differs, with both values, or the user's file that does.
    """
    found = _fixed_differences(old, new)
    changed = [f"{name}: {_shown(a)} -> {_shown(b)}" for name, a, b in found]
    if any(not _is_place(*difference) for difference in found):
        lines = "\n  ".join(changed)
        shown = [
            {own.kind: own for own in config.conditions.values() if own.kind != "given_frames"} for config in (old, new)
        ]
        does_fit = shown[0] == shown[1] and not any(line.startswith(WEIGHTS_FIT) for line in changed)
        anew = _from_weights(new) if does_fit else ""
        raise ConfigError(
            f"output_dir: {new.output_dir} holds a run with other settings:\n  {lines}\n"
            f"Give the old values to continue it, or choose another output_dir{anew}"
        )
    _check_same_code(new)


def _from_weights(config: Config) -> str:
    """Say that another run can begin from what this one has exported, if it has."""
    weights = list(step_folders(config.output_dir / "weights").values())
    return f", which can begin from these weights: tuning.start_from={weights[-1]}" if weights else ""


def changed_settings(old: Config, new: Config) -> list[str]:
    """List what differs between two configurations of one run: key, and both values."""
    trees = (config.model_dump(mode="json", by_alias=True) for config in (old, new))
    before, after = ({key: value for key, value in tree.items() if key != "conditioning"} for tree in trees)
    every = (own for key in after for own in differences(before[key], after[key], key=key))
    found = [own for own in _that_count(every) if own.key != "checkpoint.resume"]
    return [f"{name}: {_shown(a)} -> {_shown(b)}" for name, a, b in (*found, *_of_conditions(old, new))]


def moved_places(old: Config, new: Config) -> list[Difference]:
    """Find the places of what a run cannot change that it names otherwise than before: key, and both values."""
    return [difference for difference in _fixed_differences(old, new) if _is_place(*difference)]


def _fixed_differences(old: Config, new: Config) -> list[Difference]:
    """Find what differs of what a run cannot change."""
    trees = [config.model_dump(mode="json", by_alias=True) for config in (old, new)]
    found: list[Difference] = []
    for key in FIXED:
        if key == "conditioning":
            found += _of_conditions(old, new)
        else:
            found += _that_count(differences(*(_at(tree, key) for tree in trees), key=key))
    return found


def _that_count(found: Iterable[Difference]) -> list[Difference]:
    return [difference for difference in found if not UNFIXED.fullmatch(difference.key)]


def _is_place(key: str, before: Any, after: Any) -> bool:
    """Whether a difference is one of places, at which the same may be; of code, the name in the file stays."""
    if not PLACES.fullmatch(key) or before is None or after is None:
        return False
    if not CODE.fullmatch(key):
        return True
    return is_place(before) and is_place(after) and before.rpartition(":")[2] == after.rpartition(":")[2]


def _check_same_code(config: Config) -> None:
    """Refuse to continue a run with another model, loss or optimizer of the user's than it had."""
    for key, file in changed_code(config, code_before(config)).items():
        anew = "" if key.startswith(WEIGHTS_FIT) else _from_weights(config)
        if key in DECIDING:
            raise ConfigError(
                f"{key}: {file} has changed since {config.output_dir} was last started: bring it back as it was to "
                f"continue the run, or choose another output_dir{anew}"
            )


def code_before(config: Config) -> dict[str, str]:
    """Hashes of the files of the user's at the last start of a run, by the keys that named them."""
    has_code = bool(config.user_code) and (config.output_dir / "events.jsonl").exists()
    events = read_events(config.output_dir, {"run"}) if has_code else []
    if not events:
        return {}
    earlier = {SETTING: events[-1]["objective"]} if events[-1].get("objective") else {}  # all that there was once
    return earlier | dict(events[-1].get("code") or {})


def _shown(value: Any) -> str:
    """Write a value as one would give it in a configuration file."""
    return to_json(value) if value is None or isinstance(value, bool) else repr(value)


def _of_conditions(old: Config, new: Config) -> Iterator[Difference]:
    """Compare conditions of one kind, in whatever form and order they are written; given frames are there in any case."""
    before, after = (
        {condition.kind: condition for condition in (*config.conditions.values(), config.given_frames)}
        for config in (old, new)
    )
    for kind in dict.fromkeys([*after, *before]):
        is_written = any(condition.kind == kind for condition in new.conditions.values())
        key = (new if is_written else old).condition_key(kind)
        if kind in before and kind in after:
            yield from differences(*(section.model_dump(mode="json") for section in (before[kind], after[kind])), key=key)
        else:
            yield Difference(f"{key}.kind", *(kind if kind in there else "none" for there in (before, after)))


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
