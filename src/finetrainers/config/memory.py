"""The ``memory`` section: what trades time for memory."""

from typing import Literal

from finetrainers.config.base import Section

WeightFormat = Literal["none", "fp8_e4m3", "fp8_e5m2", "fp8_scaled", "int8", "nf4"]
"""What frozen weights rest in."""


class MemoryConfig(Section):
    """What trades time for memory."""

    vae_tiling: bool = False
    """Encode and decode large frames in tiles."""
    vae_slicing: bool = False
    """Encode and decode the items of a batch one by one."""
    weights: WeightFormat = "none"
    """Format in which the frozen weights of the denoiser's blocks rest; each is made whole while its layer computes.
    fp8_e4m3 and fp8_e5m2 are casts, fp8_scaled and int8 have a scale for each row (extra torchao), nf4 one for 64 weights
    (extra bitsandbytes). 8 bits take half of the memory of bfloat16, nf4 less than a third."""
    text_encoder_weights: WeightFormat = "none"
    """As memory.weights, for text encoders while captions are encoded; encoded captions depend on it."""
