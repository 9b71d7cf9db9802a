"""Frozen weights at rest in fewer bits: every family in every format trains as without, up to the format's rounding."""

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from runs import Tree, adapter_file, config_of, curve, flux_tree, merged, write_pictures
from torch import Tensor, nn
from torch._dynamo.utils import counters

import finetrainers
from finetrainers.config import MemoryConfig
from finetrainers.errors import ConfigError, Interrupted
from finetrainers.memory.quantize.compress import compress_text_encoders, compressing
from finetrainers.memory.quantize.formats import FORMATS
from finetrainers.memory.quantize.layer import CompressedLinear
from finetrainers.models import open_model
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest
from finetrainers.training.build import build_trainer
from finetrainers.training.track.track import StepLog
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import build_tuning

LOKR = {"kind": "lokr", "rank": 2, "alpha": 6}
SIZES = {"flux": (1, 64, 64), "cogview4": (1, 64, 64)}
VARIANTS = {
    "cogvideox": "5b",
    "cogview4": "6b",
    "flux": "dev",
    "hunyuan_video": "t2v",
    "ltx_video": "0.9.0",
    "wan": "2.1-t2v",
}
WEIGHT_ERROR = {"fp8_e4m3": 0.05, "fp8_e5m2": 0.07, "fp8_scaled": 0.035, "int8": 0.012, "nf4": 0.11}
"""Largest error of a format in a weight, as a share of its norm: what docs/quantization.md states."""
GRADIENT_ERROR = {"fp8_e4m3": 0.06, "fp8_e5m2": 0.1, "fp8_scaled": 0.06, "int8": 0.012, "nf4": 0.2}
"""Largest error in the gradient of an adapter, likewise."""
ENCODING_ERROR = {"fp8_e4m3": 0.15, "fp8_e5m2": 0.25, "fp8_scaled": 0.15, "int8": 0.03, "nf4": 0.6}
"""Largest error in an encoded caption, likewise: of random weights, which carry each error further than trained ones do."""
BITS = {"fp8_e4m3": 8, "fp8_e5m2": 8, "fp8_scaled": 8, "int8": 8, "nf4": 4.5}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subjects(tiny: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelUnderTest]:
    """Each family once: its samples are encoded for the first test and stay."""
    made: dict[str, ModelUnderTest] = {}

    def make(family: str) -> ModelUnderTest:
        if family not in made:
            path, folder = str(tiny(family, VARIANTS[family])), tmp_path_factory.mktemp(family)
            made[family] = ModelUnderTest({"path": path}, SIZES.get(family, (9, 64, 64)), folder)
        return made[family]

    return make


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Let no test find what another has compiled."""
    torch._dynamo.reset()
    counters.clear()
    names = ("recompile_limit", "accumulated_recompile_limit", "fail_on_recompile_limit_hit")
    with torch._dynamo.config.patch({name: getattr(torch._dynamo.config, name) for name in names}):
        yield
    torch._dynamo.reset()


def relative(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


def compressed(module: nn.Module) -> dict[str, CompressedLinear]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, CompressedLinear)}


def frozen_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters() if not parameter.requires_grad)


def asked(trainer: Trainer, subject: ModelUnderTest) -> tuple[Tensor, Tensor]:
    """The losses of the first batch, and the gradient of an adapter that is not zero anywhere."""
    trainer.denoiser.train()
    with torch.no_grad():
        for number, parameter in enumerate(trainer.update.parameters):
            parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(number))
    trainer.update.round()
    losses = trainer.micro_losses(subject.batch)
    losses.mean().backward()
    gradients = [p.grad.flatten() for p in trainer.update.parameters if p.grad is not None]
    return losses.detach(), torch.cat(gradients)


@pytest.fixture(scope="module")
def plain(subjects: Callable[[str], ModelUnderTest]) -> Callable[[str, str], tuple[Tensor, int]]:
    """By family and kind of tuning: the gradient without compression, and the bytes of what is frozen."""

    @cache
    def make(family: str, kind: str) -> tuple[Tensor, int]:
        trainer = subjects(family).trainer({"lora": LORA, "lokr": LOKR}[kind])
        return asked(trainer, subjects(family))[1], frozen_bytes(trainer.denoiser)

    return make


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", [(64, 96), (7, 5), (48, 32)])
def test_a_weight_comes_back_up_to_the_rounding_of_its_format(kind: str, shape: tuple[int, int]) -> None:
    """With rows of very different sizes where rows have scales; what is read as ``weight`` is what is computed with."""
    layer = nn.Linear(shape[1], shape[0], dtype=torch.bfloat16)
    nn.init.normal_(layer.weight, std=0.05, generator=torch.Generator().manual_seed(0))
    if kind in ("int8", "fp8_scaled"):
        with torch.no_grad():
            layer.weight.mul_(torch.logspace(-4, 3, shape[0])[:, None])
    rested = CompressedLinear(layer, kind)
    x = torch.randn(2, 3, shape[1], generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    for row in range(shape[0]) if kind in ("int8", "fp8_scaled") else [slice(None)]:
        assert relative(rested.weight[row].float(), layer.weight[row].float()) < WEIGHT_ERROR[kind]
    assert rested.weight.dtype == torch.bfloat16
    answer = rested(x)
    torch.testing.assert_close(answer, nn.functional.linear(x, rested.weight, layer.bias), rtol=0, atol=0)
    grad = torch.randn(answer.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    (own,) = torch.autograd.grad(answer, x, grad)
    torch.testing.assert_close(own, grad @ rested.weight, rtol=0, atol=0)


def test_a_number_beyond_the_format_becomes_its_largest_and_not_nan() -> None:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, -1e6)
    for kind in ("fp8_e4m3", "fp8_e5m2"):
        assert CompressedLinear(layer, kind).weight.isfinite().all()


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_in_full_precision_is_kept_for_the_backward_pass(kind: str) -> None:
    kept: list[Tensor] = []
    layer = CompressedLinear(nn.Linear(64, 64), kind)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(2, 64, requires_grad=True))
    assert {tensor.data_ptr() for tensor in kept} <= {parameter.data_ptr() for parameter in layer.parameters()}


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own, compiling
@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_graph_keeps_nothing_in_full_precision_either(kind: str) -> None:
    """Also with a partitioner that chooses what to keep and what to compute again, as inductor's does."""
    kept: list[Tensor] = []
    layer = CompressedLinear(nn.Linear(64, 64, bias=False), kind)
    compiled = torch.compile(layer, backend="aot_eager_decomp_partition", fullgraph=True)
    x = torch.randn(2, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        answer = compiled(x)
    assert kept
    assert {tensor.data_ptr() for tensor in kept} <= {parameter.data_ptr() for parameter in layer.parameters()}
    gradients = [torch.autograd.grad(own.sum(), x)[0] for own in (answer, layer(x))]
    assert torch.equal(*gradients)


def at_rest(family: str, kind: str) -> Any:
    """Each family in one format and each format in one family; the others are for `make test-long`."""
    return pytest.param(family, kind, marks=[] if family == "flux" or kind == "int8" else [pytest.mark.long])


@pytest.mark.parametrize(("family", "kind"), [at_rest(family, kind) for family in VARIANTS for kind in FORMATS])
def test_each_family_trains_on_weights_at_rest(
    family: str, kind: str, subjects: Callable[[str], ModelUnderTest], plain: Callable[[str, str], tuple[Tensor, int]]
) -> None:
    """LoRA and LoKr, and with checkpointing the same bits; at rest they take the bytes of the format."""
    subject = subjects(family)
    memory = {"weights": kind}
    for tuning in (LORA, LOKR):
        expected, plain_bytes = plain(family, tuning["kind"])
        trainer = subject.trainer(tuning, memory=memory)
        layers = compressed(trainer.denoiser)
        assert any(".base_layer" in name for name in layers)
        losses, gradient = asked(trainer, subject)
        assert losses.isfinite().all()
        assert 1e-4 < relative(gradient, expected) < GRADIENT_ERROR[kind]
        saved = sum(layer.weight.numel() * (32 - BITS[kind]) / 8 for layer in layers.values())
        scales = sum(layer.scales.nbytes for layer in layers.values() if layer.scales is not None and kind != "nf4")
        assert plain_bytes - frozen_bytes(trainer.denoiser) == pytest.approx(saved - scales, rel=0.01)
    again = asked(subject.trainer(LOKR, memory=memory, train={"gradient_checkpointing": True}), subject)
    assert torch.equal(again[0], losses)
    assert torch.equal(again[1], gradient)


@pytest.mark.parametrize("family", VARIANTS)
def test_all_layers_of_the_blocks_rest_and_no_others(family: str, subjects: Callable[[str], ModelUnderTest]) -> None:
    """None of what trains in full beside an adapter, of the projections, or of what the class keeps in float32."""
    subject = subjects(family).controlled
    trainer = subject.trainer(memory={"weights": "fp8_e4m3"})
    denoiser, adapter = trainer.denoiser, subject.model.adapter
    blocks = [name for name, module in denoiser.named_modules() if type(module).__name__ in adapter.blocks]
    base = [(name, m) for name, m in denoiser.named_modules() if isinstance(m, nn.Linear) and "lora" not in name]
    for name, layer in base:
        is_inside = any(name.startswith(f"{block}.") for block in blocks)
        assert isinstance(layer, CompressedLinear) == is_inside, name
    assert asked(trainer, subject)[1].isfinite().all()


def test_what_the_class_keeps_in_float32_does_not_rest() -> None:
    class Block(nn.ModuleDict):
        pass

    root: Any = Block({"block": Block({"kept": nn.Linear(2, 2), "other": nn.Linear(2, 2)})})
    root._keep_in_fp32_modules = ["kept"]
    settle = compressing("fp8_e4m3", ("Block",))
    assert settle is not None
    for name in ("block.kept", "block.other"):
        settle(root, name)
    assert list(compressed(root)) == ["block.other"]


@pytest.mark.parametrize("weights", ["stored", "random"])
def test_loading_never_holds_a_second_layer_in_full(weights: Any, subjects: Callable[[str], ModelUnderTest]) -> None:
    """When a layer is there, all that came before are compressed, and what comes after has no memory yet."""
    model = subjects("flux").model
    settle = compressing("int8", model.adapter.blocks)
    seen: list[int] = []

    def watched(root: nn.Module, name: str) -> None:
        inside = [m for m in root.modules() if type(m).__name__ in model.adapter.blocks]
        full = [m for block in inside for m in block.modules() if type(m) is nn.Linear and not m.weight.is_meta]
        assert len(full) <= 1
        one = sum(parameter.nbytes for layer in full for parameter in layer.parameters())
        seen.append(sum(parameter.nbytes for parameter in root.parameters() if not parameter.is_meta) - one)
        assert settle is not None
        settle(root, name)

    loaded = model.load_denoiser(CPU, weights=weights, settle=watched)
    assert seen == sorted(seen)
    assert seen[0] < 0.2 * seen[-1]
    assert seen[-1] <= sum(parameter.nbytes for parameter in loaded.parameters())


@pytest.mark.parametrize("kind", FORMATS)
def test_on_the_meta_device_it_takes_the_same_bytes(kind: str, subjects: Callable[[str], ModelUnderTest]) -> None:
    subject = subjects("ltx_video")
    config = subject.config("run", memory={"weights": kind})
    found = []
    for device, weights in ((CPU, "stored"), (torch.device("meta"), "none")):
        trainer = build_trainer(
            config,
            subject.model,
            objective=subject.objective,
            tuning=build_tuning(config.tuning),
            device=device,
            weights=weights,  # type: ignore[arg-type]  # the loop forgets that they are literals
        )
        found.append({name: (p.shape, p.dtype) for name, p in trainer.denoiser.named_parameters()})
    assert found[0] == found[1]
    layer = next(iter(compressed(trainer.denoiser).values()))
    x = torch.randn(3, layer.in_features, device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.is_meta


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, tracing
@pytest.mark.usefixtures("forgotten")
def test_compiled_blocks_read_weights_at_rest_without_a_graph_break(subjects: Callable[[str], ModelUnderTest]) -> None:
    subject, memory = subjects("ltx_video"), {"weights": "int8"}
    losses, gradient = asked(subject.trainer(memory=memory), subject)
    compile = {"kind": "regional", "backend": "aot_eager"}
    trainer = subject.trainer(memory=memory, compile=compile, train={"gradient_checkpointing": True})
    compiled = asked(trainer, subject)
    assert torch.equal(compiled[0], losses)
    torch.testing.assert_close(compiled[1], gradient, rtol=0, atol=1e-6 * float(gradient.abs().max()))
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A run with a prompt and held-out samples."""
    root = tmp_path_factory.mktemp("at-rest")
    (root / "prompts.json").write_text('[{"prompt": "a dog", "num_inference_steps": 2}]')
    validation = {"prompts": str(root / "prompts.json"), "held_out": 0.2}
    return flux_tree(tiny_flux, write_pictures(root / "media", 6), root, validation=validation, checkpoint={"every": 2})


def run(tree: Tree, directory: Path, **sections: Any) -> Path:
    finetrainers.train(config_of(merged(tree, {"output_dir": str(directory), **sections})))
    return directory


def stop_after(step: int) -> Any:
    """Log as ever, and send this process a SIGTERM after a step."""
    log = StepLog.__call__

    def logged(self: StepLog, trainer: Trainer, metrics: Any) -> None:
        log(self, trainer, metrics)
        if metrics.step == step:
            signal.raise_signal(signal.SIGTERM)

    return logged


@pytest.mark.parametrize(("kind", "tuning"), [("nf4", "lora"), ("int8", "lokr")])
def test_a_run_draws_saves_resumes_bit_for_bit_and_exports(tree: Tree, tmp_path: Path, kind: str, tuning: str) -> None:
    """With text encoders at rest; nothing of the frozen weights is in a checkpoint, and the export needs no finetrainers."""
    sections = {"memory": {"weights": kind, "text_encoder_weights": kind}, "tuning": {"kind": tuning, "rank": 4, "alpha": 8}}
    whole = run(tree, tmp_path / "whole", **sections)
    parts = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetrainers.training.run.StepLog.__call__", stop_after(3))
        with pytest.raises(Interrupted):
            run(tree, parts, **sections)
    run(tree, parts, **sections)
    assert curve(parts, "loss", "grad_norm") == curve(whole, "loss", "grad_norm")
    files = [(run / "validation/step-000004/00.png", adapter_file(run / "weights/step-000004")) for run in (parts, whole)]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()
    saved = (whole / "checkpoints/step-000004/state.json").read_text()
    assert tuning in saved
    assert ".numbers" not in saved
    denoiser = FluxTransformer2DModel.from_pretrained(tree["model"]["path"], subfolder="transformer")
    prefix = "transformer" if tuning == "lora" else None
    file = adapter_file(whole / "weights/step-000004")
    denoiser.load_lora_adapter(file.parent, prefix=prefix, weight_name=file.name)
    with pytest.raises(ConfigError, match=rf"output_dir: .*\n  memory\.weights: {kind!r} -> 'none'"):
        run(tree, whole, tuning=sections["tuning"])


def test_frozen_weights_at_rest_are_the_base_that_preferences_are_compared_with(
    subjects: Callable[[str], ModelUnderTest],
) -> None:
    subject = subjects("flux")
    memory = {"weights": "int8"}
    trainer, fresh = (subject.trainer(memory=memory) for _ in range(2))
    asked(trainer, subject)  # the adapter is not zero any more
    x, sigma = subject.batch.noise, subject.batch.sigma
    with torch.no_grad():
        expected, base = fresh.predict(x, sigma, subject.batch), trainer.predict.base(x, sigma, subject.batch)
        assert torch.equal(base, expected)
        assert not torch.equal(trainer.predict(x, sigma, subject.batch), expected)


@pytest.mark.parametrize(
    ("family", "kind"),
    [*(("flux", kind) for kind in FORMATS), ("wan", "int8"), ("hunyuan_video", "nf4"), ("cogview4", "fp8_scaled")],
)
def test_text_encoders_at_rest_answer_as_without(family: str, kind: str, subjects: Callable[[str], ModelUnderTest]) -> None:
    """CLIP and T5, UMT5, Llama and CLIP, GLM: what is fed to the denoiser is the same up to the rounding."""
    model = subjects(family).model
    found, taken = [], []
    for own in ("none", kind):
        components = {name: model.pretrained.load(name) for name in model.text_components}
        compress_text_encoders(components.values(), own, CPU)
        encoders = [component for component in components.values() if isinstance(component, nn.Module)]
        taken.append([frozen_bytes(encoder) for encoder in encoders])
        pipeline = model.pretrained.pipeline(model.pipeline_class, components)
        with torch.no_grad():
            found.append(model.encode_text(pipeline, ["a red ball on the grass"], [], device=CPU))
    for encoder, before, after in zip(encoders, *taken, strict=True):
        assert compressed(encoder)
        assert after < before
        assert type(encoder.get_input_embeddings()) is nn.Embedding
    plain, rested = found
    for name, tensor in plain.items():
        if tensor.is_floating_point():
            assert 0 < relative(rested[name], tensor) < ENCODING_ERROR[kind], name


def test_captions_are_encoded_anew_by_encoders_at_rest_and_media_are_not(
    subjects: Callable[[str], ModelUnderTest],
) -> None:
    subject = subjects("flux")
    encoder = subject.prepared.encoder
    found = {}
    for kind in ("none", "int8", "nf4"):
        model = open_model(subject.config("run").model, MemoryConfig(text_encoder_weights=kind))
        found[kind] = replace(encoder, model=model).identities()
    assert len({latents for latents, _ in found.values()}) == 1
    assert len({texts for _, texts in found.values()}) == 3


def test_weights_that_train_do_not_rest(tree: Tree) -> None:
    with pytest.raises(ConfigError, match=r"memory\.weights: int8 is for frozen weights, and tuning\.kind: full trains"):
        config_of(merged(tree, {"tuning": FULL, "memory": {"weights": "int8"}}))


@pytest.mark.parametrize(("kind", "package"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_missing_package_is_named_before_anything_is_loaded(
    kind: str, package: str, tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for key in ("weights", "text_encoder_weights"):
        with pytest.raises(ConfigError, match=rf"memory\.{key}: {kind} needs .* pip install '\./finetrainers\[{package}\]'"):
            run(tree, tmp_path / "run", memory={key: kind})
