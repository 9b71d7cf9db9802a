"""Copies of the model on several processes: each takes other samples, and all of them take the same steps."""

from pathlib import Path

import pytest
import ranks
from runs import curve, flux_tree, write_pictures

from finetrainers.config import dump_config, parse_config
from finetrainers.training.run import train


@pytest.mark.parametrize("tuning", [{"kind": "lora", "rank": 2, "alpha": 4}, {"kind": "full"}], ids=["lora", "full"])
def test_two_copies_take_the_steps_of_one(tmp_path: Path, tiny_flux: Path, tuning: dict[str, object]) -> None:
    pictures = write_pictures(tmp_path / "pictures", 6)
    train_of = {"steps": 3, "batch_size": 4, "micro_batch_size": 1, "ema_decay": 0.5}
    sections = {"tuning": tuning, "train": train_of, "checkpoint": {"every": 2}}
    alone = flux_tree(tiny_flux, pictures, tmp_path, **sections, output_dir=str(tmp_path / "alone"))
    train(parse_config(alone))
    two = flux_tree(tiny_flux, pictures, tmp_path, **sections, output_dir=str(tmp_path / "two"))
    file = tmp_path / "two.yaml"
    file.write_text(dump_config(parse_config(two)))
    assert ranks.results(ranks.command, 2, "train", str(file), folder=tmp_path / "ranks") == [0, 0]
    fields = ("step", "loss", "grad_norm", "lr")
    for (step, *one), (same, *both) in zip(
        curve(tmp_path / "alone", *fields), curve(tmp_path / "two", *fields), strict=True
    ):
        assert step == same
        assert both == pytest.approx(one, rel=1e-5)
    assert (tmp_path / "two/logs/rank-1.log").is_file()
