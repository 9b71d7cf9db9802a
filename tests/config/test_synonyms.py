"""A key of another trainer in a configuration of ours: the error says what it is called here."""

from typing import Any

import pytest

from finetrainers.config import parse_config
from finetrainers.config.reference import keys
from finetrainers.config.synonyms import SYNONYMS
from finetrainers.errors import ConfigError

TREE: dict[str, Any] = {"output_dir": "run", "model": {"path": "m"}, "data": [{"path": "d", "buckets": [[1, 64, 64]]}]}


def lines(tree: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_config(tree)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("place", "value", "hint"),
    [
        (("learning_rate",), 1e-4, "it is called optimizer.lr here"),
        (("optimizer", "learning_rate"), 1e-4, "it is called optimizer.lr here"),
        (("train", "learning-rate"), 1e-4, "it is called optimizer.lr here"),
        (("tuning", "network_dim"), 16, "it is called tuning.rank here"),
        (("data", 0, "trigger_word"), "sks", "it is called data.0.caption_prefix here"),
        (("trigger_word",), "sks", "it is called data.0.caption_prefix here"),
        (("data", 0, "resolution"), 512, "write data.0.buckets: 512, which is about 512 x 512 pixels"),
        (("data", 0, "resolution"), [832, 480], "write data.0.buckets: [[1, 480, 832]], which is frames, height, width"),
        (("train", "gradient_accumulation_steps"), 4, "train.batch_size counts all samples of an optimizer step"),
        (("train", "num_train_epochs"), 4, "it is called train.epochs here"),
        (("rank",), 4, "it belongs elsewhere: write tuning.rank"),
        (("tuning", "lr"), 4, "it belongs elsewhere: write optimizer.lr"),
        (("train", "stepz"), 4, "did you mean 'steps'?"),
    ],
)
def test_a_key_of_another_trainer_is_answered_with_ours(place: tuple[str | int, ...], value: Any, hint: str) -> None:
    tree: Any = {**TREE, "data": [dict(TREE["data"][0])], "train": {}, "tuning": {}, "optimizer": {}}
    node = tree
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = value
    (line,) = lines(tree)
    assert line.startswith(f"{'.'.join(map(str, place))}: there is no such key; ")
    assert hint in line


def test_what_is_missing_because_it_is_called_otherwise_is_said_once() -> None:
    tree = {"output_folder": "run", "pretrained_model_name_or_path": "m", "data": [{"path": "d", "resolution": 512}]}
    assert [line.partition(":")[0] for line in lines(tree)] == [
        "data.0.resolution",
        "output_folder",
        "pretrained_model_name_or_path",
    ]


def test_held_out_data_are_named_as_such() -> None:
    (line,) = lines({**TREE, "validation": {"data": [{"path": "d", "resolution": 512}]}})
    assert "write validation.data.0.buckets: 512, which" in line


def test_every_answer_is_a_key_that_there_is() -> None:
    names = {key.name for key in keys()}
    sections = {name.partition(".")[0] for name in names}
    assert {ours for ours in SYNONYMS.values() if ours not in names | sections | {"data.N.buckets"}} == set()
    assert not SYNONYMS.keys() & {name for name in names if "." not in name}
