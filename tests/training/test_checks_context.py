"""Tokens that processes cannot share: refused before any weights, with what works."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from finetrainers.config import parse_config
from finetrainers.errors import ConfigError
from finetrainers.models import open_model
from finetrainers.training.checks.context import check_context

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FLASH = {"train": "_native_flash", "validate": "_native_flash"}
RING = {"parallel": {"context_kind": "ring"}}


def check(
    tiny: Callable[[str, str], Path], model: Mapping[str, Any], context: int, device: torch.device = CPU, **sections: Any
) -> None:
    """Check a run of a tiny model."""
    path = tiny(model["family"], model["variant"])
    settings = {
        "path": str(path),
        "dtype": "float32",
        **{k: v for k, v in model.items() if k not in ("family", "variant", "size")},
    }
    data = [{"path": "nowhere", "buckets": model["size"]}]
    config = parse_config({"output_dir": "run", "model": settings, "data": data, **sections})
    check_context(config, open_model(config.model), context=context, device=device)


def of(family: str, variant: str, size: Any, **model: Any) -> dict[str, Any]:
    return {"family": family, "variant": variant, "size": size, **model}


FLUX = of("flux", "dev", [[1, 64, 64]], max_sequence_length=16)
LTX = of("ltx_video", "0.9.5", [[17, 64, 96]])
KEYFRAMES = of("ltx_video", "0.9.5", [[17, 96, 96]], task="first-last-frame-to-video")
COG = of("cogvideox", "2b", [[9, 64, 96]])
HUNYUAN = of("hunyuan_video", "t2v", [[9, 32, 64]])


FINE_STEPS = {"kind": "references", "pixels": 2304, "step": 16}
ODD = {**FLUX, "size": [[1, 64, 64], [1, 48, 48]]}
NEAREST = r"data.0.buckets: 2 .* the 9 tokens of \[1, 48, 48\] .* work: \[1, 48, 64\] and \[1, 64, 48\]"
HEADS = "parallel.context: 2 .* 3 attention heads of wan; possible are 1, 3$"


@pytest.mark.parametrize(
    ("model", "context", "device", "sections", "message"),
    [
        (of("wan", "2.1-t2v", [[9, 32, 64]]), 2, CPU, {}, HEADS),
        ({**FLUX, "max_sequence_length": 15}, 2, CPU, {}, "max_sequence_length: 2 .* 15 tokens .* work: 14 and 16"),
        (ODD, 2, CPU, {}, NEAREST),
        ({**FLUX, "size": {"pixels": 4096, "step": 16}}, 2, CPU, {}, "steps of 16 pixels: steps of 32 work"),
        (KEYFRAMES, 2, CPU, {}, r"cannot share the 9 tokens of \[17, 96, 96\]"),
        (FLUX, 2, CPU, {"conditioning": FINE_STEPS}, "conditioning.step: .* steps of 32 work"),
        (FLUX, 2, CPU, {"attention": {"train": "flex"}}, "attention.train: 'flex' .* _native_cudnn"),
        (FLUX, 2, CPU, {"attention": {"validate": "xformers"}}, "attention.validate: 'xformers'"),
        (COG, 2, CPU, {"attention": {"train": "flash"}}, "attention.train: 'flash' .* _native_math"),
        (HUNYUAN, 2, CPU, {"attention": {"train": "_flash_3_hub"}}, "attention.train: '_flash_3_hub'"),
        (FLUX, 1, CUDA, RING, "context_kind: ring has no effect"),
        (FLUX, 2, CPU, RING, "context_kind: ring needs CUDA, .* _native_flash"),
        (HUNYUAN, 2, CUDA, RING, "context_kind: ring is impossible for hunyuan_video"),
        (COG, 2, CUDA, RING, "context_kind: ring is impossible for cogvideox"),
        (FLUX, 2, CUDA, {**RING, "attention": {"train": "native"}}, "attention.train: 'native' .* ring"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    tiny: Callable[[str, str], Path], model: Any, context: int, device: torch.device, sections: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(tiny, model, context, device, **sections)


@pytest.mark.parametrize(
    ("model", "context", "device", "sections"),
    [
        (FLUX, 2, CPU, {}),
        ({**FLUX, "size": [[1, 48, 48]]}, 1, CPU, {}),
        (LTX, 2, CPU, {"attention": {"train": "_native_flash"}}),
        ({**LTX, "size": [[25, 96, 96]]}, 2, CPU, {}),  # 4 frames of 9 tokens
        (COG, 2, CPU, {"attention": {"train": "_native_efficient"}}),
        (HUNYUAN, 2, CPU, {"attention": {"train": "_native_flash"}}),
        (FLUX, 2, CUDA, {**RING, "attention": FLASH}),
        (FLUX, 8, CUDA, RING),  # heads are not shared
    ],
)
def test_what_can_be_shared_is_not(
    tiny: Callable[[str, str], Path], model: Any, context: int, device: torch.device, sections: Any
) -> None:
    check(tiny, model, context, device, **sections)


def test_an_adapter_without_a_plan_is_refused(tiny: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetrainers.models.flux.Flux.context_plan", lambda _: None)
    with pytest.raises(ConfigError, match=r"parallel.context: 2 is impossible: the adapter of flux .* \(context_plan\)"):
        check(tiny, FLUX, 2)
    check(tiny, FLUX, 1)
