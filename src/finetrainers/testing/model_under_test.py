"""A model under test, with two samples and all that a run makes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetrainers.batch import Batch
from finetrainers.conditioning import GivenFrames, build_given_frames
from finetrainers.config import Config, parse_config
from finetrainers.data.media.files import decode
from finetrainers.distributed.world import alone
from finetrainers.models import Model, Request, open_model
from finetrainers.objectives.base import Objective
from finetrainers.sampling.sampler import Sampler, write_video
from finetrainers.testing.device import device_of_runs
from finetrainers.testing.drawn import Drawn, record_drawing, take_modes
from finetrainers.training.build import build_batches, build_steps, build_trainer
from finetrainers.training.objective import build_objective
from finetrainers.training.prepare import prepare
from finetrainers.training.prepared import Prepared
from finetrainers.training.trainer import Trainer
from finetrainers.training.windows import encode_steps
from finetrainers.tuning import build_tuning

CAPTIONS = ("a red ball on the grass", "a dog")
"""Of the two samples; their lengths differ."""
LORA = {"kind": "lora", "rank": 2, "alpha": 6}
"""alpha != rank: a scale that is lost or applied twice shows."""
FULL = {"kind": "full"}
STEPS = 4
CLIP_FPS = 8.0
NOISE_OF_DECODERS = ("decode_noise_scale",)
"""Arguments of pipelines that add noise before they decode."""


@dataclass(frozen=True)
class ModelUnderTest:
    """A model that is checked, with two samples of random pixels."""

    model_section: Mapping[str, Any]
    """The ``model`` section of a run's configuration; ``dtype`` should be float32."""
    size: tuple[int, int, int]
    """(frames, height, width) of both samples."""
    folder: Path
    """Receives the samples, the cache and the runs."""
    conditioning: Mapping[str, Any] | Sequence[Mapping[str, Any]] = field(default_factory=dict)
    """The ``conditioning`` section of its runs."""
    device: str = field(default_factory=device_of_runs)
    """Where its runs train; what is compared with a pipeline is computed on the CPU."""
    captions: ClassVar[tuple[str, ...]] = CAPTIONS

    def config(self, name: str, tuning: Mapping[str, Any] = LORA, **sections: Any) -> Config:
        """Configuration of a run of this name over both samples."""
        tree: dict[str, Any] = {
            "output_dir": str(self.folder / name),
            "model": {"dtype": "float32", **self.model_section},
            "data": [{"path": str(self._media), "buckets": [list(self.size)], "max_upscale": 1}],
            "conditioning": self.conditioning,
            "tuning": dict(tuning),
            "optimizer": {"lr": 0.02},
            "train": {"steps": STEPS, "batch_size": 2, "micro_batch_size": 2, "device": self.device},
            "loader": {"workers": 0},
            "cache": {"path": str(self.folder / "cache"), "workers": 1},
            "track": {"report": False},
        }
        for section, changes in sections.items():
            tree[section] = {**tree.get(section, {}), **changes} if isinstance(changes, Mapping) else changes
        return parse_config(tree)

    @cached_property
    def _media(self) -> Path:
        folder = self.folder / "media"
        if folder.exists():  # as written by the other of ``controlled``
            return folder
        folder.mkdir(parents=True)
        frames, height, width = self.size
        for number, caption in enumerate(self.captions):
            blocks = np.random.default_rng(number).integers(0, 256, (frames, height // 8, width // 8, 3), np.uint8)
            pictures = [Image.fromarray(block.repeat(8, 0).repeat(8, 1)) for block in blocks]
            if frames == 1:
                pictures[0].save(folder / f"{number}.png")
            else:
                write_video(folder / f"{number}.mp4", pictures, CLIP_FPS)
            (folder / f"{number}.txt").write_text(caption, encoding="utf-8")
        return folder

    @cached_property
    def controlled(self) -> "ModelUnderTest":
        """The same model and samples, conditioned on their own pixels in grey (and of clips, on where the control is)."""
        control = {"kind": "channel_concat", "signal": "gray", "mask": self.size[0] > 1}
        return replace(self, conditioning=control)

    @cached_property
    def referenced(self) -> "ModelUnderTest":
        """The same model and samples, shown pictures of other sizes; only ``trainer`` is of use, for they lie in no file."""
        unit = self.model.adapter.grid.vae_step * self.model.adapter.grid.patch
        return replace(self, conditioning={"kind": "references", "pixels": 8 * unit**2, "step": unit})

    def picture(self, sample: int = 0) -> str:
        """Path of a sample's file."""
        return self.prepared.plan.job(sample, 0, view=0, caption=0).target.path

    def pixels(self, sample: int = 0) -> Tensor:
        """Pixels [1, K, P, Q, 3] of a sample, as the encoders get them."""
        job = self.prepared.plan.job(sample, 0, view=0, caption=0).target
        return decode(job.path, job.view).pixels[None]

    @cached_property
    def given_pictures(self) -> dict[str, str]:
        """Pictures that a prompt of the task has to name."""
        file = self._media.with_name("given.png")
        Image.new("RGB", self.size[:0:-1], "red").save(file)
        names = {"image-to-video": ("image",), "first-last-frame-to-video": ("image", "last_image")}
        return dict.fromkeys(names.get(self.model.task, ()), str(file))

    @cached_property
    def model(self) -> Model:
        """The pipeline, of which nothing is loaded."""
        return open_model(self.config("run").model)

    @cached_property
    def objective(self) -> Objective:
        """As a run has it."""
        return build_objective(self.config("run"), self.model)

    @cached_property
    def given_frames(self) -> GivenFrames:
        """As a run has them."""
        return build_given_frames(self.config("run"), self.model)

    @cached_property
    def prepared(self) -> Prepared:
        """A run whose samples are encoded."""
        config = self.config("run")
        device = torch.device("cpu")
        prepared = prepare(config, self.model, device, progress=_ignore, warn=_ignore)
        return encode_steps(prepared, config, 0)[0]

    @cached_property
    def batch(self) -> Batch:
        """The first step's batch: both samples."""
        config = self.config("run")
        return next(build_batches(config, self.prepared, objective=self.objective, world=alone(), start=0, stop=1))

    def alone(self, row: int) -> Batch:
        """Make a batch of one sample of the first step: nothing in it was ever stacked with the other."""
        return build_steps(self.prepared, self.objective).sample(0, row)

    @cached_property
    def drawn(self) -> Mapping[str, Drawn]:
        """The first step's first sample, generated by the pipeline in two steps, by the way that the caption takes.

        The pipeline encodes it itself, or is told what ``Sampler`` tells it. Guidance is 1, at which it changes nothing.
        """
        job, text = self.prepared.plan.step(self.prepared.order, 0)[0], self.alone(0).prompt.text
        clip = decode(job.target.path, job.target.view).pixels[None]
        request = self._request(job.text.caption, clip[0])
        named = [name for name, value in self.model.pretrained.index.items() if isinstance(value, list) and value[0]]
        components = {name: self.model.pretrained.load(name) for name in named}
        take_modes(components["vae"])
        sampler = Sampler(self.model, components, torch.device("cpu"))
        encoded = self.model.adapter.sampling_text(text)
        drawn: dict[str, Drawn] = {}
        for way in ("with the pipeline's own prompt", "with our prompt"):
            told = sampler.arguments(request, lambda _: text)
            told |= {name: 0.0 for name in NOISE_OF_DECODERS if name in told}
            if not drawn:
                told = {name: value for name, value in told.items() if name.removeprefix("negative_") not in encoded}
                told["prompt"] = request.prompt
            with torch.no_grad():
                drawn[way] = record_drawing(sampler.pipeline(request), told, clip)
        return drawn

    def _request(self, caption: str, clip: Tensor) -> Request:
        """Ask for a sample, given what the task gives of its pixels [K, P, Q, 3]."""
        pictures: dict[str, Any] = {}
        for name, frame in zip(self.given_pictures, (clip[0], clip[-1]), strict=False):
            pictures[name] = str(self._media.with_name(f"{name}.png"))
            Image.fromarray(frame.numpy()).save(pictures[name])
        fps = CLIP_FPS if self.size[0] > 1 else None
        return Request(caption, self.size, steps=2, seed=0, guidance=1.0, fps=fps, **pictures)

    def trainer(self, tuning: Mapping[str, Any] = LORA, **sections: Any) -> Trainer:
        """A trainer that has taken no step."""
        config = self.config("run", tuning, **sections)
        device = torch.device("cpu")
        tuning_of = build_tuning(config.tuning)
        return build_trainer(config, self.model, objective=self.objective, tuning=tuning_of, device=device)


def _ignore(*_: object) -> None:
    """Take progress and warnings."""
