"""TOML files of other tools: each setting becomes one of ours, or is refused or warned of by its name."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from finetrainers.config import Config, dump_config, load_config, parse_config
from finetrainers.errors import ConfigError

KOHYA = """
[general]
enable_bucket = true
caption_extension = ".caption"
shuffle_caption = false

[[datasets]]
resolution = [768, 512]
bucket_reso_steps = 64
bucket_no_upscale = true

  [[datasets.subsets]]
  image_dir = "dogs"
  num_repeats = 10
  flip_aug = true
  caption_prefix = "SKS"

  [[datasets.subsets]]
  image_dir = "cats"
  num_repeats = 2
  caption_dropout_rate = 0.1
  random_crop = true

[[datasets]]
resolution = 256
enable_bucket = false

  [[datasets.subsets]]
  image_dir = "dogs"
"""
MUSUBI = """
[general]
resolution = [960, 544]
caption_extension = ".txt"

[[datasets]]
video_directory = "clips"
target_frames = [1, 25, 45]
frame_extraction = "chunk"
control_directory = "clips-depth"

[[datasets]]
image_jsonl_file = "photos.jsonl"
num_repeats = 3
"""


def config_of(tmp_path: Path, toml: str, **keys: Any) -> Config:
    (tmp_path / "set.toml").write_text(toml)
    data = [{"path": str(tmp_path / "set.toml"), **keys}, {"path": "own", "buckets": [[1, 8, 8]]}]
    others = {"conditioning": {"kind": "channel_concat", "signal": "files"}} if "control" in toml else {}
    return parse_config({"output_dir": "run", "model": {"path": "a/b"}, "data": data, **others})


def given(config: Config) -> list[dict[str, Any]]:
    """What is set of each data set, but for the user's own."""
    sets = [data.model_dump(mode="json", exclude_unset=True) for data in config.data]
    assert sets[-1] == {"path": "own", "buckets": [[1, 8, 8]]}
    return sets[:-1]


def test_kohya(tmp_path: Path) -> None:
    budget = {"pixels": 768 * 512, "frames": [1], "step": 64}
    sized = {"layout": "kohya", "buckets": budget, "max_upscale": 1.0}
    assert given(config_of(tmp_path, KOHYA)) == [
        {"path": "dogs", "repeats": 10.0, "horizontal_flip": True, "caption_prefix": "SKS", **sized},
        {"path": "cats", "repeats": 2.0, "caption_dropout": 0.1, "resize": "random_crop", **sized},
        {"path": "dogs", "layout": "kohya", "buckets": [[1, 256, 256]]},
    ]


def test_musubi(tmp_path: Path) -> None:
    """Sizes are [width, height] there, and (frames, height, width) here."""
    assert given(config_of(tmp_path, MUSUBI)) == [
        {
            "path": "clips",
            "layout": "kohya",
            "control_path": "clips-depth",
            "frame_sampling": "chunks",
            "buckets": [[1, 544, 960], [25, 544, 960], [45, 544, 960]],
        },
        {"path": "photos.jsonl", "repeats": 3.0, "buckets": [[1, 544, 960]]},
    ]


def test_keys_of_the_configuration_count_for_all_its_sets(tmp_path: Path) -> None:
    sets = given(config_of(tmp_path, KOHYA, buckets=[[1, 64, 64]], repeats=1, on_error="skip"))
    assert [(data["buckets"], data["repeats"], data["on_error"]) for data in sets] == [([[1, 64, 64]], 1.0, "skip")] * 3
    assert all("max_upscale" not in data for data in sets)


def test_the_saved_configuration_needs_the_file_no_more(tmp_path: Path) -> None:
    config = config_of(tmp_path, MUSUBI)
    (tmp_path / "set.toml").unlink()
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("is_reg = true", "is_reg: True: write the data set into the configuration, and set its loss_weight"),
        ("shuffle_caption = true", "shuffle_caption: True: captions stay as they are"),
        ('class_tokens = "dog"', "class_tokens: 'dog': write captions"),
        ("surprise = 3", "surprise: 3: nothing here does that"),
        ('caption_extension = ".json"', "caption_extension: '.json' is none of .txt"),
        ('frame_extraction = "slide"', "frame_extraction: 'slide': only head and chunk"),
        ('video_directory = "b"', "names image_directory, video_directory; expected one of"),
        ('resolution = "big"', "resolution: 'big'; expected"),
    ],
)
def test_what_is_not_taken_over_is_refused(tmp_path: Path, setting: str, said: str) -> None:
    size = "" if setting.startswith("resolution") else "resolution = 64\n"
    with pytest.raises(ConfigError) as error:
        config_of(tmp_path, f'[[datasets]]\n{size}image_directory = "a"\n{setting}\n')
    assert said in str(error.value)
    assert f"{tmp_path}/set.toml, data set 1" in str(error.value)


def test_what_counts_elsewhere_is_warned_of(tmp_path: Path) -> None:
    toml = '[[datasets]]\nresolution = 64\nimage_directory = "a"\nbatch_size = 4\ncache_directory = "c"\ncolor_aug = false\n'
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        config_of(tmp_path, toml)
    assert [str(warning.message).partition("data set 1: ")[2] for warning in warned] == [
        "batch_size: 4 is ignored: train.micro_batch_size is used instead",
        "cache_directory: 'c' is ignored: cache.path is used instead",
    ]


@pytest.mark.parametrize(
    ("toml", "said"),
    [("[[data", "cannot be read as TOML"), ("[general]", "describes no data set"), ("[model]", "holds model; expected")],
)
def test_another_file_is_refused(tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(tmp_path, toml)
    (tmp_path / "set.toml").unlink()
    with pytest.raises(ConfigError, match="cannot be read as TOML: .*No such file"):
        parse_config({"output_dir": "r", "model": {"path": "a/b"}, "data": [{"path": str(tmp_path / "set.toml")}]})
