"""Generate with the weights of a run, through the family's plain diffusers pipeline."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from finetrainers.batch import Text
from finetrainers.conditioning import Conditioning, build_conditioning
from finetrainers.config import Config, load_config
from finetrainers.distributed.world import pick_device
from finetrainers.errors import ConfigError
from finetrainers.files.steps import step_directory, step_folders
from finetrainers.files.storage import check_writable, storage_errors
from finetrainers.files.whole import MANIFEST, damage, hash_file
from finetrainers.memory.attention import attention_within, check_attention, settled_in
from finetrainers.memory.out_of_memory import out_of_memory_explained
from finetrainers.memory.precision import matmul_precision
from finetrainers.memory.residency import Residency
from finetrainers.models import Model, Request, open_model
from finetrainers.sampling.prompts import make_request, usual_size
from finetrainers.sampling.sampler import Sampler
from finetrainers.tuning import build_tuning


def sample_run(
    run: Path,
    prompts: Sequence[Mapping[str, Any]],
    *,
    step: int | None = None,
    use_base: bool = False,
    output: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Path]:
    """Generate with a run's exported weights; what is there already, from the same request, is not generated again.

    Args:
        run: The run's output_dir.
        prompts: Each with the keys of a prompts file; None means the default.
        step: Whose weights; by default the last that were exported.
        use_base: Generate without the trained weights.
        output: Folder for the files; by default ``run``/samples.
        device: As ``train.device``.
        progress: Called with the number of files that are done, and of those that are to be made.

    Raises:
        ConfigError: If there is no such run or step, or a prompt is impossible.
        StorageError: If the operating system refuses to read or write a file.
    """
    with storage_errors({"sample": run, "output": output or run / "samples"}):
        return _sample(run, prompts, step=step, use_base=use_base, output=output, device=device, progress=progress)


def _sample(
    run: Path,
    prompts: Sequence[Mapping[str, Any]],
    *,
    step: int | None,
    use_base: bool,
    output: Path | None,
    device: str,
    progress: Callable[[int, int], None],
) -> list[Path]:
    config, model = _open(run)
    check_attention("validate", config.attention.validation, is_dispatched=model.adapter.dispatches_attention)
    size = usual_size(config.data[0].buckets, model)
    conditioning = build_conditioning(config.conditioning)
    shows = {"takes_control": config.control is not None, "takes_references": config.references is not None}
    requests = [make_request(prompt, f"prompt {n}", model, size, **shows) for n, prompt in enumerate(prompts, 1)]
    weights = None if use_base else find_weights(run, step)
    target = pick_device(device)
    folder = output or run / "samples"
    stems = [folder / name_of(request, config, conditioning, weights) for request in requests]
    missing = {stem: request for stem, request in zip(stems, requests, strict=True) if _drawn(stem) is None}
    if missing:
        check_writable("output", folder)
        folder.mkdir(parents=True, exist_ok=True)
        drawing = _drawing(config, model, conditioning, weights, device=target, requests=missing.values())
        explained = out_of_memory_explained(config, target, "sampling")
        with explained, drawing as draw, tempfile.TemporaryDirectory(dir=folder) as temporary:
            for done, (stem, request) in enumerate(missing.items()):
                progress(done, len(missing))
                drawn = draw(request, Path(temporary) / stem.name)
                drawn.rename(folder / drawn.name)  # whole or not there: what is there is never made again
            progress(len(missing), len(missing))
    return [file for stem in stems if (file := _drawn(stem)) is not None]


def name_of(request: Request, config: Config, conditioning: Conditioning, weights: Path | None) -> str:
    """Name a file after all that decides what it shows: requests with one name would generate the same."""
    files = {**request.pictures, "control": request.control}
    pictures = {key: file and hash_file(Path(file)).hex() for key, file in files.items()}
    asked = {**asdict(request), **pictures, "references": [hash_file(Path(file)).hex() for file in request.references]}
    if not request.references:  # a request that could be made before there were any keeps its name
        del asked["references"]
    drawn = {"vae_tiling", "vae_slicing"} | ({"text_encoder_weights"} & config.memory.model_fields_set)
    facts: dict[str, Any] = {
        "request": asked,
        "config": config.model_dump(
            mode="json", include={"model": True, "conditioning": True, "memory": drawn, "attention": True}
        ),
        "weights": None if weights is None else (weights / MANIFEST).read_text(encoding="utf-8"),
    }
    for stream in conditioning.streams:
        data = config.data[0]
        # The user's own function may have changed.
        facts[stream.name] = [*stream.transform.identity, data.fps, data.stride, data.resize]
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=4).hexdigest()
    return f"{'base' if weights is None else weights.name}-{digest}-seed{request.seed}"


def _drawn(stem: Path) -> Path | None:
    """The file of a name without suffix, if it is there."""
    return next((file for suffix in (".png", ".mp4") if (file := stem.with_suffix(suffix)).exists()), None)


@contextmanager
def _drawing(
    config: Config,
    model: Model,
    conditioning: Conditioning,
    weights: Path | None,
    *,
    device: torch.device,
    requests: Iterable[Request],
) -> Iterator[Callable[[Request, Path], Path]]:
    """Encode all prompts, then load what generates, with the settings of the run; yield what generates one request."""
    residency = Residency(model, device, keeps=("vae", *model.image_components, *model.denoisers.frozen))
    texts = _encode_prompts(model, residency, requests)
    is_replaced = weights is not None and config.tuning.kind == "full"  # then the device has room for one of both
    place = torch.device("cpu") if is_replaced else device
    denoisers = {name: model.pretrained.load_denoiser(name, place) for name in model.denoisers.trained}
    for denoiser in denoisers.values():
        conditioning.prepare(denoiser, model.adapter)
    if weights is not None:
        shells = {name: model.pretrained.shell(name) for name in model.denoisers.frozen}  # pipelines ask for their configs
        pipeline = model.pretrained.pipeline(model.pipeline_class, {**shells, **denoisers})
        build_tuning(config.tuning).load_exported(pipeline, weights)
        denoisers = {name: pipeline.components[name].to(device) for name in denoisers}
    residency.adopt(denoisers)
    backend, is_dispatched = settled_in(config, "validate", device), model.adapter.dispatches_attention
    with (
        torch.no_grad(),
        matmul_precision(config.train.matmul_precision),
        residency.drawing() as parts,
        ExitStack() as stack,
    ):
        drawing = [parts[name] for name in (*model.denoisers.trained, *model.denoisers.frozen)]
        stack.enter_context(attention_within(drawing, backend, is_dispatched=is_dispatched))
        sampler = Sampler(model, parts, device, conditioning, config.data[0])
        yield lambda request, stem: sampler.draw(request, lambda caption: texts[caption, request.image], stem)


def _encode_prompts(model: Model, residency: Residency, requests: Iterable[Request]) -> dict[tuple[str, str | None], Text]:
    """Encode what requests ask for and what they ask to avoid, by caption and the picture beside it."""
    texts: dict[tuple[str, str | None], Text] = {}
    with torch.no_grad(), residency.alone(*model.text_components) as components:
        pipeline = model.pretrained.pipeline(model.pipeline_class, components)
        for request in requests:
            images = [] if request.image is None else [Image.open(request.image).convert("RGB")]
            negative = [request.negative_prompt or ""] if model.adapter.text.has_negative_prompt else []
            for caption in (request.prompt, *negative):
                text = model.encode_text(pipeline, [caption], images, device=residency.device)
                texts[caption, request.image] = {name: tensor.cpu() for name, tensor in text.items()}
    return texts


def find_weights(run: Path, step: int | None) -> Path:
    """Find the exported weights of a step, or of the last.

    Raises:
        ConfigError: If they are not there or not whole.
    """
    found = step_folders(run / "weights")
    if step is None and not found:
        config = load_config(run / "config.yaml")
        first = min(config.checkpoint.every, config.train.steps)
        raise ConfigError(f"{run}: no weights yet: the first are written at step {first} (checkpoint.every)")
    wanted = step_directory(run / "weights", max(found) if step is None else step)
    fault = damage(wanted)
    if fault is not None:
        steps = ", ".join(folder.name for folder in found.values()) or "none"
        raise ConfigError(f"{run}: the weights {wanted.name} are missing or incomplete ({fault}); there are: {steps}")
    return wanted


def _open(run: Path) -> tuple[Config, Model]:
    file = run / "config.yaml"
    if not run.is_dir():
        raise ConfigError(f"there is no folder {run} (from {Path.cwd()}); give the output_dir of a run")
    if not file.is_file():
        raise ConfigError(f"{run} is not a run directory: it has no config.yaml")
    config = load_config(file).model_copy(update={"output_dir": run})  # it may have been moved
    return config, open_model(config.model, config.memory)
