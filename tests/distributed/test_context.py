"""Context parallelism: processes that share the tokens of each sample compute together what one process computes."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from runs import curve, flux_tree, write_pictures
from torch import Tensor
from torch.overrides import TorchFunctionMode

from finetrainers.batch import Batch, Medium
from finetrainers.conditioning import build_conditioning
from finetrainers.config import Config, dump_config, parse_config
from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.context import share_tokens
from finetrainers.distributed.world import World, alone, join
from finetrainers.memory.attention_calls import record_calls, share_calls
from finetrainers.models import Model, Request, open_model
from finetrainers.sampling.sampler import Sampler
from finetrainers.testing.drawn import record_drawing
from finetrainers.training.build import build_trainer
from finetrainers.training.objective import build_objective
from finetrainers.training.synthetic import synthetic_batch
from finetrainers.training.trainer import Trainer
from finetrainers.tuning import build_tuning
from finetrainers.tuning.base import trained_parameters

LORA = {"kind": "lora", "rank": 2, "alpha": 6}
FULL = {"kind": "full"}
LOKR = {"kind": "lokr", "rank": 2, "alpha": 6}
GRAY = {"kind": "channel_concat", "signal": "gray"}
REFERENCES = {"kind": "references", "pixels": 2048, "step": 32}
SEED = 3


@dataclass(frozen=True)
class Shared:
    """A model whose tokens are shared, and what is peculiar to it."""

    family: str
    variant: str
    size: tuple[int, int, int]
    task: str | None = None
    tuning: Mapping[str, Any] = field(default_factory=lambda: LORA)
    conditioning: Any = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    """Tokens of the two prompts, where they may differ."""
    checkpointing: bool = False
    compiled: str | None = None
    """Backend of torch.compile, if blocks are compiled."""
    given: tuple[int, ...] | None = None
    """Latent frames that are given."""
    dtype: str = "float32"
    device: str = "cpu"
    kind: str = "ulysses"
    backend: str = "native"
    """Of attention."""

    @property
    def name(self) -> str:
        kind = self.conditioning.get("kind", "") if isinstance(self.conditioning, Mapping) else "several"
        return " ".join(
            filter(None, (self.family, self.variant, self.task, self.tuning["kind"], kind, str(self.given or "")))
        )

    def config(self, path: Path, folder: Path) -> Config:
        model = {"path": str(path), "dtype": self.dtype, "max_sequence_length": 16}
        if "wan" in self.family or "2.1-i2v" in self.variant:
            del model["max_sequence_length"]
        if self.task is not None:
            model["task"] = self.task
        tree = {
            "output_dir": str(folder / "run"),
            "model": model,
            "data": [{"path": str(folder), "buckets": [list(self.size)]}],
            "conditioning": self.conditioning,
            "tuning": dict(self.tuning),
            "optimizer": {"lr": 1e-4},
            "train": {
                "batch_size": 2,
                "micro_batch_size": 2,
                "gradient_checkpointing": self.checkpointing,
                "device": self.device,
            },
            "attention": {"train": self.backend},
            "parallel": {"context_kind": self.kind},
        }
        if self.compiled is not None:
            tree["compile"] = {"kind": "regional", "backend": self.compiled, "dynamic": False}
        return parse_config(tree)

    def batches(self, config: Config, model: Model) -> list[Batch]:
        """Make a batch for each expert."""
        batch = synthetic_batch(config, model, self.size, 2, device=torch.device("cpu"))
        text = dict(batch.prompt.text)
        if self.lengths:
            lengths = torch.tensor(self.lengths)
            for name, own in text.items():
                if "mask" in name:
                    text[name] = (torch.arange(own.shape[1]) < lengths[:, None]).to(own.dtype)
                if name == "prompt_length":
                    text[name] = lengths
        prompt = replace(batch.prompt, text=text)
        if self.given is not None:
            assert prompt.given is not None
            given = torch.zeros_like(prompt.given)
            given[:, list(self.given)] = True
            prompt = replace(prompt, given=given)
        batch = replace(batch, prompt=prompt)
        levels = (0.95, 0.4) if "a14b" in self.variant else ()
        return [replace(batch, sigma=torch.full_like(batch.sigma, level)) for level in levels] or [batch]


CASES = [
    Shared("wan", "2.1-i2v", (9, 32, 64), tuning=FULL, checkpointing=True),
    Shared("wan", "2.2-t2v-a14b", (9, 32, 64)),
    Shared("flux", "kontext", (1, 64, 64), task="image-to-image", conditioning=REFERENCES),
    Shared("ltx_video", "0.9.5", (17, 64, 96), task="first-last-frame-to-video", given=(0, 2)),
    Shared("hunyuan_video", "i2v", (9, 32, 64), task="image-to-video", lengths=(5, 8), tuning=FULL, checkpointing=True),
    Shared("cogvideox", "1.5-5b-i2v", (9, 64, 96), task="image-to-video"),
    Shared("cogview4", "6b", (1, 64, 64), tuning=FULL, lengths=(5, 9), conditioning=GRAY),
]
FURTHER = [
    Shared("wan", "2.1-t2v", (9, 32, 64), conditioning=GRAY),
    Shared("wan", "2.2-ti2v-5b", (9, 64, 64), task="image-to-video", tuning=LOKR),
    Shared("flux", "dev", (1, 64, 64), tuning=FULL, conditioning=GRAY, checkpointing=True),
    Shared("ltx_video", "0.9.0", (17, 64, 96), tuning=FULL, lengths=(5, 9), checkpointing=True),
    Shared("hunyuan_video", "t2v", (9, 32, 64), lengths=(5, 8), conditioning=GRAY),
    Shared("hunyuan_video", "t2v", (9, 32, 64), lengths=(7, 7), checkpointing=True),
    Shared("hunyuan_video", "i2v-33ch", (9, 32, 64), task="image-to-video", lengths=(5, 8), tuning=LOKR),
    Shared("cogvideox", "2b", (9, 64, 96), tuning=FULL, checkpointing=True),
    Shared("cogvideox", "5b-i2v", (9, 64, 96), task="image-to-video"),
    Shared("cogvideox", "1.5-5b", (9, 64, 96), checkpointing=True, conditioning=GRAY),
    Shared("cogview4", "6b", (1, 64, 64), tuning=LOKR, lengths=(6, 6), checkpointing=True),
]


def trainer_of(config: Config, world: World) -> Trainer:
    """Build a trainer of random weights, the same on all processes."""
    model = open_model(config.model)
    objective, tuning = build_objective(config, model), build_tuning(config.tuning)
    trainer = build_trainer(config, model, objective=objective, tuning=tuning, device=world.device, world=world)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in trained_parameters(trainer.denoiser).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return trainer


def computed(trainer: Trainer, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Losses, answers without a gradient, and this process's gradients."""
    found = {}
    for number, batch in enumerate(batches):
        trainer.denoiser.train()
        with trainer.attention():
            losses = trainer.micro_losses(trainer.on_device(batch))
            losses.mean().backward()
        trainer.denoiser.eval()
        placed = batch.to(trainer.device)
        with torch.no_grad(), trainer.attention():
            answer = trainer.predict(placed.noise, placed.sigma, placed)
        found |= {f"loss {number}": losses.detach(), f"answer {number}": answer}
    return found | {name: own.grad for name, own in trained_parameters(trainer.denoiser).items() if own.grad is not None}


def calls(trainer: Trainer, batch: Batch, context: int) -> Counter[tuple[int, ...]]:
    """Count the attentions that trials think each process asks for, by [B, H, S, D] of their queries."""
    record = record_calls(
        lambda: trainer.predict(batch.noise, batch.sigma, batch), is_dispatched=trainer.adapter.dispatches_attention
    )
    shared = share_calls(record, context=context, kind="ulysses")
    return sum((Counter({call.query.shape: count}) for call, count in shared.items()), Counter())


def asked(trainer: Trainer, batch: Batch) -> Counter[tuple[int, ...]]:
    """Count those that this process asks for; a mode cannot see into what is compiled without compiling it anew."""
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), Asked() as mode:
        trainer.predict(batch.noise, batch.sigma, batch)
    return mode.shapes


class Asked(TorchFunctionMode):
    """Counts what torch's attention is asked for, by the shape of its queries."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, ...]] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.shapes[tuple((*args, *named.values())[0].shape)] += 1
        return func(*args, **named)


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest relative difference of losses, answers and gradients."""
    assert found.keys() == expected.keys()
    scale = {name: float(value.norm()) for name, value in expected.items()}
    floor = 1e-3 * max(scale[name] for name in scale if " " not in name)
    worst = {name: float((found[name] - value).norm()) / max(scale[name], floor) for name, value in expected.items()}
    name = max(worst, key=lambda each: worst[each])
    return worst[name]


def compare(cases: list[tuple[Shared, Path]], folder: Path, context: int = 2) -> dict[str, float]:
    """In each process: the largest difference of each case from what one process computes."""
    differences = {}
    with join(ParallelConfig(context=context), cases[0][0].device) as world:
        for shared, path in cases:
            config, plain = (own.config(path, folder) for own in (shared, replace(shared, compiled=None)))
            together, single = trainer_of(config, world), trainer_of(plain, alone(world.device))
            batches = shared.batches(config, open_model(config.model))
            parts, whole = computed(together, batches), computed(single, batches)
            gradients = [name for name in whole if " " not in name]
            is_part = [not torch.allclose(parts[name], whole[name]) for name in gradients]
            # Not all: of some tokens, such as those of given frames, nothing is asked in the end.
            assert any(is_part), f"{shared.name}: a process has the gradient of all tokens"
            world.sums([parts[name] for name in gradients])
            differences[shared.name] = difference(parts, whole)
            if world.device.type == "cpu" and shared.family != "hunyuan_video":  # which refines its prompt in the same form
                assert asked(together, batches[0]) == calls(single, batches[0], context), shared.name
    return differences


def with_even_heads(path: Path, folder: Path) -> Path:
    """Wan in small with six heads of half the width: the three that it has are no multiple of two."""
    copied = folder / path.name
    shutil.copytree(path, copied)
    for name in ("transformer", "transformer_2"):
        with suppress(FileNotFoundError):
            file = copied / name / "config.json"
            settings = json.loads(file.read_text())
            if settings["num_attention_heads"] == 3:
                file.write_text(json.dumps({**settings, "num_attention_heads": 6, "attention_head_dim": 12}))
    return copied


def placed(cases: Sequence[Shared], tiny: Callable[[str, str], Path], folder: Path) -> list[tuple[Shared, Path]]:
    """Make the models of cases, each once."""
    made: dict[tuple[str, str], Path] = {}
    for shared in cases:
        key = shared.family, shared.variant
        if key not in made:
            path = tiny(*key)
            made[key] = with_even_heads(path, folder / path.name) if shared.family == "wan" else path
    return [(shared, made[shared.family, shared.variant]) for shared in cases]


def check_gradients(cases: Sequence[Shared], tiny: Callable[[str, str], Path], folder: Path, *, bound: float = 1e-5) -> None:
    """Let two processes compute what one does."""
    first, second = ranks.results(compare, 2, placed(cases, tiny, folder), folder, folder=folder / "ranks")
    assert len(first) == len(cases)
    assert max(first.values()) < bound, first
    assert first == second


def test_two_processes_compute_the_gradients_of_one(tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    check_gradients(CASES, tiny, tmp_path)


@pytest.mark.distributed
def test_two_processes_compute_the_gradients_of_one_in_further_models(
    tiny: Callable[[str, str], Path], tmp_path: Path
) -> None:
    check_gradients(FURTHER, tiny, tmp_path)


@pytest.mark.distributed
@pytest.mark.parametrize("number", [0, 4, 5], ids=lambda number: CASES[number].family)
def test_blocks_are_compiled_with_the_exchange(tiny: Callable[[str, str], Path], tmp_path: Path, number: int) -> None:
    """Of diffusers and of ours; computed again in the backward pass, and not: as one process that compiles nothing."""
    check_gradients([replace(CASES[number], compiled="aot_eager")], tiny, tmp_path)


@pytest.mark.multi_gpu(2)
@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("ulysses", "native"),
        ("ulysses", "_native_flash"),
        ("ulysses", "_native_cudnn"),
        ("ring", "_native_flash"),
        ("ring", "_native_cudnn"),
    ],
)
def test_two_gpus_compute_the_gradients_of_one(
    tiny: Callable[[str, str], Path], tmp_path: Path, kind: str, backend: str
) -> None:
    """In bfloat16, for which the kernels are: but for its rounding."""
    plain = [shared for shared in (*CASES, *FURTHER) if shared.family in ("flux", "ltx_video")]
    joint = [shared for shared in CASES if shared.family in ("hunyuan_video", "cogvideox")] if kind == "ulysses" else []
    masked = ("ltx_video", "hunyuan_video") if backend == "_native_flash" else ()
    cases = [
        replace(
            shared,
            kind=kind,
            backend=backend,
            dtype="bfloat16",
            device="cuda",
            lengths=(7, 7) if shared.family in masked else shared.lengths,
        )
        for shared in (*plain, *joint)
    ]
    check_gradients(cases, tiny, tmp_path, bound=0.05)


DRAWN = [
    (Shared("wan", "2.2-t2v-a14b", (9, 32, 64)), 4.0),
    (Shared("flux", "kontext", (1, 64, 64), task="image-to-image", conditioning=REFERENCES), None),
    (Shared("flux", "dev", (1, 64, 64), conditioning=GRAY), None),
    (Shared("ltx_video", "0.9.0", (17, 64, 96)), 3.0),
    (Shared("hunyuan_video", "t2v", (9, 32, 64)), None),
    (Shared("cogvideox", "1.5-5b", (9, 64, 96)), 6.0),
    (Shared("cogview4", "6b", (1, 64, 64)), 5.0),
]
"""What is drawn, and with which guidance: away from a prompt of another length, in one call or in two."""


def text_of(model: Model, prompt: str) -> dict[str, Tensor]:
    """Make a prompt of random numbers, whose length depends on that of its words."""
    length = model.max_length if model.adapter.text.is_fixed_length or not model.adapter.text.mask else 16
    generator = torch.Generator().manual_seed(len(prompt))
    text = {}
    for name, own in model.adapter.blank_text(length).items():
        text[name] = torch.randn(own.shape, generator=generator) if own.is_floating_point() else own
        if name == model.adapter.text.mask:
            text[name] = (torch.arange(length) < 5 + len(prompt)).to(own.dtype)
        if name == "prompt_length":
            text[name] = torch.tensor(7 + len(prompt))
    return {name: own[None] for name, own in text.items()}


def drawn(shared: Shared, path: Path, folder: Path, guidance: float | None, world: World) -> list[Tensor]:
    """Draw in two steps; return what the denoiser has made in each, and what is decoded."""
    config = shared.config(path, folder)
    model = open_model(config.model)
    conditioning = build_conditioning(config.conditioning)
    denoisers = (*model.denoisers.trained, *model.denoisers.frozen)
    components = {name: model.pretrained.load(name) for name in (*denoisers, "vae", *model.image_components)}
    generator = torch.Generator().manual_seed(SEED)
    for name in denoisers:
        conditioning.prepare(components[name], model.adapter)
        with torch.no_grad():  # what takes control in is zero
            weight = components[name].get_submodule(model.adapter.input_layer).weight
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        share_tokens(components[name], model.adapter.context_plan(), model.adapter.blocks, world)
    sampler = Sampler(model, components, world.device, conditioning, config.data[0])
    kind = shared.conditioning.get("kind")
    references = ("shown",) if kind == "references" else ()
    request = Request("a dog", shared.size, steps=2, seed=0, guidance=guidance, references=references)
    shape = (1, *model.adapter.grid.latent_shape(shared.size))
    media = {}
    if kind == "references":
        media["reference.0"] = Medium(torch.randn(1, shape[1], 1, 4, 8, generator=generator), torch.ones(1, 1))
    elif kind == "channel_concat":
        media["control"] = Medium(torch.randn(shape, generator=generator), torch.ones(1, shape[2]))
    trained = [components[name] for name in model.denoisers.trained]
    arguments = sampler.arguments(request, lambda prompt: text_of(model, prompt))
    with torch.no_grad(), conditioning.sampling(trained, model.adapter, media):
        found = record_drawing(sampler.pipeline(request), arguments, torch.zeros(0))
    return [*(step.output for step in found.steps), found.decoded]


def draw_all(cases: list[tuple[Shared, Path]], guidances: list[float | None], folder: Path) -> dict[str, float]:
    """In each process: the largest difference of each case from what one process draws."""
    differences = {}
    with join(ParallelConfig(context=2), "cpu") as world:
        for (shared, path), guidance in zip(cases, guidances, strict=True):
            found = drawn(shared, path, folder, guidance, world)
            expected = drawn(shared, path, folder, guidance, alone())
            pairs = zip(found, expected, strict=True)
            differences[shared.name] = max(float((own - other).norm() / other.norm()) for own, other in pairs)
    return differences


@pytest.mark.distributed
def test_two_processes_draw_what_one_draws(tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    cases = placed([shared for shared, _ in DRAWN], tiny, tmp_path)
    guidances = [guidance for _, guidance in DRAWN]
    first, second = ranks.results(draw_all, 2, cases, guidances, tmp_path, folder=tmp_path / "ranks")
    assert len(first) == len(DRAWN)
    assert max(first.values()) < 1e-5, first
    assert first == second


def curve_of(tree: dict[str, Any], name: str, count: int, folder: Path) -> list[tuple[Any, ...]]:
    """Train with the program itself, in ``count`` processes; return losses and gradient norms."""
    file = folder / f"{name}.yaml"
    file.write_text(dump_config(parse_config({**tree, "output_dir": str(folder / name)})))
    assert ranks.results(ranks.command, count, "train", str(file), folder=folder / f"{name} ranks") == [0] * count
    return curve(folder / name, "loss", "grad_norm")


@pytest.mark.distributed
@pytest.mark.parametrize(
    "sections", [{"tuning": LORA}, {"tuning": FULL, "conditioning": GRAY}], ids=["lora", "full, control"]
)
def test_runs_that_share_tokens_and_weights_take_the_steps_of_one(tmp_path: Path, tiny_flux: Path, sections: Any) -> None:
    pictures = write_pictures(tmp_path / "pictures", 6)
    train = {"steps": 3, "batch_size": 4, "micro_batch_size": 1, "gradient_checkpointing": True, "ema_decay": 0.5}
    tree = flux_tree(tiny_flux, pictures, tmp_path, **sections, train=train)
    one = curve_of(tree, "one", 1, tmp_path)
    for parallel in ({"context": 2}, {"context": 2, "shard": 2}, {"context": 2, "replicate": 2}):
        name = " ".join(parallel)
        found = curve_of({**tree, "parallel": parallel}, name, 2 * len(parallel), tmp_path)
        assert len(found) == len(one) == train["steps"]
        for own, expected in zip(found, one, strict=True):
            assert own == pytest.approx(expected, rel=1e-5), name
