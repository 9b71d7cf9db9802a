"""What encoding and decoding take: text encoders and the VAE on the meta device, at the sizes of a run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.config import Bucket, Config
from finetrainers.memory.allocator import reserved_bytes
from finetrainers.memory.meta import META, fused_attention
from finetrainers.memory.meter import Meter, Usage
from finetrainers.memory.quantize.compress import compress_text_encoders
from finetrainers.memory.shard_encoders import layers
from finetrainers.memory.work import Work
from finetrainers.models import Model
from finetrainers.models.pretrained import config_name


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass through a component takes."""

    usage: Usage
    reserved: int
    work: Work
    weights: int
    """Bytes of the component itself."""
    read: int
    """Bytes of it on the host before it is compressed."""
    gathered: int = 0
    """Bytes of its largest layer and of what is outside of layers: what is whole at once where devices share it."""

    def shared(self, processes: int) -> "Pass":
        """Keep the part of one of several devices that share the weights, and what is whole at once."""
        weights = min(self.weights, ceil(self.weights / processes) + self.gathered)
        spared = self.weights - weights
        usage = Usage({**self.usage.peak, "weights": self.usage.peak["weights"] - spared}, self.usage.flop)
        return replace(self, usage=usage, reserved=self.reserved - spared, weights=weights)


def text_passes(config: Config, model: Model) -> Iterator[Pass]:
    """Count each text encoder of a model, as far as its folder has their configs: of what is encoded at once."""
    rows, is_shared = config.cache.batch_size, config.memory.shard_text_encoders
    for name in model.text_components:
        encoder = _text_encoder(model, name)
        if encoder is None:
            continue
        read = bytes_of(encoder)
        compress_text_encoders([encoder], config.memory.text_encoder_weights, META)
        length = min(model.max_length, getattr(encoder.config, "max_position_embeddings", model.max_length))
        tokens = torch.zeros(rows, length, dtype=torch.long, device=META)
        yield replace(
            _counted(encoder, partial(encoder, input_ids=tokens)), read=read, gathered=_gathered(encoder) if is_shared else 0
        )


def _gathered(encoder: nn.Module) -> int:
    own = [bytes_of(layer) for layer in layers(encoder)]
    return bytes_of(encoder) - sum(own) + max(own, default=0)


def bytes_of(component: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*component.parameters(), *component.buffers()))


def image_bytes(model: Model) -> int:
    """Bytes of what encodes images, as far as a model's folder has the configs."""
    names = [name for name in model.image_components if _is_encoder(model, name)]
    found = [name for name in names if model.pretrained.place(name).find(config_name(name)) is not None]
    return sum(bytes_of(_made(model, name)) for name in found)


def _text_encoder(model: Model, name: str) -> nn.Module | None:
    """Make a text encoder without weights; None for a tokenizer, and where there is no config."""
    if not _is_encoder(model, name) or name in unknown_encoders(model):
        return None
    return _made(model, name)


def _made(model: Model, name: str) -> nn.Module:
    settings = model.pretrained.settings(name)
    own: Any = model.pretrained.component_class(name)
    with torch.device(META):
        made = own(own.config_class(**settings))
    encoder: nn.Module = made.to(model.pretrained.place(name).dtype).eval().requires_grad_(False)
    return encoder


def _is_encoder(model: Model, name: str) -> bool:
    component_class = model.pretrained.component_class(name)
    return isinstance(component_class, type) and issubclass(component_class, nn.Module)


def unknown_encoders(model: Model) -> list[str]:
    """Text encoders of which a model's folder has no config, so that nobody can count them."""
    names = [name for name in model.text_components if _is_encoder(model, name)]
    return [name for name in names if model.pretrained.place(name).find(config_name(name)) is None]


def encode_media(config: Config, model: Model, bucket: Bucket) -> Pass:
    """Count what the VAE takes of the clips that are encoded at once."""
    frames, height, width = bucket
    vae = _vae(config, model)
    shape = (config.cache.batch_size, 3, *(() if model.adapter.latents.is_image_vae else (frames,)), height, width)
    pixels = torch.empty(shape, dtype=vae.dtype, device=META)
    return _counted(vae, lambda: vae.encode(pixels).latent_dist.mean)


def decode_media(config: Config, model: Model, bucket: Bucket) -> Pass:
    """Count what the VAE takes of one generated sample."""
    vae = _vae(config, model)
    channels, *sizes = model.adapter.grid.encoded_shape(bucket)
    shape = (1, channels, *(sizes[1:] if model.adapter.latents.is_image_vae else sizes))
    latents = torch.empty(shape, dtype=vae.dtype, device=META)
    takes_time = "temb" in signature(vae.decode).parameters and bool(vae.config.get("timestep_conditioning"))
    told = {"temb": torch.zeros(1, device=META)} if takes_time else {}
    return _counted(vae, lambda: vae.decode(latents, **told).sample)


def _vae(config: Config, model: Model) -> Any:
    vae = model.pretrained.shell("vae").to(META)
    if config.memory.vae_tiling:
        vae.enable_tiling()
    if config.memory.vae_slicing:
        vae.enable_slicing()
    return vae


def _counted(component: Any, run: Callable[[], object]) -> Pass:
    meter = Meter()
    own: list[Tensor] = [*component.parameters(), *component.buffers()]
    meter.label("weights", own)
    with torch.no_grad(), fused_attention(), _on_meta(), meter:
        run()
    weights = sum(tensor.nbytes for tensor in own)
    return Pass(meter.usage(), reserved_bytes(meter.history()), meter.work, weights, weights)


@contextmanager
def _on_meta() -> Iterator[None]:
    """Let what a component makes by itself, such as positions, be on the meta device too."""
    with torch.device(META):
        yield
