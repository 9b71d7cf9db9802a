"""Control by channels: latents of a signal beside the noisy ones, as in Flux Control and the "Fun Control" models.

Shape letters as in ``finetrainers.batch``; E is the number of further channels: C, and one for the mask.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from finetrainers.batch import Batch, Medium, Prompt
from finetrainers.conditioning.base import Conditioning
from finetrainers.conditioning.verify import verify_columns
from finetrainers.conditioning.widen import widen_input, widened_settings
from finetrainers.config import ChannelConcatConfig
from finetrainers.data.conditions import CONTROL
from finetrainers.data.frames import FrameSelection
from finetrainers.data.media.signals import build_signal
from finetrainers.data.streams import Stream
from finetrainers.errors import ConfigError
from finetrainers.models import Model, ModelAdapter
from finetrainers.objectives.base import Predict

NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
"""Names that diffusers' attention gives to the norms of queries and keys."""


class ChannelConcat(Conditioning):
    """Widens the input projection by zeros and shows it the control's latents, frame by frame or not."""

    def __init__(self, config: ChannelConcatConfig, *, key: str = "conditioning") -> None:
        """Find the signal; ``key`` is what the condition is written under.

        Raises:
            ConfigError: If it cannot be computed.
        """
        self._config, self._key = config, key
        signal = None if config.has_files else build_signal(config, key=key)
        self.streams = (Stream(CONTROL, "condition", signal=signal),)
        selection = FrameSelection(config.frames, index=config.frame_index, dropout=1 - config.probability)
        self.frames = {CONTROL: selection}

    def prepare(self, denoiser: Any, adapter: ModelAdapter) -> None:
        widen_input(denoiser, adapter, extra=self._num_channels(adapter))

    def verify(self, denoisers: Sequence[Any], adapter: ModelAdapter, predict: Predict, batch: Batch) -> None:
        verify_columns(denoisers, adapter, predict, batch)

    def trained_modules(self, denoiser: Any, adapter: ModelAdapter) -> tuple[str, ...]:
        if not self._config.train_norms:
            return (adapter.input_layer,)
        modules = denoiser.named_modules()
        norms = [name for name, m in modules if name.rpartition(".")[2] in NORMS and any(True for _ in m.parameters())]
        if not norms:
            raise ConfigError(
                f"{self._key}.train_norms: {type(denoiser).__name__} has no weights in norms of queries and keys; remove it"
            )
        return (adapter.input_layer, *norms)

    def exported_settings(self, denoiser: Any, adapter: ModelAdapter) -> Mapping[str, Any]:
        return widened_settings(denoiser.config, adapter, extra=self._num_channels(adapter))

    def drawing_class(self, model: Model) -> str | None:
        is_plain = self._config.frames == "full" and not self._config.mask
        return model.adapter.pictures.control_pipelines.get(model.task) if is_plain else None

    def _num_channels(self, adapter: ModelAdapter) -> int:
        """E."""
        return adapter.grid.channels + self._config.mask

    def model_input(self, noisy: Tensor, batch: Batch) -> tuple[Tensor, Prompt]:
        return torch.cat([noisy, self._channels(batch.media[CONTROL])], dim=1), batch.prompt

    def _channels(self, control: Medium) -> Tensor:
        """[B, E, F, H, W]: the frames that are shown and, if it is asked for, where they are."""
        mask = control.mask[:, None, :, None, None]
        latents = control.latents * mask
        return torch.cat([latents, mask.expand_as(latents[:, :1])], dim=1) if self._config.mask else latents

    @contextmanager
    def sampling(self, denoisers: Sequence[Any], adapter: ModelAdapter, media: Mapping[str, Medium]) -> Iterator[None]:
        control = media[CONTROL]
        channels = adapter.arrange(self._channels(control))
        width = adapter.arrange(control.latents).shape[adapter.channel_dim]

        def join(_module: Any, args: tuple[Any, ...], told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            hidden, *others = args or (told["hidden_states"],)  # some pipelines hand them over first, without the name
            hidden = join_channels(hidden, channels, dim=adapter.channel_dim, width=width)
            return ((hidden, *others), told) if args else (args, told | {"hidden_states": hidden})

        with ExitStack() as stack:
            for denoiser in denoisers:
                stack.callback(denoiser.register_forward_pre_hook(join, with_kwargs=True).remove)
            yield


def join_channels(hidden: Tensor, channels: Tensor, *, dim: int, width: int) -> Tensor:
    """Put channels of one sample behind the first ``width`` of hidden states, for each of their rows.

    Tokens that some pipelines put before those of the clip, such as LTX-Video's of given frames, get zeros.
    """
    if dim == -1:
        channels = functional.pad(channels, (0, 0, hidden.shape[1] - channels.shape[1], 0))
    channels = channels.to(hidden).expand(len(hidden), *channels.shape[1:])
    noisy, others = hidden.split([width, hidden.shape[dim] - width], dim)
    return torch.cat([noisy, channels, others], dim)
