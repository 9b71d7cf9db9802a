"""``finetrainers rehearse`` on every example, copied as the command does, unchanged, and with its own prompts.

What is not here is stood in for: the data set, rendered in its layout, and the model, which is in the Hub's cache as on a
laptop, without weights: config files of published sizes, tokenizers, a scheduler.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from example_data import EXAMPLES, half_of, write_data
from loading import load_file, load_script
from runs import write_pictures

from finetrainers.cli import main
from finetrainers.config import load_config

CUSTOM = EXAMPLES / "custom_model/config.yaml"
STAGES = ["its", "its", "encode", "train", "resume", "load"]
"""First words of the parts of a twin: its model, its configuration, and what it does."""
TRAINING = sorted((EXAMPLES / "training").rglob("config.yaml"))
SD3: Mapping[str, Mapping[str, Any]] = {
    "transformer": {
        "sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64, "pos_embed_max_size": 384,
        "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
        "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm",
    },
    "vae": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32},
    "text_encoder": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "text_encoder_2": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "projection_dim": 1280,
    },
    "text_encoder_3": {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64},
}  # fmt: skip
"""Stable Diffusion 3.5 medium, as its configs on the Hub have it."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the Hub, and an empty folder to work in."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "hub"


def put(hub: Path, name: str, folder: Path) -> None:
    """Put a model into the cache, but for its weights."""
    commit = "1" * 40
    model = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, model / "snapshots" / commit, ignore=shutil.ignore_patterns("*.safetensors"))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)


def rehearse(config: str, model: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run the command, which has to find nothing; return the stages of the twin."""
    capsys.readouterr()
    status = main(["rehearse", config, "--json", "--disk", "100000GB"])
    report = json.loads(capsys.readouterr().out)
    assert [part["errors"] for part in report["parts"] if part["errors"]] == []
    assert (status, report["ok"]) == (0, True)
    assert any("on the Hub: they are not downloaded" in what for what in report["not_rehearsed"])
    assert any(
        f"the list of files of {model} on the Hub" in what for what in report["not_rehearsed"]
    )  # as check looks there
    return [part["name"].split()[1].rstrip(",") for part in report["parts"] if part["name"].startswith("twin: ")]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument:UserWarning")  # of diffusers, to the Hub's client
@pytest.mark.parametrize("path", TRAINING, ids=lambda path: "-".join(path.parts[-4:-1]))
def test_an_example_is_rehearsed_as_it_is_copied(path: Path, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, config = path.parent.relative_to(EXAMPLES), load_config(path)
    models = load_script("example_models")
    folder = models.folder_of(config.model.path)
    put(hub, config.model.path, folder)
    models.forget(folder)
    main(["examples", "copy", str(name)])
    write_data(path, Path.cwd(), half_of(path))
    command = re.search(r"finetrainers train (\S+)", (path.parent / "README.md").read_text())
    assert command is not None
    assert rehearse(command[1], config.model.path, capsys) == STAGES
    assert sorted(file.name for file in Path.cwd().iterdir()) == ["data", "examples"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument:UserWarning")
def test_the_example_of_an_own_family_is_rehearsed(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pooled prompt is as wide as two encoders together."""
    models = load_script("example_models")
    folder = load_file(CUSTOM.parent / "tiny_sd3.py").make_tiny_sd3(tmp_path / "model")
    for component, sizes in SD3.items():
        file = folder / component / "config.json"
        file.write_text(json.dumps(models.merged(json.loads(file.read_text()), sizes)))
    model = load_config(CUSTOM).model.path
    put(hub, model, folder)
    main(["examples", "copy", "custom_model"])
    monkeypatch.chdir(Path.cwd() / "examples/custom_model")
    write_pictures(Path.cwd() / "data/style", 3, size=(512, 512))
    assert rehearse("config.yaml", model, capsys) == STAGES
