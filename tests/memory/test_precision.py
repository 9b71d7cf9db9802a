"""Matrix products of float32 are computed as the run asks for it, and afterwards as before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import config_of, flux_tree, write_pictures

import finetrainers
from finetrainers.training.trainer import Trainer


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_a_run_computes_products_as_it_asks_for(
    precision: str, tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    step = Trainer.train_step

    def looking(self: Trainer, *arguments: Any, **options: Any) -> Any:
        seen.append(torch.get_float32_matmul_precision())
        return step(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "train_step", looking)
    data, train = write_pictures(tmp_path / "data", 4), {"steps": 1, "matmul_precision": precision}
    finetrainers.train(config_of(flux_tree(tiny_flux, data, tmp_path, train=train)))
    assert seen == [precision]
    assert torch.get_float32_matmul_precision() == "highest"
