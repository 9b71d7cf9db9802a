"""What a bench leaves to auto, settled before anything is loaded: as a run does it, but nothing is kept or gone on with."""

from collections import Counter
from collections.abc import Callable

import torch

from finetrainers.config import Config
from finetrainers.config.attention import AUTO
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.memory.attention_calls import Call
from finetrainers.memory.attention_choice import candidates, fastest, try_backends
from finetrainers.models import Model
from finetrainers.training.attention import build_on_meta, calls_of
from finetrainers.training.fit.choice import fit
from finetrainers.training.objective import build_objective
from finetrainers.training.synthetic import synthetic_batch

Say = Callable[[str], None]


def settle_memory(config: Config, say: Say) -> Config:
    """Choose the techniques that ``memory`` leaves to auto, as if no run had been begun in output_dir.

    Raises:
        ConfigError: If nothing fits, or if nobody says how much there is.
    """
    fitted = fit(config, is_new=True)
    for line in fitted.lines():
        say(line)
    return fitted.config


def settle_attention(config: Config, model: Model, device: torch.device, say: Say) -> Config:
    """Choose the backend of training if it is left to auto, by a micro-batch of the largest bucket.

    Raises:
        ConfigError: If no backend works here.
    """
    if config.attention.train != AUTO:
        return config
    names = candidates("train", device, is_dispatched=model.adapter.dispatches_attention)
    backend = names[0]
    if len(names) > 1:
        trials = try_backends(_calls(config, model), names, device=device, needs_backward=True)
        backend = fastest(trials, "train")
        say(f"attention.train: auto chooses {backend}; {'; '.join(map(str, trials))}")
    return config.model_copy(update={"attention": config.attention.model_copy(update={"train": backend})})


def _calls(config: Config, model: Model) -> Counter[Call]:
    trainer = build_on_meta(config, model, build_objective(config, model))
    sizes = [size for data in config.data for size in resolve_buckets(data.buckets)]
    size, rows = max(sizes, key=model.adapter.grid.num_tokens), config.train.micro_batch_size
    batch = synthetic_batch(config, model, size, rows, device=torch.device("cpu"))
    return calls_of(trainer, trainer.on_device(batch), needs_backward=True)
