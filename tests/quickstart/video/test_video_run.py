"""The quick start of clips: the flow of the one of pictures, on a base that draws nothing."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finishing import CONCEPT, delete_lora
from loading import load_script
from PIL import Image

from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE
from finetrainers.config import load_config
from finetrainers.data.media.files import probe
from finetrainers.errors import ConfigError
from finetrainers.models import open_model
from finetrainers.quickstart.comparison import CELL, corner, size_of
from finetrainers.quickstart.report import loading_lines
from finetrainers.quickstart.run import quickstart
from finetrainers.quickstart.video.clips import CLIP_SHAPES, FPS, NUM_FRAMES
from finetrainers.quickstart.video.effect import EFFECT
from finetrainers.quickstart.video.evaluate import BASE_SEED
from finetrainers.quickstart.video.showcase import SHOWCASE, VIDEO

ROOT = Path(__file__).parents[3]


def test_the_report_has_the_fields_of_the_pictures_report(random_video):
    report = random_video.report
    page = (ROOT / "docs/quickstart_measures.md").read_text()
    documented = {name.split(".")[0] for name in re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)}
    assert set(report) == documented
    assert list(report["sets"]) == list(SHOWCASE.words.sets)
    for tree in report["sets"].values():
        for kind in ("captions", "shuffled"):
            assert {column: figures["count"] for column, figures in tree[kind].items()} == dict.fromkeys(
                ("before", "after", "real"), random_video.options.num_prompts
            )
        assert tree["captions"]["real"]["right"] == 100
        assert tree["shuffled"]["real"]["right"] == 0
    assert (report["steps"], report["base"]) == (2, str(random_video.options.base))
    assert report["held_out_loss"]["before"] != report["held_out_loss"]["after"]


def test_data_are_ordinary_clips_with_captions(random_video):
    options = random_video.options
    for split, count in {"train": options.num_train, "rehearsal": options.num_rehearsal, "held_out": 4}.items():
        folder = random_video.output / "data" / split
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        assert len(rows) == count
        assert all((folder / row["file_name"]).suffix == ".mp4" for row in rows)
        assert all((EFFECT in row["caption"]) == (split != "rehearsal") for row in rows)
    config = load_config(options.config_file)
    assert [Path(data.path).name for data in config.data] == ["train", "rehearsal"]
    assert (config.model.path, config.tuning.kind) == (str(options.base), "lora")


def test_steps_are_the_commands_that_were_printed(random_video):
    commands = [shlex.split(line[2:]) for line in random_video.transcript.split("\n") if line.startswith("$ ")]
    config = str(random_video.options.config_file)
    assert commands == [["finetrainers", "encode", config], ["finetrainers", "train", config]]
    samples = list((random_video.options.run / "validation").rglob("*.mp4"))
    assert len(samples) == 8  # four prompts, before and after
    assert all(probe(file).fps == FPS for file in samples)


def test_what_is_seen_are_a_sheet_and_clips_of_its_prompts(random_video):
    truths = random_video.sets["concept_held_out"].truths
    groups = [truth.shape for truth in truths]
    columns = sum(min(2, groups.count(shape)) for shape in CLIP_SHAPES)
    names = {f"{n}-{label}.mp4" for n in range(1, columns + 1) for label in ("before", "after", "real")}
    clips = {file.name: probe(file) for file in (random_video.output / "clips").iterdir()}
    assert set(clips) == names
    assert {(clip.num_frames, clip.height, clip.width, clip.fps) for clip in clips.values()} == {(NUM_FRAMES, 256, 256, FPS)}
    with Image.open(random_video.output / "comparison.png") as picture:
        assert picture.size == size_of(columns, 3)
        cells = [
            np.asarray(picture.crop((x, y, x + CELL, y + CELL)))
            for row in range(3)
            for x, y in (corner(row, column) for column in range(columns))
        ]
    assert len({cell.tobytes() for cell in cells}) == 3 * columns
    real = {SHOWCASE.cell(pixels).tobytes() for pixels in random_video.sets["concept_held_out"].real}
    assert all(cell.tobytes() in real for cell in cells[-columns:])


def test_rows_before_and_after_are_those_of_the_base_and_of_the_lora(random_video, tmp_path):
    before = random_video.draw_concept(delete_lora(random_video.weights, tmp_path / "deleted"))
    after = random_video.draw_concept(random_video.weights)
    for name in CONCEPT:
        truths = random_video.sets[name].truths
        assert random_video.measure(before[name], truths) == random_video.reported("captions", name, "before")
        assert random_video.measure(after[name], truths) == random_video.reported("captions", name, "after")
        assert any((one != other).any() for one, other in zip(before[name], after[name], strict=True))


def test_the_lines_at_the_end_draw_with_the_lora_in_plain_diffusers(random_video, tmp_path, monkeypatch):
    lines = random_video.transcript.split("The LoRA in plain diffusers:")[1].strip().splitlines()
    assert [line.strip() for line in lines] == loading_lines(random_video.options, random_video.weights).splitlines()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    assert len(lines) == 5
    exec("\n".join(line.strip() for line in lines), names)
    assert names["pipeline"].get_active_adapters()
    with Image.open(tmp_path / "dissolve.gif") as clip:
        assert (clip.n_frames, clip.size) == (NUM_FRAMES, (64, 64))


def test_the_pipeline_is_the_one_whose_coordinates_were_trained_with(random_video):
    """LTXPipeline tells the transformer other times of the frames than releases with this autoencoder are trained on."""
    model = open_model(load_config(random_video.options.config_file).model)
    assert model.pipeline_class == SHOWCASE.pipeline.__name__
    index = json.loads((random_video.options.base / "model_index.json").read_text())
    assert index["_class_name"] == SHOWCASE.pipeline.__name__


def test_the_bases_training_prompts_are_those_of_its_training_script():
    script = load_script("train_quickstart_video_base")
    assert script.BASE_SEED == BASE_SEED == SHOWCASE.base_seed
    text = Path(script.__file__).read_text()
    assert 'write_clips(options.output / "train", (render_clip(n, BASE_SEED) for n in range(options.clips)))' in text


def test_without_a_base_nothing_is_written(tmp_path):
    with pytest.raises(ConfigError, match="no base"):
        quickstart(replace(VIDEO, base=tmp_path / "nowhere", output=tmp_path / "q"), command=main, say=print)
    assert not (tmp_path / "q").exists()


def test_the_option_chooses_clips(tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr("finetrainers.quickstart.run.quickstart", lambda options, **_: chosen.append(options) or DONE)
    assert main(["quickstart", "--video", "--seed", "3", "--output", str(tmp_path)]) == DONE
    assert main(["quickstart", "--steps", "7"]) == DONE
    assert chosen[0] == replace(VIDEO, seed=3, output=tmp_path)
    assert (chosen[1].showcase.words.drawn, chosen[1].steps) == ("pictures", 7)
