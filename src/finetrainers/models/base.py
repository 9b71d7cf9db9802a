"""What a model must tell the trainer: a table of facts and one forward pass."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from finetrainers.batch import Image, Prompt, Text
from finetrainers.objective import NoiseLevels

Settings = Mapping[str, Any]  # a component's config.json: whatever its class wrote there


@dataclass(frozen=True, slots=True)
class Grid:
    """Which sizes a model can take, and what latents they give. Sizes are (frames, height, width) in frames and pixels."""

    channels: int
    """C, latent channels."""
    vae_step: int
    """Pixels of one latent's side."""
    patch: int
    """Latents of one token's side."""
    vae_frame_step: int = 1
    """Frames of one latent frame; the first frame has one of its own."""
    frame_patch: int = 1
    """Latent frames of one token; clips whose latent frames it does not divide begin with their first one several times."""
    has_video: bool = True

    def nearest(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the possible size next to ``size``: itself, if it is possible."""
        step = self.vae_step * self.patch
        frames, height, width = size
        clips = max(0, round((frames - 1) / self.vae_frame_step)) if self.has_video else 0
        rows, columns = max(1, round(height / step)), max(1, round(width / step))
        return 1 + clips * self.vae_frame_step, rows * step, columns * step

    def latent_shape(self, size: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """(C, F, H, W) of a possible size."""
        frames, height, width = size
        latent_frames = self.num_padding(frames) + 1 + (frames - 1) // self.vae_frame_step
        return self.channels, latent_frames, height // self.vae_step, width // self.vae_step

    def num_padding(self, frames: int) -> int:
        """Latent frames that are put before those of a clip, so that tokens are whole."""
        return -(1 + (frames - 1) // self.vae_frame_step) % self.frame_patch

    def num_tokens(self, size: tuple[int, int, int]) -> int:
        """Tokens of a possible size, as the shift of noise levels counts them."""
        _, frames, height, width = self.latent_shape(size)
        return self.tokens_of_latents((frames, height, width))

    def tokens_of_latents(self, shape: tuple[int, ...]) -> int:
        """Tokens of latents of shape (F, H, W)."""
        frames, height, width = shape
        return frames // self.frame_patch * (height // self.patch) * (width // self.patch)


class ModelAdapter(ABC):
    """The facts and the few functions that differ between model families.

    Loading, VAE scaling, LoRA saving and validation are shared: they read these class attributes.
    """

    name: ClassVar[str]
    """Family name; set by ``register_model``."""
    pipelines: ClassVar[Mapping[str, str]]
    """Pipeline class of each task, such as {"text-to-image": "FluxPipeline"}; the first task is the default."""
    denoiser: ClassVar[str] = "transformer"
    """Name of the component that is trained."""
    text_components: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")
    """Components that ``encode_prompt`` needs."""
    image_tasks: ClassVar[tuple[str, ...]] = ()
    """Tasks that take more from the given frames than the latents that stand in their place: ``encode_image`` makes it."""
    image_components: ClassVar[tuple[str, ...]] = ()
    """Components besides the VAE that ``encode_image`` needs, and the pipelines of those tasks; a model may lack them."""
    blocks: ClassVar[tuple[str, ...]]
    """Class names of the repeated blocks: the unit of FSDP, compile and checkpointing."""
    input_layer: ClassVar[str]
    """Dotted name of the projection that takes latents in; Control widens it."""
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Module-name endings that LoRA wraps by default."""
    vae_statistics: ClassVar[Literal["shift_scale", "buffers", "config"]] = "shift_scale"
    """Where the VAE keeps what normalizes its latents: ``shift_factor`` and ``scaling_factor`` in its config, the buffers
    ``latents_mean`` and ``latents_std``, with ``scaling_factor``, or ``latents_mean`` and ``latents_std`` in its config."""
    has_image_vae: ClassVar[bool] = False
    """Whether the VAE takes [B, 3, H, W] and knows no frames."""
    samples_posterior: ClassVar[bool] = True
    """Whether the model was trained on samples of the VAE's posterior; else on its mode."""
    prediction: ClassVar[Literal["flow", "v"]] = "flow"
    """What the denoiser answers: the velocity of rectified flow, or the v of a diffusion with the scheduler's alphas, whose
    time step is ``floor(1000 * sigma)``."""
    noise_levels: ClassVar[NoiseLevels]
    """How its authors drew noise levels, before the shift."""
    shift: ClassVar[float | Literal["scheduler"]] = 1.0
    """How its authors shifted them: a factor, or as the model's scheduler does, with the resolution or without."""
    first_frame_probability: ClassVar[float | None] = None
    """Default probability of a given first frame; None where the model takes one noise level for all frames."""
    given_frame_max_sigma: ClassVar[float] = 0.0
    """Largest noise level of a frame that is given in its place."""
    has_negative_prompt: ClassVar[bool] = True
    """Whether the pipeline is guided away from a negative prompt, which is empty by default."""
    default_fps: ClassVar[float] = 24.0
    """Frame rate of videos that are drawn, where the prompt names none."""
    max_sequence_length: ClassVar[int] = 512
    """T, prompt tokens, where the config names no other: the default of the family's pipeline."""

    largest_sequence_length: ClassVar[int | None] = None
    """Most prompt tokens that the family's pipeline takes; None where it takes any number."""
    main_tokenizer: ClassVar[str] = "tokenizer"
    """Tokenizer whose tokens the denoiser attends to: captions beyond ``max_sequence_length`` of them are cut."""

    def __init__(self, vae: Settings, denoiser: Settings, index: Settings | None = None) -> None:
        self.vae, self.settings = vae, denoiser
        self.index: Settings = {} if index is None else index
        self.grid = self.make_grid(vae, denoiser)

    @abstractmethod
    def make_grid(self, vae: Settings, denoiser: Settings) -> Grid:
        """Read the possible sizes off the configs of the VAE and of the denoiser."""

    @abstractmethod
    def encode_prompt(self, pipeline: Any, captions: Sequence[str], *, max_length: int, device: torch.device) -> Text:
        """Encode captions with the pipeline's own method; each tensor [B, T, D] or [B, D]."""

    def gives_first_frame(self, task: str) -> bool:
        """Whether the model does the task by taking the first latent frame in its place, at a noise level of its own."""
        return False

    def encode_image(self, pipeline: Any, pixels: Tensor, *, task: str) -> Image:
        """Make what the denoiser takes from the frames of clips that the task gives.

        Args:
            pipeline: Of the task, with the VAE and ``image_components``.
            pixels: [B, K, P, Q, 3] uint8, all frames of the clips, on the CPU.
            task: One of ``image_tasks``.

        Returns:
            Tensors [B, ...] under names of the adapter's own; ``denoise`` finds them in ``prompt.image``.
        """
        raise NotImplementedError

    @abstractmethod
    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        """Predict the velocity.

        Args:
            denoiser: The trained component, perhaps wrapped.
            x: [B, C, F, H, W] noisy latents.
            sigma: [B, F] noise level of each latent frame; equal along F unless the first frame may be given in its place.
            prompt: What text encoders made of the captions, the frame rates, and what ``encode_image`` made.

        Returns:
            [B, C, F, H, W], in the layout of the clean latents.
        """

    def sampling_arguments(self, request: "Request") -> dict[str, Any]:
        """Arguments of the pipeline that are the family's own, such as a video's frame rate."""
        return {}


@dataclass(frozen=True, slots=True)
class Request:
    """One picture or video to draw."""

    prompt: str
    size: tuple[int, int, int]
    """(frames, height, width)."""
    steps: int
    seed: int
    guidance: float | None = None
    """None takes the pipeline's own default."""
    negative_prompt: str | None = None
    fps: float | None = None
    """Frames per second; None takes the family's default."""
    image: str | None = None
    """Path of the picture to start from, for tasks that take one."""
    last_image: str | None = None
    """Path of the picture to end with, for tasks that take one."""
