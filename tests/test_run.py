"""A run's directory and its life: one holder, one configuration, paths that hold from anywhere, signals."""

import copy
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetrainers.config import Config, dump_config, load_config, parse_config
from finetrainers.errors import ConfigError, Interrupted
from finetrainers.run import FIXED, StopSignals, absolute, run_directory

DATA = {"path": "clips", "buckets": [[9, 64, 64]], "caption_prefix": "CRUSH"}
TREE: dict[str, Any] = {
    "output_dir": "runs/x",
    "model": {"path": "user/model"},
    "data": [DATA],
    "optimizer": {"name": "adamw"},
    "validation": {"held_out": 0.1},
}


def config_with(**changes: Any) -> Config:
    """The configuration above; ``train__steps=5`` changes train.steps."""
    tree = copy.deepcopy(TREE)
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        node = tree
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        node[leaf] = value
    return parse_config(tree)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- absolute ---------------------------------------------------------------------------------------------------------


def test_all_local_paths_become_absolute(folder: Path) -> None:
    for name in ("model", "vae"):
        (folder / name).mkdir()
    config = absolute(
        config_with(
            model={
                "path": "model",
                "adapter": "code/mine.py:Mine",
                "components": {
                    "vae": {"path": "vae"},
                    "transformer": {"path": "user/other"},
                    "tokenizer": {"dtype": "float32"},
                },
            },
            validation={"data": [{**DATA, "path": "held/out"}], "prompts": "prompts.json"},
            cache={"path": "../cache"},
        )
    )
    assert config.output_dir == folder / "runs/x"
    assert config.model.path == str(folder / "model")
    assert config.model.adapter == f"{folder}/code/mine.py:Mine"
    assert {name: c.path for name, c in config.model.components.items()} == {
        "vae": str(folder / "vae"),
        "transformer": "user/other",
        "tokenizer": None,
    }
    assert config.data[0].path == str(folder / "clips")
    assert config.validation.data[0].path == str(folder / "held/out")
    assert config.validation.prompts == folder / "prompts.json"
    assert config.cache.path == folder / "../cache"


def test_models_in_the_home_folder_are_found(folder: Path, monkeypatch) -> None:
    """~/flux is a folder, and no id on the Hub."""
    monkeypatch.setenv("HOME", str(folder / "home"))
    for name in ("flux", "vae"):
        (folder / "home" / name).mkdir(parents=True)
    model = {"path": "~/flux", "components": {"vae": {"path": "~/vae"}, "transformer": {"path": "~/nowhere"}}}
    config = absolute(config_with(model=model, data=[{**DATA, "path": "~/clips"}]))
    assert config.model.path == str(folder / "home/flux")
    assert config.model.components["vae"].path == str(folder / "home/vae")
    assert config.model.components["transformer"].path == "~/nowhere"
    assert config.data[0].path == str(folder / "home/clips")
    with pytest.raises(ConfigError, match=r"model\.revision: 'main' has no effect: ~/flux is a local folder"):
        config_with(model={"path": "~/flux", "revision": "main"})


def test_the_home_folder_of_nobody_is_an_error() -> None:
    absolute(config_with(model={"path": "~nobody-of-that-name/flux"}))  # opening it says that it is not there
    with pytest.raises(ConfigError, match="~nobody-of-that-name/clips: there is no such home folder"):
        absolute(config_with(data=[{**DATA, "path": "~nobody-of-that-name/clips"}]))


def test_the_number_of_views_is_written_out(folder: Path) -> None:
    """A later version may encode more by default: a run that goes on must not change."""
    config = absolute(config_with(data=[{**DATA, "horizontal_flip": True}, DATA]))
    assert [data.views for data in config.data] == [4, None]
    assert absolute(config) == config


def test_an_id_on_the_hub_stays_and_so_does_what_is_no_path(folder: Path) -> None:
    config = config_with(seed=7, train__clip_norm=float("inf"))
    found, expected = (yaml.safe_load(dump_config(c)) for c in (absolute(config), config))
    expected["output_dir"] = str(folder / "runs/x")
    expected["data"][0]["path"] = str(folder / "clips")
    expected["cache"]["path"] = str(folder / "cache")
    assert found == expected


def test_absolute_paths_stay_from_any_folder(folder: Path, monkeypatch) -> None:
    once = absolute(config_with())
    monkeypatch.chdir("/")
    assert absolute(once) == once


def test_the_saved_configuration_gives_the_run_from_any_folder(folder: Path, monkeypatch) -> None:
    config = absolute(config_with(objective__noise_levels="uniform", tuning={"kind": "full"}))
    with run_directory(config) as directory:
        saved = directory / "config.yaml"
    monkeypatch.chdir("/")
    assert absolute(load_config(saved)) == config
    with run_directory(absolute(load_config(saved))):
        pass


# -- run_directory ----------------------------------------------------------------------------------------------------


def test_a_second_holder_is_refused_until_the_first_is_gone() -> None:
    with run_directory(config_with()) as directory:
        said = "output_dir: runs/x is in use by another process; stop it, or take another directory"
        with pytest.raises(ConfigError, match=said), run_directory(config_with()):
            pass
        assert directory.is_dir()
    with run_directory(config_with()):
        pass


def test_another_directory_is_free() -> None:
    with run_directory(config_with()), run_directory(config_with(output_dir="runs/y")):
        pass


def test_a_killed_holder_leaves_the_directory_free(folder: Path) -> None:
    (folder / "config.yaml").write_text(dump_config(config_with()))
    program = """
        import time
        from finetrainers.config import load_config
        from finetrainers.run import run_directory
        with run_directory(load_config("config.yaml")):
            print("held", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="in use by another process"), run_directory(config_with()):
            pass
        holder.kill()
    with run_directory(config_with()):
        pass


def begin(config: Config) -> Path:
    """Leave a run that has a checkpoint, and so could be continued."""
    with run_directory(config) as directory:
        (directory / "checkpoints").mkdir()
    return directory


def test_a_run_that_never_got_to_a_checkpoint_may_change_in_everything() -> None:
    with run_directory(config_with()):
        pass
    with run_directory(config_with(seed=7, tuning={"kind": "full"})) as directory:
        assert load_config(directory / "config.yaml").seed == 7


FIXED_CHANGES = {  # of each key in FIXED: the change, and how the message names it
    "seed": ({"seed": 7}, "seed: 42 -> 7"),
    "model": ({"model__dtype": "float32"}, "model.dtype: 'bfloat16' -> 'float32'"),
    "data": ({"data__0__caption_prefix": "DOG"}, "data.0.caption_prefix: 'CRUSH' -> 'DOG'"),
    "conditioning": (
        {"conditioning": {"kind": "channel_concat", "signal": "gray"}},
        "conditioning.kind: 'none' -> 'channel_concat'",
    ),
    "tuning": ({"tuning__rank": 8}, "tuning.rank: 64 -> 8"),
    "objective": ({"objective__shift": 3.0}, "objective.shift: 'auto' -> 3.0"),
    "optimizer": ({"optimizer__lr": 1e-3}, "optimizer.lr: 5e-05 -> 0.001"),
    "schedule": ({"schedule__warmup_steps": 5}, "schedule.warmup_steps: 0 -> 5"),
    "train.batch_size": ({"train__batch_size": 2}, "train.batch_size: 1 -> 2"),
    "train.ema_decay": ({"train__ema_decay": 0.9}, "train.ema_decay: null -> 0.9"),
    "validation.held_out": ({"validation__held_out": 0.2}, "validation.held_out: 0.1 -> 0.2"),
    "validation.data": ({"validation": {"data": [DATA]}}, "validation.data: [] -> [{"),
}


def test_each_fixed_key_is_tried_below() -> None:
    assert tuple(FIXED_CHANGES) == FIXED


@pytest.mark.parametrize("key", [key for key, (change, _) in FIXED_CHANGES.items() if change])
def test_a_change_that_makes_it_another_run_is_refused_with_both_values(key: str) -> None:
    change, said = FIXED_CHANGES[key]
    directory = begin(config_with())
    saved = (directory / "config.yaml").read_text()
    with pytest.raises(ConfigError) as error, run_directory(config_with(**change)):
        pass
    first, *lines, last = str(error.value).splitlines()
    assert first == "output_dir: runs/x holds a run with other settings:"
    assert any(line.strip().startswith(said) for line in lines)
    assert last == "Give the old values to continue it, or take another output_dir"
    assert (directory / "config.yaml").read_text() == saved


def test_a_run_from_before_fps_was_auto_is_told_which_value_to_give() -> None:
    """Its saved configuration says null, which a file of today without the key does not mean."""
    begin(config_with(data=[{**DATA, "fps": None}]))
    with (
        pytest.raises(ConfigError, match=r"\n  data\.0\.fps: null -> 'auto'\nGive the old values"),
        run_directory(config_with()),
    ):
        pass
    with run_directory(config_with(data=[{**DATA, "fps": None}])):
        pass


def test_all_changed_keys_are_named_at_once() -> None:
    begin(config_with())
    two = [DATA, {**DATA, "path": "more"}]
    with pytest.raises(ConfigError) as error, run_directory(config_with(seed=7, tuning={"kind": "full"}, data=two)):
        pass
    names = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:-1]]
    assert names[:2] == ["seed", "data"]
    assert {"tuning.kind", "tuning.rank"} <= set(names)


@pytest.mark.parametrize(
    "change",
    [
        {"train__steps": 2000},
        {"train__batch_size": 1, "train__micro_batch_size": 1},
        {"train__gradient_checkpointing": True},
        {"train__clip_norm": 0.5},
        {"train__device": "cpu"},
        {"loader__workers": 0},
        {"loader__prefetch": 5},
        {"cache__max_gb": 1.0},
        {"checkpoint__every": 5},
        {"checkpoint__resume": 5},
        {"validation__every": 5},
        {"validation__prompts": "prompts.json"},
        {"track__tensorboard": True},
        {"memory__vae_tiling": True},
        {"attention__validate": "sage_hub"},
        {"push_to_hub": True},
        {"optimizer": {}},  # the same, by default
        {"optimizer__lr": 0.00005},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_changes_go_on_and_are_saved(change) -> None:
    begin(config_with())
    with run_directory(config_with(**change)) as directory:
        assert load_config(directory / "config.yaml") == config_with(**change)


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_asks_to_stop_where_the_run_can(number: signal.Signals) -> None:
    signals, before = StopSignals(), signal.getsignal(number)
    with signals.installed():
        assert signal.getsignal(number) != before  # else the signal would end the tests
        signals.raise_if_received("training")
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=rf"^stopped by {number.name} while training; start the same command again"):
            signals.raise_if_received("training")
    assert signal.getsignal(number) == before


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with StopSignals().installed():
            assert signal.getsignal(signal.SIGTERM) != before
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_in_a_thread_listens_to_no_signals() -> None:
    """Only the main thread can: a notebook or a server that trains in a thread goes on working."""
    before, entered = signal.getsignal(signal.SIGTERM), []

    def body() -> None:
        with StopSignals().installed():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert entered == [before]
