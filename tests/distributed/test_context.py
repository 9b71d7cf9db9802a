"""Context parallelism: processes that share the tokens of each sample compute together what one process computes."""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ranks
import torch
from torch import Tensor

from finetrainers.batch import Batch
from finetrainers.config import Config, parse_config
from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.world import World, alone, join
from finetrainers.models import open_model
from finetrainers.training.build import build_trainer
from finetrainers.training.objective import build_objective
from finetrainers.training.synthetic import synthetic_batch
from finetrainers.tuning import build_tuning
from finetrainers.tuning.base import trained_parameters

LORA = {"kind": "lora", "rank": 2, "alpha": 6}
FULL = {"kind": "full"}
GRAY = {"kind": "channel_concat", "signal": "gray"}
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

    @property
    def name(self) -> str:
        kind = self.conditioning.get("kind", "") if isinstance(self.conditioning, Mapping) else "several"
        return " ".join(
            filter(None, (self.family, self.variant, self.task, self.tuning["kind"], kind, str(self.given or "")))
        )

    def config(self, path: Path, folder: Path) -> Config:
        model = {"path": str(path), "dtype": "float32", "max_sequence_length": 16}
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
            "train": {"batch_size": 2, "micro_batch_size": 2, "gradient_checkpointing": self.checkpointing, "device": "cpu"},
        }
        if self.compiled is not None:
            tree["compile"] = {"kind": "regional", "backend": self.compiled, "dynamic": False}
        return parse_config(tree)

    def batch(self, config: Config, model: Any) -> Batch:
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
            given = torch.zeros_like(prompt.given)
            given[:, list(self.given)] = True
            prompt = replace(prompt, given=given)
        sigma = batch.sigma
        if self.variant.startswith("2.2") and "a14b" in self.variant:  # one row for each expert
            sigma = torch.tensor([0.95, 0.4])[:, None].expand_as(sigma)
        return replace(batch, prompt=prompt, sigma=sigma)


SMALL = [
    Shared("wan", "2.1-t2v", (9, 32, 64), tuning=FULL, checkpointing=True),
    Shared("wan", "2.1-i2v", (9, 32, 64)),
    Shared("wan", "2.2-t2v-a14b", (9, 32, 64)),
    Shared("wan", "2.2-ti2v-5b", (9, 64, 64), task="image-to-video"),
    Shared("flux", "dev", (1, 64, 64), tuning=FULL, conditioning=GRAY),
    Shared(
        "flux",
        "kontext",
        (1, 64, 64),
        task="image-to-image",
        conditioning={"kind": "references", "pixels": 2048, "step": 32},
    ),
    Shared("ltx_video", "0.9.0", (17, 64, 96), tuning=FULL, lengths=(5, 9)),
    Shared("ltx_video", "0.9.5", (17, 64, 96), task="first-last-frame-to-video", given=(0, 2), checkpointing=True),
    Shared("hunyuan_video", "t2v", (9, 32, 64), tuning=FULL, lengths=(5, 8), conditioning=GRAY),
    Shared("hunyuan_video", "t2v", (9, 32, 64), lengths=(7, 7), checkpointing=True),
    Shared("hunyuan_video", "i2v", (9, 32, 64), task="image-to-video", lengths=(5, 8), tuning=FULL),
    Shared("hunyuan_video", "i2v-33ch", (9, 32, 64), task="image-to-video", lengths=(5, 8)),
    Shared("cogvideox", "2b", (9, 64, 96), tuning=FULL),
    Shared("cogvideox", "5b-i2v", (9, 64, 96), task="image-to-video"),
    Shared("cogvideox", "1.5-5b", (9, 64, 96), checkpointing=True),
    Shared("cogvideox", "1.5-5b-i2v", (9, 64, 96), task="image-to-video"),
    Shared("cogview4", "6b", (1, 64, 64), tuning=FULL, lengths=(5, 9), conditioning=GRAY),
]


def gradients(shared: Shared, config: Config, world: World, *, validates: bool = False) -> dict[str, Tensor]:
    """Loss, answer and gradients of a batch, whose sums over the processes are the whole."""
    model = open_model(config.model)
    objective = build_objective(config, model)
    tuning = build_tuning(config.tuning)
    trainer = build_trainer(config, model, objective=objective, tuning=tuning, device=world.device, world=world)
    generator = torch.Generator().manual_seed(SEED)
    parameters = trained_parameters(trainer.denoiser)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    batch = shared.batch(config, model)
    trainer.denoiser.train()
    losses = trainer.micro_losses(trainer.on_device(batch))
    losses.mean().backward()
    trainer.denoiser.eval()
    with torch.no_grad():
        answer = trainer.predict(batch.noise, batch.sigma, batch)
    found = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    assert found
    world.sums(list(found.values()))
    return {"loss": losses.detach(), "answer": answer, **found}


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest relative difference of losses, answers and gradients."""
    assert found.keys() == expected.keys()
    scale = {name: float(value.norm()) for name, value in expected.items()}
    floor = 1e-3 * max(scale[name] for name in scale if name not in ("loss", "answer"))
    worst = {name: float((found[name] - value).norm()) / max(scale[name], floor) for name, value in expected.items()}
    name = max(worst, key=lambda each: worst[each])
    return worst[name]


def compare(cases: list[tuple[Shared, Path]], folder: Path, context: int = 2) -> dict[str, float]:
    """In each process: the largest difference of each case."""
    torch.set_num_threads(1)
    answers = {}
    with join(ParallelConfig(context=context), "cpu") as world:
        for number, (shared, path) in enumerate(cases):
            config = shared.config(path, folder)
            answers[f"{number} {shared.name}"] = difference(
                gradients(shared, config, world), gradients(shared, config, alone())
            )
    return answers


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


def test_two_processes_compute_the_gradients_of_one(tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    cases = []
    for number, shared in enumerate(SMALL):
        path = tiny(shared.family, shared.variant)
        cases.append((shared, with_even_heads(path, tmp_path / str(number)) if shared.family == "wan" else path))
    first, second = ranks.results(compare, 2, cases, tmp_path, folder=tmp_path / "ranks")
    print(json.dumps(first, indent=1))
    assert max(first.values()) < 1e-5
    assert first == second
