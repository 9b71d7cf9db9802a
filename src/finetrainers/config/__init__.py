"""Every section, every default, every check."""

from finetrainers.config.base import Section as Section
from finetrainers.config.checkpoint import CheckpointConfig as CheckpointConfig
from finetrainers.config.compile import CompileConfig as CompileConfig
from finetrainers.config.conditioning import (
    ChannelConcatConfig as ChannelConcatConfig,
    ConditionConfig as ConditionConfig,
    ConditioningConfig as ConditioningConfig,
    GivenFramesConfig as GivenFramesConfig,
    NoConditioning as NoConditioning,
    ReferencesConfig as ReferencesConfig,
)
from finetrainers.config.data import (
    Bucket as Bucket,
    CacheConfig as CacheConfig,
    DataConfig as DataConfig,
    LoaderConfig as LoaderConfig,
    PixelBudget as PixelBudget,
)
from finetrainers.config.load import dump_config as dump_config, load_config as load_config, parse_config as parse_config
from finetrainers.config.memory import MemoryConfig as MemoryConfig
from finetrainers.config.model import (
    ComponentConfig as ComponentConfig,
    ModelConfig as ModelConfig,
    is_folder as is_folder,
)
from finetrainers.config.objective import ObjectiveConfig as ObjectiveConfig
from finetrainers.config.optim import (
    REGISTRY as REGISTRY,
    OptimizerConfig as OptimizerConfig,
    ScheduleConfig as ScheduleConfig,
)
from finetrainers.config.overrides import find_file as find_file
from finetrainers.config.prompts import PromptConfig as PromptConfig
from finetrainers.config.run import MAX_SEED as MAX_SEED, Config as Config
from finetrainers.config.track import TrackConfig as TrackConfig
from finetrainers.config.train import TrainConfig as TrainConfig
from finetrainers.config.tuning import (
    FullConfig as FullConfig,
    LokrConfig as LokrConfig,
    LoraConfig as LoraConfig,
)
from finetrainers.config.validation import ValidationConfig as ValidationConfig
