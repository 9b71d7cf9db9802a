"""Generates images and videos with a family's own diffusers pipeline, encoded prompts and, if there is one, a control.

Shape letters as in ``finetrainers.batch``; K, P, Q are pixel frames, height and width.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetrainers.batch import Medium, Posterior, Text, cast_floats
from finetrainers.conditioning import Conditioning
from finetrainers.config import DataConfig
from finetrainers.data.catalog.rates import clip_fps
from finetrainers.data.conditions import draw_latents, fill_frames, pad_mask
from finetrainers.data.media.files import View, available_frames, decode, probe
from finetrainers.data.streams import Stream
from finetrainers.memory.compile import eager_modules
from finetrainers.models import Model, Request
from finetrainers.models.base import image_is_optional
from finetrainers.models.vae import encode_pixels
from finetrainers.sampling.references import decode_reference, encode_references, side_by_side
from finetrainers.sampling.video import write_video as write_video


def task_of(request: Request, model: Model) -> str:
    """Return the task that a request is: models that take the first frame in its place generate with an image or without.

    So do those that edit pictures.
    """
    adapter, task = model.adapter, model.task
    if task == "image-to-image" and not request.references and "text-to-image" in adapter.tasks:
        return "text-to-image"
    if image_is_optional(adapter) and task in ("text-to-video", "image-to-video"):
        return "text-to-video" if request.image is None else "image-to-video"
    return task


class Sampler:
    """Generates requests with the family's own diffusers pipeline and encoded prompts."""

    def __init__(
        self,
        model: Model,
        components: dict[str, Any],
        device: torch.device,
        conditioning: Conditioning | None = None,
        data: DataConfig | None = None,
        *,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the components that generate, with the conditioning that they are prepared for, and how its media are read.

        ``interrupt`` is called before each layer of the denoisers and of the VAE, and may raise: a request can take long.
        """
        self._model, self._data, self._interrupt = model, data, interrupt
        self._conditioning = Conditioning() if conditioning is None else conditioning
        self._components = {**components, "scheduler": model.pretrained.load("scheduler")}
        missing = [name for name in model.image_components if name not in components]
        self._components |= {name: model.pretrained.load(name) for name in missing}
        self._device = device

    def pipeline(self, request: Request) -> Any:
        """Make the pipeline of the request's task, or that which generates with references."""
        adapter, task = self._model.adapter, task_of(request, self._model)
        pipelines = adapter.pictures.reference_pipelines if request.references else adapter.tasks
        return self._model.pretrained.pipeline(pipelines[task], self._components)

    def arguments(self, request: Request, text: Callable[[str], Text]) -> dict[str, Any]:
        """All arguments of the pipeline's call but the output type."""
        adapter = self._model.adapter
        _, height, width = request.size
        arguments: dict[str, Any] = {
            **self._placed(text(request.prompt)),
            **adapter.sampling_arguments(request),
            "height": height,
            "width": width,
            "num_inference_steps": request.steps,
            "max_sequence_length": self._model.max_length,
            "generator": torch.Generator().manual_seed(request.seed),  # on the CPU: the same noise on every device
        }
        if adapter.text.has_negative_prompt:
            negative = self._placed(text(request.negative_prompt or ""))
            arguments |= {f"negative_{name}": tensor for name, tensor in negative.items()}
        if request.guidance is not None:
            arguments["guidance_scale"] = request.guidance
        pictures = {name: Image.open(file).convert("RGB") for name, file in request.pictures.items() if file is not None}
        return arguments | adapter.picture_arguments(request, pictures)

    def _placed(self, text: Text) -> Text:
        """Put encoded prompts where the denoiser is, in its data type: the text encoders may have another."""
        dtype, text = self._model.dtype, self._model.adapter.sampling_text(text)
        return {name: cast_floats(tensor.to(self._device), dtype) for name, tensor in text.items()}

    def draw(self, request: Request, text: Callable[[str], Text], stem: Path, *, with_control: bool = False) -> Path:
        """Generate one request into ``stem``.png or ``stem``.mp4; return the file.

        Args:
            request: What to generate.
            text: Encodes a prompt.
            stem: Path of the file without its suffix.
            with_control: Put what is shown of the control, or the references, if there are any, to the left of the picture.
        """
        return self.write(self.frames(request, text, with_control=with_control), request, stem)

    def frames(self, request: Request, text: Callable[[str], Text], *, with_control: bool = False) -> list[Any]:
        """Generate one request as ``draw`` does; return PIL images."""
        arguments, denoisers = self.arguments(request, text), self._denoisers()
        pixels, media = self._media(request, arguments["generator"])
        with self._interruptible(), self._conditioning.sampling(denoisers, self._model.adapter, media):
            output = self.pipeline(request)(**arguments, output_type="pil", return_dict=False)[0][0]
        frames = output if isinstance(output, list) else [output]
        return beside(pixels, frames) if with_control and pixels is not None else frames

    def write(self, frames: Sequence[Any], request: Request, stem: Path) -> Path:
        """Write what was generated of a request into ``stem``.png or ``stem``.mp4; return the file."""
        if len(frames) == 1:
            file = stem.with_suffix(".png")
            frames[0].save(file)
            return file
        fps = self._model.adapter.default_fps if request.fps is None else request.fps
        return write_video(stem.with_suffix(".mp4"), frames, fps)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Look before each layer whether to stop; before those of compiled parts, hooks would be compiled with them."""

        def look(*_: Any) -> None:
            self._interrupt()

        names = (*self._model.denoisers.trained, *self._model.denoisers.frozen, "vae")
        layers = [layer for name in names for layer in eager_modules(self._components[name])]
        with ExitStack() as hooks:
            for layer in layers:
                hooks.enter_context(layer.register_forward_pre_hook(look))
            yield

    def _denoisers(self) -> list[Any]:
        return [self._components[name] for name in self._model.denoisers.trained]

    def _media(self, request: Request, generator: torch.Generator) -> tuple[NDArray[np.uint8] | None, dict[str, Medium]]:
        """Make what a request shows, by stream, and its pixels [K, P, Q, 3]; before the noise: it has the same generator."""
        adapter = self._model.adapter
        (stream,) = self._conditioning.streams or (None,)
        if stream is None:
            return None, {}
        if stream.is_many:
            return self._references(request, stream)
        channels, frames, height, width = adapter.grid.latent_shape(request.size)
        if request.control is None:
            nothing = Medium(torch.zeros(1, channels, frames, height, width), torch.zeros(1, frames))
            return None, {stream.name: nothing.map(lambda tensor: tensor.to(self._device))}
        assert self._data is not None  # given where there is a conditioning
        step = adapter.grid.vae_frame_step
        native = adapter.training.native_fps
        pixels = stream.transform(
            decode_control(Path(request.control), request.size, frame_step=step, data=self._data, native_fps=native)
        )
        mean, std = encode_pixels(self._components["vae"], adapter, pixels[None])
        posterior = Posterior(mean[0], std[0] if adapter.pictures.draws_control and std is not None else None)
        padding = adapter.grid.num_padding_frames(request.size[0])
        latents = draw_latents(posterior, generator, padding=padding)
        mask = self._conditioning.frames[stream.name].for_sampling(frames - padding, mean.shape[2])
        control = Medium(fill_frames(latents, frames)[None], pad_mask(mask, padding))
        return pixels.numpy(), {stream.name: control.map(lambda tensor: tensor.to(self._device))}

    def _references(self, request: Request, stream: Stream) -> tuple[NDArray[np.uint8] | None, dict[str, Medium]]:
        """As ``_media``, of pictures that are shown at their own size."""
        if not request.references:
            return None, {}
        pictures = [decode_reference(Path(file), stream.sizes) for file in request.references]
        media = encode_references(pictures, stream, vae=self._components["vae"], adapter=self._model.adapter)
        placed = {name: picture.map(lambda tensor: tensor.to(self._device)) for name, picture in media.items()}
        return side_by_side(pictures, height=request.size[1]), placed


def decode_control(
    path: Path, size: tuple[int, int, int], *, frame_step: int, data: DataConfig, native_fps: float | None = None
) -> Tensor:
    """Decode the first frames of a file, [K, P, Q, 3] uint8, at the frame rate of a data set and stretched if it is.

    Args:
        path: The file.
        size: (frames, height, width); K is at most so many frames.
        frame_step: Frames of one latent frame; K makes whole ones.
        data: Whose ``fps``, ``stride`` and ``resize`` hold; a crop is around the middle.
        native_fps: The model's rate; None if it has none of its own.

    Raises:
        DataError: If it cannot be decoded.
    """
    most, height, width = size
    found = probe(path)
    fps = clip_fps(data, found.fps, native_fps)
    frames = min(most, available_frames(found, fps=fps, stride=data.stride))
    view = View(
        num_frames=1 + (frames - 1) // frame_step * frame_step,
        height=height,
        width=width,
        fps=fps,
        stride=data.stride,
        resize="stretch" if data.resize == "stretch" else "center_crop",
    )
    return decode(path, view).pixels


def beside(control: NDArray[np.uint8], frames: Sequence[Any]) -> list[Any]:
    """Put control frames [K, P, Q, 3] to the left of PIL images; where there are no more of them, black."""
    black = np.zeros_like(control[0])
    shown = itertools.chain(control, itertools.repeat(black))
    return [Image.fromarray(np.hstack([left, np.asarray(right)])) for left, right in zip(shown, frames, strict=False)]
