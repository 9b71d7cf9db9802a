"""The configuration as a tree, with the reason of each line, from what was asked and what was found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetrainers.config import DataConfig
from finetrainers.config.syntax import Tree
from finetrainers.data.sources.captions import final_caption
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.training.init.answers import Answers
from finetrainers.training.init.look import Looked
from finetrainers.training.init.recipes import FEWEST, LEARNED, Learned, Recipe, recipe_of, size_of
from finetrainers.training.init.sizes import Sizes, choose_sizes
from finetrainers.training.native_sizes import FROM_FRAMES

VALIDATIONS = 8
"""Samples and held-out losses over a run, about."""
WARMUP_STEPS, WARMUP_PART = 100, 10
"""Steps of warm-up, but no more than a tenth of all. A convention."""
PROMPTS = 2
"""Captions that are generated again and again, besides one prompt that the data do not have."""
OTHER_PROMPT = "a red bicycle beside a wooden door, in morning light"
"""Generated without the trigger word: what it shows must not change."""


CHECKPOINTING = (
    "less memory, and slower. On a GPU, a section memory: {preset: auto} instead of this line takes the fastest settings "
    "that fit"
)
"""Why, where no card is named."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A configuration, before it is written."""

    tree: Tree
    comments: dict[str, str] = field(default_factory=dict)
    """By the path of a key."""
    prompts: list[Mapping[str, Any]] = field(default_factory=list)
    """For the prompts file; none where the model starts from pictures that nobody has named."""

    def put(self, section: str, values: Mapping[str, Any], comment: str = "") -> None:
        """Add keys to a section, and say why above it."""
        self.tree.setdefault(section, {}).update(values)
        if comment:
            self.comments[section] = comment


def make_draft(answers: Answers, model: Model, looked: Looked, *, prompts: Path) -> Draft:
    """Choose all settings but those of memory.

    Raises:
        ConfigError: If the model cannot learn that from these data.
    """
    _check_captions(answers, looked)
    learned, recipe = LEARNED[answers.learn], recipe_of(answers.learn, looked.num_items)
    sizes = choose_sizes(model, looked, answers.learn)
    draft = Draft({"output_dir": answers.output or free_folder(answers)})
    draft.comments["output_dir"] = (
        "where checkpoints, samples and weights go; the same command resumes what is there. Paths are seen from the folder "
        "in which the command is given"
    )
    _put_model(draft, answers, model)
    _put_data(draft, answers, looked, sizes, learned)
    if learned.needs == "pairs":
        _put_pairs(draft, answers, model)
    _put_training(draft, answers, model, looked, recipe)
    _put_validation(draft, model, recipe)
    if model.task not in FROM_FRAMES and learned.needs != "pairs":
        draft.put("validation", {"prompts": str(prompts)})
        if answers.trigger:
            draft.comments["validation.prompts"] = (
                "its last two prompts differ in the trigger word alone: where the one without it shows what is learnt, it "
                "leaks into other prompts"
            )
        draft.prompts.extend(_prompts(DataConfig.model_validate(draft.tree["data"][0]), looked, sizes, model))
    return draft


def free_folder(answers: Answers) -> str:
    """Name a run directory that is not there yet, after the data and what is learned."""
    name = f"{Path(answers.data).expanduser().resolve().stem or 'run'}-{answers.learn}"
    folders = (f"runs/{name}{'' if number == 1 else f'-{number}'}" for number in range(1, 1000))
    return next(folder for folder in folders if not Path(folder).exists())


def _check_captions(answers: Answers, looked: Looked) -> None:
    missing = looked.num_items - looked.num_captions
    if missing and not answers.trigger:
        raise ConfigError(
            f"--trigger: {missing} of {looked.num_items} items in {looked.path} have no caption, and no trigger word stands "
            "for one; give --trigger WORD, or write a .txt of the same name beside each file"
        )


def _put_model(draft: Draft, answers: Answers, model: Model) -> None:
    keys: Tree = {"path": answers.model, "dtype": "bfloat16"}
    comment = f"family {model.adapter.name}, task {model.task}; bfloat16 halves the memory of the frozen weights"
    if model.adapter.name == "wan":
        keys["components"] = {"vae": {"dtype": "float32"}}
        comment += "; diffusers recommends float32 for this VAE"
    draft.put("model", keys, comment)


def _put_data(draft: Draft, answers: Answers, looked: Looked, sizes: Sizes, learned: Learned) -> None:
    data: Tree = {"path": answers.data, "buckets": sizes.buckets}
    draft.comments.update(
        {
            "data": f"{looked.lines()[0]}. Captions: {learned.captions}",
            "data.0.buckets": sizes.comment,
        }
    )
    if sizes.videos_as_images:
        data["videos_as_images"] = True
        draft.comments["data.0.videos_as_images"] = "the model generates images: one frame of each video is taken"
    if answers.trigger:
        data["caption_prefix"] = answers.trigger
        draft.comments["data.0.caption_prefix"] = "the trigger word, put before every caption: write it in prompts, too"
    if looked.has_openings:
        data["remove_common_llm_caption_prefixes"] = True
        draft.comments["data.0.remove_common_llm_caption_prefixes"] = 'cuts "The image shows" and the like off captions'
    draft.tree["data"] = [data]


def _put_pairs(draft: Draft, answers: Answers, model: Model) -> None:
    """Say where the other picture of each pair is, and how the model is shown it."""
    data, pairs = draft.tree["data"][0], answers.pairs
    if answers.learn == "control":
        draft.put("conditioning", {"kind": "channel_concat", "signal": "files"}, "each item has a file as its control")
        if pairs is not None:
            data["control_path"] = pairs
            draft.comments["data.0.control_path"] = "control files, each with the name of its item"
        return
    if model.task not in model.adapter.pictures.reference_pipelines:
        raise ConfigError(
            f"--learn: edit needs a model that is shown images to edit, such as FLUX.1 Kontext [dev]; {answers.model} "
            f"({model.adapter.name}, {model.task}) takes pairs as a control: --learn control"
        )
    draft.put("conditioning", {"kind": "references"}, "the picture before the edit is shown, in its own proportions")
    if pairs is not None:
        data["folders"] = {"reference": pairs}
        draft.comments["data.0.folders"] = "images before the edit, each with the name of its item"


def _put_training(draft: Draft, answers: Answers, model: Model, looked: Looked, recipe: Recipe) -> None:
    items = looked.num_trained(recipe.held_out)
    batch_size = min(recipe.batch_size, items)
    steps = max(1, round(recipe.passes.value * items / batch_size))
    column = f"{answers.learn}, {size_of(looked.num_items)} items"
    if looked.num_items < FEWEST:
        column += f" (fewer than {FEWEST}: the figures are not meant for so few; add more)"
    published, factor = model.adapter.recipe, LEARNED[answers.learn].rate.value
    rank = int(recipe.rank.value)
    draft.put(
        "tuning",
        {"kind": "lora", "rank": rank, "alpha": published.scale * rank},
        f"{column}: others take {_range(recipe.rank.low, recipe.rank.high)}; auto would be {published.rank}, the family's. "
        f"alpha / rank is {published.scale:g}, as is usual for {model.adapter.name}",
    )
    rate = f"{published.lr:g} is usual for {model.adapter.name}"
    rate += (
        ", which is what auto takes"
        if factor == 1
        else f", which is what auto takes; a control is learned at {factor:g} of it"
    )
    draft.put("optimizer", {"lr": published.lr * factor}, rate)
    warmup = min(WARMUP_STEPS, steps // WARMUP_PART)
    draft.put("schedule", {"name": "constant", "warmup_steps": warmup}, f"rises for {warmup} steps, then stays")
    draft.put(
        "train",
        {"steps": steps, "batch_size": batch_size, "micro_batch_size": 1, "gradient_checkpointing": True},
        f"{recipe.passes.value:g} passes over {items} items / batch_size; others take "
        f"{_range(recipe.passes.low, recipe.passes.high)} passes",
    )
    draft.comments["train.gradient_checkpointing"] = CHECKPOINTING


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _put_validation(draft: Draft, model: Model, recipe: Recipe) -> None:
    steps = draft.tree["train"]["steps"]
    every = max(1, _rounded(steps / VALIDATIONS))
    draft.put("checkpoint", {"every": every, "keep": 2}, "steps between checkpoints; the weights of all are kept")
    keys: Tree = {"every": every}
    comment = "samples at step 0, then at each checkpoint; the best one is often not the last"
    if recipe.held_out:
        keys["held_out"] = recipe.held_out
        comment = (
            f"{recipe.held_out:.0%} of the items are not trained on: when their loss rises while the training loss falls, "
            "the run overfits"
        )
    if model.task in FROM_FRAMES or draft.tree.get("conditioning"):
        comment += ". For samples, name a prompts file with images to start from (docs: configuration, prompts)"
    if recipe.held_out or not (model.task in FROM_FRAMES or draft.tree.get("conditioning")):
        draft.put("validation", keys, comment)


def _rounded(number: float) -> int:
    """Round down to 1, 2, 2.5 or 5 times a power of ten."""
    unit = 1
    while unit * 10 <= number:
        unit *= 10
    return int(max((own * unit for own in (1, 2, 2.5, 5) if own * unit <= number), default=1))


def _prompts(data: DataConfig, looked: Looked, sizes: Sizes, model: Model) -> list[Mapping[str, Any]]:
    """Captions of the data, as they are trained on, and a prompt of something else; with a trigger word and without it.

    The two of a pair have one seed: what differs between them is what the word does.
    """
    trigger = data.caption_prefix
    words = [final_caption(caption, data) for caption in looked.captions[: PROMPTS - bool(trigger)] or ("",)]
    seeds = list(range(len(words) + 1))
    if trigger:
        words, seeds = [*words, f"{trigger} {OTHER_PROMPT}"], [*seeds, seeds[-1]]
    frames, height, width = sizes.drawn
    size: dict[str, Any] = {
        "height": height,
        "width": width,
        **({"num_frames": frames} if model.adapter.grid.has_video else {}),
    }
    return [{"prompt": text, **size, "seed": number} for number, text in zip(seeds, [*words, OTHER_PROMPT], strict=True)]
