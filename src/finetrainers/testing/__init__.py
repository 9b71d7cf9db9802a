"""What tests need and plug-ins may use: tiny pipelines, the tokenizers they are made of, and the checks of every family."""

from finetrainers.testing.contract import CHECKS as CHECKS, ModelUnderTest as ModelUnderTest
from finetrainers.testing.tiny import make_tiny as make_tiny
from finetrainers.testing.tokenizers import (
    make_clip_tokenizer as make_clip_tokenizer,
    make_t5_tokenizer as make_t5_tokenizer,
)

__all__ = ["CHECKS", "ModelUnderTest", "make_clip_tokenizer", "make_t5_tokenizer", "make_tiny"]
