"""Data sets and samples of ai-toolkit."""

from typing import Any

from finetrainers.config.migrate.draft import Draft, Note, is_off
from finetrainers.config.migrate.shared import add_data, put_masks
from finetrainers.config.migrate.values import count, integer, number, numbers, switch, text
from finetrainers.config.syntax import Tree
from finetrainers.errors import ConfigError

STEP = 64
"""What sizes are multiples of, where a data set does not say it."""
IDLE = {
    "cache_latents": "latents are always cached",
    "cache_latents_to_disk": "latents are always cached",
    "cache_text_embeddings": "captions are always encoded before",
    "cache_tensors_to_disk": "latents are always cached",
    "cache_clip_vision_to_disk": "what the encoders make is always cached",
    "debug": "finetrainers data inspect shows the data",
    "cache_latents_num_workers": "cache.workers says it",
    "fast_image_size": "sizes are read from headers",
    "replay_transforms": "controls are cut as their items are",
    "full_size_control_images": "conditioning.pixels says it",
    "trim_auto_frame_count_tail": "frames are those of the bucket",
    "load_image_when_caching_latents": "is not needed",
    "type": "what a folder holds is found out",
}
LOST = {
    "shuffle_tokens": "captions stay as they are",
    "token_dropout_rate": "captions stay as they are; caption_dropout drops whole ones",
    "keep_tokens": "captions stay as they are",
    "default_caption": "give each item a caption file",
    "random_triggers": "captions stay as they are",
    "flip_y": "only horizontal_flip is there",
    "augments": "colors stay as they are",
    "augmentations": "colors stay as they are",
    "scale": "buckets say the size",
    "random_scale": "buckets say the size",
    "square_crop": "give buckets of one size",
    "alpha_mask": "give masks as files, with mask_path",
    "invert_mask": "white is trained; turn the masks round",
    "network_weight": "loss_weight weighs a data set",
    "controls": "conditioning.signal computes canny, gray, blur and downscale",
    "inpaint_path": "conditioning.signal: files uses images",
    "clip_image_path": "there are no image prompts here",
    "unconditional_path": "there is no such loss here",
    "auto_frame_count": "give frames to buckets",
    "do_audio": "there is no sound here",
    "prior_reg": "loss_weight weighs a data set",
    "use_short_captions": "name the column with caption_column",
    "replacements": "captions stay as they are",
    "batch_size": "all data sets have train.micro_batch_size",
    "standardize_images": "pixels stay as they are",
    "control_path_2": "one control image of each item is used here",
    "control_path_3": "one control image of each item is used here",
    "buckets": "buckets say the sizes",
}


def put_data(draft: Draft, *, is_edit: bool) -> None:
    """Write data sets; each resolution of one is a set, since there each item has all of them."""
    trigger = draft.take("trigger_word", None, text)
    regular, dropout = draft.take("train.reg_weight", 1.0, number), draft.take("train.prompt_dropout_prob", 0.0, number)
    if dropout:
        draft.lost("train.prompt_dropout_prob", dropout, "data.N.caption_dropout does that for each data set")
    for number_of in range(draft.count("datasets")):
        inner = Draft(draft.take_table(f"datasets.{number_of}"))
        for data in _sets(draft, inner, trigger, regular, is_edit=is_edit):
            add_data(draft, data)
        inner.settle(IDLE, LOST)
        inner.finish("is not known here; see docs/configuration.md#datan")
        draft.notes += [Note(note.kind, f"datasets.{number_of}.{note.key}", note.value, note.text) for note in inner.notes]
    if trigger:
        draft.differs("trigger_word", trigger, "stands before every caption here, also where the caption has it already")
    if not draft.tree.get("data"):
        raise ConfigError("datasets: there are none; a configuration needs one")
    put_masks(draft)


def _sets(draft: Draft, inner: Draft, trigger: str | None, regular: float, *, is_edit: bool) -> list[Tree]:
    folder, listed = inner.take("folder_path", None, text), inner.take("dataset_path", None, text)
    data: Tree = {"path": folder or listed}
    if data["path"] is None:
        raise ConfigError("datasets: one has no folder_path; a data set needs a folder")
    own = inner.take("trigger_word", trigger, text)
    if own:
        data["caption_prefix"] = own
    extension = inner.take("caption_ext", "txt", text).removeprefix(".")
    if extension != "txt":
        inner.lost("caption_ext", extension, "captions next to media are .txt; or list them in a metadata.jsonl")
    _put_plain(inner, data)
    weight = inner.take("loss_multiplier", 1.0, number) * (regular if inner.take("is_reg", False, switch) else 1.0)
    if weight != 1:
        data["loss_weight"] = weight
    if inner.take("random_crop", False, switch):
        data["resize"] = "random_crop"
    frames = _put_frames(inner, data)
    _put_files(draft, inner, data, is_edit=is_edit)
    _put_loader(draft, inner)
    step = inner.take("bucket_tolerance", STEP, integer)
    sizes = numbers("resolution", inner.take("resolution", 512))
    if inner.left.get("buckets") is True:
        inner.idle("buckets", inner.take("buckets"), "buckets are always there")
    return [{**data, "buckets": {"pixels": int(size) ** 2, "frames": [frames], "step": step}} for size in sizes]


def _put_plain(inner: Draft, data: Tree) -> None:
    for theirs, ours, read in (
        ("num_repeats", "repeats", number),
        ("caption_dropout_rate", "caption_dropout", number),
        ("flip_x", "horizontal_flip", switch),
    ):
        value = inner.take(theirs, None, read)
        if value is not None and not is_off(value) and value != 0:
            data[ours] = value
        elif value is not None:
            inner.idle(theirs, value, "is off")


def _put_loader(draft: Draft, inner: Draft) -> None:
    workers, ahead = inner.take("num_workers", None, integer), inner.take("prefetch_factor", None, integer)
    if workers is not None:
        draft.put("loader.workers", workers)
    if ahead is not None and workers != 0:
        draft.put("loader.prefetch", ahead)
    elif ahead is not None:
        inner.idle("prefetch_factor", ahead, "num_workers is 0")


def _put_frames(inner: Draft, data: Tree) -> int:
    """Write which frames of a clip are taken; return how many."""
    frames: int = inner.take("num_frames", 1, count)
    is_shrunk, fps = inner.take("shrink_video_to_frames", True, switch), inner.take("fps", None, number)
    if inner.take("do_i2v", False, switch):
        inner.differs("do_i2v", True, "the model's task says it: see model.task")
    if frames > 1 and is_shrunk:
        data["frame_sampling"] = "uniform"
        data["fps"] = None
        if fps is not None:
            inner.idle("fps", fps, "shrink_video_to_frames does not read it")
    elif frames > 1:
        data["frame_sampling"] = "random"
        data["fps"] = fps or 24.0
    elif fps is not None:
        inner.idle("fps", fps, "one frame is taken")
    return frames


def _put_files(draft: Draft, inner: Draft, data: Tree, *, is_edit: bool) -> None:
    """Write masks and control pictures."""
    mask = inner.take("mask_path", None, text)
    floor = inner.take("mask_min_value", 0.0, number)
    if mask:
        data["folders"] = {"mask": mask}
        if floor:
            draft.put("objective.mask_floor", floor)
    elif floor:
        inner.idle("mask_min_value", floor, "without mask_path nothing is masked")
    control: Any = inner.take("control_path") or inner.take("control_path_1")
    if isinstance(control, list):
        inner.lost("control_path", control, "one control image of each item is used here: the first")
        control = control[0] if control else None
    if control and is_edit:
        data.setdefault("folders", {})["reference"] = control
        draft.put("conditioning.kind", "references")
    elif control:
        data.setdefault("folders", {})["control"] = control
        draft.put("conditioning", {"kind": "channel_concat", "signal": "files"})


def put_prompts(draft: Draft) -> None:
    """Write what is generated, and how often."""
    keys = {"width": 512, "height": 512, "num_frames": 1, "fps": 16, "guidance_scale": 7, "sample_steps": 20}
    shared = {key: draft.take(f"sample.{key}", default) for key, default in keys.items()}
    negative, seed = draft.take("sample.neg", ""), draft.take("sample.seed", 0, integer)
    is_walking, every = draft.take("sample.walk_seed", False, switch), draft.take("sample.sample_every", 100, integer)
    prompts = draft.take("sample.prompts") or []
    rows = [{"prompt": prompt} for prompt in (prompts if isinstance(prompts, list) else [prompts])]
    samples = [draft.take_table(f"sample.samples.{index}") for index in range(draft.count("sample.samples"))]
    trigger = next((data["caption_prefix"] for data in draft.tree["data"] if "caption_prefix" in data), "")
    if draft.take("train.disable_sampling", False, switch):
        draft.idle("sample.prompts", len(rows or samples), "train.disable_sampling generates nothing")
        return
    for index, row in enumerate(samples or rows):
        given = {**shared, "neg": negative, "seed": seed + index if is_walking else seed} | row
        draft.prompts.append(_prompt(draft, given, trigger, index))
    draft.put("validation.every", every)


def _prompt(draft: Draft, row: Tree, trigger: str, index: int) -> Tree:
    names = {"sample_steps": "num_inference_steps", "neg": "negative_prompt", "ctrl_img": "reference"}
    same = ("prompt", "width", "height", "num_frames", "guidance_scale", "seed")
    found: Tree = {}
    for key, value in row.items():
        if key == "fps":
            found |= {"fps": value} if row["num_frames"] != 1 else {}
        elif key in names or key in same:
            found |= {names.get(key, key): value} if value not in (None, "", False) else {}
        else:
            draft.lost(f"sample.samples.{index}.{key}", value, "prompts have no such key")
    found["prompt"] = str(found.get("prompt", "")).replace("[trigger]", trigger)
    return found
