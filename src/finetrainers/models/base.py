"""What a model must tell the trainer: a table of facts and one forward pass."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from finetrainers.batch import Image, Prompt, Text
from finetrainers.distributed.context import ContextPlan
from finetrainers.errors import ModelError
from finetrainers.models.experts import Expert
from finetrainers.models.facts import LatentFacts, PictureFacts, RecipeFacts, TextFacts, TrainingFacts, refuse_moved
from finetrainers.models.grid import Grid
from finetrainers.models.noise import ResolutionShift
from finetrainers.models.request import Request

Settings = Mapping[str, Any]  # a component's config.json: whatever its class wrote there


class ModelAdapter(ABC):
    """The facts and the few functions that differ between model families.

    Loading, VAE scaling, LoRA saving and validation are shared: they read these class attributes, of which most stand in
    five tables: ``latents``, ``text``, ``training``, ``recipe`` and ``pictures``. Where models of one family differ in one,
    ``__init__`` replaces it: ``self.text = replace(self.text, max_length=77)``.
    """

    name: ClassVar[str]
    """Family name; set by ``register_model``."""
    pipelines: ClassVar[Mapping[str, str]]
    """Pipeline class of each task, such as {"text-to-image": "FluxPipeline"}; the first task is the default."""
    denoiser: ClassVar[str] = "transformer"
    """Name of the component that is trained."""
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
    joins_attention: ClassVar[tuple[str, ...]] = ()
    """Class names of the blocks that join the answer of their ``attn`` with something else along the channels: its gradient
    comes back as a slice, on which kernels of attention fail, and is made whole before."""
    latents: LatentFacts = LatentFacts()
    """How the VAE makes latents, and how they are normalized."""
    text: TextFacts = TextFacts()
    """How prompts are encoded."""
    training: TrainingFacts
    """What the model's authors trained it to do."""
    recipe: RecipeFacts = RecipeFacts()
    """What a run takes where its configuration says ``auto``."""
    pictures: PictureFacts = PictureFacts()
    """What the model is shown besides the prompt: given frames, and the latents of a control."""

    def __init__(
        self, vae: Settings, denoiser: Settings, index: Settings | None = None, scheduler: Settings | None = None
    ) -> None:
        self.vae, self.settings = vae, denoiser
        self.index: Settings = {} if index is None else index
        self.scheduler: Settings = {} if scheduler is None else scheduler
        self.grid = self.make_grid(vae, denoiser)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_moved(cls.__name__, dir(cls))

    def __setattr__(self, name: str, value: object) -> None:
        refuse_moved(type(self).__name__, [name])
        super().__setattr__(name, value)

    @property
    def default_fps(self) -> float:
        """Frame rate of videos that are generated, where the prompt names none."""
        return 24.0 if self.training.native_fps is None else self.training.native_fps

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

    def blank_text(self, length: int) -> Text:
        """Make what ``encode_prompt`` makes of one caption of ``length`` tokens, of zeros: each [T, D] or [D].

        For trials of speed and memory, which load no encoders.

        Raises:
            ModelError: If the adapter does not say; trials are refused then, and nothing else is.
        """
        raise ModelError(
            f"{self.name}: the adapter has no blank_text(length), without which no step can be tried before there is data "
            "(memory.preset: auto, attention: auto, finetrainers plan); define it: zeros as encode_prompt returns them of "
            "one caption, [T, D] or [D] by name"
        )

    def blank_image(self, shape: tuple[int, ...], task: str) -> Image:
        """Make what ``encode_image`` makes of one clip with latents of a shape (C, F, H, W), of zeros: each [...]."""
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
            pipeline: Of the task, with the VAE and ``pictures.image_components``.
            pixels: [B, K, P, Q, 3] uint8, all frames of the clips, on the CPU.
            task: One of ``pictures.image_tasks``.

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
            prompt: What text encoders made of the captions, the frame rates, what ``encode_image`` made, and references.

        Returns:
            [B, C, F, H, W], in the layout of the clean latents: without control channels.
        """

    def context_plan(self) -> ContextPlan | None:
        """How several processes share the tokens of one sample (``parallel.context``); None: they cannot."""
        return None

    def append_references(self, told: Mapping[str, Any], references: Sequence[Tensor]) -> dict[str, Any]:
        """Put pictures of their own size behind the noisy latents; for tasks of ``pictures.reference_pipelines``.

        ``denoise`` calls it, and so do samplers whose pipeline is told of no picture, or of one alone.

        Args:
            told: What the denoiser would be called with, by the names of its arguments; any number of rows.
            references: Latents of the pictures in their order, each [1, C, 1, H', W'], or with as many rows.

        Returns:
            What to call it with. Of its answer, the tokens of the noisy latents come first.
        """
        raise NotImplementedError

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

    def sampling_arguments(self, request: Request) -> dict[str, Any]:
        """Arguments of the pipeline that are the family's own, such as a video's frame rate."""
        return {}

    def picture_arguments(self, request: Request, pictures: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the pipeline for the PIL images that the request starts from or ends with, by the request's keys."""
        return dict(pictures)


def pad_channels(latents: Tensor, like: Tensor) -> Tensor:
    """Append channels of zeros to latents [B, C, n, H, W], until there are as many as in [B, C + E, ...]."""
    return nn.functional.pad(latents, (0, 0, 0, 0, 0, 0, 0, like.shape[1] - latents.shape[1]))


def image_is_optional(adapter: ModelAdapter) -> bool:
    """Whether a model generates videos from a prompt alone, and from a first frame that it takes in its place."""
    return adapter.gives_first_frame("image-to-video") and "text-to-video" in adapter.tasks
