"""The conditions of a run, which are what the denoiser sees besides noise and prompt: only here SFT and Control differ."""

from finetrainers.conditioning.base import Conditioning as Conditioning
from finetrainers.conditioning.channel_concat import ChannelConcat
from finetrainers.conditioning.given_frames import (
    GivenFrames as GivenFrames,
    build_given_frames as build_given_frames,
)
from finetrainers.conditioning.references import References
from finetrainers.config import ChannelConcatConfig, ConditioningConfig, ReferencesConfig
from finetrainers.config.conditioning import conditions_of


def build_conditioning(config: ConditioningConfig) -> Conditioning:
    """Make the condition that decides how the denoiser takes what it is shown, of which there is one at most.

    Given frames change nothing of that: ``build_given_frames`` makes them.

    Raises:
        ConfigError: If the signal cannot be computed.
    """
    for key, condition in conditions_of(config).items():
        match condition:
            case ChannelConcatConfig():
                return ChannelConcat(condition, key=key)
            case ReferencesConfig():
                return References(condition)
    return Conditioning()
