"""What the denoiser sees besides noise and prompt: the only place where SFT and Control differ."""

from finetrainers.conditioning.base import Conditioning as Conditioning
from finetrainers.config import NoConditioning


def build_conditioning(config: NoConditioning) -> Conditioning:
    """Turn the ``conditioning`` section into its implementation."""
    match config:
        case NoConditioning():
            return Conditioning()
