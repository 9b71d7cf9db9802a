"""The config of a component made small: fewer and narrower layers, and all that other parts rely on as it was.

What two parts share stays shared: a width of text encoders becomes the same number wherever the denoiser names it, and two
widths that differ still do. Patches, latent channels, compression, head widths, tokens and classes are not touched.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

Tree = dict[str, Any]
DEPTHS = ("num_layers", "num_hidden_layers", "num_single_layers", "num_refiner_layers", "num_decoder_layers", "depth")
"""Keys that count layers."""
WIDTHS = ("hidden_size", "d_model", "projection_dim")
"""Keys of a text or picture encoder that are the width of what it hands on."""
HEADS = ("num_attention_heads", "num_heads", "num_key_value_heads")
FEED_FORWARD = ("intermediate_size", "d_ff", "ffn_dim")
HEAD_WIDTHS = ("head_dim", "d_kv")
"""Of encoders; that of the denoiser decides its rotary positions, and stays."""
OF_WIDTH = ("_dim", "caption_channels")
"""How keys of a denoiser end that may be its own width, or that of an encoder."""
OF_ENCODERS = ("text", "caption", "joint", "pooled", "image")
"""Words in those of encoders, which may be as wide as the denoiser."""
VAE_WIDTHS = ("block_out_channels", "decoder_block_out_channels", "base_dim", "decoder_base_dim")
VAE_DEPTHS = ("layers_per_block", "decoder_layers_per_block", "num_res_blocks")
NUM_HEADS, NUM_DENOISER_LAYERS, NUM_ENCODER_LAYERS = 2, 2, 4
"""Pipelines take the prompt from up to two layers before the encoder's last."""
ENCODER_STEP, ENCODER_HEAD = 32, 16
NARROW, LEAST_WIDTH, NORM_GROUPS = 16, 8, 4
"""By how much VAEs are narrower; no layer has less channels than this; and groups of its norms."""
POSITIONS = (9, 8, 12)
"""Frames, and height and width in latents, of a denoiser that has positions for one size."""


@dataclass(frozen=True, slots=True)
class Widths:
    """Small widths of encoders, by their real ones."""

    small: Mapping[int, int]
    sums: Mapping[int, int]
    """Of two encoders whose outputs are joined, as the pooled prompts of Stable Diffusion 3 are."""

    @classmethod
    def of(cls, encoders: Iterable[Mapping[str, Any]]) -> "Widths":
        """Give each width that encoders hand on a small one of its own."""
        each = [set(_values(settings, WIDTHS)) for settings in encoders]
        small = {width: ENCODER_STEP * (1 + number) for number, width in enumerate(sorted(set().union(*each)))}
        pairs = [pair for one, other in combinations(each, 2) for pair in product(one, other)]
        return cls(small, {one + other: small[one] + small[other] for one, other in pairs})

    def __call__(self, width: int) -> int:
        return self.small.get(width, width)

    def of_encoders(self, width: int) -> int:
        """Shrink what is known to be the width of an encoder, or of two together."""
        return self.small.get(width, self.sums.get(width, width))


def small_encoder(settings: Mapping[str, Any], widths: Widths) -> Tree:
    """Shrink a text or picture encoder, and the encoders that it is made of."""
    depth = next((settings[key] for key in DEPTHS if isinstance(settings.get(key), int)), None)
    own = next((widths(settings[key]) for key in WIDTHS if isinstance(settings.get(key), int)), ENCODER_STEP)
    small: Tree = {}
    for key, value in settings.items():
        match value:
            case dict():
                small[key] = small_encoder(value, widths) if key.endswith("_config") else value
            case list() if depth is not None and len(value) == depth:  # one entry a layer
                small[key] = value[:NUM_ENCODER_LAYERS]
            case bool():
                small[key] = value
            case int():
                small[key] = _small_number(key, value, own, widths)
            case _:
                small[key] = value
    return small


def _small_number(key: str, value: int, own: int, widths: Widths) -> int:
    if key in DEPTHS:
        return min(value, NUM_ENCODER_LAYERS)
    if key in WIDTHS:
        return widths(value)
    if key == "num_key_value_heads":
        return 1 if value > 1 else value
    if key in HEADS:
        return min(value, NUM_HEADS)
    if key in FEED_FORWARD:
        return min(value, 2 * own)
    return min(value, ENCODER_HEAD) if key in HEAD_WIDTHS else value


def small_denoiser(settings: Mapping[str, Any], widths: Widths) -> Tree:
    """Shrink a denoiser: heads stay as wide as they are, and there are two."""
    heads, head = settings.get("num_attention_heads"), settings.get("attention_head_dim")
    inner, narrow = None, None
    if isinstance(heads, int) and isinstance(head, int):
        inner, narrow = heads * head, min(heads, NUM_HEADS) * head
    small = dict(settings)
    for key, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if key in DEPTHS:
            small[key] = min(value, NUM_DENOISER_LAYERS)
        elif key == "num_attention_heads":
            small[key] = min(value, NUM_HEADS)
        elif key in FEED_FORWARD and narrow is not None:
            small[key] = min(value, 2 * narrow)
        elif key.endswith(OF_WIDTH) and key not in ("attention_head_dim", "freq_dim"):
            small[key] = _small_width(value, widths, inner=inner, narrow=narrow, names_encoder=_names_encoder(key))
    return small | _small_positions(settings)


def _names_encoder(key: str) -> bool:
    return any(word in key for word in OF_ENCODERS)


def _small_width(value: int, widths: Widths, *, inner: int | None, narrow: int | None, names_encoder: bool) -> int:
    """Shrink a width of a denoiser, which is its own or that of encoders."""
    if value == inner and narrow is not None and not (names_encoder and value in widths.small):
        return narrow
    return widths.of_encoders(value) if names_encoder else widths(value)


def _small_positions(settings: Mapping[str, Any]) -> Tree:
    """Shrink the one size that a denoiser has positions for (CogVideoX)."""
    if not all(isinstance(settings.get(f"sample_{axis}"), int) for axis in ("frames", "height", "width")):
        return {}
    frames, height, width = POSITIONS
    sizes = {"sample_frames": frames, "sample_height": height, "sample_width": width}
    return {key: min(settings[key], size) for key, size in sizes.items()}


def small_vae(settings: Mapping[str, Any]) -> Tree:
    """Shrink a VAE: its latents and its compression stay."""
    small = dict(settings)
    for key in VAE_WIDTHS:
        if settings.get(key) is not None:
            small[key] = _each(settings[key], lambda width: max(LEAST_WIDTH, width // NARROW))
    for key in VAE_DEPTHS:
        if settings.get(key) is not None:
            small[key] = _each(settings[key], lambda depth: min(depth, 1))
    if "norm_num_groups" in settings:
        small["norm_num_groups"] = min(settings["norm_num_groups"], NORM_GROUPS)
    return small


def _each(value: Any, change: Any) -> Any:  # a number, or a list of them
    return [change(own) for own in value] if isinstance(value, list | tuple) else change(value)


def _values(settings: Mapping[str, Any], keys: Iterable[str]) -> list[int]:
    own = [settings[key] for key in keys if isinstance(settings.get(key), int)]
    nested = [value for key, value in settings.items() if key.endswith("_config") and isinstance(value, dict)]
    return own + [value for tree in nested for value in _values(tree, keys)]
