"""Fine-tune diffusion transformers for images and video."""

__version__ = "0.1.0"
