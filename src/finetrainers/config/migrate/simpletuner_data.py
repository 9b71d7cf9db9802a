"""Data backends and validation of SimpleTuner."""

from pathlib import Path
from typing import Any

from finetrainers.config.migrate.draft import Draft, Note, flatten
from finetrainers.config.migrate.shared import Epochs, add_data, put_masks
from finetrainers.config.migrate.values import (
    integer,
    number,
    numbers,
    one_of,
    read_beside,
    size,
    switch,
    table,
    tables,
    text,
    words,
)
from finetrainers.config.syntax import Tree
from finetrainers.errors import ConfigError

CACHES = ("text_embeds", "image_embeds", "conditioning_image_embeds")
"""Kinds of backends that hold what encoders made."""
IDLE = {
    "id": "data sets have numbers",
    "text_embeds": "captions are always cached",
    "image_embeds": "latents are always cached",
    "cache_dir_vae": "cache.path says it",
    "cache_dir": "cache.path says it",
    "metadata_backend": "sizes are read from headers",
    "vae_cache_clear_each_epoch": "data.N.views are encoded once",
    "skip_file_discovery": "data.N.recheck says it",
    "preserve_data_backend_cache": "data.N.recheck says it",
    "hash_filenames": "the cache has names of its own",
    "default": "is for caches",
    "write_batch_size": "is for caches",
    "disabled": "is off",
    "disable": "is off",
    "vae_cache_ondemand": "latents are always cached",
    "vae_cache_disable": "latents are always cached",
    "metadata_update_interval": "data.N.recheck says it",
    "video.min_frames": "shorter clips are bad samples",
    "video.bucket_strategy": "buckets say sizes and frames",
    "delete_unwanted_images": "nothing of yours is ever deleted",
    "delete_problematic_images": "nothing of yours is ever deleted",
}
SIZE = "large media are scaled down to cover their bucket; max_upscale limits how far small ones are enlarged"
LOST = {
    "minimum_image_size": SIZE,
    "maximum_image_size": SIZE,
    "target_downsample_size": SIZE,
    "crop_aspect_buckets": "list data.N.buckets",
    "max_upscale_threshold": SIZE,
    "minimum_aspect_ratio": "buckets.max_aspect says it",
    "video.max_frames": "longer clips are cut",
    "caption_shuffle.enable": "captions stay as they are",
    "max_num_samples": "repeats below 1 shows fewer in an epoch",
    "video.frame_interval": "list frames in data.N.buckets.frames",
    "video.is_i2v": "the model's task says it: see model.task",
    "start_step": "a data set is there from the first step to the last",
    "end_step": "a data set is there from the first step to the last",
    "start_epoch": "a data set is there from the first step to the last",
    "end_epoch": "a data set is there from the first step to the last",
    "slider_strength": "there are no sliders here",
    "timestep_sampling_offset": "objective.logit_mean is for all data sets",
    "train_batch_size": "all data sets have train.micro_batch_size",
    "caption_filter_list": "finetrainers data prepare edits captions",
    "probability": "give all data sets a weight",
    "conditioning": "conditioning.signal computes canny, gray, blur and downscale",
}


def put_data(draft: Draft, folder: Path) -> None:
    """Write the data sets of the file that ``data_backend_config`` names."""
    name = draft.take("data_backend_config", "config/multidatabackend.json", text)
    backends = tables("data_backend_config", read_beside("data_backend_config", name, folder))
    trained = [backend for backend in backends if backend.get("dataset_type", "image") in ("image", "video")]
    for key in ("resolution", "caption_strategy", "instance_prompt"):
        if key in draft.left and all(key in backend for backend in trained):
            draft.idle(key, draft.left.pop(key), "each backend has its own")
    shared = {
        "dropout": draft.take("caption_dropout_probability", 0.1, number),
        "resolution": draft.take("resolution", 1024, number),
        "strategy": draft.take("caption_strategy", "filename", text),
        "prompt": draft.take("instance_prompt", None, text),
        "step": draft.take("aspect_bucket_alignment", 64, integer),
    }
    conditions = {backend.get("id"): backend for backend in backends if backend.get("dataset_type") == "conditioning"}
    for index, backend in enumerate(backends):
        kind = backend.get("dataset_type", "image")
        if kind in CACHES or kind == "conditioning" or backend.get("disabled") or backend.get("disable"):
            reason = "caches have one folder: cache.path" if kind in CACHES else "is off, or is read with what it conditions"
            for key, value in flatten(backend).items():
                draft.idle(f"backends.{index}.{key}", value, reason)
            continue
        inner = Draft(backend)
        data = _set(draft, inner, shared, conditions)
        add_data(draft, data)
        inner.settle(IDLE, LOST)
        inner.finish("is not known here; see docs/configuration.md#datan")
        draft.notes += [Note(note.kind, f"backends.{index}.{note.key}", note.value, note.text) for note in inner.notes]
    if not draft.tree.get("data"):
        raise ConfigError(f"data_backend_config: {name} has no backend to train on; a configuration needs one")
    put_masks(draft)


def _set(draft: Draft, inner: Draft, shared: Tree, conditions: dict[Any, Tree]) -> Tree:
    data: Tree = {}
    data["path"] = _path(inner, data)
    is_video = inner.take("dataset_type", "image", one_of("image", "video")) == "video"
    _put_captions(inner, data, shared)
    repeats = inner.take("repeats", None, number)
    if repeats is not None:
        data["repeats"] = repeats + 1
        inner.differs("repeats", repeats, "0 is once there; 1 is once here")
    if shared["dropout"]:
        data["caption_dropout"] = shared["dropout"]
    if inner.take("is_regularisation_data", False, switch) or inner.take("is_regularization_data", False, switch):
        data["loss_weight"] = 0.5
        inner.differs("is_regularisation_data", True, "the base model is not compared with; the set counts less in the loss")
    is_cropped, style = inner.take("crop", True, switch), inner.take("crop_style", "random", text)
    if is_cropped and style == "random":
        data["resize"] = "random_crop"
    elif style not in ("random", "center"):
        inner.lost("crop_style", style, "see data.N.resize")
    data["buckets"] = _buckets(inner, shared, is_video=is_video, is_square=is_cropped)
    for name in words("", inner.take("conditioning_data") or []):
        condition = conditions.get(name, {})
        kind = condition.get("conditioning_type", "controlnet")
        folder = condition.get("instance_data_dir")
        if kind == "mask":
            data.setdefault("folders", {})["mask"] = folder
        elif kind.startswith("reference"):
            data.setdefault("folders", {})["reference"] = folder
            draft.put("conditioning", {"kind": "references"})
        else:
            data.setdefault("folders", {})["control"] = folder
            draft.put("conditioning", {"kind": "channel_concat", "signal": "files"})
            inner.differs("conditioning_data", name, "is concatenated in additional channels here; there are no ControlNets")
    return data


def _path(inner: Draft, data: Tree) -> str:
    """Find where the media are; columns of a table go into the data set."""
    kind = inner.take("type", "local", text)
    if kind == "huggingface":
        return _hub_path(inner, data)
    if kind == "aws":
        bucket, prefix = inner.take("aws_bucket_name", "", text), inner.take("aws_data_prefix", "", text)
        for key in [key for key in inner.left if key.startswith("aws_")]:
            inner.lost(
                key, inner.left.pop(key), "set the AWS_ variables in the shell; secrets are no part of a configuration"
            )
        return f"s3://{bucket}/{prefix}".rstrip("/")
    if kind not in ("local", "csv"):
        inner.lost("type", kind, "see docs/data_formats.md for what can be read")
    table, listed = inner.take_table("parquet"), inner.take("csv_file", None, text)
    folder = inner.take("instance_data_dir", None, text)
    if table.get("path"):
        inner.left |= {f"parquet.{key}": value for key, value in table.items()}
        return str(inner.take("parquet.path"))
    place = listed or folder
    if place is None:
        raise ConfigError(f"backend {inner.left.get('id')}: has no instance_data_dir; a data set needs a folder")
    return str(place)


def _hub_path(inner: Draft, data: Tree) -> str:
    """Name a data set of the Hub, with its columns and its split."""
    columns = {"image_column": "media_column", "video_column": "media_column", "caption_column": "caption_column"}
    for theirs, ours in {**columns, "split": "split"}.items():
        value = inner.take(f"huggingface.{theirs}")
        if value is not None:
            data[ours] = value
    for key, value in inner.take_table("huggingface").items():
        inner.lost(f"huggingface.{key}", value, "see docs/data_formats.md for what is read of a table")
    return f"hf://datasets/{inner.take('dataset_name', None, text)}"


def _put_captions(inner: Draft, data: Tree, shared: Tree) -> None:
    strategy, prompt = (
        inner.take("caption_strategy", shared["strategy"], text),
        inner.take("instance_prompt", shared["prompt"], text),
    )
    before, only = inner.take("prepend_instance_prompt", False, switch), inner.take("only_instance_prompt", False, switch)
    is_whole = inner.take("disable_multiline_split", False, switch)
    if strategy == "textfile":
        if not is_whole:
            data["caption_lines"] = True
    elif strategy == "parquet":
        for theirs, ours in (("filename_column", "media_column"), ("caption_column", "caption_column")):
            value = inner.take(f"parquet.{theirs}")
            if value is not None:
                data[ours] = value
    elif strategy != "huggingface":
        inner.lost(
            "caption_strategy", strategy, "give each item a caption file, or a metadata.jsonl with file_name and caption"
        )
    if before and prompt:
        data["caption_prefix"] = prompt
    elif prompt and (only or strategy == "instanceprompt"):
        data["caption_prefix"] = prompt
        inner.differs("instance_prompt", prompt, "was the whole caption; here it stands before each, which may be empty")
    elif prompt:
        inner.idle("instance_prompt", prompt, "prepend_instance_prompt is off")


def _buckets(inner: Draft, shared: Tree, *, is_video: bool, is_square: bool) -> Any:
    (resolution,) = numbers("resolution", inner.take("resolution", shared["resolution"], number))
    unit = inner.take("resolution_type", "pixel_area", one_of("pixel_area", "area", "pixel"))
    pixels = round(resolution * 10**6) if unit == "area" else round(resolution) ** 2
    if unit == "pixel":
        inner.differs("resolution_type", unit, "the shorter side there; here all sizes have the area of a square of it")
    aspect = inner.take("crop_aspect", "square", text)
    frames = [inner.take("video.num_frames", 125, integer)] if is_video else [1]
    largest = inner.take("maximum_aspect_ratio", None, number)
    if is_square and aspect == "square":
        side = max(16, round(pixels**0.5 / 16) * 16)
        return [[count, side, side] for count in frames]
    found: Tree = {"pixels": pixels, "frames": frames, "step": shared["step"]}
    return found | ({"max_aspect": max(largest, 1.0)} if largest else {})


def put_prompts(draft: Draft, folder: Path) -> None:
    """Write what validation generates, and how often."""
    prompts = [draft.take("validation_prompt", None, text)]
    library = draft.take("user_prompt_library", None, text)
    if library is not None:
        found = table("user_prompt_library", read_beside("user_prompt_library", library, folder))
        prompts += [value["prompt"] if isinstance(value, dict) else str(value) for value in found.values()]
    every, by_epoch = (
        draft.take("validation_step_interval", 100, integer),
        draft.take("validation_epoch_interval", None, integer),
    )
    if by_epoch:
        every = (
            Epochs(draft, draft.tree["train"]["batch_size"]).steps("validation_epoch_interval", by_epoch, "validation.every")
            or every
        )
    settings = {
        "guidance_scale": draft.take("validation_guidance", 7.5, number),
        "num_inference_steps": draft.take("validation_num_inference_steps", 30, integer),
        "negative_prompt": draft.take("validation_negative_prompt", "blurry, cropped, ugly", text),
        "seed": draft.take("validation_seed", 0, integer),
        "num_frames": draft.take("validation_num_video_frames", None, integer),
        "fps": draft.take("framerate", None, number),
    }
    sizes = words("", draft.take("validation_resolution", "256"))
    if draft.take("validation_disable", False, switch):
        return
    for prompt in filter(None, prompts):
        for written in sizes:
            width, height = size("validation_resolution", written)
            row = {"prompt": prompt, "width": width, "height": height, **settings}
            draft.prompts.append({key: value for key, value in row.items() if value not in (None, "")})
    if draft.prompts:
        draft.put("validation.every", every)
