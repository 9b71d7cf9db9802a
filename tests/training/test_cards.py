"""The files that a run exports: their names, and the card and samples beside each of them."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from diffusers import FluxPipeline
from runs import adapter_file, config_of, flux_tree, merged, write_pictures

from finetrainers import sample_run, train
from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.report.facts import snippet
from finetrainers.tuning.exported import FILE

STEPS = ("step-000002", "step-000004")


@pytest.fixture(scope="module")
def finished(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that saved and validated twice, with a prompt and a held-out loss."""
    root = tmp_path_factory.mktemp("cards")
    prompt = {"prompt": "ohwx a cat", "num_inference_steps": 1, "seed": 7}
    (root / "prompts.json").write_text(json.dumps([prompt]))
    tree = flux_tree(
        tiny_flux,
        write_pictures(root / "data", 6),
        root,
        output_dir=str(root / "style"),
        checkpoint={"every": 2},
        validation={"every": 2, "prompts": str(root / "prompts.json"), "held_out": 0.2, "noise_levels": 2},
    )
    train(config_of(tree))
    (root / "tree.json").write_text(json.dumps(tree))
    return root / "style"


def tree_of(run: Path) -> dict[str, object]:
    return dict(json.loads((run.parent / "tree.json").read_text()))


@pytest.mark.parametrize("step", STEPS)
def test_all_weights_have_a_card_of_their_own_step_with_its_samples(finished: Path, step: str) -> None:
    weights = finished / "weights" / step
    text = (weights / "README.md").read_text()
    assert f"| Steps | {int(step.removeprefix('step-'))} |" in text
    loss = json.loads((finished / "validation" / step / "validation.json").read_text())["held_out_loss"]
    assert f"| Held-out loss | {loss:.5f} at step {int(step.removeprefix('step-'))}, " in text
    (place,) = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert (weights / place).read_bytes() == (finished / "validation" / step / "00.png").read_bytes()
    assert f'weight_name="{adapter_file(weights).name}"' in text


def test_files_of_several_runs_and_steps_lie_in_one_folder(finished: Path, tmp_path: Path) -> None:
    """They differ by run and step, and others may read them as far as the umask lets them."""
    names = [adapter_file(finished / "weights" / step).name for step in STEPS]
    assert names == [f"style-{step.replace('-', '')}.safetensors" for step in STEPS]
    umask = os.umask(0)
    os.umask(umask)
    assert adapter_file(finished / "weights" / STEPS[0]).stat().st_mode & 0o777 == 0o666 & ~umask


def test_diffusers_finds_the_only_file_of_a_folder(finished: Path, tiny_flux: Path) -> None:
    pipeline = FluxPipeline.from_pretrained(tiny_flux)
    pipeline.load_lora_weights(finished / "weights" / STEPS[1])
    assert pipeline.get_active_adapters()


def test_weights_with_the_name_of_earlier_versions_are_used_as_before(finished: Path, tmp_path: Path) -> None:
    """By sample, export and a run that begins from them."""
    run = tmp_path / "old"
    shutil.copytree(finished, run)
    for step in STEPS:
        weights = run / "weights" / step
        file = adapter_file(weights)
        manifest = (weights / "manifest.json").read_text().replace(file.name, FILE)
        file.rename(weights / FILE)
        (weights / "mine.safetensors").write_text("no run made it")
        (weights / "manifest.json").write_text(manifest)
    request = [{"prompt": "ohwx a cat", "num_inference_steps": 1}]
    drawn = [sample_run(one, request, device="cpu", output=tmp_path / one.name)[0].read_bytes() for one in (finished, run)]
    assert drawn[0] == drawn[1]
    assert main(["export", str(run), "--to", "comfyui"]) == DONE
    assert (run / "exports/comfyui/old-step000004.safetensors").is_file()
    tuning = {"start_from": str(run / "weights" / STEPS[1])}
    tree = merged(tree_of(finished), {"output_dir": str(tmp_path / "next"), "tuning": tuning, "train": {"steps": 1}})
    tree["validation"] = {}
    assert adapter_file(train(config_of(tree)).weights).name == "next-step000001.safetensors"


def test_the_report_shows_the_lines_of_the_card(finished: Path) -> None:
    card = (finished / "weights" / STEPS[1] / "README.md").read_text()
    lines = snippet(RunFolder(finished))
    assert lines in card
    assert 'prompt="ohwx a cat"' in lines
    assert "manual_seed(7)" in lines


def test_a_card_goes_with_its_weights_and_what_a_user_put_there_stays(finished: Path, tmp_path: Path) -> None:
    changes = {"output_dir": str(tmp_path / "run"), "checkpoint": {"every": 2, "keep_weights": 1}}
    tree = merged(tree_of(finished), changes)
    train(config_of(merged(tree, {"train": {"steps": 2}})))
    first = tmp_path / "run/weights" / STEPS[0]
    assert (first / "samples/00.png").is_file()
    (first / "samples/mine.png").touch()
    train(config_of(tree))
    assert [str(file.relative_to(first)) for file in first.rglob("*")] == ["samples", "samples/mine.png"]
