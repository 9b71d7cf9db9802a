"""What tests need and plug-ins may use: tiny pipelines of the real classes, and the tokenizers they are made of."""

from finetrainers.testing.tiny import make_tiny as make_tiny
from finetrainers.testing.tokenizers import (
    make_clip_tokenizer as make_clip_tokenizer,
    make_t5_tokenizer as make_t5_tokenizer,
)

__all__ = ["make_clip_tokenizer", "make_t5_tokenizer", "make_tiny"]
