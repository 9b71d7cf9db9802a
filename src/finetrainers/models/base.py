"""What a model must tell the trainer: a table of facts and one forward pass."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from finetrainers.batch import Image, Prompt, Text
from finetrainers.objectives.noise import NoiseLevels, ResolutionShift

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
    smallest: tuple[float, float, float] = (1, 1, 1)
    """(frames, height, width) below which no size is possible."""
    largest: tuple[float, float, float] = (math.inf, math.inf, math.inf)
    """(frames, height, width) above which no size is possible."""

    def nearest(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the possible size next to ``size``: itself, if it is possible."""
        step = self.vae_step * self.patch
        frames, height, width = size
        clips = max(0, round((frames - 1) / self.vae_frame_step)) if self.has_video else 0
        rows, columns = max(1, round(height / step)), max(1, round(width / step))
        found = 1 + clips * self.vae_frame_step, rows * step, columns * step
        frames, height, width = (
            int(min(max(n, least), most)) for n, least, most in zip(found, self.smallest, self.largest, strict=True)
        )
        return frames, height, width

    def encoded_shape(self, size: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """(C, F, H, W) of what the VAE makes of a possible size."""
        frames, height, width = size
        latent_frames = 1 + (frames - 1) // self.vae_frame_step
        return self.channels, latent_frames, height // self.vae_step, width // self.vae_step

    def latent_shape(self, size: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """(C, F, H, W) of what the denoiser takes of a possible size: with padding."""
        channels, latent_frames, height, width = self.encoded_shape(size)
        return channels, self.num_padding(size[0]) + latent_frames, height, width

    def num_padding(self, frames: int) -> int:
        """Copies of a clip's first latent frame that are put before it, so that tokens are whole."""
        return -(1 + (frames - 1) // self.vae_frame_step) % self.frame_patch

    def num_tokens(self, size: tuple[int, int, int]) -> int:
        """Tokens of a possible size, as the shift of noise levels counts them."""
        _, frames, height, width = self.latent_shape(size)
        return self.tokens_of_latents((frames, height, width))

    def tokens_of_latents(self, shape: tuple[int, ...]) -> int:
        """Tokens of latents of shape (F, H, W)."""
        frames, height, width = shape
        return frames // self.frame_patch * (height // self.patch) * (width // self.patch)

    @property
    def values_per_channel(self) -> int:
        """Latents that one token has of each channel."""
        return self.frame_patch * self.patch**2


@dataclass(frozen=True, slots=True)
class Expert:
    """One denoiser of a model that has several, each for a range of noise levels."""

    component: str
    """Its name in the pipeline."""
    between: tuple[float, float]
    """Noise levels that it denoises: from the first, and below the second."""


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
    image_tasks: tuple[str, ...] = ()
    """Tasks that take more from the given frames than the latents that stand in their place: ``encode_image`` makes it."""
    image_components: ClassVar[tuple[str, ...]] = ()
    """Components besides the VAE that ``encode_image`` needs, and the pipelines of those tasks; a model may lack them."""
    control_pipelines: ClassVar[Mapping[str, str]] = {}
    """Pipeline class of each task that diffusers has for a denoiser whose input is widened for the latents of a control."""
    draws_control: ClassVar[bool] = False
    """Whether these draw a control from the VAE's posterior, with the generator of the noise; else its mode is taken."""
    blocks: ClassVar[tuple[str, ...]]
    """Class names of the repeated blocks: the unit of FSDP, compile and checkpointing."""
    input_layer: ClassVar[str]
    """Dotted name of the projection that takes latents in; Control widens it: a convolution, or a linear layer over tokens.
    The C noisy channels come first, those that an image task adds come last."""
    input_layout: ClassVar[Literal["channels_first", "channels_last"] | None] = "channels_first"
    """How a linear ``input_layer`` takes the ``grid.values_per_channel`` values of each channel: all of the first channel,
    then all of the second, [c, frame_patch, patch, patch]; or with channels last, [frame_patch, patch, patch, c]. Of a
    convolution either says the same. None: the model takes no control."""
    channel_dim: ClassVar[int] = 1
    """Dimension of what ``arrange`` returns that holds channels, as the denoiser's ``config.in_channels`` counts them."""
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Module-name endings that LoRA wraps by default."""
    masks_attention: ClassVar[bool] = False
    """Whether the denoiser's attention takes a mask, which some backends refuse."""
    dispatches_attention: ClassVar[bool] = True
    """Whether diffusers computes the denoiser's attention with the backend that is chosen."""
    vae_statistics: ClassVar[Literal["shift_scale", "buffers", "config"]] = "shift_scale"
    """Where the VAE keeps what normalizes its latents: ``shift_factor``, if any, and ``scaling_factor`` in its config, the
    buffers ``latents_mean`` and ``latents_std``, with ``scaling_factor``, or these two names in its config."""
    has_image_vae: ClassVar[bool] = False
    """Whether the VAE takes [B, 3, H, W] and knows no frames."""
    samples_posterior: ClassVar[bool] = True
    """Whether the model was trained on samples of the VAE's posterior; else on its mode."""
    prediction: ClassVar[Literal["flow", "v"]] = "flow"
    """What the denoiser answers: the velocity of rectified flow, or the v of a diffusion with the scheduler's alphas, whose
    time step is ``floor(1000 * sigma)``."""
    noise_levels: ClassVar[NoiseLevels]
    """How its authors drew noise levels, before the shift."""
    shift: ClassVar[float | Literal["resolution", "scheduler"]] = 1.0
    """How its authors shifted them: by a factor, by ``resolution_shift``, or as the model's scheduler does (either)."""
    first_frame_probability: ClassVar[float | None] = None
    """Default probability of a given first frame; None where the model takes one noise level for all frames."""
    given_frame_max_sigma: ClassVar[float] = 0.0
    """Largest noise level of a frame that is given in its place."""
    has_negative_prompt: ClassVar[bool] = True
    """Whether the pipeline is guided away from a negative prompt, which is empty by default."""
    native_fps: float | None = None
    """Frames per second of the clips that the model was trained on, to which faster ones are brought; None where the
    denoiser is told each clip's rate, or draws images."""
    max_sequence_length: int = 512
    """T, prompt tokens, where the config names no other: the default of the family's pipeline."""
    has_fixed_sequence_length: bool = False
    """Whether the denoiser takes prompts of ``max_sequence_length`` tokens and of no other number."""

    largest_sequence_length: ClassVar[int | None] = None
    """Most prompt tokens that the family's pipeline takes; None where it takes any number."""
    main_tokenizer: ClassVar[str] = "tokenizer"
    """Tokenizer whose tokens the denoiser attends to: captions beyond ``max_sequence_length`` of them are cut."""

    def __init__(
        self, vae: Settings, denoiser: Settings, index: Settings | None = None, scheduler: Settings | None = None
    ) -> None:
        self.vae, self.settings = vae, denoiser
        self.index: Settings = {} if index is None else index
        self.scheduler: Settings = {} if scheduler is None else scheduler
        self.grid = self.make_grid(vae, denoiser)

    @property
    def default_fps(self) -> float:
        """Frame rate of videos that are drawn, where the prompt names none."""
        return 24.0 if self.native_fps is None else self.native_fps

    @property
    def architecture(self) -> str:
        """What programs that list models call it (``modelspec.architecture``)."""
        return self.name.replace("_", "-")

    @property
    def tasks(self) -> Mapping[str, str]:
        """Pipeline class of each task that this very model can do: ``pipelines``, unless the family's models differ."""
        return self.pipelines

    @abstractmethod
    def make_grid(self, vae: Settings, denoiser: Settings) -> Grid:
        """Read the possible sizes off the configs of the VAE and of the denoiser."""

    @abstractmethod
    def encode_prompt(self, pipeline: Any, captions: Sequence[str], *, max_length: int, device: torch.device) -> Text:
        """Encode captions with the pipeline's own method; each tensor [B, T, D] or [B, D]."""

    def experts(self) -> Mapping[str, Expert]:
        """Denoisers by name (high_noise, low_noise), from the noisiest range down; empty where there is one for all."""
        return {}

    def text_sees_image(self, task: str) -> bool:
        """Whether the text encoder sees the picture that the task starts from: then ``encode_seen_prompt`` is called."""
        return False

    def encode_seen_prompt(
        self, pipeline: Any, captions: Sequence[str], images: Sequence[Any], *, max_length: int, device: torch.device
    ) -> Text:
        """As ``encode_prompt``, for captions that the text encoder reads beside one PIL image each."""
        raise NotImplementedError

    def text_settings(self, task: str) -> Mapping[str, object]:
        """What encoded captions depend on besides the encoders and the length: part of the names of cached items."""
        return {}

    def gives_first_frame(self, task: str) -> bool:
        """Whether the model does the task by taking the first latent frame in its place, at a noise level of its own."""
        return False

    def gives_later_frames(self, task: str) -> bool:
        """Whether any set of frames may be given, those after the first by latents of their own from ``encode_image``."""
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

    def arrange(self, x: Tensor) -> Tensor:
        """Lay out latents [B, any, F, H, W] as the denoiser takes them as ``hidden_states``; by default as they are.

        For control, an adapter whose denoiser takes another layout overrides this and ``channel_dim``, and calls it in
        ``denoise``. Channels stay apart and in order, ``arrange(cat([a, b], 1))`` being
        ``cat([arrange(a), arrange(b)], channel_dim)``: so samplers put control behind the noisy latents of a plain pipeline.
        """
        return x

    @abstractmethod
    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        """Predict the velocity.

        Args:
            denoiser: The trained component, perhaps wrapped.
            x: [B, C + E, F, H, W] noisy latents, and directly behind them E channels of control: 0 without control. They go
                into the denoiser as they are, before whatever channels the adapter adds for its task.
            sigma: [B, F] noise level of each latent frame; equal along F unless the first frame may be given in its place.
            prompt: What text encoders made of the captions, the frame rates, and what ``encode_image`` made.

        Returns:
            [B, C, F, H, W], in the layout of the clean latents: without control channels.
        """

    def resolution_shift(self) -> ResolutionShift:
        """How noise levels shift with the resolution, as the family's pipeline reads its scheduler's config."""
        settings, default = self.scheduler, ResolutionShift()
        return ResolutionShift(
            base_tokens=settings.get("base_image_seq_len", default.base_tokens),
            base_mu=settings.get("base_shift", default.base_mu),
            max_tokens=settings.get("max_image_seq_len", default.max_tokens),
            max_mu=settings.get("max_shift", default.max_mu),
        )

    def sampling_text(self, text: Text) -> Text:
        """Arguments of the pipeline that hold one encoded prompt, [1, ...]: what ``encode_prompt`` returned."""
        return text

    def sampling_arguments(self, request: "Request") -> dict[str, Any]:
        """Arguments of the pipeline that are the family's own, such as a video's frame rate."""
        return {}

    def picture_arguments(self, request: "Request", pictures: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the pipeline for the PIL images that the request starts from or ends with, by the request's keys."""
        return dict(pictures)


def pad_channels(latents: Tensor, like: Tensor) -> Tensor:
    """Append channels of zeros to latents [B, C, n, H, W], until there are as many as in [B, C + E, ...]."""
    return nn.functional.pad(latents, (0, 0, 0, 0, 0, 0, 0, like.shape[1] - latents.shape[1]))


def image_is_optional(adapter: ModelAdapter) -> bool:
    """Whether a model draws videos from a prompt alone, and from a first frame that it takes in its place."""
    return adapter.gives_first_frame("image-to-video") and "text-to-video" in adapter.tasks


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
    control: str | None = None
    """Path of the image or video that the control signal is made of; None shows nothing of one."""

    @property
    def pictures(self) -> dict[str, str | None]:
        """Paths of all pictures, by the pipeline's names."""
        return {"image": self.image, "last_image": self.last_image}
