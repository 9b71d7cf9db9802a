"""What can be known to be wrong before anything is loaded: sizes, data types, prompt lengths, attention backends."""

from collections.abc import Sequence

import torch

from finetrainers.compat.packages import require
from finetrainers.conditioning import build_conditioning
from finetrainers.config import Config, FullConfig, ReferencesConfig
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.data.streams import Stream, beside
from finetrainers.errors import ConfigError
from finetrainers.export.saved import check_saved
from finetrainers.memory.attention import MASKLESS, check_attention
from finetrainers.memory.compile import check_compile, sizes_are_fixed
from finetrainers.memory.quantize.formats import check_format
from finetrainers.memory.techniques import check_blocks
from finetrainers.models import Model
from finetrainers.models.base import ModelAdapter, Settings
from finetrainers.models.blocks import check_blocks_exist
from finetrainers.training.native_sizes import FROM_FRAMES
from finetrainers.tuning import build_tuning
from finetrainers.tuning.base import Size, size_of
from finetrainers.tuning.exported import adapted_layers


def check_buckets(config: Config, model: Model) -> None:
    """Refuse buckets that the model cannot take.

    Raises:
        ConfigError: Naming the bucket and the nearest possible one.
    """
    for name, sets in (("data", config.data), ("validation.data", config.validation.data)):
        for index, data in enumerate(sets):
            for bucket in resolve_buckets(data.buckets):
                where, grid = f"{name}.{index}.buckets", model.adapter.grid
                nearest = grid.nearest(bucket)
                if bucket != nearest:
                    raise ConfigError(
                        f"{where}: {list(bucket)} is impossible for {model.adapter.name}; "
                        f"the nearest possible is {list(nearest)} (frames, height, width)"
                    )
                if model.task in FROM_FRAMES and grid.encoded_shape(bucket)[1] == 1:
                    raise ConfigError(
                        f"{where}: {list(bucket)} has single images, which cannot serve the task {model.task}; "
                        f"set a bucket of {1 + grid.vae_frame_step} frames or more, or model.task"
                    )


def check_start(config: Config) -> None:
    """Refuse weights to begin from that are not there.

    Raises:
        ConfigError: Naming the folder.
    """
    start = config.tuning.start_from
    if start is not None and not start.is_dir():
        raise ConfigError(f"tuning.start_from: there is no folder {start}; name weights that a run has exported")


def check_steps_left(config: Config, resumed: int) -> None:
    """Refuse to continue a run that is further already.

    Raises:
        ConfigError: If it is.
    """
    if resumed > config.train.steps:
        raise ConfigError(f"train.steps: {config.train.steps} is less than the {resumed} steps that this run has taken")


def without_start(config: Config) -> Config:
    """Return the configuration of a run that begins from its model's own weights."""
    return config.model_copy(update={"tuning": config.tuning.model_copy(update={"start_from": None})})


def check_conditioning(config: Config, model: Model) -> None:
    """Refuse references that the model does not take, and a control that it or the buckets have no place for.

    Raises:
        ConfigError: Naming the key and what to set instead.
    """
    if config.references is not None:
        _check_references(config.references, model, config.condition_key("references"))
    control, key = config.control, config.condition_key("channel_concat")
    if control is None:
        return
    if model.adapter.input_layout is None:
        raise ConfigError(
            f"{key}.kind: {control.kind} is impossible: {model.adapter.name} takes no control "
            "(input_layout of its adapter is None); set none"
        )
    if not model.takes_image:
        adapter, grid = model.adapter, model.adapter.grid
        one_token = torch.empty(1, grid.channels, grid.frame_patch, grid.patch, grid.patch, device="meta")
        plain, found = adapter.arrange(one_token).shape[adapter.channel_dim], adapter.settings.get("in_channels", None)
        if found not in (None, plain):
            raise ConfigError(
                f"model.path: {config.model.path} takes {found} channels, where noisy latents have {plain}: it has a "
                "control of its own; begin from the plain model, or remove conditioning"
            )
    if control.frames == "full":
        return
    sets = (*config.data, *config.validation.data)
    sizes = [bucket for data in sets for bucket in resolve_buckets(data.buckets)]
    counts = [1 + (frames - 1) // model.adapter.grid.vae_frame_step for frames, _, _ in sizes]
    fewest, most = min(counts), max(counts)
    if most == 1:
        raise ConfigError(f"{key}.frames: {control.frames} has no effect on buckets of one latent frame; remove it")
    if control.frames == "index" and control.frame_index >= fewest:
        raise ConfigError(
            f"{key}.frame_index: {control.frame_index} is beyond the last latent frame of a bucket, "
            f"which has {fewest}; the largest possible is {fewest - 1}"
        )


def _check_references(config: ReferencesConfig, model: Model, key: str) -> None:
    """Refuse references that the model does not take, or not in these sizes.

    Raises:
        ConfigError: Naming the key and what to set instead.
    """
    adapter = model.adapter
    if model.task not in adapter.pictures.reference_pipelines:
        tasks = ", ".join(adapter.pictures.reference_pipelines)
        way_out = f"set model.task to one of {tasks}" if tasks else "set none, or train a FLUX.1 model"
        raise ConfigError(
            f"{key}.kind: references is impossible: {adapter.name} does not support it in the task {model.task}; {way_out}"
        )
    for size in resolve_buckets(config.budget):
        if size != adapter.grid.nearest(size):
            unit = adapter.grid.vae_step * adapter.grid.patch
            raise ConfigError(
                f"{key}.step: {config.step} makes references of {list(size[1:])} pixels, which are impossible for "
                f"{adapter.name}; set a multiple of {unit}"
            )


def check_streams(config: Config, streams: Sequence[Stream]) -> None:
    """Refuse columns and folders of streams that no part of the run reads from files.

    Raises:
        ConfigError: Naming the key.
    """
    known = {stream.name for stream in beside(streams)}
    for section, sets in (("data", config.data), ("validation.data", config.validation.data)):
        for number, data in enumerate(sets):
            for key, named in (("columns", data.columns), ("folders", data.folders)):
                for stream in named.keys() - known:
                    has = f"only files of {', '.join(sorted(known))}" if known else "no files next to the media"
                    raise ConfigError(
                        f"{section}.{number}.{key}.{stream}: {named[stream]} has no effect: this run reads {has}; remove it"
                    )


def check_mirrors(config: Config, streams: Sequence[Stream]) -> None:
    """Refuse to mirror media beside pictures that are shown as they are.

    Raises:
        ConfigError: Naming the key.
    """
    unmirrored = [stream.name for stream in streams if stream.has_own_size]
    for number, data in enumerate(config.data):  # validation.data has no views that could be mirrored
        if data.horizontal_flip and unmirrored:
            raise ConfigError(
                f"data.{number}.horizontal_flip: true would mirror media and not their {unmirrored[0]}s; remove it"
            )


def check_tuning(config: Config, model: Model) -> Size:
    """Refuse targets, modules, norms and blocks that the denoiser has none of, by a try without weights.

    Returns:
        How much of all denoisers would train.

    Raises:
        ConfigError: Naming the key and what there is.
        ModelError: If the adapter names blocks that there are not.
    """
    tuning = build_tuning(without_start(config).tuning)
    conditioning = build_conditioning(config.conditioning)
    tried: list[tuple[Settings, Size]] = []
    total = Size(0, 0)
    for name in model.denoisers.trained:
        settings = model.pretrained.settings(name)
        known = [size for before, size in tried if before == settings]
        if known:  # an expert of the same shape
            total += known[0]
            continue
        shell = model.pretrained.shell(name)
        check_blocks_exist(shell, model.adapter.blocks, type(model.adapter).__name__)
        check_blocks(shell, model.adapter.blocks, config.memory)
        conditioning.prepare(shell, model.adapter)
        full_modules = conditioning.trained_modules(shell, model.adapter)
        tuning.apply(shell, model.adapter, component=name, seed=config.seed, full_modules=full_modules)
        if config.checkpoint.export:
            check_saved(config, model.adapter.name, adapted_layers(shell))
        tried.append((settings, size_of(shell)))
        total += tried[-1][1]
    return total


def check_computation(config: Config, model: Model) -> None:
    """Refuse data types, prompt lengths and attention backends that could not train or generate.

    Raises:
        ConfigError: Naming the key and what to set instead.
    """
    for denoiser in (*model.denoisers.trained, *model.denoisers.frozen):
        dtype = model.pretrained.place(denoiser).dtype
        if dtype == torch.float16:
            raise ConfigError(
                f"model.dtype: the gradients of a float16 {denoiser} underflow; set bfloat16 or float32 "
                f"(or model.components.{denoiser}.dtype)"
            )
        if dtype != model.dtype:
            raise ConfigError(f"model.components.{denoiser}.dtype: all experts have one data type; set it with model.dtype")
    largest = model.adapter.text.largest_length
    if largest is not None and model.max_length > largest:
        raise ConfigError(
            f"model.max_sequence_length: {model.max_length} is more than {largest}, the limit of {model.adapter.name}"
        )
    if model.adapter.text.is_fixed_length and model.max_length != model.adapter.text.max_length:
        raise ConfigError(
            f"model.max_sequence_length: {model.adapter.name} has positions for prompts of exactly "
            f"{model.adapter.text.max_length} tokens, not {model.max_length}; remove it"
        )
    check_compile(config.compile)
    if isinstance(config.tuning, FullConfig) and config.tuning.qat != "none":
        require("torchao", key="tuning.qat", value=config.tuning.qat, way_out="remove it")
    check_format("memory.weights", config.memory.weights)
    check_format("memory.text_encoder_weights", config.memory.text_encoder_weights)
    _check_attention(config, model.adapter)


def _check_attention(config: Config, adapter: ModelAdapter) -> None:
    """Refuse attention backends that are not there, that would not be asked, or that take no mask.

    Raises:
        ConfigError: Naming the key and what to set instead.
    """
    train, validate = config.attention.train, config.attention.validation
    check_attention("train", train, is_dispatched=adapter.dispatches_attention)
    check_attention("validate", validate, is_dispatched=adapter.dispatches_attention)
    check_masks(config, adapter)


def check_masks(config: Config, adapter: ModelAdapter) -> None:
    """Refuse attention backends that take no mask where there is one.

    Raises:
        ConfigError: Naming the key and what to set instead.
    """
    train, validate = config.attention.train, config.attention.validation
    if not adapter.masks_attention:
        return
    why = f"takes no mask, and {adapter.name} masks the padding of prompts"
    if validate in MASKLESS:
        raise ConfigError(
            f"attention.validate: {validate!r} {why}; set auto, native, or a backend of varying lengths such as flash_varlen"
        )
    if train not in MASKLESS:
        return
    if adapter.text.mask is None:
        raise ConfigError(f"attention.train: {train!r} {why}; set auto, native, or a backend of varying lengths")
    if sizes_are_fixed(config.compile):
        raise ConfigError(
            f"attention.train: {train!r} {why}, which compile.kind: {config.compile.kind} keeps at one length; "
            "set compile.dynamic: true, or attention.train: auto or native"
        )
    if config.train.micro_batch_size > 1:
        raise ConfigError(
            f"attention.train: {train!r} {why} where those of a micro-batch differ in length; set "
            "train.micro_batch_size: 1, or attention.train: auto, native, or one of varying lengths such as flash_varlen"
        )
