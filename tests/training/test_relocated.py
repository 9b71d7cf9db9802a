"""A run, its data and its model move: it goes on bit for bit. Other contents in a new place are refused."""

import json
import shutil
from pathlib import Path

import pytest
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures
from safetensors.torch import load_file, save_file

from finetrainers import train
from finetrainers.config import load_config
from finetrainers.errors import ConfigError, DataError

STEPS = {"train": {"steps": 4}}
FIELDS = ("loss", "grad_norm", "lr")


@pytest.fixture
def begun(tiny_flux: Path, tmp_path: Path) -> Tree:
    """A run of two steps, with a model and data of its own."""
    root = tmp_path / "here"
    model = root / "model"
    shutil.copytree(tiny_flux, model)
    data = write_pictures(root / "data", 4)
    held_out = {"data": [{"path": str(write_pictures(root / "held-out", 2, seed=1)), "buckets": [[1, 64, 64]]}], "every": 2}
    tree = flux_tree(model, data, root, train={"steps": 2}, validation=held_out, checkpoint={"every": 2})
    train(config_of(tree))
    return tree


def moved(tree: Tree, root: Path) -> Tree:
    """The tree with all places below another folder."""
    held_out = [{**tree["validation"]["data"][0], "path": str(root / "pictures-held-out")}]
    places = {
        "output_dir": str(root / "the-run"),
        "model": {"path": str(root / "weights")},
        "data": [{**tree["data"][0], "path": str(root / "pictures")}],
        "validation": {"data": held_out},
        "cache": {"path": str(root / "encoded")},
    }
    return merged(tree, places)


def move(root: Path, to: Path) -> None:
    to.mkdir()
    names = {"run": "the-run", "model": "weights", "data": "pictures", "held-out": "pictures-held-out", "cache": "encoded"}
    for old, new in names.items():
        (root / old).rename(to / new)


def test_a_run_goes_on_where_all_of_it_has_moved(begun: Tree, tmp_path: Path) -> None:
    shutil.copytree(begun["output_dir"], tmp_path / "stayed")
    train(config_of(merged(begun, {"output_dir": str(tmp_path / "stayed"), **STEPS})))
    elsewhere = tmp_path / "there"
    move(tmp_path / "here", elsewhere)
    tree = merged(moved(begun, elsewhere), STEPS)
    train(config_of(tree))
    assert curve(tree["output_dir"], *FIELDS) == curve(tmp_path / "stayed", *FIELDS)
    events = events_of(tree["output_dir"])
    assert not [event for event in events if event["event"] == "warning" and "changed" in event["message"]]
    assert load_config(elsewhere / "the-run/config.yaml").model.path == tree["model"]["path"]
    encoded = [event for event in events if event["event"] == "progress" and event["stage"].startswith("encode media")]
    assert sum(event["done"] == event["total"] for event in encoded) <= 2  # of the first start alone


def other_weights(model: Path) -> None:
    (file,) = (model / "transformer").glob("*.safetensors")
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("what", ["data", "held-out", "model"])
def test_other_contents_in_a_new_place_are_refused_and_the_old_ones_go_on(what: str, begun: Tree, tmp_path: Path) -> None:
    copy = tmp_path / "other"
    shutil.copytree(tmp_path / "here" / what, copy)
    if what == "model":
        other_weights(copy)
        change: Tree = {"model": {"path": str(copy)}}
    else:
        write_pictures(copy, 4, seed=7)
        section = {"path": str(copy), "buckets": [[1, 64, 64]]}
        change = {"data": [section]} if what == "data" else {"validation": {"data": [section]}}
    saved = (tmp_path / "here/run/config.yaml").read_text()
    for _ in range(2):  # the first refusal must not make the second start one of the same place
        with pytest.raises(ConfigError, match=f"{copy}"):
            train(config_of(merged(begun, {**change, **STEPS})))
    assert (tmp_path / "here/run/config.yaml").read_text() == saved


def test_other_weights_in_the_old_place_are_refused(begun: Tree) -> None:
    other_weights(Path(begun["model"]["path"]))
    with pytest.raises(ConfigError, match=r"model\.path: .* has other weights than .* was begun with"):
        train(config_of(merged(begun, STEPS)))


def test_other_data_in_the_old_place_are_a_warning(begun: Tree) -> None:
    write_pictures(Path(begun["data"][0]["path"]), 4, seed=7)
    train(config_of(merged(begun, STEPS)))
    messages = [event["message"] for event in events_of(begun["output_dir"]) if event["event"] == "warning"]
    assert any("the data changed since the run was last started" in message for message in messages)


def test_another_order_than_when_the_run_was_begun_is_a_warning(begun: Tree) -> None:
    file = Path(begun["output_dir"]) / "events.jsonl"
    events = events_of(begun["output_dir"])
    file.write_text("".join(json.dumps({k: v for k, v in event.items() if k != "order"}) + "\n" for event in events))
    for steps in (3, 4):  # the second goes on in the order of the first
        train(config_of(merged(begun, {"train": {"steps": steps}})))
    messages = [event["message"] for event in events_of(begun["output_dir"]) if event["event"] == "warning"]
    assert sum("the order of samples has changed since this run was last started" in message for message in messages) == 1


def test_a_start_that_is_refused_leaves_the_settings_of_the_run(begun: Tree) -> None:
    """What is compared with the run later, and what makes it again, are settings that it was trained with."""
    saved = Path(begun["output_dir"]) / "config.yaml"
    before = saved.read_bytes()
    bad = Path(begun["data"][0]["path"]) / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match="1 bad sample"):
        train(config_of(merged(begun, STEPS)))
    assert saved.read_bytes() == before
    bad.unlink()
    train(config_of(merged(begun, STEPS)))
    assert load_config(saved).train.steps == 4
