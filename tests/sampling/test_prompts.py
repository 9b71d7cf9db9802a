"""Prompts from a file: all forms agree, and every mistake names the prompt and the key."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from finetrainers.config import MAX_SEED, Config, ModelConfig, PromptConfig
from finetrainers.config.prompts import KEYS as NAMES, parse_prompt
from finetrainers.config.validation import ValidationConfig
from finetrainers.errors import ConfigError
from finetrainers.models import Model, Request, open_model
from finetrainers.sampling.prompts import make_request, read_prompts

KEYS = tuple(PromptConfig.model_fields)
SYNONYMS = {name: key for name, key in NAMES.items() if name != key}
DEFAULT_STEPS = PromptConfig.model_fields["num_inference_steps"].default

TREE: dict[str, Any] = {"output_dir": "run", "model": {"path": "owner/model"}, "data": [{"path": "data"}]}
IMAGE_SIZE = (1, 64, 64)
VIDEO_SIZE = (9, 64, 96)


@pytest.fixture(scope="module")
def flux(tiny_flux: Path) -> Model:
    return open_model(ModelConfig(path=str(tiny_flux)))


@pytest.fixture(scope="module")
def ltx(tiny_ltx: Path) -> Model:
    return open_model(ModelConfig(path=str(tiny_ltx)))


@pytest.fixture
def write(tmp_path: Path):
    """Write a prompts file; return its path."""

    def write(text: str | bytes, suffix: str) -> Path:
        file = tmp_path / f"prompts{suffix}"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def refused(row: Any, model: Model, size: tuple[int, int, int] = IMAGE_SIZE) -> str:
    with pytest.raises(ConfigError) as error:
        make_request(row, "here", model, size)
    message = str(error.value)
    assert message.startswith("here: ")
    assert "\n" not in message
    return message


# -- files ------------------------------------------------------------------------------------------------------------


ROWS = [
    {"prompt": 'a "red" cat, ä', "height": 32, "width": 128, "seed": 7},
    {"prompt": "a dog", "num_inference_steps": 4, "guidance_scale": 2.5},
]
CSV = 'prompt,height,width,seed,num_inference_steps,guidance_scale\n"a ""red"" cat, ä",32,128,7,,\na dog,,,,4,2.5\n'
FORMS = {
    "json": (json.dumps(ROWS), ".json"),
    "json under data": (json.dumps({"data": ROWS}), ".json"),
    "jsonl": ("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n", ".jsonl"),
    "csv": (CSV, ".csv"),
    "csv of a spreadsheet": (b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode(), ".CSV"),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_a_file_give_the_same_requests(flux: Model, write, form: str) -> None:
    assert read_prompts(write(*FORMS[form]), flux, size=IMAGE_SIZE) == [
        Request(prompt='a "red" cat, ä', size=(1, 32, 128), steps=DEFAULT_STEPS, seed=7),
        Request(prompt="a dog", size=IMAGE_SIZE, steps=4, seed=0, guidance=2.5),
    ]


def test_a_prompt_may_have_several_lines(flux: Model, write) -> None:
    files = [write('prompt\n"a cat\nand a dog"\n', ".csv"), write('{"prompt": "a cat\\nand a dog"}', ".jsonl")]
    for file in files:
        (request,) = read_prompts(file, flux, size=IMAGE_SIZE)
        assert request.prompt == "a cat\nand a dog"


def test_a_line_of_jsonl_ends_where_a_line_of_text_does(flux: Model, write) -> None:
    (request,) = read_prompts(write('{"prompt": "a\u2028cat\x85"}', ".jsonl"), flux, size=IMAGE_SIZE)
    assert request.prompt == "a\u2028cat\x85"


@pytest.mark.parametrize(
    ("text", "suffix", "said"),
    [
        ("[]", ".json", "has no prompts"),
        ("prompt\n", ".csv", "has no prompts"),
        ("", ".jsonl", "has no prompts"),
        ("[{", ".json", "is not valid JSON"),
        ('{"prompt": "a"', ".jsonl", "is not valid JSON"),
        ('{"prompt": "a"}', ".json", "holds no list of prompts"),
        ('"a cat"', ".json", "holds no list of prompts"),
        ("a cat", ".txt", "is .txt; it has to be csv, json or jsonl"),
        ("a cat", "", "is without suffix; it has to be csv, json or jsonl"),
        (b"prompt\n\xff\xfe\n", ".csv", "is not a text file in UTF-8"),
        ("prompt\n" + "a" * 2**18, ".csv", "is not valid CSV"),
        ('[{"prompt": "a", "seed": ' + "1" * 5000 + "}]", ".json", "is not valid JSON"),
        ("[" * 100_000, ".json", "is not valid JSON"),
    ],
)
def test_a_file_that_holds_no_prompts_names_itself(flux: Model, write, text, suffix: str, said: str) -> None:
    file = write(text, suffix)
    with pytest.raises(ConfigError) as error:
        read_prompts(file, flux, size=IMAGE_SIZE)
    assert str(error.value).startswith(f"validation.prompts: {file} {said}")


def test_a_file_that_is_not_there_names_itself(flux: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^validation.prompts: there is no file .*/none.csv; .* in a list: \[none.csv\]$"):
        read_prompts(tmp_path / "none.csv", flux, size=IMAGE_SIZE)


def test_prompts_are_a_list_of_texts_too(flux: Model, write) -> None:
    file = write(json.dumps([{"prompt": "a dog"}, {"prompt": ""}]), ".json")
    own = Config.from_dict({**TREE, "validation": {"prompts": ["a dog", ""]}}).validation
    assert own == Config.from_dict(TREE, ["validation.prompts=[a dog, '']"]).validation
    assert own.prompts is not None
    assert read_prompts(own.prompts, flux, size=IMAGE_SIZE) == read_prompts(file, flux, size=IMAGE_SIZE)
    with pytest.raises(ConfigError, match=r"^validation.prompts: the list has no prompts$"):
        read_prompts((), flux, size=IMAGE_SIZE)
    with pytest.raises(ValidationError, match="write prompts with keys of their own into a csv, json or jsonl file"):
        ValidationConfig.model_validate({"prompts": ["a dog", {"prompt": "a cat", "seed": 1}]})


@pytest.mark.parametrize(
    ("text", "suffix", "said"),
    [
        ('[{"prompt": "a"}, {"promt": "b"}]', ".json", "there is no key 'promt'; did you mean 'prompt'?"),
        ('["a", {"prompt": "b"}]', ".json", "'a' is not an object"),
        ("prompt,seed\na,1\nb,2,3\n", ".csv", "there is no key 'beyond the last column'"),
        ("prompt,seed\na,1\nb,x\n", ".csv", "seed is 'x', not a whole number"),
        ('{"prompt": "a"}\n\n{"prompt": 5}', ".jsonl", "has no prompt"),
    ],
)
def test_the_wrong_prompt_of_a_file_is_named(flux: Model, write, text: str, suffix: str, said: str) -> None:
    file = write(text, suffix)
    number = 1 if said.startswith("'a'") else 2
    with pytest.raises(ConfigError) as error:
        read_prompts(file, flux, size=IMAGE_SIZE)
    assert str(error.value).startswith(f"{file}, prompt {number}: {said}")


# -- keys -------------------------------------------------------------------------------------------------------------


def test_every_key_reaches_the_request(ltx: Model, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file = str(tmp_path / "a.png")
    row = {
        "prompt": "a cat", "image": file, "control": file, "height": 32, "width": 64, "num_frames": 17,
        "num_inference_steps": 4, "guidance_scale": 2, "negative_prompt": "a dog", "fps": 8, "seed": 3, "reference": file,
    }  # fmt: skip
    assert {*row, "last_image"} == set(KEYS)
    assert make_request(row, "here", ltx, VIDEO_SIZE, takes_control=True, takes_references=True) == Request(
        prompt="a cat", size=(17, 32, 64), steps=4, seed=3, guidance=2.0, negative_prompt="a dog", fps=8.0,
        image=file, control=file, references=(file,),
    )  # fmt: skip


def test_what_is_not_given_has_its_default(ltx: Model) -> None:
    expected = Request(prompt="a cat", size=VIDEO_SIZE, steps=DEFAULT_STEPS, seed=0)
    assert make_request({"prompt": "a cat"}, "here", ltx, VIDEO_SIZE) == expected
    empty = dict.fromkeys(KEYS, "") | {"prompt": "a cat", "seed": None}
    assert make_request(empty, "here", ltx, VIDEO_SIZE) == expected


def test_zero_is_a_value(ltx: Model) -> None:
    request = make_request({"prompt": "a", "guidance_scale": 0, "seed": "0"}, "here", ltx, VIDEO_SIZE)
    assert (request.guidance, request.seed) == (0.0, 0)


def test_common_synonyms_are_the_same_keys(ltx: Model, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file = str(tmp_path / "a.png")
    values = {
        "prompt": "a cat", "image": file, "control": file, "num_inference_steps": 4, "num_frames": 17, "guidance_scale": 2.0,
        "reference": [file, file],
    }  # fmt: skip
    assert set(SYNONYMS.values()) == {*values, "last_image"}
    takes = {"takes_control": True, "takes_references": True}
    expected = make_request(values, "here", ltx, VIDEO_SIZE, **takes)
    for name, key in SYNONYMS.items():
        if key in values:
            others = {known: value for known, value in values.items() if known != key}
            row = {**others, name: values[key]}
            assert make_request(row, "here", ltx, VIDEO_SIZE, **takes) == expected
            with pytest.raises(ConfigError, match=f"here: '{name}' and another key both give '{key}'"):
                make_request({**values, name: values[key]}, "here", ltx, VIDEO_SIZE, **takes)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"promt": "a"}, ["'promt'", "did you mean 'prompt'?"]),
        ({"prompt": "a", "guidance_sale": 3}, ["'guidance_sale'", "did you mean 'guidance_scale'?"]),
        ({"prompt": "a", "zzz": 3}, ["'zzz'", f"known: {', '.join(KEYS)}"]),
        ({"seed": 3}, ["has no prompt"]),
        ({"prompt": None}, ["has no prompt"]),
        ({"prompt": 5}, ["has no prompt", "but 5"]),
        ({"prompt": "a", "seed": -1}, ["seed is -1", "from 0 to 9223372036854775807"]),
        ({"prompt": "a", "seed": 2**63}, ["seed is 9223372036854775808", "from 0 to 9223372036854775807"]),
        ({"prompt": "a", "seed": str(2**65)}, [f"seed is {2**65}", "from 0 to"]),
        ("a cat", ["'a cat'", "not an object", "'prompt'"]),
        (None, ["None", "not an object"]),
        ({"prompt": "a", "seed": "x"}, ["seed", "'x'", "not a whole number"]),
        ({"prompt": "a", "seed": 1.5}, ["seed", "1.5", "not a whole number"]),
        ({"prompt": "a", "seed": True}, ["seed", "True", "not a whole number"]),
        ({"prompt": "a", "height": float("inf")}, ["height", "inf", "not a whole number"]),
        ({"prompt": "a", "height": [64]}, ["height", "[64]", "not a whole number"]),
        ({"prompt": "a", "guidance_scale": "x"}, ["guidance_scale", "'x'", "not a number"]),
        ({"prompt": "a", "guidance_scale": True}, ["guidance_scale", "True", "not a number"]),
        ({"prompt": "a", "guidance_scale": float("nan")}, ["guidance_scale", "nan", "not a number"]),
        ({"prompt": "a", "guidance_scale": "inf"}, ["guidance_scale", "inf", "not a number"]),
        ({"prompt": "a", "negative_prompt": 5}, ["negative_prompt", "5", "not text"]),
        ({"prompt": "a", "image": 5}, ["image is 5", "not the path of a file"]),
        ({"prompt": "a", "control": ["a.png"]}, ["control is ['a.png']", "not the path of a file"]),
        ({"prompt": "a", "reference": 5}, ["reference is 5", "not the path of a file"]),
        ({"prompt": "a", "reference": ["a.png", 5]}, ["reference is 5", "not the path of a file"]),
        ({"prompt": "a", "height": -1}, ["height is -1", "from 0 to 1048576"]),
        ({"prompt": "a", "num_frames": 10**400}, ["num_frames is 1000", "from 0 to 1048576"]),
        ({"prompt": "a", "contrl_video": "a.mp4"}, ["'contrl_video'", "did you mean 'control_video'?"]),
        ({"prompt": "a", "steps": 0}, ["steps is 0", "above 0"]),
        ({"prompt": "a", 3: 4}, ["there is no key '3'"]),
        ({"prompt": "a", "num_inference_steps": 0}, ["num_inference_steps", "0", "above 0"]),
        ({"prompt": "a", "num_inference_steps": -1}, ["num_inference_steps", "-1", "above 0"]),
    ],
    ids=str,
)
def test_a_wrong_key_or_value_is_named(flux: Model, row: Any, parts: list[str]) -> None:
    message = refused(row, flux)
    assert all(part in message for part in parts)


EMPTY = {
    "json": ('[{"prompt": "", "seed": 1}]', ".json"),
    "a synonym": ('[{"caption": "", "seed": 1}]', ".json"),
    "jsonl": ('{"prompt": "", "seed": 1}', ".jsonl"),
    "csv": ("prompt,seed\n,1\n", ".csv"),
}


@pytest.mark.parametrize("form", EMPTY)
def test_an_empty_prompt_is_one(flux: Model, write, form: str) -> None:
    """It shows what the model draws without a caption, which caption_dropout trains."""
    assert read_prompts(write(*EMPTY[form]), flux, size=IMAGE_SIZE) == [
        Request(prompt="", size=IMAGE_SIZE, steps=DEFAULT_STEPS, seed=1)
    ]


def test_a_table_may_have_an_empty_column_of_another_name(flux: Model, write) -> None:
    for names in ("prompt,caption", "caption,prompt"):
        texts = {make.prompt for make in read_prompts(write(f"{names}\na,\n,a\n", ".csv"), flux, size=IMAGE_SIZE)}
        assert texts == {"a"}


def test_the_largest_seed_draws(flux: Model) -> None:
    seed = make_request({"prompt": "a", "seed": MAX_SEED}, "here", flux, IMAGE_SIZE).seed
    assert torch.Generator().manual_seed(seed).initial_seed() == MAX_SEED


def test_numbers_of_a_spreadsheet_and_of_numpy_keep_all_digits(flux: Model) -> None:
    row = {"prompt": "a", "height": "32.0", "steps": 4.0, "seed": np.int64(2**60 + 1), "guidance": np.float32(2.5)}
    request = make_request(row, "here", flux, IMAGE_SIZE)
    assert (request.size, request.steps, request.seed, request.guidance) == ((1, 32, 64), 4, 2**60 + 1, 2.5)


def test_two_synonyms_of_one_key_are_refused(ltx: Model) -> None:
    row = {"prompt": "a", "control_image": "a.png", "control_video": "a.mp4"}
    assert "'control_video' and another key both give 'control'" in refused(row, ltx, VIDEO_SIZE)


def test_every_bound_has_words() -> None:
    """Of each key with a bound, a number beyond it is named with what is allowed."""
    bounded = {name for name, field in PromptConfig.model_fields.items() if field.metadata}
    assert bounded >= {"seed", "num_inference_steps", "fps", "height", "width", "num_frames"}
    for name in bounded:
        with pytest.raises(ConfigError, match=rf"^here: {name} is -1; it has to be (above 0|from 0 to \d+)$"):
            parse_prompt({"prompt": "a", name: -1}, "here")


@pytest.mark.parametrize("fps", [0, -1, float("nan"), "inf"])
def test_a_video_has_a_rate_above_0(ltx: Model, fps: object) -> None:
    assert "fps is" in refused({"prompt": "a", "fps": fps}, ltx, VIDEO_SIZE)


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "wanted", "nearest"),
    [
        ({"height": 65}, (1, 65, 64), (1, 64, 64)),
        ({"width": 1}, (1, 64, 1), (1, 64, 16)),
        ({"num_frames": 9}, (9, 64, 64), (1, 64, 64)),
        ({"height": 0}, (1, 0, 64), (1, 16, 64)),
    ],
    ids=str,
)
def test_an_impossible_size_of_an_image_names_the_nearest(flux: Model, row, wanted, nearest) -> None:
    message = refused({"prompt": "a", **row}, flux)
    assert f"{wanted} (frames, height, width) is impossible" in message
    assert message.endswith(f"the nearest is {nearest}")
    make_request(
        {"prompt": "a", **dict(zip(("num_frames", "height", "width"), nearest, strict=True))}, "x", flux, IMAGE_SIZE
    )


@pytest.mark.parametrize(
    ("row", "nearest"),
    [({"num_frames": 10}, (9, 64, 96)), ({"num_frames": 16}, (17, 64, 96)), ({"height": 50}, (9, 64, 96))],
    ids=str,
)
def test_an_impossible_size_of_a_video_names_the_nearest(ltx: Model, row, nearest) -> None:
    assert refused({"prompt": "a", **row}, ltx, VIDEO_SIZE).endswith(f"the nearest is {nearest}")


# -- what a family cannot do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"negative_prompt": "a dog"}, "flux has no negative_prompt; remove it"),
        ({"image": "a.png"}, "image: flux does not support it in the task text-to-image; remove it"),
        ({"fps": 8}, "flux generates images, which have no fps; remove it"),
    ],
    ids=str,
)
def test_what_has_no_effect_is_an_error(flux: Model, row, said: str) -> None:
    assert refused({"prompt": "a", **row}, flux) == f"here: {said}"


def test_a_missing_image_is_named(ltx: Model, tmp_path: Path) -> None:
    assert refused({"prompt": "a", "image": tmp_path / "none.png"}, ltx, VIDEO_SIZE).endswith(
        f"image: there is no file {tmp_path / 'none.png'}"
    )


# -- references -------------------------------------------------------------------------------------------------------


REFERENCES = {
    "json": (
        '[{"prompt": "a", "reference": ["one.png", "two; three.png"]}, {"prompt": "a", "reference": "one.png"}]',
        ".json",
    ),
    "csv": ("prompt,reference\na,one.png; two.png\na,one.png\n", ".csv"),
    "csv, a synonym": ("prompt,reference_image\na,one.png;two.png;\na,one.png\n", ".csv"),
}


@pytest.mark.parametrize("form", REFERENCES)
def test_references_are_found_beside_the_file_in_their_order(flux: Model, write, tmp_path: Path, form: str) -> None:
    names = ["one.png", "two; three.png" if form == "json" else "two.png"]
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (
        both,
        first,
    ) = read_prompts(write(*REFERENCES[form]), flux, size=IMAGE_SIZE, takes_references=True)
    assert both.references == tuple(str(tmp_path / name) for name in names)
    assert first.references == both.references[:1]


def test_a_reference_that_cannot_be_shown_is_named(flux: Model, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no picture")
    gif = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    gif[0].save(tmp_path / "a.gif", save_all=True, append_images=gif[1:])
    for name, takes, said in (
        ("a.png", False, "the run shows no references"),
        ("none.png", True, "there is no file"),
        ("text.png", True, "not an image"),
        ("a.gif", True, "is a video"),
    ):
        row = {"prompt": "a", "reference": [str(tmp_path / "a.png"), str(tmp_path / name)]}
        with pytest.raises(ConfigError, match=f"here: reference: .*{said}"):
            make_request(row, "here", flux, IMAGE_SIZE, takes_references=takes)
