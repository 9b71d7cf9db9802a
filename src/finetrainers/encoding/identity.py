"""What encoders are known by: an item of the cache belongs to the weights and settings that made it."""

from pathlib import Path

from finetrainers.data.cache.store import make_key
from finetrainers.data.catalog.memo import Memo
from finetrainers.models import Model


def identities(model: Model, memo: Memo) -> tuple[str, str]:
    """Identify the VAE and the text encoders by their weights and settings; no weights are loaded.

    Local weights are hashed once and remembered; those from the Hub are known by repository and commit.
    """
    adapter = model.adapter
    own = _user_code(model, memo)
    image: list[object] = list(own)
    if model.takes_image:
        image += [adapter.name, model.task, *(_identity(model, memo, name) for name in model.image_components)]
    vae = adapter.latents
    facts = vae.samples_posterior, adapter.grid.frame_patch, vae.statistics, vae.is_image_vae
    if adapter.grid.frame_patch > 1:
        image.append("without padding")  # items of earlier versions had it
    latents = make_key("vae", _identity(model, memo, "vae"), model.pretrained.memory.vae_tiling, *facts, *image)
    encoders: list[object] = [*own, *(_identity(model, memo, name) for name in model.text_components)]
    if settings := adapter.text_settings(model.task):
        encoders.append(dict(settings))
    if (weights := model.pretrained.memory.text_encoder_weights) != "none":
        encoders.append(f"weights in {weights}")
    return latents, make_key("text", adapter.name, model.max_length, *encoders)


def _user_code(model: Model, memo: Memo) -> list[str]:
    """Identify an adapter that is a file of the user's: what it encodes changes as the file does."""
    place = model.pretrained.config.adapter
    return [] if place is None else [memo.digest(Path(place.rpartition(":")[0]).expanduser()).hex()]


def _identity(model: Model, memo: Memo, component: str) -> str:
    place = model.pretrained.place(component)
    if not place.is_local:
        return f"{place.path}@{model.pretrained.commit(component)}/{place.subfolder} {place.dtype}"
    files = model.pretrained.files(component)
    return make_key(*((file.name, memo.digest(file).hex()) for file in files), str(place.dtype))
