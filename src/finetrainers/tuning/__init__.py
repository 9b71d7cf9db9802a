"""What of the denoiser is trained, and how it is written down."""

from finetrainers.config import FullConfig, LokrConfig, LoraConfig
from finetrainers.tuning.base import ExportFacts as ExportFacts, Tuning as Tuning
from finetrainers.tuning.full import FullTuning
from finetrainers.tuning.lokr import LokrTuning
from finetrainers.tuning.lora import AdapterTuning


def build_tuning(config: LoraConfig | LokrConfig | FullConfig) -> Tuning:
    """Turn the ``tuning`` section into its implementation."""
    match config:
        case FullConfig():
            return FullTuning(config)
        case LoraConfig():
            return AdapterTuning(config)
        case LokrConfig():
            return LokrTuning(config)
