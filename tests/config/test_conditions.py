"""The list of conditions: its forms, how its keys are named, and where keys of earlier versions have gone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from finetrainers.cli.entry import main
from finetrainers.config import ChannelConcatConfig, Config, GivenFramesConfig, NoConditioning, load_config, parse_config
from finetrainers.config.conditioning import check_together
from finetrainers.errors import ConfigError

MINIMAL = {"output_dir": "runs/x", "model": {"path": "m"}, "data": [{"path": "d", "buckets": [[1, 64, 64]]}]}
GRAY = {"kind": "channel_concat", "signal": "gray"}
GIVEN = {"kind": "given_frames"}


def config_of(conditioning: Any, **sections: Any) -> Config:
    return parse_config({**MINIMAL, "conditioning": conditioning, **sections})


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """Load the minimal configuration, with sections of its own, with overrides."""

    def load(*overrides: str, **sections: Any) -> Config:
        file = tmp_path / "mine.json"
        file.write_text(json.dumps({**MINIMAL, **sections}))
        return load_config(file, overrides)

    return load


@pytest.mark.parametrize("conditioning", [{"kind": "none"}, [], [{"kind": "none"}]])
def test_none_and_nothing_are_no_conditions(conditioning: Any) -> None:
    assert config_of(conditioning).conditions == parse_config(MINIMAL).conditions == {}


def test_conditions_are_found_by_kind_whatever_their_place() -> None:
    gray, given = ChannelConcatConfig.model_validate(GRAY), GivenFramesConfig.model_validate({**GIVEN, "probability": 0.5})
    for written, keys in (([GRAY, {**GIVEN, "probability": 0.5}], "01"), ([{**GIVEN, "probability": 0.5}, GRAY], "10")):
        config = config_of(written)
        assert (config.control, config.given_frames) == (gray, given)
        found = [config.condition_key(kind) for kind in ("channel_concat", "given_frames")]
        assert found == [f"conditioning.{key}" for key in keys]
    alone = config_of(GRAY)
    assert (alone.control, alone.given_frames) == (gray, GivenFramesConfig(kind="given_frames"))
    assert alone.condition_key("channel_concat") == "conditioning"
    assert config_of(GIVEN).control is None


def test_overrides_reach_into_both_forms(load: Callable[..., Config]) -> None:
    mapping = load("conditioning.kind=channel_concat", "conditioning.signal=gray", "conditioning.probability=0.9")
    assert mapping.conditioning == ChannelConcatConfig(kind="channel_concat", signal="gray", probability=0.9)
    assert load("conditioning.probability=0.5", conditioning=GRAY).control == ChannelConcatConfig(**GRAY, probability=0.5)
    made = load("conditioning.0.kind=channel_concat", "conditioning.0.signal=a#b.py:f", "conditioning.1.kind=given_frames")
    assert made.conditions == {
        "conditioning.0": ChannelConcatConfig(kind="channel_concat", signal="a#b.py:f"),
        "conditioning.1": GivenFramesConfig(kind="given_frames"),
    }
    changed = load("conditioning.1.kind=none", conditioning=[GRAY, GIVEN])
    assert changed.conditioning == (ChannelConcatConfig(**GRAY), NoConditioning())


WRONG = [
    ({**GRAY, "signal": "sketch"}, "conditioning.signal: 'sketch' is none of"),
    ([GIVEN, {**GRAY, "signal": "sketch"}], "conditioning.1.signal: 'sketch' is none of"),
    ({**GRAY, "sgnal": "gray"}, "conditioning.sgnal: there is no such key; did you mean 'signal'?"),
    ([{**GRAY, "sgnal": "gray"}], "conditioning.0.sgnal: there is no such key; did you mean 'signal'?"),
    ([{"kind": "channel_concat"}], "conditioning.0.signal: is required and not given"),
    ([GRAY, {"kind": "depth"}], "conditioning.1.kind: there is no kind 'depth'; known: 'none', 'given_frames', "),
    ([GRAY, 3], "conditioning.1: Input should be keys and values, such as kind: "),
    ([{**GIVEN, "signal": "gray"}], "conditioning.0.signal: does not exist with this kind of conditioning.0"),
    ({**GIVEN, "frames": "none", "probability": 0.5}, "conditioning.probability: 0.5 has no effect with frames: none"),
    ([{**GIVEN, "frames": "none", "probability": 0.5}], "conditioning.0.probability: 0.5 has no effect with frames: none"),
    ([{**GRAY, "probability": 0}], "conditioning.0.probability: Input should be greater than 0, not 0"),
    ({"0": GRAY}, "conditioning.0: conditioning is one section here; name its key without an index, or make it a list"),
    ([{"kind": "none"}, GRAY, GRAY], "conditioning.2.kind: channel_concat is already given as conditioning.1; remove"),
    ([GIVEN, GRAY, GIVEN], "conditioning.2.kind: given_frames is already given as conditioning.0; remove"),
]


@pytest.mark.parametrize(("conditioning", "line"), WRONG)
def test_a_wrong_condition_is_named_as_it_is_written(conditioning: Any, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_of(conditioning)
    (found,) = str(error.value).splitlines()[1:]
    assert found.strip().startswith(line)


def test_checks_beside_other_sections_name_the_place_in_the_list() -> None:
    full = {"tuning": {"kind": "full"}}
    with pytest.raises(ConfigError, match=r"conditioning\.1\.train_norms: true has no effect with tuning\.kind: full"):
        config_of([GIVEN, {**GRAY, "train_norms": True}], **full)
    data = [{**MINIMAL["data"][0], "control_path": "x"}]  # type: ignore[dict-item]
    said = r"set conditioning\.1\.kind: channel_concat and conditioning\.1\.signal: files"
    with pytest.raises(ConfigError, match=rf"data\.0\.control_path: x has no effect: {said}"):
        config_of([GIVEN, GRAY], data=data)
    assert config_of([GIVEN, {**GRAY, "signal": "files"}], data=data).data[0].control_path == "x"


def test_a_control_in_channels_and_references_exclude_each_other() -> None:
    class Other:
        kind = "references"

    control: Any = ChannelConcatConfig(kind="channel_concat", signal="gray")
    other: Any = Other()
    with pytest.raises(
        ValueError, match=r"^conditioning\.2\.kind: references cannot be combined with conditioning\.0\.kind: channel"
    ):
        check_together((control, NoConditioning(), other))
    with pytest.raises(
        ValueError, match=r"^conditioning\.1\.kind: channel_concat cannot be combined with .*: references; remove"
    ):
        check_together((other, control))
    check_together((other, GivenFramesConfig(kind="given_frames")))


def test_the_schema_takes_both_forms() -> None:
    schema = Config.model_json_schema()
    check = jsonschema.Draft202012Validator({**schema["properties"]["conditioning"], "$defs": schema["$defs"]}).is_valid
    assert all(check(written) for written in ({"kind": "none"}, [], GRAY, GIVEN, [GRAY, {**GIVEN, "probability": 0.5}]))
    assert not any(
        check(written)
        for written in ("canny", {"kind": "depth"}, [{"kind": "depth"}], [[GRAY]], {**GIVEN, **GRAY, "frames": "last"})
    )


MOVED = {
    ("objective.first_frame_probability", "0.1"): "write conditioning: {kind: given_frames, probability: 0.1}",
    ("objective.given_frames", "random"): "write conditioning: {kind: given_frames, frames: random}",
    ("objective.given_frames", "auto"): "this is the default, so remove it",
    ("conditioning.dropout", "0.1"): "write probability: 0.9",
    ("conditioning.dropout", "0.7"): "write probability: 0.3",
}


@pytest.mark.parametrize(("key", "value"), MOVED)
def test_a_key_that_has_moved_is_refused_with_what_to_write(
    key: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({**MINIMAL, **({"conditioning": GRAY} if key.startswith("conditioning") else {})}))
    assert main(["train", str(file), f"{key}={value}"]) == 2
    (line,) = [line.strip() for line in capsys.readouterr().err.splitlines() if line.strip().startswith(key)]
    assert line.startswith(f"{key}: has ")
    assert line.endswith(f"; {MOVED[key, value]}")


def test_keys_that_have_moved_together_name_one_condition(load: Callable[..., Config]) -> None:
    """The line tells all that is to be written, and where; written so, it is a configuration."""
    old = {"given_frames": "first_and_last", "first_frame_probability": 0.5}
    entry = "{kind: given_frames, frames: first_and_last, probability: 0.5}"
    for written, said in (
        ({"kind": "none"}, f"write conditioning: {entry}"),
        (GRAY, f"make conditioning a list, and add {entry} to it"),
        ([GRAY], f"add {entry} to the list conditioning"),
    ):
        with pytest.raises(ConfigError) as error:
            config_of(written, objective=old)
        lines = [line.strip() for line in str(error.value).splitlines()[1:]]
        assert lines == [f"objective.{key}: has moved; {said}" for key in ("first_frame_probability", "given_frames")]
    config = load(f"conditioning={entry}")
    assert config.given_frames == GivenFramesConfig(kind="given_frames", frames="first_and_last", probability=0.5)


def test_a_file_of_a_users_is_not_read_as_earlier_versions_did(tmp_path: Path) -> None:
    """Only what a run has saved is: a file that is edited has today's keys."""
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({**MINIMAL, "objective": {"first_frame_probability": 0.5}}))
    with pytest.raises(ConfigError, match=r"objective\.first_frame_probability: has moved"):
        load_config(file)
    (tmp_path / "events.jsonl").touch()
    assert load_config(file).given_frames.probability == 0.5
    with pytest.raises(ConfigError, match=r"objective\.first_frame_probability: has moved"):
        load_config(file, ["objective.first_frame_probability=0.5"])
