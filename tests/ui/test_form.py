"""The form of a new run: every key once, an error beside its field, and the configuration that a file would give."""

import json
import re
from pathlib import Path

import pytest
import yaml
from starlette.testclient import TestClient

from finetrainers.config import dump_config, parse_config
from finetrainers.config.reference import keys
from finetrainers.ui.fields import all_fields, form_fields
from finetrainers.ui.folders import Folders
from finetrainers.ui.form import check_form, read_yaml, to_values, unknown_keys
from finetrainers.ui.places import refused_places

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.yaml"))
CONFIGS = [file for file in EXAMPLES if "output_dir" in file.read_text() and "model:" in file.read_text()]


@pytest.fixture
def folders(runs: Path, tmp_path: Path) -> Folders:
    (tmp_path / "data").mkdir()
    return Folders((runs,), (tmp_path / "data",))


def values(folders: Folders, **changes: str) -> dict[str, str]:
    """Fields of a form that is right, but for the changes."""
    own = {
        "output_dir": "style",
        "model.path": "black-forest-labs/FLUX.1-dev",
        "data.0.path": str(folders.data[0]),
        "data.0.buckets": "[[1, 512, 512]]",
        "cache.path": str(folders.runs[0] / "cache"),
    }
    return {**own, **changes}


def test_every_key_of_the_configuration_has_one_field_with_its_sentence() -> None:
    fields = [field for section in all_fields().values() for field in section]
    shown = " ".join(field.sentence for field in fields)
    assert len({field.name for field in fields}) == len(fields)
    for key in keys():
        own = [field for field in fields if field.key == key.name]
        if key.name.startswith("conditioning.") and not key.name.startswith("conditioning.N."):
            key_in_list = key.name.replace("conditioning.", "conditioning.N.", 1)
            own = [field for field in fields if field.key == key_in_list]
        stands_for_others = key.name in ("conditioning", "validation.data") or key.name.startswith("model.components.")
        assert own or stands_for_others, key.name
        sentence = key.sentence.partition("] ")[2] if key.sentence.startswith("[kind") else key.sentence
        if key.name not in ("conditioning", "validation.data"):
            assert sentence in shown, key.name


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_a_configuration_goes_through_the_form_unchanged(file: Path, folders: Folders) -> None:
    tree = read_yaml(file.read_text())
    wanted = parse_config(tree)
    checked = check_form(to_values(tree), folders)
    assert list(unknown_keys(tree)) == []
    found = json.loads(json.dumps(checked.tree))
    if isinstance(tree.get("conditioning"), dict):
        (found["conditioning"],) = found["conditioning"]
    found["output_dir"] = tree["output_dir"]
    assert dump_config(parse_config(found)) == dump_config(wanted)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer.lr", "-1", "greater than 0"),
        ("optimizer.lr", "fast", "number"),
        ("train.steps", "1.5", "integer"),
        ("optimizer.name", "adamv", "adamw"),
        ("data.0.buckets", "[[512, 512]]", "a bucket is [frames"),
        ("data.0.buckets", "[[1, 512", "YAML"),
        ("data.0.repeats", "0", "greater than 0"),
        ("tuning.rank:lora", "0", "greater than or equal to 1"),
        ("model.path", "", "required"),
        ("conditioning.0.blur_sigma:channel_concat", "-1", "greater than 0"),
        ("hub_repo", "me/mine", "push_to_hub"),
        ("schedule.warmup_steps", "5000", "train.steps"),
        ("output_dir", "crush", "already"),
        ("output_dir", "../elsewhere", "no folder of runs"),
        ("output_dir", "/tmp/elsewhere", "no folder of runs"),
        ("output_dir", ".hidden/run", "hidden"),
        ("output_dir", "crush/inside", "inside a run"),
        ("data.0.path", "/etc", "none of the folders"),
        ("data.0.path", "file:///etc", "none of the folders"),
        ("data.0.path", "DATA/link", "none of the folders"),
        ("data.0.control_path", "../..", "none of the folders"),
        ("validation.prompts", "/etc/passwd", "none of the folders"),
        ("model.path", "/etc", "none of the folders"),
        ("cache.path", "/var/cache", "none of the folders"),
        ("tuning.start_from:lora", "/etc", "none of the folders"),
        ("model.adapter", "own.py:Adapter", "code"),
        ("objective.kind", "own.py:Loss", "code"),
        ("optimizer.name", "own.py:Lion", "code"),
        ("data.0.layout", "own.py:Layout", "code"),
        ("callbacks", "[own.py:Callback]", "code"),
        ("track.trackers", "[own.py:Tracker]", "code"),
        ("conditioning.0.signal:channel_concat", "own.py:Edges", "code"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field(folders: Folders, field: str, value: str, message: str) -> None:
    (folders.data[0] / "link").symlink_to("/etc")
    changes = {field: value.replace("DATA", str(folders.data[0]))}
    if field.startswith("conditioning"):
        changes |= {"conditioning.0.kind": "channel_concat", "conditioning.0.signal:channel_concat": "blur", **changes}
    checked = check_form(values(folders, **changes), folders)
    name = "schedule.name" if field == "schedule.warmup_steps" and field not in checked.errors else field
    assert list(checked.errors) == [name]
    assert message in "\n".join(checked.errors[name])


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"a.b": {"path": "/etc"}}, "path: /etc is in none of the folders"),
        ({"a\nb": {"path": "/etc"}}, "path: /etc is in none of the folders"),
        ({"vae": {"subfolder": "../../etc"}}, "subfolder: '../../etc' leads out of the model"),
        ({"vae": {"subfolder": "/etc"}}, "subfolder: '/etc' leads out of the model"),
        ({"vae": {"path": "a/b", "revision": "x/../../y"}}, "revision: 'x/../../y' leads out of the model"),
    ],
)
def test_a_component_leads_to_no_other_place(folders: Folders, component: dict, message: str) -> None:
    (line, *_) = refused_places({"output_dir": str(folders.runs[0] / "new"), "model": {"components": component}}, folders)
    assert message in line


def test_a_condition_after_one_of_kind_none_keeps_its_field(folders: Folders) -> None:
    own = {
        "conditioning.0.kind": "none",
        "conditioning.1.kind": "channel_concat",
        "conditioning.1.mask:channel_concat": "true",
    }
    checked = check_form(values(folders, **own), folders)
    assert list(checked.errors) == ["conditioning.1.signal:channel_concat"]


def test_fields_of_other_kinds_do_not_count(folders: Folders) -> None:
    lokr = {"tuning.kind": "lokr", "tuning.rank:lora": "no number", "tuning.factor:lokr": "4"}
    for own, wanted in (
        (lokr, {"kind": "lokr", "factor": 4}),
        ({"tuning.rank:lora": "8", "tuning.rank:lokr": "no"}, {"rank": 8}),
    ):
        checked = check_form(values(folders, **own), folders)
        assert checked.errors == {}
        assert checked.tree["tuning"] == wanted


def test_prompts_become_a_file_that_the_configuration_names(folders: Folders) -> None:
    checked = check_form(values(folders, prompts='a "red" fox, running\n\n a dog '), folders)
    assert checked.errors == {}
    assert checked.files == {"prompts.csv": 'prompt\n"a ""red"" fox, running"\n"a dog"\n'}
    assert checked.tree["validation"]["prompts"] == "{job}/prompts.csv"


def test_what_the_browser_says_of_its_own_files_is_not_believed(folders: Folders) -> None:
    checked = check_form(values(folders, **{"data.0.path": "{job}/../../../../etc"}), folders)
    assert list(checked.errors) == ["data.0.path"]


def test_a_form_with_errors_comes_back_with_them_and_with_all_that_was_typed(client: TestClient, runs: Path) -> None:
    own = {"output_dir": "style", "train.steps": "many <b>", "data.0.caption_prefix": "ohwx"}
    answer = client.post("/new", data=own)
    assert answer.status_code == 422
    assert 'value="many &lt;b&gt;"' in answer.text
    assert 'value="ohwx"' in answer.text
    error = answer.text.partition('id="e-train.steps" role="alert">')[2].partition("</p>")[0]
    assert "integer" in error
    assert client.post("/new/check", data=own).json()["errors"]["train.steps"]
    assert not list((runs / ".finetrainers-ui" / "jobs").iterdir())


def test_a_form_that_is_right_becomes_a_job_with_its_configuration(client: TestClient, runs: Path, tmp_path: Path) -> None:
    folders = Folders((runs,), (tmp_path / "data",))
    answer = client.post("/new", data=values(folders, prompts="a fox"))
    assert answer.headers["location"] == "/job?number=1"
    folder = runs / ".finetrainers-ui" / "jobs" / "000001"
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    assert tree["output_dir"] == str(runs / "style")
    assert tree["validation"]["prompts"] == str(folder / "prompts.csv")
    assert (folder / "prompts.csv").read_text() == 'prompt\n"a fox"\n'
    again = client.post("/new", data=values(folders))
    assert again.status_code == 422
    assert "is queued already" in again.text
    corrected = client.get("/new?job=1").text
    assert f'name="output_dir" value="{runs / "style"}"' in corrected
    for number in ("7", "9" * 5000, "x"):
        assert client.get(f"/new?job={number}").status_code == 404


def test_the_form_is_filled_from_a_run_and_from_text(client: TestClient, runs: Path) -> None:
    config = runs / "crush" / "config.yaml"
    config.write_text(json.dumps({**json.loads(config.read_text()), "checkpoint": {"resume": 300}}))
    page = client.get("/new?from=0/crush").text
    assert 'name="checkpoint.resume" value=""' in page
    assert 'value="black-forest-labs/FLUX.1-dev"' in page
    assert 'name="output_dir" value=""' in page
    pasted = client.post("/new/yaml", data={"yaml": "model: {path: a/b}\ndata: {path: x, buckets: [[1, 64, 64]]}"}).text
    assert 'name="model.path" value="a/b"' in pasted
    wrong = client.post("/new/yaml", data={"yaml": "model: ["})
    assert wrong.status_code == 422
    assert "no YAML" in wrong.text


def test_an_empty_form_leaves_the_sizes_to_the_model(client: TestClient) -> None:
    (typed,) = re.findall(r'<textarea[^>]*name="data\.0\.buckets"[^>]*>(.*?)</textarea>', client.get("/new").text)
    assert typed == ""


def test_more_data_sets_have_fields_of_their_own(client: TestClient) -> None:
    part = client.get("/new/more?section=data&index=2").text
    assert 'name="data.2.path"' in part
    assert "index=3" in part
    for index in ("x", "-1", "9" * 5000):
        assert client.get(f"/new/more?section=data&index={index}").status_code == 409
    assert len(form_fields({"data": 2})["data"]) == 2 * len(form_fields({"data": 1})["data"])
