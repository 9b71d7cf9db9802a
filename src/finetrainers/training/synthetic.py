"""Batches of random latents and prompts, with the draws and shapes of a run: for trials of speed and memory without data.

Shape letters as in ``finetrainers.batch``.
"""

from dataclasses import replace

import torch

from finetrainers.batch import Batch, Encoded, Image, Posterior, Text, cast_floats, sample_generator
from finetrainers.conditioning import build_conditioning, build_given_frames
from finetrainers.config import Bucket, Config
from finetrainers.data.loader import make_batch
from finetrainers.data.streams import Stream, name_of_picture, streams_of
from finetrainers.models import Model
from finetrainers.training.objective import build_objective


def synthetic_batch(
    config: Config, model: Model, bucket: Bucket, batch_size: int, *, device: torch.device, start: int = 0
) -> Batch:
    """Make a batch as the run's loader would, of latents that are noise and prompts of the greatest length.

    Args:
        config: Of the run; its conditions and its objective say which media there are.
        model: None of whose weights are asked for.
        bucket: Size (frames, height, width) of all samples.
        batch_size: B.
        device: Where the batch is made ready; lengths stay on the CPU, as ``Batch.to`` has it.
        start: Position of the first sample, on which all draws depend.

    Raises:
        ModelError: If the family's adapter does not say what its prompts are like.
    """
    objective, conditioning = build_objective(config, model), build_conditioning(config.conditioning)
    grid = model.adapter.grid
    streams = streams_of(conditioning, objective)
    positions = range(start, start + batch_size)
    batch = make_batch(
        positions,
        [_sample(model, streams, bucket, sample_generator(config.seed, n, "synthetic")) for n in positions],
        seed=config.seed,
        step=start // batch_size,
        objective=objective,
        given_frames=build_given_frames(config, model),
        tokens=grid.num_tokens(bucket),
        padding=grid.num_padding_frames(bucket[0]),
        selections=conditioning.frames,
    )
    return batch.to(device)


def of_each_expert(batch: Batch, model: Model) -> list[Batch]:
    """Make of a batch on the CPU one for each expert, at a noise level of its range; itself where there is one denoiser."""
    ranges = model.denoisers.ranges
    if len(ranges) == 1:
        return [batch]
    return [replace(batch, sigma=torch.full_like(batch.sigma, (low + high) / 2)) for low, high in ranges]


def _sample(model: Model, streams: tuple[Stream, ...], bucket: Bucket, generator: torch.Generator) -> Encoded:
    """Make one sample; each stream of pictures of their own size has one, of the largest."""
    adapter = model.adapter
    media = {}
    for stream in streams:
        size = max(stream.sizes, key=adapter.grid.num_tokens) if stream.has_own_size else bucket
        shape = adapter.grid.encoded_shape(size)
        name = name_of_picture(stream.name, 0) if stream.has_own_size else stream.name
        if stream.encoder == "none":
            media[name] = Posterior(torch.ones(1, *shape[1:]), None)
        else:
            media[name] = Posterior(torch.randn(shape, generator=generator), None)
    fps = adapter.default_fps if bucket[0] > 1 else 0.0
    text = _drawn(adapter.blank_text(model.max_length), model.dtype, generator)
    image = _drawn(adapter.blank_image(adapter.grid.latent_shape(bucket), model.task), model.dtype, generator)
    return Encoded(media, text, fps=fps, image=image)


def _drawn(blank: Text | Image, dtype: torch.dtype, generator: torch.Generator) -> Text:
    """Fill what is blank with normal numbers; masks and lengths stay what they are."""
    return {
        name: cast_floats(torch.randn(own.shape, generator=generator), dtype) if own.is_floating_point() else own
        for name, own in blank.items()
    }
