"""``finetrainers data prepare``: its configuration, its messages and its exit status."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from curating import noise, report_of, rows_of
from media_factory import real_clip, real_photo, write_video
from PIL import Image

from finetrainers.cli import main
from finetrainers.config import DataConfig
from finetrainers.config.curate import PrepareConfig
from finetrainers.config.load import dump_config, load_section
from finetrainers.data.sources.items import list_items
from finetrainers.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "examples/data/prepare.yaml"


def test_the_example_is_a_configuration_that_comes_back_as_it_is_dumped(tmp_path: Path) -> None:
    config = load_section(EXAMPLE, [], PrepareConfig)
    assert [step.kind for step in config.steps][-1] == "near_duplicates"
    (tmp_path / "dumped.yaml").write_text(dump_config(config))
    assert load_section(tmp_path / "dumped.yaml", [], PrepareConfig) == config


def test_the_models_of_the_example_are_configured_rightly(tmp_path: Path) -> None:
    lines = [line.replace("  # ", "  ", 1) if line.startswith("  # ") else line for line in EXAMPLE.read_text().splitlines()]
    lines = [line for line in lines if "take out the signs" not in line]
    (tmp_path / "all.yaml").write_text("\n".join(lines))
    kinds = [step.kind for step in load_section(tmp_path / "all.yaml", [], PrepareConfig).steps]
    assert kinds[-3:] == ["classify", "keep", "caption"]


def test_overrides_reach_every_key(tmp_path: Path) -> None:
    words = ["output.path=a=b #1", "--workers", "3", "steps.1.where=width > 64", "steps.2.margin=2", "input=[x, y]"]
    config = load_section(EXAMPLE, words, PrepareConfig)
    assert (str(config.output.path), config.workers, config.inputs) == ("a=b #1", 3, ("x", "y"))
    assert (config.steps[1].where, config.steps[2].margin) == ("width > 64", 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workes=2", "workes: there is no such key; did you mean 'workers'?"),
        ("steps.2.treshold=2", "steps.2.treshold: there is no such key; did you mean 'threshold'?"),
        ("steps.0.kind=scene", "steps.0.kind: there is no kind 'scene'; known: 'scenes', 'clips'"),
        ("output.shard_mb=5", "output.shard_mb: 5 has no effect with format: folder"),
        ("steps.3.seconds=2", "steps.3.max_seconds: 5.0 has no effect with seconds: 2.0"),
        ("steps.3.max_seconds=1.5", "steps.3.max_seconds: 1.5 must be at least twice min_seconds (1.0)"),
        ("workers=0", "workers: Input should be greater than or equal to 1, not 0"),
    ],
)
def test_a_wrong_key_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_section(EXAMPLE, [override], PrepareConfig)
    assert message in str(caught.value)


def test_the_command_makes_a_set_and_says_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    Image.fromarray(noise(1)).save(tmp_path / "raw" / "a.png")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"input": str(tmp_path / "raw"), "output": {"path": "x"}, "steps": [{"kind": "measure"}]}))
    out = tmp_path / "out"
    assert main(["data", "prepare", str(config), f"output.path={out}"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  measure: 1 -> 1", _items(out), str(out)]
    nothing = ["steps.0={kind: keep, where: kind == 'video'}", f"output.path={tmp_path / 'none'}"]
    assert main(["data", "prepare", str(config), *nothing]) == 2  # a set of nothing is none
    assert "0 items" in capsys.readouterr().out
    assert main(["data", "prepare", f"output.path={out}"]) == 2
    assert "no configuration file is among" in capsys.readouterr().err
    assert main(["data", "prepare", "--help"]) == 0
    assert "steps.N.where  (str; at least 1; required)\n      [kind: keep] Expression" in capsys.readouterr().out


def _items(out: Path) -> str:
    size = sum((out / row["file_name"]).stat().st_size for row in rows_of(out))
    return f"1 items, 0.0 s of video, {size / 1e6:.1f} MB; 0 with a caption"


@pytest.mark.long
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 3), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_killed_command_goes_on(tmp_path: Path, number: int, status: int) -> None:
    (tmp_path / "raw").mkdir()
    for seed in range(12):
        write_video(tmp_path / "raw" / f"{seed:02d}.mp4", [noise(seed, 240, 320)] * 48)
    tree = {"input": "raw", "output": {"path": "out"}, "steps": [{"kind": "clips", "seconds": 1}, {"kind": "measure"}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "finetrainers", "data", "prepare", "config.yaml", "workers=1"]
    journal = tmp_path / "out/.prepare/journal.jsonl"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, env={**os.environ}) as process:
        while not journal.is_file() or journal.read_bytes().count(b"\n") < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == status
    assert 2 <= journal.read_bytes().count(b"\n") < 12
    assert main(["data", "prepare", str(tmp_path / "config.yaml"), *_absolute(tmp_path, "out")]) == 0
    assert main(["data", "prepare", str(tmp_path / "config.yaml"), *_absolute(tmp_path, "again")]) == 0
    for row, same in zip(rows_of(tmp_path / "out"), rows_of(tmp_path / "again"), strict=True):
        assert row == same
        assert (tmp_path / "out" / row["file_name"]).read_bytes() == (tmp_path / "again" / row["file_name"]).read_bytes()


def _absolute(folder: Path, name: str) -> list[str]:
    return [f"input={folder / 'raw'}", f"output.path={folder / name}"]


@pytest.mark.long
def test_the_example_makes_a_set_of_real_clips_and_photographs_that_can_be_listed(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for file in (real_clip("bikes.mp4"), real_clip("carphone_pristine.mp4"), real_photo("coffee.png")):
        shutil.copy(file, tmp_path / "raw")
        (tmp_path / "raw" / file.name).with_suffix(".txt").write_text(f"of {file.stem}")
    assert main(["data", "prepare", str(EXAMPLE), *_absolute(tmp_path, "out"), "output.preset=ultrafast"]) == 0
    rows = rows_of(tmp_path / "out")
    listing = list_items(DataConfig.model_validate({"path": str(tmp_path / "out"), "buckets": [[9, 64, 64]]}))
    assert listing.table["media"].to_pylist() == sorted(str(tmp_path / "out" / row["file_name"]) for row in rows)
    captions = [caption for (caption,) in listing.table["captions"].to_pylist()]
    assert set(captions) == {"of bikes", "of carphone_pristine", "of coffee"}
    assert captions.count("of bikes") > 3
    assert (listing.problems, listing.unlisted) == ((), 0)
    assert report_of(tmp_path / "out")["kept"] == len(rows)
