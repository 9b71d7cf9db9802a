"""Code of the user's in a run: what is wrong with it is said with its line, and a run that goes on notices another file."""

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

from finetrainers import ConfigError, DataError, Interrupted, Item, train
from finetrainers.config import Config, OptimizerConfig, ScheduleConfig
from finetrainers.config.user_code import about_user_code, each_file_once, read_user_code
from finetrainers.data.loader import _Told
from finetrainers.data.sources.items import list_items
from finetrainers.distributed.world import join
from finetrainers.optim.optimizers import check_optimizer
from finetrainers.training.checks.same_run import moved_places
from finetrainers.training.paths import absolute
from finetrainers.training.session import open_session
from finetrainers.training.user_code import about_changed, check_user_code, digests_of

PLACES: dict[str, Callable[[str], Tree]] = {
    "track.trackers.0": lambda place: {"track": {"trackers": [place]}},
    "callbacks.0": lambda place: {"callbacks": [place]},
    "data.0.layout": lambda place: {"data": [{"path": "data", "buckets": [[1, 64, 64]], "layout": place}]},
    "objective.kind": lambda place: {"objective": {"kind": place}},
    "optimizer.name": lambda place: {"optimizer": {"name": place}},
}
BASES = {
    "track.trackers.0": "Tracker",
    "callbacks.0": "Callback",
    "data.0.layout": "DataLayout",
    "objective.kind": "OwnObjective",
}
OPTIMIZER = """
import torch

class Mine(torch.optim.Optimizer):
    def __init__(self, params, lr, speed=1.0):
        super().__init__(params, {"lr": lr, "speed": speed})
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                state["count"] = state.get("count", 0) + 1
                if weight.grad is not None:
                    weight.add_(weight.grad, alpha=-group["lr"] * group["speed"] / state["count"])
"""


def written(folder: Path, code: str, name: str = "mine.py") -> str:
    (folder / name).write_text(code)
    return f"{folder / name}:Mine"


def config_with(folder: Path, **sections: Any) -> Config:
    return config_of(flux_tree(folder / "model", folder / "data", folder) | sections)


def look(folder: Path, key: str, place: str) -> None:
    """Check a configuration as a run does before anything is downloaded."""
    config = config_with(folder, **PLACES[key](place))
    check_optimizer(config.optimizer, config.schedule)
    check_user_code(config)


# -- what is wrong is said before anything is loaded ------------------------------------------------------------------


@pytest.mark.parametrize("key", PLACES)
def test_a_file_that_is_not_there_or_fails_is_named_with_its_key(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: the file of .*mine\.py:Mine' cannot be read .*name one that exists"):
        look(tmp_path, key, f"{tmp_path}/mine.py:Mine")
    place = written(tmp_path, "x = 1\n1 / 0\n")
    with pytest.raises(
        ConfigError, match=rf"^{key}: .*mine\.py fails when it is imported \(ZeroDivisionError: .*, line 2\)"
    ):
        look(tmp_path, key, place)
    with pytest.raises(ConfigError, match=rf"^{key}: .*mine\.py has no {BASES.get(key, 'Optimizer')} 'Mine'; define it"):
        look(tmp_path, key, written(tmp_path, "x = 1"))


@pytest.mark.parametrize("key, base", BASES.items())
def test_what_is_of_another_kind_is_refused_with_the_names_that_are_not(key: str, base: str, tmp_path: Path) -> None:
    code = f"import finetrainers\nclass Mine: pass\nclass Other(finetrainers.{base}): pass"
    with pytest.raises(ConfigError, match=rf"derive it from finetrainers\.{base}, or name another one \(it has Other\)$"):
        look(tmp_path, key, written(tmp_path, code))


def test_a_class_without_the_base_is_said_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"mine\.py: Mine is in the file, but is not a subclass of Callback; derive it from"
    ):
        look(tmp_path, "callbacks.0", written(tmp_path, "class Mine: pass"))


@pytest.mark.parametrize(
    "key, methods, said",
    [
        ("objective.kind", "losses(self, batch)", "losses takes (self, batch); define losses(self, predict, batch)"),
        (
            "objective.kind",
            "losses(self, predict, batch): ...; def sigma(self, u)",
            "sigma takes (self, u); define sigma(self, u, *, tokens)",
        ),
        ("track.trackers.0", "log(self, numbers)", "log takes (self, numbers); define log(self, step, numbers)"),
        ("track.trackers.0", "begin(self)", "begin takes (self); define begin(self, config)"),
        ("callbacks.0", "after_step(self, a, b, c)", "after_step takes (self, a, b, c); define after_step(self, trainer,"),
        ("data.0.layout", "items(self, path)", "items takes (self, path); define items(self, path, config)"),
        (
            "track.trackers.0",
            "logs(self, step, numbers)",
            "logs is never called; did you mean log? If not, rename it to _logs",
        ),
        ("callbacks.0", "after_steps(self)", "after_steps is never called; did you mean after_step?"),
        ("callbacks.0", "on_step_end(self)", " has none of the methods that are called, but on_step_end; define one of b"),
    ],
)
def test_methods_that_cannot_be_called_or_never_are_are_refused(key: str, methods: str, said: str, tmp_path: Path) -> None:
    body = "".join(f"    def {method}: ...\n" for method in methods.split(": ...; def "))
    with pytest.raises(ConfigError, match=rf"^{key}: .*mine\.py: Mine\.?{re.escape(said)}"):
        look(tmp_path, key, written(tmp_path, f"import finetrainers\nclass Mine(finetrainers.{BASES[key]}):\n{body}"))


@pytest.mark.parametrize("method", ["log(self, *given)", "log(self, step, numbers, more=1): ...; def logs(self)"])
def test_methods_that_can_be_called_may_take_more(method: str, tmp_path: Path) -> None:
    body = "".join(f"    def {one}: ...\n" for one in method.split(": ...; def "))
    look(tmp_path, "track.trackers.0", written(tmp_path, f"import finetrainers\nclass Mine(finetrainers.Tracker):\n{body}"))


@pytest.mark.parametrize("key, base", [own for own in BASES.items() if own[0] != "objective.kind"])
def test_a_class_that_takes_arguments_is_refused(key: str, base: str, tmp_path: Path) -> None:
    code = (
        f"import finetrainers\nclass Mine(finetrainers.{base}):\n    def __init__(self, url, size=3): pass\n    items = None"
    )
    with pytest.raises(ConfigError, match=rf"^{key}: .*Mine takes url, and is made without arguments"):
        look(tmp_path, key, written(tmp_path, code))


@pytest.mark.parametrize("sections", [{"callbacks": ["mine:Mine"]}, {"track": {"trackers": ["mine.py"]}}])
def test_places_are_files_with_a_name(sections: Tree, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(callbacks|track\.trackers): 'mine.*' is not path/to/file\.py:Name"):
        config_with(tmp_path, **sections)


@pytest.mark.parametrize(
    "sections, said",
    [
        ({"track": {"trackers": ["wandb"]}}, "track.trackers: 'wandb' is not a file; set track.wandb: PROJECT"),
        (
            {"track": {"trackers": "mine.py:Mine"}},
            "track.trackers: Input should be a list, not 'mine.py:Mine'; write a list: ['mine.py:Mine']",
        ),
        (
            {"callbacks": "mine.py:Mine"},
            "callbacks: Input should be a list, not 'mine.py:Mine'; write a list: ['mine.py:Mine']",
        ),
    ],
)
def test_what_is_no_list_of_places_is_told_what_to_write(sections: Tree, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        config_with(tmp_path, **sections)


@pytest.mark.parametrize(
    "body, error, message",
    [
        ("yield {'media': '0.png'}", ConfigError, r"yields \{'media': '0\.png'\}, which is no finetrainers\.Item"),
        ("yield Item(3, 'a')", ConfigError, "whose media is no path or whose captions are no text"),
        ("yield Item('0.png', [4])", ConfigError, "whose media is no path or whose captions are no text"),
        ("yield Item('0.png', None)", ConfigError, "whose media is no path or whose captions are no text"),
        ("yield Item('0.png', 5)", ConfigError, "whose media is no path or whose captions are no text"),
        ("yield Item('0.png', 'a', None)", ConfigError, "whose files are no mapping; give a dict"),
        ("yield Item('0.png', 'a', {'control': None})", ConfigError, r"whose files\['control'\] are no path of one file"),
        ("yield Item('0.png', 'a', {'control': 5})", ConfigError, r"whose files\['control'\] are no path of one file"),
        ("yield Item('0.png', 'a', {'control': ['b', 'c']})", ConfigError, "are no path of one file"),
        (r"yield Item('\udcff.png', 'a')", ConfigError, r"yields Item\(media='\\udcff\.png'.*holds bytes that are no text"),
        (
            r"yield Item('0.png', 'a', {'control': '\ud800'})",
            ConfigError,
            "which holds bytes that are no text; rename the file",
        ),
        ("return []", ConfigError, "yields no item of"),
        ("return None", ConfigError, "returns a NoneType; yield each Item"),
        ("yield Item('nothing.png', 'a')", None, r"is listed in mine\.py:Mine, but there is no such file"),
        ("yield Item('00.png', ' ')", None, "the caption is empty"),
        ("yield Item('00.png', 'a', {'control': ''})", None, r"mine\.py:Mine names no control"),
    ],
)
def test_items_of_a_layout_are_checked(body: str, error: type[Exception] | None, message: str, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", 1)
    head = "from finetrainers import DataLayout, Item\nclass Mine(DataLayout):\n    def items(self, path, config):\n"
    code = f"{head}        {body}\n"
    config = config_with(tmp_path, **PLACES["data.0.layout"](written(tmp_path, code))).data[0]
    config = config.model_copy(update={"path": str(data)})
    if error is not None:
        with pytest.raises(error, match=message):
            list_items(config, ["control"])
    else:
        (problem,) = list_items(config, ["control"] if "control" in body else []).problems
        assert message.replace("\\", "") in problem.reason


def test_a_layout_may_name_several_captions_and_files(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", 2)
    code = (
        "from pathlib import Path\nfrom finetrainers import DataLayout, Item\nclass Mine(DataLayout):\n"
        "    def items(self, path, config):\n        assert config.repeats == 1\n"
        "        yield Item(Path(path, '01.png'), ['a', 'b'], {'control': '00.png', 'reference': ['00.png', '01.png']})\n"
    )
    config = config_with(tmp_path, **PLACES["data.0.layout"](written(tmp_path, code))).data[0]
    table = list_items(config.model_copy(update={"path": str(data)}), ["control", "reference"], ["reference"]).table
    (row,) = table.to_pylist()
    assert row == {
        "media": f"{data}/01.png",
        "captions": ["a", "b"],
        "control": f"{data}/00.png",
        "reference": [f"{data}/00.png", f"{data}/01.png"],
    }
    assert Item("a.png") == Item("a.png", (), {})


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("", "", None),
        ('/ state["count"]', "/ self.count", "would not continue after a stop as it would have without: keep all"),
        (
            'state["count"] = state.get("count", 0) + 1',
            'state["count"] = 1; state["f"] = len',
            "keeps what no checkpoint can hold",
        ),
        ("weight.add_(", "weight.sub_(1); weight.add_(", "changes weights at a learning rate of 0"),
        ("params, lr, speed", "params, speed", r"Mine takes no lr, which a schedule changes"),
        ('{"lr": lr, "speed"', '{"speed"', "has no lr in its param_groups"),
        ("weight.add_(", "weight.add_(thing, ", r"Mine fails \(NameError: name 'thing' is not defined\); correct this line"),
    ],
)
def test_an_optimizer_has_to_go_on_after_a_stop(old: str, new: str, message: str | None, tmp_path: Path) -> None:
    from finetrainers.config.user_code import user_code_errors

    assert old in OPTIMIZER
    place = written(tmp_path, OPTIMIZER.replace(old, new) if old else OPTIMIZER)
    config = OptimizerConfig.model_validate({"name": place, "lr": 0.1, "options": {"speed": 0.5}})
    if message is None:
        check_optimizer(config, ScheduleConfig())
        return
    with pytest.raises(ConfigError, match=rf"^optimizer\.name: .*{message}"), user_code_errors():
        check_optimizer(config, ScheduleConfig())


def test_arguments_of_an_optimizer_are_its_options(tmp_path: Path) -> None:
    place = written(tmp_path, OPTIMIZER)
    with pytest.raises(ConfigError, match=r"optimizer\.options\.sped: .* has no such argument; did you mean 'speed'"):
        check_optimizer(OptimizerConfig.model_validate({"name": place, "options": {"sped": 1.0}}), ScheduleConfig())
    with pytest.raises(
        ValueError, match=r"beta1: 0\.5 has no effect with name: .*give what its constructor takes in options"
    ):
        OptimizerConfig.model_validate({"name": place, "beta1": 0.5})
    with pytest.raises(ValueError, match=r"in_backward: true updates weights one by one, and .* is not known to allow that"):
        OptimizerConfig.model_validate({"name": place, "in_backward": True})


# -- what fails later -------------------------------------------------------------------------------------------------


def raised(place: str, *arguments: Any) -> Exception:
    function: Any = read_user_code("callbacks.0", place).load()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function(*arguments)
    return caught.value


def test_an_error_is_the_files_unless_it_is_in_what_trains(tmp_path: Path) -> None:
    place = written(tmp_path, "def inner(ask):\n    return ask()\n\ndef Mine(ask):\n    return inner(ask)\n")
    said = about_user_code(raised(place, lambda: {}["x"]))
    assert said is not None
    assert said.startswith("callbacks.0: Mine fails (KeyError: 'x'); correct this line, or what it reads:\n  File ")
    assert [line.strip() for line in said.splitlines()[2::2]] == ["return inner(ask)", "return ask()"]
    ours = {"__name__": "finetrainers.training.trainer"}
    exec("def ask():\n    return {}['x']", ours)
    assert about_user_code(raised(place, ours["ask"])) is None
    assert about_user_code(KeyError("x")) is None


def test_an_error_in_a_loader_process_arrives_as_its_message(tmp_path: Path) -> None:
    place = written(tmp_path, "def Mine(step):\n    return step[3]\n")
    steps: Any = SimpleNamespace()
    steps = type("Steps", (), {"__getitem__": lambda _, step: read_user_code("objective.kind", place).load()((step,))})()  # type: ignore[operator]
    found = _Told(steps)[0]
    assert isinstance(found, ConfigError)
    assert "return step[3]" in str(found)


# -- runs that go on --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("user-code")
    small = {"steps": 3, "batch_size": 1, "micro_batch_size": 1}
    return flux_tree(tiny_flux, write_pictures(root / "data", 2), root, train=small)


TRACKER = """
from finetrainers import Tracker

class Mine(Tracker):
    def log(self, step, numbers):
        if step == 2:
            raise ConnectionError("no server")

    def end(self):
        raise AssertionError("must not hide what ended the run")
"""


def test_a_tracker_that_fails_ends_the_run_which_goes_on_once_it_is_mended(tree: Tree, tmp_path: Path) -> None:
    """The error is told with the user's line, the step is saved, and a file that may change is told of."""
    places = {
        "track": {"trackers": [written(tmp_path, TRACKER)]},
        "optimizer": {"name": written(tmp_path, OPTIMIZER, "opt.py")},
    }
    config = config_of(merged(tree, {"output_dir": str(tmp_path / "run"), **places}))
    with pytest.raises(
        ConfigError, match=r"track\.trackers\.0: Mine fails \(ConnectionError: no server\); .*\n.*line 7, in log\n"
    ):
        train(config)
    last = events_of(tmp_path / "run")[-1]
    assert (last["event"], last["kind"]) == ("error", "ConfigError")  # and no warning: it is not called once more
    assert last["message"].startswith("track.trackers.0: Mine fails (ConnectionError: no server)")
    (tmp_path / "mine.py").write_text("from finetrainers import Tracker\nclass Mine(Tracker): pass\n")
    train(config)
    assert [step for (step,) in curve(tmp_path / "run", "step")] == [1, 2, 3]
    runs = [event for event in events_of(tmp_path / "run") if event["event"] == "run"]
    assert [run["resumed_from"] for run in runs] == [None, 2]
    warned = [event["message"] for event in events_of(tmp_path / "run") if event["event"] == "warning"]
    assert any(
        said.startswith("track.trackers.0: ") and "has changed since the run was last started" in said for said in warned
    )
    (tmp_path / "opt.py").write_text(f"{OPTIMIZER}\n# another\n")
    with pytest.raises(ConfigError, match=r"^optimizer\.name: .*opt\.py has changed since .*: bring it back as it was"):
        train(config)


COUNTED = """
from pathlib import Path
from finetrainers import {base}

def told(word):
    with Path(__file__).with_name("told").open("a") as out:
        print(word, file=out)

told("run")

class {name}({base}):
    def __init__(self):
        told("made")

    def begin(self, config):
        told("begun")

    def end(self):
        told("ended")
        {end}
"""
BEGUN = ["run", "made", "begun"]


def told(folder: Path) -> list[str]:
    return (folder / "told").read_text().split()


@contextmanager
def begun(config: Config) -> Iterator[None]:
    """A run's session, in which nothing is trained."""
    with join(config.parallel, "cpu") as world, each_file_once(), open_session(config, world, kept="nothing"):
        yield


def fail(error: Exception | None) -> None:
    if error is not None:
        raise error


@pytest.mark.parametrize("stop", [None, Interrupted("stopped by SIGTERM"), DataError("a bad sample")])
def test_a_tracker_that_fails_at_its_end_hides_nothing(stop: Exception | None, tmp_path: Path) -> None:
    """The other trackers are ended, too; it is the error only where there is no other."""
    folders = [tmp_path / name for name in ("a", "b")]
    places = []
    for folder, end in zip(folders, ("pass", "1 / 0"), strict=True):
        folder.mkdir()
        places.append(written(folder, COUNTED.format(base="Tracker", name="Mine", end=end)))
    config = config_with(tmp_path, track={"trackers": places}, output_dir=str(tmp_path / "run"))
    wanted = type(stop) if stop is not None else ConfigError
    with pytest.raises(wanted) as caught, begun(config):
        fail(stop)
    assert [told(folder) for folder in folders] == [[*BEGUN, "ended"]] * 2
    fails = "track.trackers.1: Mine fails (ZeroDivisionError: division by zero); correct this line"
    assert fails in (str(caught.value) if stop is None else events_of(tmp_path / "run")[-1]["message"])
    assert stop is None or caught.value is stop


def test_of_trackers_one_that_cannot_begin_is_told_of_and_those_before_it_end(tmp_path: Path) -> None:
    code = COUNTED.format(base="Tracker", name="Mine", end="pass")
    bad = code.replace('told("begun")', 'raise ConnectionError("no server")')
    (tmp_path / "bad").mkdir()
    places = [written(tmp_path, code), written(tmp_path / "bad", bad)]
    config = config_with(tmp_path, track={"trackers": places}, output_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"^track\.trackers\.1: Mine fails \(ConnectionError: no server\)"), begun(config):
        raise AssertionError("begun")
    assert (told(tmp_path), told(tmp_path / "bad")) == ([*BEGUN, "ended"], ["run", "made"])
    (last,) = events_of(tmp_path / "run")
    assert (last["event"], last["message"].partition(" (")[0]) == ("error", "track.trackers.1: Mine fails")


@pytest.mark.parametrize("key", ["track.trackers.0", "callbacks.0", "data.0.layout"])
def test_a_check_makes_nothing_and_runs_a_file_once(key: str, tmp_path: Path) -> None:
    code = COUNTED.format(base=BASES[key], name="Mine", end="pass").replace(
        "def begin(", "def items(self, path, config): ...\n    def after_training(self, trainer): ...\n    def begin("
    )
    for _ in range(2):
        look(tmp_path, key, written(tmp_path, code))
    assert told(tmp_path) == ["run"]
    look(tmp_path, key, written(tmp_path, f"{code}\n# another"))
    assert told(tmp_path) == ["run"] * 2


def test_a_file_imports_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is installed first, whatever a neighbour is called."""
    monkeypatch.delitem(sys.modules, "helper_beside_it", raising=False)
    paths = list(sys.path)
    (tmp_path / "helper_beside_it.py").write_text("GAMMA = 5\n")
    (tmp_path / "yaml.py").write_text("1 / 0\n")
    place = written(tmp_path, "import yaml\nfrom helper_beside_it import GAMMA\nMine = GAMMA\n")
    assert read_user_code("callbacks.0", place).load() == 5
    assert sys.path == paths
    monkeypatch.delitem(sys.modules, "helper_beside_it")


def test_what_is_recorded_is_what_ran_though_it_is_edited_meanwhile(tmp_path: Path) -> None:
    place = written(tmp_path, OPTIMIZER)
    config = config_with(tmp_path, optimizer={"name": place})
    with each_file_once():
        first = digests_of(config)
        written(tmp_path, f"{OPTIMIZER}\n# another")
        with each_file_once():
            assert read_user_code("optimizer.name", place).source.decode() == OPTIMIZER
        assert digests_of(config) == first
    assert digests_of(config) != first


def test_trackers_and_callbacks_are_compared_wherever_they_are_in_their_list(tmp_path: Path) -> None:
    places = [written(tmp_path, f"a = '{name}'", f"{name}.py") for name in ("old", "other", "new")]
    before = digests_of(config_with(tmp_path, track={"trackers": places[:2]}, callbacks=places[:2]))
    for others in ([places[2], *places[:2]], places[:2][::-1], places[1:2]):
        assert not about_changed(config_with(tmp_path, track={"trackers": others}, callbacks=others), before)
    written(tmp_path, "a = 2", "other.py")
    config = config_with(tmp_path, track={"trackers": places[::-1]}, callbacks=[places[1]])
    assert [said.partition(": ")[0] for said in about_changed(config, before)] == ["track.trackers.1", "callbacks.0"]


def test_all_places_become_absolute_and_files_may_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    sections = [PLACES[key]("code/mine.py:Mine") for key in PLACES]
    config = absolute(config_with(tmp_path, **{key: value for section in sections for key, value in section.items()}))
    wanted = f"{tmp_path}/code/mine.py:Mine"
    keys = {"track.trackers.0", "callbacks.0", "data.0.layout", "objective.kind", "optimizer.name"}
    assert config.user_code == dict.fromkeys(keys, wanted)
    (tmp_path / "code").mkdir()
    written(tmp_path / "code", "a = 1")
    before = digests_of(config)
    shutil.copytree(tmp_path / "code", tmp_path / "moved")
    moved = config_of(
        merged(
            config.model_dump(mode="json", exclude_unset=True), {"optimizer": {"name": wanted.replace("/code/", "/moved/")}}
        )
    )
    assert [key for key, *_ in moved_places(config, moved)] == ["optimizer.name"]
    assert not about_changed(moved, before)
    adapters = [
        config_of(
            merged(
                config.model_dump(mode="json", exclude_unset=True),
                {"model": {"adapter": f"{tmp_path}/{folder}/mine.py:Mine"}},
            )
        )
        for folder in ("code", "moved")
    ]
    assert [key for key, *_ in moved_places(*adapters)] == ["model.adapter"]
    other = merged(moved.model_dump(mode="json", exclude_unset=True), {"optimizer": {"name": "pytorch_optimizer:Mine"}})
    assert not moved_places(config, config_of(other))  # the same name, and no file
    written(tmp_path / "code", "a = 2")
    assert {said.partition(": ")[0] for said in about_changed(config, before)} == keys - {"objective.kind", "optimizer.name"}
