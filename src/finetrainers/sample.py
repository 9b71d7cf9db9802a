"""Generate with the weights of a run, through the family's plain diffusers pipeline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from finetrainers.batch import Text
from finetrainers.checkpoint import step_directory
from finetrainers.config import Config, load_config
from finetrainers.data.buckets import resolve_buckets
from finetrainers.errors import ConfigError
from finetrainers.files import damage
from finetrainers.models import Model, open_model
from finetrainers.prompts import make_request
from finetrainers.training import pick_device
from finetrainers.tuning import build_tuning
from finetrainers.validate import Sampler


def sample_run(
    run: Path,
    prompts: Sequence[Mapping[str, Any]],
    *,
    step: int | None = None,
    use_base: bool = False,
    output: Path | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw prompts with a run's exported weights.

    Args:
        run: The run's output_dir.
        prompts: Each with the keys of a prompts file; None means the default.
        step: Whose weights; by default the last that were exported.
        use_base: Draw without the trained weights.
        output: Folder for the files; by default ``run``/samples.
        device: As ``train.device``.

    Raises:
        ConfigError: If there is no such run or step, or a prompt is impossible.
    """
    config, model = _open(run)
    size = resolve_buckets(config.data[0].buckets)[0]
    requests = [make_request(prompt, f"prompt {n}", model, size) for n, prompt in enumerate(prompts, 1)]
    weights = None if use_base else find_weights(run, step)
    target = pick_device(device)
    names = [name for name, value in model.pretrained.index.items() if isinstance(value, list) and value[0]]
    components = {name: model.pretrained.load(name) for name in names}
    pipeline = model.pretrained.pipeline(model.pipeline_class, components).to(target)
    if weights is not None:
        build_tuning(config.tuning).load_exported(pipeline, weights)
    adapter = model.adapter

    def encode(caption: str) -> Text:
        return adapter.encode_prompt(pipeline, [caption], max_length=model.max_length, device=target)

    sampler = Sampler(model, {adapter.denoiser: getattr(pipeline, adapter.denoiser), "vae": pipeline.vae}, target)
    folder = output or run / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    label = "base" if weights is None else weights.name
    with torch.no_grad():
        return [sampler.draw(r, encode, folder / f"{label}-{n:02d}-seed{r.seed}") for n, r in enumerate(requests)]


def find_weights(run: Path, step: int | None) -> Path:
    """Find the exported weights of a step, or of the last.

    Raises:
        ConfigError: If they are not there or not whole.
    """
    found = sorted((run / "weights").glob("step-*"))
    wanted = found[-1] if step is None and found else step_directory(run / "weights", step or 0)
    fault = damage(wanted)
    if fault is not None:
        steps = ", ".join(folder.name for folder in found) or "none"
        raise ConfigError(f"{run}: there are no whole weights {wanted.name} ({fault}); there are: {steps}")
    return wanted


def _open(run: Path) -> tuple[Config, Model]:
    file = run / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{run} is no run directory: it has no config.yaml")
    config = load_config(file)
    return config, open_model(config.model)
