"""What the denoiser sees besides noise and prompt: the only place where SFT and Control differ."""

from finetrainers.conditioning.base import Conditioning as Conditioning
from finetrainers.conditioning.channel_concat import ChannelConcat
from finetrainers.conditioning.references import References
from finetrainers.config import ChannelConcatConfig, ConditioningConfig, NoConditioning, ReferencesConfig


def build_conditioning(config: ConditioningConfig) -> Conditioning:
    """Turn the ``conditioning`` section into its implementation.

    Raises:
        ConfigError: If the signal cannot be computed.
    """
    match config:
        case NoConditioning():
            return Conditioning()
        case ChannelConcatConfig():
            return ChannelConcat(config)
        case ReferencesConfig():
            return References(config)
