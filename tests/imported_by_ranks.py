"""Imported by the process from which those of ``ranks`` are forked; each of them would take ten seconds for it."""

import gc
import os

gc.disable()  # imports make no garbage, and looking for it takes a third of their time
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["OMP_NUM_THREADS"] = "1"

from finetrainers.cli.imports import quiet_libraries  # noqa: E402
from finetrainers.compat.packages import import_quietly  # noqa: E402

quiet_libraries()
import_quietly("diffusers.quantizers")  # torchao and bitsandbytes, if they are there: five seconds
import_quietly("diffusers.training_utils")

import diffusers  # noqa: E402
import diffusers.optimization  # noqa: E402, F401
import pandas  # noqa: E402, F401  # by pyarrow, when it is first given a list
import peft.tuners.lora.bnb  # noqa: E402, F401
import pytest  # noqa: E402, F401  # as tests do, whose functions are called
import runs  # noqa: E402, F401
from PIL import Image  # noqa: E402

import finetrainers.testing  # noqa: E402
import finetrainers.testing.model_under_test  # noqa: E402
import finetrainers.training.run  # noqa: E402, F401
from finetrainers.models.registry import adapters  # noqa: E402

for name in ("FluxPipeline", "LTXPipeline", "WanPipeline", "HunyuanVideoPipeline", "CogVideoXPipeline", "CogView4Pipeline"):
    getattr(diffusers, name)  # which imports it
adapters()  # which imports all families
Image.init()  # and this all formats
os.fsync = lambda _: None  # as in all tests: nobody waits for the disk
gc.freeze()
gc.enable()
