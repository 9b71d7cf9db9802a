"""A plan says what a run takes from its configuration alone, and proposes what fits."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from counted import counted_once
from runs import config_of, flux_tree, merged, write_pictures

from finetrainers.cli.entry import main
from finetrainers.config import Config, ValidationConfig, load_config
from finetrainers.distributed.layout import Layout
from finetrainers.errors import ConfigError
from finetrainers.memory.meter import Usage
from finetrainers.models import open_model
from finetrainers.testing import make_tiny
from finetrainers.testing.real_sizes import write_published
from finetrainers.training.bench.figures import Result
from finetrainers.training.cost import predict_step
from finetrainers.training.fit.choice import USABLE
from finetrainers.training.fit.sets import CHECKPOINTING as CHECKPOINTED_SET, with_techniques
from finetrainers.training.fit.trials import try_sets
from finetrainers.training.plan.devices import between, shared_usage
from finetrainers.training.plan.encoders import Pass, text_passes, unknown_encoders
from finetrainers.training.plan.figures import Planned, Stage
from finetrainers.training.plan.gpus import GPUS, Gpu, find_gpu, gpu_of_device
from finetrainers.training.plan.items import Items, count_items
from finetrainers.training.plan.run import Asked, num_measured, plan
from finetrainers.training.plan.scale import Weight
from finetrainers.training.plan.search import FULL_RANK, inputs_of, least_of, search
from finetrainers.training.plan.smaller import TEXT, smaller_keys
from finetrainers.training.plan.speed import Machine
from finetrainers.training.plan.stages import Passes, text_stage
from finetrainers.training.plan.table import plan_table

Tree = dict[str, Any]
CHECKPOINTING = "train.gradient_checkpointing"


def silent(_: str) -> None:
    """Nothing is shown."""


@pytest.fixture(scope="module", autouse=True)
def counts() -> Iterator[None]:
    """A step that was counted before is not counted again; what tests count themselves is."""
    with counted_once():
        yield


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("plan")
    sections = {"model": {"dtype": "bfloat16"}, "train": {"steps": 100, "batch_size": 4, "micro_batch_size": 4}}
    return merged(flux_tree(tiny_flux, root / "data", root), {**sections, "validation": {"held_out": 0.1}})


@pytest.fixture(scope="module")
def planned(tree: Tree) -> Planned:
    return plan(config_of(tree), Asked(find_gpu("h100"), price=2.0, items=50, say=silent))


def only(planned: Planned, name: str) -> Any:
    (found,) = (stage for stage in planned.stages if stage.stage == name)
    return found


def test_a_plan_counts_the_step_that_the_run_counts(planned: Planned, tree: Tree) -> None:
    config = config_of(tree)
    cost = predict_step(config, open_model(config.model), (1, 64, 64))
    assert only(planned, "step").allocated == cost.peak_bytes
    assert planned.steps[0].tflop == pytest.approx(cost.usage.flop / 1e12)
    assert planned.num_trained == cost.num_trained


def test_every_stage_is_the_sum_of_its_parts(planned: Planned) -> None:
    assert {"encode text", "encode media", "load", "step", "validation", "save"} == {own.stage for own in planned.stages}
    for own in planned.stages:
        assert own.allocated == sum(own.parts.values()), own.stage
        assert own.reserved >= own.allocated, own.stage
    assert only(planned, "load").allocated < only(planned, "save").allocated < only(planned, "step").allocated


def test_a_vae_that_is_told_the_noise_level_is_planned(tiny: Callable[[str, str], Path], tree: Tree) -> None:
    """LTX-Video from 0.9.1 on: without the level, its decoder stops with an error."""
    own = merged(tree, {"model": {"path": str(tiny("ltx_video", "0.9.7"))}})
    own["data"][0]["buckets"] = [[9, 64, 64]]
    assert only(plan(config_of(own), Asked(say=silent)), "validation").allocated


def test_the_bill_is_that_of_all_seconds(planned: Planned) -> None:
    run = planned.run
    assert run.seconds == pytest.approx(100 * planned.steps[0].seconds)
    seconds = run.seconds + run.encode_seconds + run.validation_seconds
    assert run.cost == pytest.approx(2.0 * seconds / 3600)
    assert planned.disk.cache == 50 * planned.disk.item


def test_disk_and_operations_are_those_of_a_hand_calculation(planned: Planned) -> None:
    """LoRA of rank 4 on 22 layers of width 32, without checkpointing; batch 4, 16 tokens of media and 16 of text."""
    trained = 22 * (4 * 32 + 32 * 4)
    assert planned.num_trained == trained
    latents, caption = 2 * (4 * 8 * 8) * 2 + 1000, (16 * 48 + 16) * 2  # means and deviations; all in bfloat16
    assert planned.disk.item == latents + caption
    assert planned.disk.checkpoint == trained * (4 + 8) + 44 * 4  # masters and AdamW's states, which counts its steps
    assert planned.disk.weights == trained * 4
    # Multiplications of a sample. Two blocks of two streams, two of one; attention of 32 tokens is 2 products, backward 5.
    embedders = 16 * 16 * 32 + 16 * 48 * 32 + 2 * (256 * 32 + 32 * 32) + (16 * 32 + 32 * 32)
    attention, outer, inner = 32 * 32 * 32, 16 * 32 * 32, 16 * (2 * 128 * 32)
    double = 2 * 192 * 32 + 8 * outer + 2 * inner + 2 * attention
    single_layers = 32 * 128 * 32 + 32 * 160 * 32 + 3 * 32 * 32 * 32
    single = 96 * 32 + single_layers + 2 * attention
    lora = 2 * (8 * 16 + 3 * 32) * 256
    forward = embedders + 2 * (double + single) + lora + 64 * 32 + 16 * 16 * 32
    # Gradients of inputs begin behind the first layers that train: six of LoRA, and nothing of what makes their inputs.
    backward = (2 * outer + 2 * inner) + (8 * outer + 2 * inner) + 2 * single_layers + 16 * 16 * 32 + 4 * 5 * attention
    backward += 2 * lora - 6 * 16 * 128
    assert planned.steps[0].tflop == pytest.approx(4 * 2 * (forward + backward) / 1e12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpu", "rtx9999"), "--gpu: there is no 'rtx9999' among .*; or give a size, such as 24GB"),
        (("--gpu", "24"), "--gpu: '24' is not a size with a unit; write 24GB or 24GiB, or a GPU's name"),
        (("--gpu", "5"), "--gpu: '5' is not a size with a unit; write 5GB or 5GiB"),
        (("--gpu", "24gb"), "--gpu: '24gb' is not a size with a unit; write 24GB or 24GiB"),
        (("--gpu", "0GB"), "--gpu: '0GB' is no memory; write how much the GPU has"),
        (("--gpus", "0"), "--gpus: '0' is not a count; give 1 or more, or leave the option out"),
        (("--items", "many"), "--items: 'many' is not a count; give 1 or more"),
        (("--price", "-1"), "--price: '-1' is not a price; give a number such as 2.5"),
        (("--json", "none/plan.json"), "--json: there is no folder none; make it, or name another file"),
        (("--gpus", "3"), r"train.batch_size: 4 is not a multiple of 12, .* the nearest that work: 12"),
        (("--measured", "none.json"), "--measured: none.json cannot be read"),
    ],
)
def test_odd_options_are_refused_with_the_way_out(
    words: tuple[str, str], message: str, tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(tree), encoding="utf-8")
    try:
        status = main(["plan", str(file), *words])
    except SystemExit as stop:  # of argparse
        status = stop.code  # type: ignore[assignment]  # its own status
    told = capsys.readouterr()
    assert status == 2
    assert not told.out
    assert re.search(message, told.err), told.err


def test_a_text_encoder_that_cannot_be_counted_is_named(tree: Tree, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tree["model"]["path"], folder)
    config = config_of(merged(tree, {"model": {"path": str(folder)}}))
    whole = text_stage(list(text_passes(config, open_model(config.model))), [])
    (folder / "text_encoder_2" / "config.json").unlink()
    model = open_model(config.model)
    part = text_stage(list(text_passes(config, model)), unknown_encoders(model))
    assert part.allocated < whole.allocated  # type: ignore[operator]  # both are counted
    assert "not counted: text_encoder_2, of which the model's folder has no config.json" in part.note


def test_what_encodes_is_made_smaller_key_by_key_and_written_keys_stay(tree: Tree) -> None:
    def next_keys(over: str, **sections: Any) -> Tree:
        written = config_of(merged(tree, sections.pop("written", {})))
        config = config_of(merged(tree, sections))
        stage = Stage(stage=over, allocated=2, reserved=2, parts={}, host=0)  # type: ignore[arg-type]  # a stage's name
        return smaller_keys(config, written, [stage], 1, open_model(config.model))

    formats = [{}, {"text_encoder_weights": "fp8_e4m3"}, {"text_encoder_weights": "nf4"}]
    assert [next_keys("encode text", memory=own).get(TEXT) for own in formats] == ["fp8_e4m3", "nf4", None]
    assert not next_keys("encode text", written={"memory": {"text_encoder_weights": "none"}})
    assert next_keys("validation") == {"memory.vae_tiling": True}
    assert not next_keys("encode media", memory={"vae_tiling": True})
    assert next_keys("encode media", memory={"vae_tiling": True}, cache={"batch_size": 2}) == {"memory.vae_slicing": True}
    assert not next_keys("step")


def test_what_a_key_leaves_as_it_is_is_counted_once(tree: Tree) -> None:
    config = config_of(tree)
    model, bucket = open_model(config.model), (1, 64, 64)
    first = Passes.of(config, model, bucket)
    text = config_of(merged(tree, {"memory": {"text_encoder_weights": "fp8_e4m3"}}))
    vae = config_of(merged(tree, {"memory": {"vae_tiling": True}}))
    texts = first.texts
    for own, changed in ((text, "texts"), (vae, "media")):
        again, whole = Passes.of(own, model, bucket, first), Passes.of(own, model, bucket)
        kept = {"texts", "media", "decode", "denoise"} - {changed, "decode" if changed == "media" else changed}
        assert all(getattr(again, name) is getattr(first, name) for name in kept)
        assert getattr(again, changed) == getattr(whole, changed)
        texts = again.texts if changed == "texts" else texts
    assert texts != first.texts


def test_what_is_proposed_is_the_first_that_fits_and_can_be_given_to_train(tree: Tree, tmp_path: Path) -> None:
    config = config_of(tree)
    model = open_model(config.model)
    whole = predict_step(
        config_of(merged(tree, {"train": {"gradient_checkpointing": False}})), model, (1, 64, 64)
    ).peak_bytes
    less = config_of(merged(tree, {"memory": {"preset": "auto", "budget": int((whole - 1000) / USABLE)}}))
    for gpu, asked, is_checkpointed in ((whole + 1000, config, False), (whole + 1000, less, True)):
        found = plan(asked, Asked(Gpu("own", gpu / USABLE / 1e9), say=silent))
        assert found.fits
        assert all(own.allocated <= found.limit for own in found.stages)
        (chosen,) = (own for own in found.techniques if own.is_chosen)
        assert chosen.keys[CHECKPOINTING] is is_checkpointed
        file = tmp_path / "proposal.yaml"
        file.write_text(str(found.proposal), encoding="utf-8")
        proposed = load_config(file)
        assert proposed.train.gradient_checkpointing is is_checkpointed
        assert predict_step(proposed, model, (1, 64, 64)).peak_bytes == only(found, "step").allocated


def test_a_budget_is_planned_for_without_a_gpu_and_views_and_measured_items_count(tree: Tree, planned: Planned) -> None:
    data = [{**tree["data"][0], "horizontal_flip": True, "views": 3}]
    sections = {"memory": {"preset": "auto", "budget": "24GB"}, "data": data, "validation": {"held_out": 0.0, "items": 5}}
    found = plan(config_of(merged(tree, sections)), Asked(items=50, say=silent))
    assert (found.limit, found.fits, found.gpu) == (int(USABLE * 24e9), True, None)
    assert [own for own in found.techniques if own.is_chosen]
    assert only(found, "validation").allocated
    assert found.disk.item == planned.disk.item
    assert planned.disk.cache < found.disk.cache < 3 * planned.disk.cache  # captions are there once an item


@pytest.mark.long
def test_windows_are_encoded_beside_the_optimizer_and_items_in_memory_count(tree: Tree, planned: Planned) -> None:
    """Of a set that does not fit; the denoiser is on the host meanwhile, and encoders are while it trains."""
    limit = 0.5 * planned.disk.cache
    whole, small, fly = (
        plan(config_of(merged(tree, {"cache": cache})), Asked(find_gpu("h100"), items=50, say=silent))
        for cache in (
            {"max_gb": 2 * planned.disk.cache / 1e9},
            {"max_gb": limit / 1e9},
            {"max_gb": limit / 1e9, "encode": "on_the_fly"},
        )
    )
    assert [own.allocated for own in whole.stages] == [own.allocated for own in planned.stages]
    config = config_of(tree)
    text = sum(own.weights for own in text_passes(config, open_model(config.model)))
    parked = text + only(planned, "encode media").host
    assert only(whole, "step").host == only(planned, "step").host + parked  # kept as soon as max_gb is set
    states = only(planned, "save").parts["optimizer"]
    for name in ("encode text", "encode media"):
        assert only(small, name).allocated == only(planned, name).allocated + states
        assert only(small, name).allocated == sum(only(small, name).parts.values())
        assert only(small, name).host > only(planned, "save").parts["weights"]
    assert only(small, "step").host > only(planned, "step").host
    assert (small.disk.cache, fly.disk.cache) == (int(limit), 0)
    assert [own.host for own in fly.stages] == [own.host + int(limit) for own in small.stages]


def test_encoders_are_read_whole_and_shared_in_parts(tree: Tree) -> None:
    def counted(**memory: Any) -> list[Pass]:
        config = config_of(merged(tree, {"memory": memory}))
        return list(text_passes(config, open_model(config.model)))

    whole, compressed, shared = counted(), counted(text_encoder_weights="fp8_e4m3"), counted(shard_text_encoders=True)
    read = text_stage(whole, []).host
    assert text_stage(compressed, []).host == read == max(own.weights for own in whole)
    assert all(own.weights < own.read for own in compressed)
    for own, part in zip(whole, [own.shared(4) for own in shared], strict=True):
        assert part.weights == min(own.weights, ceil(own.weights / 4) + part.gathered)
        assert 0 < part.gathered < own.weights
        assert own.usage.peak_bytes - part.usage.peak_bytes == own.weights - part.weights


def test_a_plan_refuses_what_a_run_of_so_many_processes_refuses(tree: Tree) -> None:
    shared = merged(tree, {"parallel": {"shard": 2}, "train": {"micro_batch_size": 2}, "optimizer": {"state": "cpu"}})
    with pytest.raises(ConfigError, match=r"optimizer.state: cpu is impossible with parallel.shard"):
        plan(config_of(shared), Asked(find_gpu("h100"), say=silent))


def test_copies_leave_out_a_set_that_they_cannot_take(tree: Tree) -> None:
    """A batch is spread over them, so that each has one micro-batch of the two that the configuration names."""
    config = config_of(merged(tree, {"tuning": {"kind": "full"}, "train": {"micro_batch_size": 2}}))
    (in_backward,) = (own for own in FULL_RANK if "optimizer.in_backward" in own)
    (trial,) = try_sets(config, open_model(config.model), [in_backward], layout=Layout(2))
    assert trial.config is None
    assert "optimizer.in_backward: true" in trial.reason


def test_no_set_takes_less_than_what_it_is_left_out_for(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of blocks, which one set sends to the host, are on the device in all that send none."""
    config = config_of(tree)
    half = {**CHECKPOINTED_SET, "memory.resident_blocks": Fraction(1, 2)}
    sent = {**CHECKPOINTED_SET, "memory.activations": "host"}
    base, kept = try_sets(config, open_model(config.model), (CHECKPOINTED_SET, half))
    monkeypatch.setattr("finetrainers.memory.offload.MIN_BYTES", 0)
    (streamed,) = try_sets(config, open_model(config.model), (sent,))
    inputs = inputs_of(streamed, config)
    assert kept.peak_bytes is not None
    assert least_of(half, base, config) + inputs // 2 < least_of(half, base, config, inputs) < kept.peak_bytes
    assert least_of(sent, base, config, inputs) == least_of(sent, base, config) < (streamed.peak_bytes or 0)


@pytest.mark.long
def test_copies_go_on_to_the_set_after_it(tree: Tree) -> None:
    config = config_of(merged(tree, {"tuning": {"kind": "full"}, "train": {"micro_batch_size": 2}}))
    model = open_model(config.model)
    (least,) = try_sets(config, model, [FULL_RANK[-1]], layout=Layout(2))
    found = search(config, model, least.peak_bytes or 0, layout=Layout(2))
    assert found.chosen.techniques == least.techniques
    assert found.chosen.config is not None
    assert found.chosen.config.train.batch_size == 4


def test_auto_without_a_gpu_says_what_it_needs(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("finetrainers.training.plan.run._Planning.planned", lambda self: self._search())
    assert plan(config_of(merged(tree, {"memory": {"preset": "auto"}})), Asked(say=told.append)) is None
    assert told == ["memory.preset: auto chooses by the GPU: name one with --gpu, or set memory.budget"]


def test_a_verdict_names_what_was_not_counted(planned: Planned) -> None:
    assert "It fits. The configuration" in plan_table(planned)
    first, *others = planned.stages
    note = f"{first.note}; not counted: text_encoder_2, of which"
    unknown = planned.model_copy(update={"stages": (first.model_copy(update={"note": note}), *others)})
    assert "It fits, as far as it was counted (not counted: text_encoder_2" in plan_table(unknown)


def test_a_format_whose_package_is_missing_is_named(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("pip install it")

    monkeypatch.setattr("finetrainers.training.plan.smaller.check_computation", refuse)
    config, told = config_of(tree), list[str]()
    stage = Stage(stage="encode text", allocated=2, reserved=2, parts={}, host=0)
    assert not smaller_keys(config, config, [stage], 1, open_model(config.model), say=told.append)
    assert told == ["memory.text_encoder_weights: fp8_e4m3 was not counted: pip install it"]


def test_an_optimizer_that_steps_whole_weights_keeps_whole_states() -> None:
    """By hand: two blocks with a trained weight of 8 x 4 numbers, and a root, over two processes."""
    units = [[Weight((8, 4), 2, is_trained=True)]] * 2 + [[Weight((4,), 2, is_trained=False)]]
    peak = dict.fromkeys(("weights", "trained", "masters", "states", "gradients", "activations", "temporaries", "host"), 0)
    usage = Usage({**peak, "states": 100}, 0)  # type: ignore[dict-item]  # names of categories
    adamw, muon, adafactor = (
        shared_usage(usage, units, Layout(1, 2), prefetch=1, optimizer=name).peak for name in ("adamw", "muon", "adafactor")
    )
    assert (adamw["states"], muon["states"], adafactor["states"]) == (50, 50, 100)
    for own in (muon, adafactor):
        assert own["temporaries"] - adamw["temporaries"] == 2 * 4 * 8 * 4  # of a float32 weight and its gradient


def test_what_an_optimizer_puts_together_is_sent(tree: Tree) -> None:
    """By hand: two matrices of 8 x 4 numbers over two processes, each of which sends half of what is put together."""
    units = [[Weight((8, 4), 2, is_trained=True)]] * 2
    model = open_model(config_of(tree).model)

    def moved(name: str) -> Mapping[str, int]:
        sizes = {"batch_size": 2, "micro_batch_size": 1}
        config = config_of(merged(tree, {"optimizer": {"name": name, "lr": 1e-3}, "train": sizes}))
        return between(config, model, Layout(1, 2), units, bucket=(1, 64, 64), gpu=find_gpu("h100")).sent

    adamw, muon, adafactor = (moved(name) for name in ("adamw", "muon", "adafactor"))
    assert muon == {**adamw, "all-to-all": adamw.get("all-to-all", 0) + (2 + 4) * 8 * 4 // 2}
    assert adafactor == {**adamw, "all-gather": adamw["all-gather"] + 2 * 4 * (2 * 8 * 4) // 2}


def test_items_on_this_machine_are_counted_with_their_views(tree: Tree, tmp_path: Path) -> None:
    data = {"path": str(write_pictures(tmp_path / "data", 2)), "buckets": [[1, 64, 64]]}
    config = config_of(merged(tree, {"data": [data, {**data, "resize": "random_crop"}]}))
    assert count_items(config, open_model(config.model)) == Items(count=4, views=2 + 2 * 4, samples=4)


@pytest.mark.parametrize(
    ("keys", "items", "count"),
    [
        ({"held_out": 0.1}, 50, 5),
        ({"held_out": 0.1}, None, 64),
        ({"held_out": 0.1, "items": 100}, 50, 55),
        ({"data": [{"path": "own", "buckets": [[1, 64, 64]]}], "max_items": 9}, 50, 9),
        ({"items": 7}, None, 7),
    ],
)
def test_a_validation_measures_what_is_held_out_and_items_of_training(keys: Tree, items: int | None, count: int) -> None:
    assert num_measured(ValidationConfig(**keys), items) == count


@pytest.mark.long
def test_what_fits_nowhere_is_refused_with_the_least(tree: Tree) -> None:
    with pytest.raises(ConfigError, match=r"--gpu: a step may use .* the smallest that was found needs") as told:
        plan(config_of(tree), Asked(Gpu("own", 1e-6), say=silent))
    found = re.search(r"needs (\S+) GB .* a GPU of (\S+) GB has", str(told.value))
    assert found is not None
    assert float(found[2]) == pytest.approx(float(found[1]) / USABLE, rel=0.01)
    assert "a train.micro_batch_size below 4" in str(told.value)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", ["flux", "wan"])  # images and videos
def test_each_kind_of_family_fits_below_what_is_written(family: str, kind: str, tmp_path: Path) -> None:
    """What is proposed is within the limit; of a limit that nothing meets, the least is told."""
    bucket = [1, 64, 64] if family == "flux" else [9, 64, 64]
    changes = {"data": [{"path": "none", "buckets": [bucket]}], "model": {"dtype": "bfloat16"}, "tuning": {"kind": kind}}
    config = config_of(merged(flux_tree(make_tiny(family, tmp_path / "model"), tmp_path, tmp_path), changes))
    model = open_model(config.model)
    written = predict_step(with_techniques(config, {CHECKPOINTING: True}), model, (bucket[0], 64, 64)).peak_bytes
    found = search(config, model, written - 1)
    assert found.chosen.peak_bytes is not None
    assert found.chosen.peak_bytes < written
    with pytest.raises(
        ConfigError, match=r"--gpu: a step may use 1e-06 GB, .* needs (\S+) GB .* a GPU of (\S+) GB has"
    ) as told:
        search(config, model, 1000)
    least, size = map(float, re.search(r"needs (\S+) GB .* a GPU of (\S+) GB has", str(told.value)).groups())  # type: ignore[union-attr]
    assert size == pytest.approx(least / USABLE, rel=0.01)
    assert "a train.micro_batch_size below 4" in str(told.value)


@pytest.mark.long
def test_shards_hold_a_part_and_send_what_they_gather(tree: Tree, planned: Planned) -> None:
    config = config_of(merged(tree, {"tuning": {"kind": "full"}, "train": {"micro_batch_size": 1}}))
    one, two = (plan(config, Asked(None, gpus=n, say=silent)) for n in (1, 2))
    shared = plan(
        config_of(merged(config.model_dump(mode="json", exclude_unset=True), {"parallel": {"shard": 2}})), Asked(say=silent)
    )
    assert one.between is None
    assert two.between is not None
    assert set(two.between.sent) == {"all-reduce"}
    assert two.between.sent["all-reduce"] == pytest.approx(
        4 * one.num_trained
    )  # float32, twice around, half of it each time
    assert shared.between is not None
    assert shared.between.sent["all-gather"] > 0
    assert only(shared, "step").parts["optimizer"] < 0.6 * only(one, "step").parts["optimizer"]
    assert two.steps[0].tflop == pytest.approx(one.steps[0].tflop / 2)


@pytest.mark.long
def test_what_is_proposed_for_a_real_size_fits(tmp_path: Path) -> None:
    """Of LTX-Video, for a card on which its step fits, and its text encoder does not; what is faster takes too much."""
    model = {"path": str(write_published("LTX-Video 2B", tmp_path / "model"))}
    tree = merged(real_tree(model, [49, 512, 768], tmp_path), {"train": {"gradient_checkpointing": True}})
    found = plan(config_of(tree), Asked(find_gpu("10GB"), say=silent))
    assert found.fits
    assert all(own.allocated <= USABLE * 10e9 for own in found.stages)
    (chosen,) = (own for own in found.techniques if own.is_chosen)
    assert not chosen.keys
    assert "text_encoder_weights: fp8_e4m3" in str(found.proposal)
    assert [own.allocated > found.limit for own in found.techniques] == [True, True, False]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # dynamo looks
@pytest.mark.parametrize(
    ("kind", "allocated", "reserved", "seconds"), [("none", 6.11, 6.82, 0.341), ("regional", 6.03, 6.83, 0.1564)]
)
def test_a_plan_comes_near_what_an_h200_has_measured(
    kind: str, allocated: float, reserved: float, seconds: float, tmp_path: Path
) -> None:
    """LTX-Video, eager and compiled; scripts/plan_table.py compares the others that were measured."""
    model = {"path": str(write_published("LTX-Video 2B", tmp_path / "model"))}
    tree = merged(real_tree(model, [49, 512, 768], tmp_path), {"train": {"gradient_checkpointing": True}})
    config = config_of({**tree, "compile": {"kind": kind}})
    cost = predict_step(config, open_model(config.model), (49, 512, 768))
    assert cost.peak_bytes / 2**30 == pytest.approx(allocated, rel=0.05)
    assert cost.reserved_bytes / 2**30 == pytest.approx(reserved, rel=0.05)
    assert Machine(find_gpu("h200")).seconds(cost.work) == pytest.approx(seconds, rel=0.2)


def real_tree(model: Tree, bucket: list[int], root: Path) -> Tree:
    """A LoRA run of a model of real size."""
    return {
        "output_dir": str(root / "run"),
        "model": model,
        "data": [{"path": "none", "buckets": [bucket]}],
        "tuning": {"kind": "lora", "rank": 128, "alpha": 128},
        "optimizer": {"lr": 1e-4},
    }


def measured(config: Config, *, factor: float, file: Path) -> Path:
    """Write what a bench would have measured, of an H100 whose steps take a multiple of what is expected."""
    expected = plan(config, Asked(find_gpu("h100"), say=silent)).steps[0]
    seconds = dict.fromkeys(("step", "first_step", "data", "forward", "backward", "update"), factor * expected.seconds)
    bucket = {
        "bucket": expected.bucket,
        "tokens": expected.tokens,
        "seconds": seconds,
        "samples_per_second": 1.0,
        "tokens_per_second": 1.0,
        "tflop": expected.tflop,
        "share": 0.5,
        "memory": {"allocated": 1, "reserved": 1, "process": 1},
    }
    result = Result.model_validate(
        {
            "versions": {},
            "device": "NVIDIA H100 80GB HBM3",
            "family": "flux",
            "weights": "random",
            "num_trained": 1,
            "steps": 5,
            "warmup": 2,
            "config": config.model_dump(mode="json", by_alias=True),
            "product": {"size": 8192, "dtype": "bfloat16", "tflops": 700.0},
            "buckets": [bucket],
        }
    )
    file.write_text(result.model_dump_json(), encoding="utf-8")
    return file


@pytest.mark.long
def test_a_measured_figure_makes_seconds_those_of_the_machine(tree: Tree, planned: Planned, tmp_path: Path) -> None:
    config = config_of(merged(tree, {"train": {"gradient_checkpointing": False}}))
    file = measured(config, factor=3.0, file=tmp_path / "bench.json")
    found = plan(config, Asked(find_gpu("h100"), measured=file, say=silent))
    assert found.steps[0].seconds == pytest.approx(3 * plan(config, Asked(find_gpu("h100"), say=silent)).steps[0].seconds)
    assert found.errors.seconds < planned.errors.seconds
    with pytest.raises(ConfigError, match="--measured: the figures are of 'NVIDIA H100 80GB HBM3', and --gpu is RTX 4090"):
        plan(config, Asked(find_gpu("rtx4090"), measured=file, say=silent))
    file.write_text("{}")
    with pytest.raises(ConfigError, match="--measured: .* has no figures of finetrainers bench"):
        plan(config, Asked(measured=file, say=silent))


def test_gpus_are_found_by_what_people_write() -> None:
    names = {"h100": "H100", "H200": "H200", "rtx4090": "RTX 4090", "4090": "RTX 4090", "a100-80gb": "A100 80GB"}
    names |= {"nvidia geforce rtx 4060 ti": "RTX 4060 Ti 16GB", "6000 ada": "RTX 6000 Ada", "pro 6000": "RTX PRO 6000"}
    assert {text: find_gpu(text).name for text in names} == names
    assert find_gpu("24GiB").memory_bytes == 24 * 2**30
    assert gpu_of_device("NVIDIA GeForce RTX 4090") == find_gpu("rtx4090")
    assert gpu_of_device("NVIDIA H100 PCIe") == find_gpu("H100 PCIe")
    assert gpu_of_device("cpu with 2 threads") is None
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    for text in ("voodoo", "h20", "4060", "rtx", ""):
        with pytest.raises(ConfigError, match=f"--gpu: there is no '{text}' among"):
            find_gpu(text)
    with pytest.raises(ConfigError, match="--gpu: 'a100' is A100 80GB or A100 40GB; write which"):
        find_gpu("a100")


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("NVIDIA L40S", "L40S"),
        *[(name, None) for name in ("NVIDIA A100 80GB PCIe", "NVIDIA L40", "NVIDIA A10G", "NVIDIA H100 NVL")],
        *[(f"NVIDIA GeForce RTX {name}", None) for name in ("3060 Ti", "4090 Laptop GPU", "5090 D")],
    ],
)
def test_a_device_is_a_gpu_only_if_all_of_its_name_says_so(name: str, gpu: str | None) -> None:
    found = gpu_of_device(name)
    assert (None if found is None else found.name) == gpu


@pytest.mark.long
def test_the_command_writes_a_table_and_json(
    tiny: Callable[[str, str], Path], tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(tree), encoding="utf-8")
    before = set(tmp_path.iterdir())
    assert main(["plan", str(file), "--gpu", "24GB", "--json", str(tmp_path / "plan.json"), "train.steps=7"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.split("The configuration,")[0].splitlines())) <= 100
    read = Planned.model_validate_json((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert read.run.steps == 7
    assert read.fits
    assert read.run.seconds is None  # a size says nothing of time
    assert read.steps[0].seconds is None
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "plan.json"}  # nothing else, no run directory and no cache
    assert main(["plan", str(file), "--gpu", "voodoo"]) == 2
