"""The quick start of pictures: its sets of prompts, its files and its commands."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from finishing import CONCEPT
from PIL import Image
from runs import adapter_file
from safetensors.torch import load_file

from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.config import load_config
from finetrainers.errors import ConfigError
from finetrainers.quickstart.comparison import CELL, corner, size_of
from finetrainers.quickstart.concept import Banner, banner_caption, render_banner, split_of_banner
from finetrainers.quickstart.evaluate import BASE_SEED, caption_of
from finetrainers.quickstart.evidence import make_sets, shuffled
from finetrainers.quickstart.image import IMAGE, write_pictures
from finetrainers.quickstart.run import quickstart
from finetrainers.quickstart.scenes import combinations, sample_scene, split_of

ROOT = Path(__file__).parents[2]
BASE = IMAGE.base


def cells(picture: Image.Image, row: int) -> Iterator[np.ndarray]:
    """The pictures of a row of comparison.png."""
    for column in range(6):
        x, y = corner(row, column)
        yield np.asarray(picture.crop((x, y, x + CELL, y + CELL)), np.int16)


def test_shuffling_leaves_no_caption_in_its_place(finished):
    truths = finished.sets["base_train"].truths
    assert sorted(map(str, shuffled(truths))) == sorted(map(str, truths))
    assert all(one != other for one, other in zip(truths, shuffled(truths), strict=True))


def test_no_alarm_is_raised(finished):
    """Its run is well: an alarm would be a false one."""
    lines = (finished.options.run / "events.jsonl").read_text().splitlines()
    assert [event["message"] for event in map(json.loads, lines) if event["event"] == "warning" and "kind" in event] == []


# -- splits -----------------------------------------------------------------------------------------------------------


def test_no_caption_is_in_two_sets(finished):
    captions = {name: {caption_of(truth) for truth in prompts.truths} for name, prompts in finished.sets.items()}
    assert len(set().union(*captions.values())) == sum(map(len, captions.values()))
    assert all(len(own) > 20 for own in captions.values())


def test_what_is_held_out_shares_no_combination_with_what_was_trained_on(finished):
    sets = finished.sets
    trained = {combination for truth in sets["base_train"].truths for combination in combinations(truth)}
    assert all(combinations(truth) - trained for truth in sets["base_held_out"].truths)
    assert {split_of(truth) for truth in sets["base_held_out"].truths} == {"held_out"}
    colours = {name: {frozenset(truth.colours) for truth in sets[name].truths} for name in CONCEPT}
    assert not colours["concept_train"] & colours["concept_held_out"]
    assert {split_of_banner(truth) for truth in sets["concept_held_out"].truths} == {"held_out"}


def test_the_concepts_training_prompts_are_the_captions_that_were_trained_on(finished):
    written = {file.read_text().strip() for file in (finished.output / "data/train").glob("*.txt")}
    assert {caption_of(truth) for truth in finished.sets["concept_train"].truths} <= written
    held_out = {file.read_text().strip() for file in (finished.output / "data/held_out").glob("*.txt")}
    assert not written & held_out
    assert all(isinstance(truth, Banner) for truth in finished.sets["concept_held_out"].truths)


def test_what_is_rehearsed_was_not_held_out_from_the_base(finished):
    held_out = {caption_of(sample_scene(n, 0, split="held_out")) for n in range(2000)}
    rehearsed = {file.read_text().strip() for file in (finished.output / "data/rehearsal").glob("*.txt")}
    assert len(rehearsed) > 100
    assert not rehearsed & held_out
    truths = [sample_scene(n, finished.options.seed) for n in range(finished.options.num_rehearsal)]
    assert rehearsed == {caption_of(truth) for truth in truths}
    assert {split_of(truth) for truth in truths} == {"train"}


def test_the_bases_training_prompts_are_those_of_its_training_script():
    script = (ROOT / "scripts/train_quickstart_base.py").read_text()
    assert 'write_scenes(options.output / "train", "train", options.scenes, BASE_SEED)' in script
    truths = make_sets(replace(IMAGE, num_prompts=5, seed=7))["base_train"].truths
    assert truths == [sample_scene(n, BASE_SEED) for n in range(5)]


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_report_holds_every_documented_field_and_no_other(finished):
    page = (ROOT / "docs/quickstart_measures.md").read_text()
    assert set(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)) == set(fields_of(finished.report))


def fields_of(report) -> Iterator[str]:
    for name, value in report.items():
        if name == "sets":
            (fields,) = {tuple(tree) for tree in value.values()}
            yield from (f"sets.{field}" for field in fields)
        elif isinstance(value, dict):
            yield from (f"{name}.{field}" for field in value)
        else:
            yield name


def test_the_report_says_how_it_came_about(finished):
    report = finished.report
    assert (report["version"], report["seed"], report["steps"], report["num_starts"]) == (1, 0, finished.options.steps, 1)
    assert (report["base"], report["weights"]) == (str(BASE), str(finished.weights))
    for seconds in (report["seconds"], report["cpu_seconds"]):
        assert list(seconds) == ["encode", "train", "evidence"]
        assert all(value > 0 for value in seconds.values())
    for tree in report["sets"].values():
        for kind in ("captions", "shuffled"):
            assert list(tree[kind]) == ["before", "after", "real"]
            assert all(figures["count"] == finished.options.num_prompts for figures in tree[kind].values())


def test_the_comparison_has_three_rows_that_differ(finished):
    with Image.open(finished.output / "comparison.png") as picture:
        assert picture.size == size_of(6, 3)
        rows = [list(cells(picture, row)) for row in range(3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        differences = [np.abs(a - b).mean() for a, b in zip(rows[one], rows[other], strict=True)]
        assert min(differences) > 1
    assert len({cell.tobytes() for row in rows for cell in row}) == 18


def test_the_comparison_shows_the_real_pictures_of_its_captions(finished):
    prompts = finished.sets["concept_held_out"]
    real = {pixels.tobytes() for pixels in prompts.real}
    with Image.open(finished.output / "comparison.png") as picture:
        shown = [
            Image.fromarray(cell.astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST) for cell in cells(picture, 2)
        ]
    assert all(np.asarray(picture).tobytes() in real for picture in shown)


def test_the_data_are_pictures_with_captions_beside_them(finished):
    options = finished.options
    counts = {"train": options.num_train, "rehearsal": options.num_rehearsal, "held_out": options.num_held_out}
    for split, count in counts.items():
        names = sorted(file.name for file in (finished.output / "data" / split).iterdir())
        assert names == [f"{n:04d}.{suffix}" for n in range(count) for suffix in ("png", "txt")]


def test_written_pictures_are_those_that_were_rendered(tmp_path):
    rendered = [render_banner(n, 9, split="held_out") for n in range(5)]
    write_pictures(tmp_path / "flags", rendered)
    for n, (pixels, banner) in enumerate(rendered):
        with Image.open(tmp_path / "flags" / f"{n:04d}.png") as image:
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), pixels)
        assert (tmp_path / "flags" / f"{n:04d}.txt").read_text().strip() == banner_caption(banner)


def test_the_configuration_is_an_ordinary_one(finished):
    config = load_config(finished.options.config_file)
    assert config.model.path == str(BASE)
    assert [Path(data.path).name for data in config.data] == ["train", "rehearsal"]
    assert [data.path for data in config.validation.data] == [str(finished.output / "data/held_out")]
    assert config.tuning.kind == "lora"


def test_the_lines_at_the_end_draw_with_the_lora_in_plain_diffusers(finished, tmp_path, monkeypatch):
    lines = finished.transcript.split("The LoRA in plain diffusers:")[1].strip().splitlines()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    assert len(lines) == 5
    exec("\n".join(line.strip() for line in lines), names)
    assert names["pipeline"].get_active_adapters()
    with Image.open(tmp_path / "banner.png") as picture:
        assert picture.size == (64, 64)


# -- commands ---------------------------------------------------------------------------------------------------------


def test_every_step_is_printed_as_the_command_that_does_it(finished):
    commands = [shlex.split(line[2:]) for line in finished.transcript.splitlines() if line.startswith("$ ")]
    config = str(finished.options.config_file)
    assert commands == [["finetrainers", "encode", config], ["finetrainers", "train", config]]


def test_what_is_printed_is_what_runs_and_a_failure_ends_it(tmp_path):
    options = replace(IMAGE, output=tmp_path / "with a space", steps=1, num_train=2, num_rehearsal=2, num_held_out=1)
    said, run = [], []

    def command(words):
        run.append(words)
        return {"encode": 0, "train": 3}[words[0]]

    assert quickstart(options, command=command, say=said.append) == 3
    printed = [shlex.split(line.strip()[2:]) for line in said if line.strip().startswith("$ ")]
    assert printed == [["finetrainers", *words] for words in run]
    assert [words[0] for words in run] == ["encode", "train"]
    assert not (options.output / "report.json").exists()


def test_the_train_command_changes_nothing_when_it_is_typed_again(finished, tmp_path):
    copied = shutil.copytree(finished.output, tmp_path / "copy")
    text = (copied / "config.yaml").read_text().replace(str(finished.output), str(copied))
    (copied / "config.yaml").write_text(text)
    before = load_file(adapter_file(finished.weights))
    saved = copied / "run" / "config.yaml"
    saved.write_text(saved.read_text().replace(str(finished.output), str(copied)))
    assert main(["train", str(copied / "config.yaml")]) == DONE
    weights = copied / "run" / "weights" / finished.weights.name
    after = load_file(adapter_file(weights))  # not the bytes: safetensors orders metadata at random
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_a_finished_quick_start_does_nothing_again(finished):
    def files():
        return {file: file.stat().st_mtime_ns for file in finished.output.rglob("*")}

    before, said = files(), []
    assert quickstart(finished.options, command=lambda _: pytest.fail("nothing is left to run"), say=said.append) == DONE
    assert files() == before
    assert "nothing is left to do" in said[0]
    assert said[1] in finished.transcript


@pytest.mark.parametrize(
    "words, was, wanted",
    [(["--seed", "5"], "- seed: 0", "+ seed: 5"), (["--steps", "7"], "steps: 75", "steps: 7")],
)
def test_other_options_in_the_same_folder_are_refused_with_both_values(finished, capsys, words, was, wanted):
    """Through the command line, whose defaults are those of IMAGE."""
    assert main(["quickstart", "--output", str(finished.output), "--device", "cpu", "--steps", "75", *words]) == USER_ERROR
    message = capsys.readouterr().err
    assert was in message
    assert wanted in message
    assert "or another --output" in message


@pytest.mark.parametrize(
    ("name", "contents"),
    [("thesis.tex", b"years of work"), ("config.yaml", b"output_dir: mine\n"), ("config.yaml", b"\xff\x00")],
    ids=["text", "configuration", "bytes"],
)
def test_a_folder_of_something_else_is_left_alone(name, contents, tmp_path):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ConfigError, match="holds no quick start"):
        quickstart(replace(IMAGE, output=tmp_path), command=main, say=print)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {name: contents}


def test_a_quick_start_that_was_cut_off_writes_the_rest(tmp_path):
    options = replace(IMAGE, output=tmp_path / "q", num_train=3, num_rehearsal=1, num_held_out=1)
    for _ in range(2):
        assert quickstart(options, command=lambda _: 3, say=lambda _: None) == 3
        (options.output / "validation.json").unlink()
        (options.output / "data/train/0002.png").unlink()
    assert quickstart(options, command=lambda _: 3, say=lambda _: None) == 3
    assert (options.output / "data/train/0002.png").exists()


def test_impossible_options_are_refused_before_anything_is_written(tmp_path, capsys):
    assert main(["quickstart", "--output", str(tmp_path / "q"), "--steps", "-1"]) == USER_ERROR
    assert "train.steps: Input should be greater than or equal to 0, not -1" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize("name", ['a "b" \\ c', "{x}: [y]", "ünï😀"])
def test_any_folder_name_can_stand_in_the_configuration(tmp_path, name):
    options = replace(IMAGE, output=tmp_path / name, num_train=1, num_rehearsal=1, num_held_out=1)
    assert quickstart(options, command=lambda _: 3, say=lambda _: None) == 3
    assert load_config(options.config_file).data[0].path == str(tmp_path / name / "data/train")
    assert yaml.safe_load((options.output / "validation.json").read_text())[0]["seed"] == 0
