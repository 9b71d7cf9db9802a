"""Lines of Python that generate with exported weights: the pipeline's call, with the settings of a sample or of the run."""

import json
import math
from dataclasses import replace
from typing import Any

from finetrainers.config import Config
from finetrainers.config.prompts import PromptConfig
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.models import Model, Request
from finetrainers.runs.outputs import Sample
from finetrainers.sampling.prompts import usual_size
from finetrainers.sampling.sampler import task_of
from finetrainers.training.cards.words import trigger_words

PLACE = "FILE"
"""Stands for a picture that the user has to name."""


def call_lines(config: Config, model: Model, sample: Sample | None) -> str:
    """Lines that generate, after those that load; empty where arguments are no plain ones, such as conditions of their own.

    Args:
        config: Of the run.
        model: What generates.
        sample: Whose prompt and settings the call has, if there is one.
    """
    request = _request(config, model) if sample is None else _request_of(sample)
    pictures, imports, before = _pictures(config, model, request)
    if pictures is None:
        return ""
    told = "".join(f"    {name}={value},\n" for name, value in {**pictures, **_arguments(config, model, request)}.items())
    is_video = model.adapter.grid.has_video and request.size[0] > 1
    name, output, save = ("video", "frames", "") if is_video else ("image", "images", 'image.save("image.png")\n')
    if is_video:
        imports += "from finetrainers import write_video\n"
        fps = model.adapter.default_fps if request.fps is None else request.fps
        save = f'write_video("video.mp4", video, fps={fps:g})\n'
    return f"{imports}\n" * bool(imports) + f'pipeline.to("cuda")\n{before}{name} = pipeline(\n{told}).{output}[0]\n{save}'


def _request(config: Config, model: Model) -> Request:
    """What is generated where a run has no samples."""
    words = " ".join([*trigger_words(config)[:1], "TEXT"])
    defaults = PromptConfig(prompt=words)
    return Request(words, usual_size(config.data[0].buckets, model), defaults.num_inference_steps, defaults.seed)


def _request_of(sample: Sample) -> Request:
    told = sample.settings
    names = ("guidance", "negative_prompt", "fps", "image", "last_image", "control")
    own: dict[str, Any] = {key: told.get(key) for key in names}
    return Request(sample.prompt, tuple(told["size"]), told["steps"], told["seed"], **own)


def _arguments(config: Config, model: Model, request: Request) -> dict[str, str]:
    """Arguments of the call besides pictures, as they are typed."""
    _, height, width = request.size
    references = (PLACE,) if config.references is not None else ()
    own = model.adapter.sampling_arguments(replace(request, references=references))
    found: dict[str, Any] = {"prompt": json.dumps(request.prompt, ensure_ascii=False)}
    if request.negative_prompt is not None:
        found["negative_prompt"] = json.dumps(request.negative_prompt, ensure_ascii=False)
    found |= {"height": height, "width": width, **own, "num_inference_steps": request.steps}
    if request.guidance is not None:
        found["guidance_scale"] = request.guidance
    if config.model.max_sequence_length is not None:
        found["max_sequence_length"] = config.model.max_sequence_length
    found["generator"] = f"torch.Generator().manual_seed({request.seed})"
    return {name: str(value) for name, value in found.items()}


def _pictures(config: Config, model: Model, request: Request) -> tuple[dict[str, str] | None, str, str]:
    """Arguments that are pictures, what they import, and lines before the call; None where they are no plain ones."""
    load = "from diffusers.utils import load_image\n"
    _, height, width = request.size
    if config.references is not None:
        sizes = resolve_buckets(config.references.budget)
        _, rows, columns = min(sizes, key=lambda one: abs(math.log(one[1] * width / (one[2] * height))))
        about = f"  # in this run about {config.references.pixels} pixels"
        return {"image": "picture"}, load, f'picture = load_image("{PLACE}").resize(({columns}, {rows})){about}\n'
    if config.control is not None:
        about = f"  # {str(config.control.signal).rpartition('/')[2]}, as in training"
        return {"control_image": "control"}, load, f'control = load_image("{PLACE}").resize(({width}, {height})){about}\n'
    task = task_of(request, model)
    needed = {"image-to-video": ["image"], "first-last-frame-to-video": ["image", "last_image"]}.get(task, [])
    shown = dict.fromkeys(needed, PLACE)
    if dict(model.adapter.picture_arguments(request, shown)) != shown:
        return None, "", ""
    return {name: f'load_image("{PLACE}")' for name in needed}, load if needed else "", ""
