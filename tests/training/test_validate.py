"""Validation: two values of the held-out loss differ only because the weights do."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

from finetrainers import ConfigError, train
from finetrainers.training.validation.validate import HeldOut


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("validate")
    own_data = [{"path": str(write_pictures(root / "held-out", 3, seed=1)), "buckets": [[1, 64, 64]]}]
    validation = {"data": own_data, "noise_levels": 4}
    return flux_tree(tiny_flux, write_pictures(root / "data", 4), root, train={"steps": 2}, validation=validation)


def validations(tree: Tree, directory: Path, **sections: Any) -> list[Tree]:
    train(config_of(merged(tree, {"output_dir": str(directory), **sections})))
    return [event for event in events_of(directory) if event["event"] == "validation"]


def test_the_baseline_depends_on_model_and_held_out_data_alone(tree: Tree, tmp_path: Path) -> None:
    """Other seed, order, batch size and learning rate: the same held-out loss at step 0, to the last bit."""
    one = validations(tree, tmp_path / "one")[0]
    changes = {"seed": 9, "train": {"batch_size": 2, "micro_batch_size": 1}, "optimizer": {"lr": 0.5}}
    other = validations(tree, tmp_path / "other", **changes)[0]
    assert one["held_out_loss"] == other["held_out_loss"]
    assert one["held_out_bins"] == other["held_out_bins"]


def test_the_held_out_loss_follows_the_weights(tree: Tree, tmp_path: Path) -> None:
    before, after = validations(tree, tmp_path / "run", optimizer={"lr": 0.05})
    assert before["held_out_loss"] != after["held_out_loss"]


def test_weighting_changes_training_and_not_what_is_measured(tree: Tree, tmp_path: Path) -> None:
    bins, losses = [], []
    for name in ("none", "sigma_sqrt"):
        bins.append(
            validations(tree, tmp_path / name, objective={"weighting": name}, train={"steps": 1})[0]["held_out_bins"]
        )
        losses.append([event["loss"] for event in events_of(tmp_path / name) if event["event"] == "step"])
    assert bins[0] == bins[1]
    assert losses[0] != losses[1]


def test_overall_is_the_mean_of_equal_bins(tree: Tree, tmp_path: Path) -> None:
    found = validations(tree, tmp_path / "run", train={"steps": 0})[0]
    assert list(found["held_out_bins"]) == ["0.00-0.25", "0.25-0.50", "0.50-0.75", "0.75-1.00"]
    assert found["held_out_loss"] == pytest.approx(sum(found["held_out_bins"].values()) / 4)
    assert found["held_out_samples"] == 3
    assert len(set(found["held_out_bins"].values())) == 4


def test_held_out_items_are_never_trained_on(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a split of the training data: no step reads an item that the held-out loss reads."""
    import finetrainers.data.loader as loader
    import finetrainers.training.validation.validate as validate

    read, make = loader.read_encoded, loader.Steps._make
    seen: dict[str, set[str]] = {"train": set(), "held-out": set()}

    def reading(kind: str) -> Any:
        def call(cache: Any, job: Any) -> Any:
            seen[kind].add(job.target.key)
            return read(cache, job)

        return call

    def making(self: Any, jobs: Any, step: int) -> Any:
        seen["train"].update(job.target.key for job in jobs)
        return make(self, jobs, step)

    monkeypatch.setattr(loader.Steps, "_make", making)
    monkeypatch.setattr(validate, "read_encoded", reading("held-out"))
    validations(tree, tmp_path / "run", validation={"data": [], "held_out": 0.3}, train={"steps": 4})
    assert seen["train"]
    assert seen["held-out"]
    assert not seen["train"] & seen["held-out"]
    assert len(seen["train"] | seen["held-out"]) == 4


def test_a_run_leaves_out_what_is_in_validation_data_and_says_so(tree: Tree, tmp_path: Path) -> None:
    """Of four pictures one lies among the held-out ones, under another name."""
    shutil.copytree(tree["validation"]["data"][0]["path"], tmp_path / "held-out")
    for suffix in ("png", "txt"):
        shutil.copy(Path(tree["data"][0]["path"]) / f"02.{suffix}", tmp_path / "held-out" / f"copy.{suffix}")
    own = [{"path": str(tmp_path / "held-out"), "buckets": [[1, 64, 64]]}]
    validations(tree, tmp_path / "run", validation={"data": own})
    events = events_of(tmp_path / "run")
    (run,) = (event for event in events if event["event"] == "run")
    assert (run["num_samples"], run["num_held_out"]) == (3, 4)
    warned = [event["message"] for event in events if event["event"] == "warning"]
    assert [("validation.data has the contents of 1 of its items" in m, "02.png" in m) for m in warned] == [(True, True)]
    same = merged(tree, {"output_dir": str(tmp_path / "same"), "validation": {"data": tree["data"]}})
    with pytest.raises(ConfigError, match=r"validation\.data: all items of .* are held out there"):
        train(config_of(same))


def test_what_is_measured_is_what_is_exported(tree: Tree, tmp_path: Path) -> None:
    """With averaged weights: they are measured, not the trained ones, and training goes on with the trained ones."""
    often = {"optimizer": {"lr": 0.05}, "validation": {"every": 2}}
    averaged, plain = {"train": {"ema_decay": 0.99, "steps": 4}, **often}, {"train": {"steps": 4}, **often}
    losses = [[v["held_out_loss"] for v in validations(tree, tmp_path / n, **s)] for n, s in (("a", averaged), ("b", plain))]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]
    curves = [[e["loss"] for e in events_of(tmp_path / n) if e["event"] == "step"] for n in ("a", "b")]
    assert curves[0] == curves[1]


def test_an_interrupted_validation_is_done_again(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half-done stays: the folder of a validation is whole or not there."""
    with monkeypatch.context() as patch:
        patch.setattr(HeldOut, "_losses", lambda *_: pytest.fail("dies in the middle"))
        with pytest.raises(pytest.fail.Exception):
            validations(tree, tmp_path / "run")
    assert not list((tmp_path / "run").glob("validation/*"))
    assert [v["step"] for v in validations(tree, tmp_path / "run")] == [0, 2]


def test_samples_are_drawn_with_their_own_seeds(tree: Tree, tmp_path: Path) -> None:
    """Same seed, same picture, wherever it stands in the file; another seed, another picture."""
    prompt = {"prompt": "picture number 1", "num_inference_steps": 2}
    rows = [{**prompt, "seed": 1}, {**prompt, "seed": 2}, {**prompt, "seed": 1}, {**prompt, "seed": 1, "width": 96}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    validation = {"prompts": str(tmp_path / "prompts.jsonl")}
    found = validations(tree, tmp_path / "run", validation=validation, train={"steps": 0})[0]
    folder = Path(found["directory"])
    assert found["samples"] == ["00.png", "01.png", "02.png", "03.png"]
    files = [(folder / name).read_bytes() for name in found["samples"]]
    assert files[0] == files[2]
    assert files[0] != files[1]
    from PIL import Image

    with Image.open(folder / "03.png") as picture:
        assert picture.size == (96, 64)


def test_a_prompt_that_is_wrong_is_found_before_anything_is_encoded(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text('[{"prompt": "x", "height": 65}]')
    with pytest.raises(ConfigError, match=r"prompt 1: \(1, 65, 64\) .* the nearest is \(1, 64, 64\)"):
        validations(
            tree,
            tmp_path / "run",
            validation={"prompts": str(tmp_path / "prompts.json")},
            cache={"path": str(tmp_path / "c")},
        )
    assert not list((tmp_path / "c").rglob("*.safetensors"))


def test_dropout_is_off_while_measuring_and_on_again_afterwards() -> None:
    from finetrainers.training.validation.validate import eval_weights

    holder: Any = SimpleNamespace(denoiser=torch.nn.Dropout(0.5), update=SimpleNamespace(in_use=nullcontext))
    with eval_weights(holder):
        assert not holder.denoiser.training
    assert holder.denoiser.training


# -- items ------------------------------------------------------------------------------------------------------------


def test_the_easiest_and_the_hardest_items_are_named(tree: Tree, tmp_path: Path) -> None:
    """With what their losses were at first; the whole list is in the folder of the validation, the table in the report."""
    before, after = validations(tree, tmp_path / "run", validation={"items": 9}, optimizer={"lr": 0.05})
    every = [
        {
            item["key"]: item["loss"]
            for item in json.loads((Path(v["directory"]) / "validation.json").read_text())["item_losses"]
        }
        for v in (before, after)
    ]
    assert every[0].keys() == every[1].keys()
    assert len(every[0]) == after["items"]["items"] == 4
    assert after["items"]["loss"] == pytest.approx(sum(every[1].values()) / 4)
    losses, named = sorted(every[1].values()), after["items"]
    assert [row["loss"] for row in named["easiest"]] == losses[:2]
    assert [row["loss"] for row in named["hardest"]] == losses[:1:-1]
    rows = [*named["easiest"], *named["hardest"]]
    assert {row["path"] for row in rows} == {str(Path(tree["data"][0]["path"]) / f"{n:02d}.png") for n in range(4)}
    assert sorted(row["first_loss"] for row in rows) == sorted(every[0].values())
    assert not any("first_loss" in row for row in before["items"]["easiest"])
    assert json.loads((tmp_path / "run/report.json").read_text())["items"] == named


def test_items_are_measured_at_the_same_noise_each_time_and_held_out_samples_at_their_own(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import finetrainers.training.validation.validate as validate

    losses_of, noises = validate.losses_of, []

    def noted(objective: Any, predict: Any, batch: Any) -> Any:
        noises.append((int(batch.positions), float(batch.sigma), batch.noise))
        return losses_of(objective, predict, batch)

    monkeypatch.setattr(validate, "losses_of", noted)
    validations(tree, tmp_path / "run", validation={"items": 2, "noise_levels": 2}, seed=5)
    levels = [[noise for place, _, noise in noises if place == level] for level in (0, 1)]
    assert len({sigma for place, sigma, _ in noises if place == 0}) == 1
    for found in levels:  # at step 0 and at the end: three held-out samples, then two items
        assert len(found) == 10
        assert all(torch.equal(found[3], found[n]) for n in (4, 8, 9))
        assert not any(torch.equal(found[n], found[other]) for n in range(3) for other in range(n))
        assert all(torch.equal(found[n], found[n + 5]) for n in range(3))
    assert not torch.equal(levels[0][3], levels[1][3])


def test_measuring_items_changes_no_step(tree: Tree, tmp_path: Path) -> None:
    for name, items in (("with", 3), ("without", 0)):
        validations(tree, tmp_path / name, validation={"items": items, "every": 1, "noise_levels": 1})
    with_items, without = (curve(tmp_path / name, "loss", "grad_norm") for name in ("with", "without"))
    assert with_items == without


def test_items_stay_in_a_cache_with_a_limit(tree: Tree, tmp_path: Path) -> None:
    """They are read again and again, as held-out samples are: what the limit leaves for training is what is beside them."""
    many = write_pictures(tmp_path / "many", 12)
    small = {
        "cache": {"path": str(tmp_path / "c"), "max_gb": 3.5e-5},
        "train": {"batch_size": 1, "micro_batch_size": 1, "steps": 8},
    }
    tree = merged(tree, {"data": [{"path": str(many), "buckets": [[1, 64, 64]]}]})
    found = validations(tree, tmp_path / "run", validation={"items": 4, "data": [], "every": 2}, **small)
    assert [v["items"]["items"] for v in found] == [4, 4, 4, 4, 4]
    assert not [e for e in events_of(tmp_path / "run") if e["event"] == "warning" and "gone" in e["message"]]


def test_each_data_set_has_a_held_out_loss_of_its_own(tree: Tree, tmp_path: Path) -> None:
    own = [
        *tree["validation"]["data"],
        {"path": str(write_pictures(tmp_path / "other", 1, seed=2)), "buckets": [[1, 64, 64]]},
    ]
    found = validations(tree, tmp_path / "run", validation={"data": own}, train={"steps": 0})[0]
    first, second = found["held_out_sets"]
    assert [(one["path"], one["samples"]) for one in (first, second)] == [(own[0]["path"], 3), (own[1]["path"], 1)]
    assert found["held_out_loss"] == pytest.approx((3 * first["loss"] + second["loss"]) / 4)
    assert first["loss"] != second["loss"]
    assert "held_out_sets" not in validations(tree, tmp_path / "one", train={"steps": 0})[0]
