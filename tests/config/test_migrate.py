"""Configurations of other trainers: each key becomes one of ours, or is listed with the reason."""

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from migrations import SOURCES, Source
from runs import curve, write_pictures

from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.config import ModelConfig, load_config
from finetrainers.config.migrate.formats import NAMES, Migration, migrate
from finetrainers.config.migrate.shared import FAMILIES, LINEARS
from finetrainers.config.migrate.write import config_text
from finetrainers.config.syntax import parse_yaml
from finetrainers.errors import ConfigError
from finetrainers.models import adapters, open_model
from finetrainers.testing.device import device_of_runs
from finetrainers.testing.tiny import FACTORIES

Place = tuple[str | int, ...]


@pytest.fixture
def translate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return lambda source: migrate(source.write(tmp_path))


def leaves(tree: Any, place: Place = ()) -> Iterator[Place]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield from leaves(value, (*place, key))
        else:
            yield (*place, key)


def changed(tree: Any, place: Place) -> Any:
    """The tree with another value at a place."""
    node = tree
    for key in place:
        node = node[key]
    return put(tree, place, other(node))


def put(tree: Any, place: Place, value: Any) -> Any:
    """The tree with a value at a place."""
    tree = copy.deepcopy(tree)
    node = tree
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return tree


def other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value * 2 + 1
        case None:
            return "x"
        case "true" | "false":
            return "false" if value == "true" else "true"
        case str() if value.replace(".", "").replace("e-", "").isdigit():
            return str(float(value) * 2 + 1)
        case str():
            return f"{value}x"
        case [list(), *_]:
            return [[2 * value[0][0], *value[0][1:]], *value[1:]]
        case [first, *rest]:
            return [other(first), *rest]
    raise AssertionError(value)


def outcome(source: Source, translate: Any) -> Any:
    """All that somebody sees of a migration."""
    try:
        found: Migration = translate(source)
    except ConfigError as error:
        return str(error)
    return (
        found.tree,
        found.comments,
        found.prompts,
        found.processes,
        {(note.kind, note.key, repr(note.value)) for note in found.notes},
    )


@pytest.mark.parametrize("name", SOURCES)
def test_no_key_of_the_source_is_dropped_in_silence(name: str, translate: Any) -> None:
    """Another value of any key changes the configuration, or the list, or is an error."""
    source = SOURCES[name]
    before = outcome(source, translate)
    assert not isinstance(before, str), before
    silent: list[Place] = [
        place
        for place in leaves(source.tree)
        if outcome(replace(source, tree=changed(source.tree, place)), translate) == before
    ]
    for file, tree in source.files.items():
        for place in leaves(tree) if isinstance(tree, dict | list) else ():
            files = {**source.files, file: changed(tree, place)}
            if outcome(replace(source, files=files), translate) == before:
                silent.append((file, *place))
    assert silent == []


ODD = (None, [], {}, "x", -1, 0, ["x"], [[1]], [{"a": 1}])
"""Values that mean nothing to most keys."""


def places(tree: Any, place: Place = ()) -> Iterator[Place]:
    """Of all values, tables and lists among them."""
    yield place
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*place, key))


@pytest.mark.parametrize("name", SOURCES)
def test_whatever_stands_in_a_source_is_no_crash(name: str, translate: Any) -> None:
    """An odd value in the place of any other is translated, listed or a ConfigError; each place gets one of them."""
    source = SOURCES[name]
    trees = {"": source.tree, **{file: tree for file, tree in source.files.items() if isinstance(tree, dict | list)}}
    for file, tree in trees.items():
        for number, place in enumerate(places(tree)):
            odd = ODD[number % len(ODD)]
            if not place or (odd is None and file.endswith(".toml")):  # which has no null
                continue
            mutated = put(tree, place, odd)
            outcome(
                replace(source, tree=mutated) if not file else replace(source, files={**source.files, file: mutated}),
                translate,
            )


@pytest.mark.parametrize("name", SOURCES)
def test_a_key_that_nobody_knows_is_listed(name: str, translate: Any) -> None:
    source = SOURCES[name]
    tree = copy.deepcopy(source.tree)
    (tree["config"]["process"][0]["train"] if "config" in tree else tree)["nobody_knows_this"] = 5
    notes = translate(replace(source, tree=tree)).notes
    assert [note.kind for note in notes if note.key.endswith("nobody_knows_this")] == ["lost"]


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_written_is_a_configuration_of_ours(name: str, translate: Any, tmp_path: Path) -> None:
    """With its prompts in a file of their own; comments change nothing of what is read."""
    found = translate(SOURCES[name])
    assert main(["migrate", SOURCES[name].write(tmp_path), "--output", "ours.yaml"]) == DONE
    text = config_text(found.tree, found.comments, ["head"])
    assert parse_yaml(text) == found.tree
    for comment in found.comments.values():
        assert f"# {' '.join(comment.split())}\n" in text
    config = load_config(tmp_path / "ours.yaml")
    assert (config.validation.prompts is not None) == bool(found.prompts)


EXPECTED = yaml.safe_load(Path(__file__).with_name("migrated.yaml").read_text())


@pytest.mark.parametrize("name", SOURCES)
def test_each_key_becomes_what_it_means(name: str, translate: Any) -> None:
    found = translate(SOURCES[name])
    expected = EXPECTED[name]
    assert found.tree == expected["config"]
    assert list(found.prompts) == expected["prompts"]
    assert found.processes == expected["processes"]
    for kind in ("lost", "differs", "idle"):
        assert [note.key for note in found.notes if note.kind == kind] == expected[kind]


def test_a_format_is_recognised_by_what_it_holds(translate: Any) -> None:
    names = {name: translate(source).name for name, source in SOURCES.items()}
    assert set(names.values()) == set(NAMES)
    for source, name in names.items():
        assert source.partition("-")[0] in name


def test_a_named_format_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = SOURCES["diffusion-pipe-wan"].write(tmp_path)
    assert migrate(file, "diffusion-pipe").name == "diffusion-pipe"
    with pytest.raises(ConfigError, match=r"wan\.toml: a configuration of ai-toolkit has"):
        migrate(file, "ai-toolkit")
    with pytest.raises(ConfigError, match="--from: 'nobody' is none of finetrainers, ai-toolkit"):
        migrate(file, "nobody")


SCRIPT = """#!/bin/bash
set -e
NUM_GPUS=2   # a comment
DATA="training.json"
PARALLEL="--dp_degree $NUM_GPUS --dp_shards 1"
model_cmd=(
  --model_name "ltx_video"   # which
  # --revision old
  --pretrained_model_name_or_path "${MODEL:-Lightricks/LTX-Video}"
)
model_cmd+=(--seed 3)
if [ "$NUM_GPUS" == 1 ]; then
  python train.py $PARALLEL "${model_cmd[@]}" --dataset_config $DATA --training_type lora --output_dir 'my run'
else
  torchrun --nproc_per_node=$NUM_GPUS train.py \\
    $PARALLEL "${model_cmd[@]}" --dataset_config "$DATA" --training_type lora --output_dir "my run"
fi
echo done
"""


def script(folder: Path, text: str) -> Path:
    SOURCES["finetrainers-ltx"].write(folder)
    (folder / "train.sh").write_text(text)
    return folder / "train.sh"


def test_a_script_is_read_as_a_shell_would(tmp_path: Path) -> None:
    """Variables, defaults, arrays, comments, continued lines, quotes; files are found beside it."""
    found = migrate(str(script(tmp_path, SCRIPT)))
    assert found.tree["model"]["path"] == "Lightricks/LTX-Video"
    assert found.tree["output_dir"] == "my run"
    assert found.tree["seed"] == 3
    assert found.tree["parallel"] == {"replicate": 2, "shard": 1, "context": 1}
    assert found.processes == 2
    assert "revision" not in found.tree["model"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("--output_dir 'my run'", "--output_dir other", "2 commands that train, with different settings"),
        ('DATA="training.json"', "", r"\$DATA is set neither by the script nor in this shell"),
        ('"ltx_video"', '"ltx_video', "leaves . open"),
        ("train.py", "draw.py", "no command trains with finetrainers or musubi-tuner"),
        ('DATA="training.json"', "DATA=nowhere.json", "nowhere.json is found neither from here nor next to"),
        ('"ltx_video"', "mochi", "mochi: there is no such family here; there are cogvideox, cogview4, flux"),
        ("--training_type lora", "--training_type loha", "'loha' is none of lora, full-finetune"),
        ("--seed 3", "--seed three", "seed: 'three' is not a number"),
        ("--seed 3", "--rank 0", "what a configuration of finetrainers becomes is not valid:\n  tuning.rank"),
    ],
)
def test_what_cannot_be_read_says_why(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        migrate(str(script(tmp_path, SCRIPT.replace(old, new))))


def test_variables_of_an_environment_file_are_options(tmp_path: Path) -> None:
    """config.env has names of its own for some, and more options in one variable."""
    source = SOURCES["simpletuner-wan"]
    source.write(tmp_path)
    given = {**source.tree, "max_train_steps": 300}
    names = {"max_train_steps": "MAX_NUM_STEPS", "data_backend_config": "DATALOADER_CONFIG", "lr_scheduler": "LR_SCHEDULE"}
    lines = [f"export {names.get(key, key.upper())}='{value}'" for key, value in given.items() if key != "tread_config"]
    extra = 'export TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --lora_alpha=8 --use_dora"'
    (tmp_path / "config.env").write_text("\n".join(["# a comment", *lines, extra]))
    found = migrate(str(tmp_path / "config.env"))
    expected = EXPECTED["simpletuner-wan"]["config"]
    assert found.tree["tuning"] == {**expected["tuning"], "alpha": 8.0, "dora": True}
    assert found.tree["train"] == {**expected["train"], "steps": 300}
    assert found.tree["data"] == expected["data"]


def test_nothing_is_overwritten_and_secrets_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = SOURCES["finetrainers-ltx"].write(tmp_path)
    (tmp_path / "mine-prompts.json").write_text("mine")
    assert main(["migrate", source, "--output", "mine.yaml"]) == USER_ERROR
    assert "mine-prompts.json exists already, and is not overwritten" in capsys.readouterr().err
    assert not (tmp_path / "mine.yaml").exists()
    assert (tmp_path / "mine-prompts.json").read_text() == "mine"
    assert main(["migrate", source]) == DONE
    printed = capsys.readouterr()
    assert "hf_secret" not in printed.out + printed.err
    assert "hub_token: ...: log in with" in printed.err
    assert "Its 1 prompts are left out: give --output CONFIG" in printed.out
    (tmp_path / "printed.yaml").write_text(printed.out)
    load_config(tmp_path / "printed.yaml")


@pytest.mark.parametrize("text", ["train: {steps: many}", "a: \x07"])
def test_the_list_is_shown_and_nothing_written_where_what_comes_out_does_not_load(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("finetrainers.config.migrate.write.config_text", lambda *_: text)
    source = SOURCES["finetrainers-ltx"].write(tmp_path)
    before = set(tmp_path.iterdir())
    assert main(["migrate", source, "--output", "mine.yaml"]) == USER_ERROR
    assert set(tmp_path.iterdir()) == before
    printed = capsys.readouterr()
    assert "hub_token: ...: log in with" in printed.err
    assert "what mine.yaml would be" in printed.err
    assert printed.out == ""


def test_words_of_a_command_may_be_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the launcher's are shown, nor those of what does not train."""
    monkeypatch.chdir(tmp_path)
    command = SOURCES["finetrainers-ltx"].write(tmp_path)
    assert "hf_other" not in "".join(map(str, migrate(f"env HF_TOKEN=hf_other {command}").notes))
    with pytest.raises(ConfigError, match="^the command: no command trains") as caught:
        migrate("python draw.py --hub_token hf_other")
    assert "hf_other" not in str(caught.value)


def test_words_that_end_as_a_program_train_nothing(tmp_path: Path) -> None:
    """A folder's name is no program."""
    text = SCRIPT.replace("set -e", "mkdir -p output/cat_train; cp -r cat_train dog_train_network")
    assert migrate(str(script(tmp_path, text))).name == "finetrainers"
    with pytest.raises(ConfigError, match="no command trains"):
        migrate("mkdir -p output/cat_train")


def test_what_drops_ranks_is_no_dropout_of_ours(translate: Any) -> None:
    source = SOURCES["diffusion-pipe-wan"]
    tree = put(source.tree, ("adapter",), {**source.tree["adapter"], "dropout": 0.1, "rank_dropout": 0.3})
    found = translate(replace(source, tree=tree))
    assert found.tree["tuning"]["dropout"] == 0.1
    assert [note.value for note in found.notes if note.key == "adapter.rank_dropout" and note.kind == "lost"] == [0.3]


@pytest.mark.parametrize("family", sorted(LINEARS))
def test_all_linear_layers_of_the_blocks_are_meant(family: str, tiny: Any) -> None:
    """What other tools adapt without saying so: each linear layer of each block, and nothing else."""
    model = open_model(ModelConfig(path=str(tiny(family, next(iter(FACTORIES[family]))))))
    named = dict(model.pretrained.load(model.adapter.denoiser).named_modules())
    blocks = [name for name, module in named.items() if type(module).__name__ in model.adapter.blocks]
    linears = {name for name, module in named.items() if isinstance(module, torch.nn.Linear)}
    inside = {name for name in linears if any(name.startswith(f"{block}.") for block in blocks)}
    assert inside
    assert {name for name in named if re.fullmatch(LINEARS[family], name)} == inside


def test_the_families_are_those_that_there_are() -> None:
    assert sorted(adapters()) == sorted(FAMILIES)


def test_options_of_a_file_are_options_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the command gives as well win."""
    monkeypatch.chdir(tmp_path)
    source = SOURCES["musubi-kontext"]
    written = {"general": {"config_only": 5, **source.tree}, "learning": {"learning_rate": 9e-9}}
    Source("options.toml", written, source.files).write(tmp_path)
    rate = f"--learning_rate {source.tree['learning_rate']}"
    found = migrate(f"python flux_kontext_train_network.py --config_file options {rate}")
    assert found.tree == EXPECTED["musubi-kontext"]["config"]
    assert "config_only" in [note.key for note in found.notes]


def test_epochs_of_data_that_are_elsewhere_stay_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not so many steps as the other tool takes where nothing is given; a warm-up that is a part of them is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.toml").write_text('[[datasets]]\nvideo_directory = "/elsewhere"\nresolution = [960, 544]\n')
    command = "python hv_train_network.py --dataset_config data.toml --max_train_epochs 16 --learning_rate 1e-4"
    found = migrate(f"{command} --lr_scheduler linear --lr_warmup_steps 0.1")
    assert found.tree["train"]["epochs"] == 16
    assert "steps" not in found.tree["train"]
    assert "warmup_steps" not in found.tree["schedule"]
    assert {"max_train_epochs", "lr_warmup_steps"} <= {note.key for note in found.notes}


def small(model: str) -> dict[str, Source]:
    """A LoRA of a model on 64 x 64 pixels in the folder pictures, by three trainers."""
    job = {
        "name": "small",
        "process": [
            {
                "type": "sd_trainer",
                "training_folder": "runs",
                "network": {"type": "lora", "linear": 4, "linear_alpha": 4},
                "datasets": [{"folder_path": "pictures", "resolution": 64}],
                "train": {"steps": 2, "batch_size": 2, "lr": 1e-3, "dtype": "fp32", "optimizer": "adamw"},
                "model": {"name_or_path": model, "arch": "flux"},
            }
        ],
    }
    command = {
        "model_name": "flux", "pretrained_model_name_or_path": model, "transformer_dtype": "fp32",
        "training_type": "control-lora", "control_type": "none", "frame_conditioning_type": "full", "rank": 4,
        "lora_alpha": 4, "batch_size": 2, "train_steps": 2, "output_dir": "runs/small", "dataset_config": "data.json",
    }  # fmt: skip
    sets = {"datasets": [{"data_root": "pictures", "dataset_type": "image", "image_resolution_buckets": [[64, 64]]}]}
    pipe = {
        "output_dir": "runs/small", "dataset": "data.toml", "max_steps": 2, "micro_batch_size_per_gpu": 2,
        "model": {"type": "flux", "diffusers_path": model, "dtype": "float32", "flux_shift": True},
        "adapter": {"type": "lokr", "rank": 1e6}, "optimizer": {"type": "adamw_optimi", "lr": 1e-3},
    }  # fmt: skip
    return {
        "ai-toolkit": Source("job.yaml", {"job": "extension", "config": job}),
        "finetrainers": Source("python train.py", command, {"data.json": sets}),
        "diffusion-pipe": Source(
            "pipe.toml", pipe, {"data.toml": {"resolutions": [64], "directory": [{"path": "pictures"}]}}
        ),
    }


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("finetrainers", "diffusion-pipe")]


@pytest.mark.parametrize("name", ["ai-toolkit", *LONG])
def test_what_comes_out_trains(name: str, tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", 4)
    assert main(["migrate", small(str(tiny_flux))[name].write(tmp_path), "--output", "ours.yaml"]) == DONE
    words = ["model.max_sequence_length=16", f"train.device={device_of_runs()}", "loader.workers=0"]
    assert main(["train", "ours.yaml", *words]) == DONE
    assert len(curve(tmp_path / "runs/small", "loss")) == 2
