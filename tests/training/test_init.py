"""``finetrainers init``: for every family, kind and medium a configuration that ``train`` accepts, or a way out."""

import errno
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from media_factory import write_counter
from PIL import Image
from runs import events_of, write_pictures

from finetrainers.config import Config, load_config
from finetrainers.errors import ConfigError
from finetrainers.models import adapters
from finetrainers.testing import make_tiny
from finetrainers.testing.device import device_of_runs
from finetrainers.training.init.answers import Answers
from finetrainers.training.init.recipes import FEWEST, LEARNED, Kind, recipe_of, size_of
from finetrainers.training.init.sources import SOURCES
from finetrainers.training.init.write import Written, make_config
from finetrainers.training.inspect.look import Inspecting, inspect
from finetrainers.training.run import train

FAMILIES = tuple(adapters())
NUM_ITEMS = 12
PATHS: tuple[Kind, ...] = ("style", "motion", "edit", "control")
"""Kinds that take ways of their own; the others differ from style in the figures of their recipes alone."""
IMAGE_FAMILIES = ("flux", "cogview4")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[tuple[str, str | None], Path] = {}

    def model(family: str, variant: str | None = None) -> Path:
        if (family, variant) not in made:
            folder = tmp_path_factory.mktemp("models") / f"{family}-{variant}"
            made[family, variant] = make_tiny(family, folder, variant=variant)
        return made[family, variant]

    return model


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures with captions, clips without any, and files that are pairs of them."""
    root = tmp_path_factory.mktemp("media")
    write_pictures(root / "pictures", NUM_ITEMS, size=(128, 192))
    (root / "clips").mkdir()
    for number in range(NUM_ITEMS):
        write_counter(root / "clips" / f"{number:02d}.mp4", 26 + number, height=128, width=192)
    for kind in ("pictures", "clips"):
        shutil.copytree(root / kind, root / f"{kind} before", ignore=shutil.ignore_patterns("*.txt"))
    return {file.name: file for file in root.iterdir()}


def make(answers: Answers, folder: Path, name: str = "config.yaml") -> Written:
    return make_config(answers, folder / name, say=lambda _: None, bars=lambda *_: None)


def answers_of(model: Path, media: dict[str, Path], kind: Kind, medium: str, output: Path) -> Answers:
    pairs = str(media[f"{medium} before"]) if LEARNED[kind].needs == "pairs" else None
    return Answers(str(model), str(media[medium]), kind, trigger="ohwx", pairs=pairs, output=str(output))


def outcome(answers: Answers, folder: Path) -> str:
    """What became of it: would train, as inspecting the written file says, or the option that is at fault."""
    folder.mkdir()
    try:
        make(answers, folder)
    except ConfigError as error:
        assert list(folder.iterdir()) == []
        return str(error).partition(":")[0]
    report = inspect(load_config(folder / "config.yaml", [f"cache.path={folder / 'cache'}"]), Inspecting(sample=0)).report
    return "would train" if report["would_train"] else str(report["refused"])


def is_possible(family: str, kind: Kind, medium: str) -> bool:
    """Motion needs clips, pairs need media of the model's own kind, and of these families FLUX.1 is shown references."""
    if kind == "motion":
        return medium == "clips" and family not in IMAGE_FAMILIES
    if kind == "edit":
        return medium == "pictures" and family == "flux"
    return kind != "control" or medium == "pictures" or family not in IMAGE_FAMILIES


@pytest.mark.long
@pytest.mark.parametrize("medium", ["pictures", "clips"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_every_kind_that_is_possible_and_refuses_the_others(
    models: Callable[..., Path], media: dict[str, Path], tmp_path: Path, family: str, medium: str
) -> None:
    for kind in PATHS:
        answers = answers_of(models(family), media, kind, medium, tmp_path / "run")
        wanted = "would train" if is_possible(family, kind, medium) else "--learn"
        assert outcome(answers, tmp_path / kind) == wanted, kind


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_a_configuration_that_train_accepts(
    models: Callable[..., Path], media: dict[str, Path], tmp_path: Path, family: str
) -> None:
    medium = "pictures" if family in IMAGE_FAMILIES else "clips"
    answers = answers_of(models(family), media, "effect", medium, tmp_path / "run")
    assert outcome(answers, tmp_path / "config") == "would train"


def test_a_configuration_that_was_written_trains(
    models: Callable[..., Path], media: dict[str, Path], tmp_path: Path
) -> None:
    answers = answers_of(models("flux"), media, "style", "pictures", tmp_path / "run")
    make(answers, tmp_path)
    drawn = json.loads((tmp_path / "config-prompts.json").read_text())
    assert [row["prompt"].startswith("ohwx") for row in drawn] == [True, True, False]
    with_trigger, without = drawn[1:]
    assert with_trigger == {**without, "prompt": f"ohwx {without['prompt']}"}  # of one seed: only the word differs
    assert "differ in the trigger word alone" in " ".join((tmp_path / "config.yaml").read_text().replace("#", " ").split())
    (tmp_path / "config-prompts.json").write_text(json.dumps([{**row, "num_inference_steps": 1} for row in drawn]))
    small = [
        "train.steps=2",
        "schedule.warmup_steps=0",
        "validation.every=null",
        "validation.held_out=0.1",
        "loader.workers=0",
    ]
    own = [f"cache.path={tmp_path / 'cache'}", f"train.device={device_of_runs()}", "model.dtype=float32"]
    train(load_config(tmp_path / "config.yaml", [*small, *own, "track.report=false"]))
    events = events_of(tmp_path / "run")
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2]
    assert len(list((tmp_path / "run" / "validation" / "step-000002").glob("*.png"))) == len(drawn)


def test_every_item_comes_as_often_as_its_recipe_says(
    models: Callable[..., Path], media: dict[str, Path], tmp_path: Path
) -> None:
    """Items that are held out, by what is in them, are not among those that are counted."""
    written = make(answers_of(models("flux"), media, "subject", "pictures", tmp_path / "run"), tmp_path)
    config, recipe = load_config(tmp_path / "config.yaml"), recipe_of("subject", NUM_ITEMS)
    trained = int(written.lines[0].partition(" items to train on")[0])
    assert 0 < trained < NUM_ITEMS - int(recipe.held_out * NUM_ITEMS)  # of these, more than the part that is asked for
    assert f" passes over {trained} items " in " ".join((tmp_path / "config.yaml").read_text().replace("#", "").split())
    assert config.train.steps * config.train.batch_size / trained == pytest.approx(recipe.passes.value, rel=0.01)
    assert config.tuning.rank == config.tuning.alpha == recipe.rank.value
    assert config.data[0].caption_prefix == "ohwx"


def test_items_without_a_caption_need_a_trigger_word(
    models: Callable[..., Path], media: dict[str, Path], tmp_path: Path
) -> None:
    answers = replace(answers_of(models("ltx_video"), media, "effect", "clips", tmp_path / "run"), trigger=None)
    with pytest.raises(ConfigError, match=f"--trigger: {NUM_ITEMS} of {NUM_ITEMS} items .* give --trigger WORD"):
        make(answers, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(models: Callable[..., Path], media: dict[str, Path], tmp_path: Path) -> None:
    answers = answers_of(models("flux"), media, "style", "pictures", tmp_path / "run")
    for name in ("config.yaml", "config-prompts.json"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(ConfigError, match=f"{name} exists already"):
            make(answers, folder)
        assert [(file.name, file.read_text()) for file in folder.iterdir()] == [(name, "mine")]


@pytest.mark.long
def test_a_card_decides_the_memory_settings(models: Callable[..., Path], media: dict[str, Path], tmp_path: Path) -> None:
    answers = answers_of(models("flux"), media, "style", "pictures", tmp_path / "run")
    make(replace(answers, card="24GB"), tmp_path, "config.yaml")
    assert not load_config(tmp_path / "config.yaml").train.gradient_checkpointing  # of a tiny model all fits
    assert "predicted by plan for 24GB" in (tmp_path / "config.yaml").read_text()


def test_a_card_that_is_too_small_leaves_nothing_and_is_named_by_its_option(
    models: Callable[..., Path], media: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, drawn = shutil.copytree(media["pictures"], tmp_path / "data"), list[str]()
    for file in data.glob("*.txt"):
        file.write_text("The image shows a cat")

    def refuse(config: Config, _: object) -> None:
        assert config.validation.prompts is not None  # else what drawing takes is not counted
        drawn.extend(row["prompt"] for row in json.loads(Path(config.validation.prompts).read_text()))
        raise ConfigError("--gpu: a step may take 0.1 GB")

    monkeypatch.setattr("finetrainers.training.init.memory.plan", refuse)
    answers = answers_of(models("flux"), {"pictures": data}, "style", "pictures", tmp_path / "run")
    with pytest.raises(ConfigError, match="^--card: 1GB: a step may take 0.1 GB"):
        make(replace(answers, card="1GB"), tmp_path)
    assert list(tmp_path.iterdir()) == [data]
    caption, with_trigger, without = drawn
    assert caption == "ohwx A cat"  # as it is trained on
    assert with_trigger == f"ohwx {without}"


def test_a_configuration_that_cannot_be_written_leaves_no_prompts(
    models: Callable[..., Path], media: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(file: Path, text: str) -> None:
        if file.suffix == ".yaml":
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write_text(text)

    monkeypatch.setattr("finetrainers.training.init.write.write_whole", write)
    with pytest.raises(OSError, match="No space left"):
        make(answers_of(models("flux"), media, "style", "pictures", tmp_path / "run"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_model_that_starts_from_a_picture_needs_clips_and_draws_nothing_unasked(
    models: Callable[..., Path], media: dict[str, Path], tmp_path: Path
) -> None:
    model = models("cogvideox", "5b-i2v")
    assert outcome(answers_of(model, media, "effect", "clips", tmp_path / "run"), tmp_path / "clips") == "would train"
    assert load_config(tmp_path / "clips" / "config.yaml").validation.prompts is None
    assert outcome(answers_of(model, media, "style", "pictures", tmp_path / "run"), tmp_path / "pictures") == "--data"


def test_sizes_follow_small_data_and_spare_a_few_that_are_smaller(
    models: Callable[..., Path], media: dict[str, Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(media["pictures"], data)
    for number in range(30):
        shutil.copy(data / f"{number % NUM_ITEMS:02d}.png", data / f"more{number}.png")
    Image.new("RGB", (20, 20)).save(data / "small.png")
    answers = replace(answers_of(models("flux"), media, "style", "pictures", tmp_path / "run"), data=str(data))
    written = make(answers, tmp_path)
    assert load_config(tmp_path / "config.yaml").data[0].buckets == math.isqrt(128 * 192)
    assert any("small.png" in line and "on_error" in line for line in written.lines)


@pytest.mark.parametrize("kind", LEARNED)
def test_each_figure_of_a_recipe_is_in_its_range_and_names_sources_that_are_known(kind: Kind) -> None:
    learned = LEARNED[kind]
    figures = [learned.rate, *(figure for own in learned.recipes.values() for figure in (own.rank, own.passes))]
    assert all(figure.low <= figure.value <= figure.high for figure in figures)
    named = {name for figure in figures for name in figure.sources} | set(learned.sources)
    assert named <= SOURCES.keys()
    assert [size_of(items) for items in (1, 29, 30, 99, 100)] == ["10-30", "10-30", "30-100", "30-100", "100+"]
    assert recipe_of(kind, FEWEST - 1).held_out == 0 < recipe_of(kind, FEWEST).held_out
