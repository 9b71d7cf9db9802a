"""Model families: one adapter each, and the code they share."""

from finetrainers.models.base import ModelAdapter as ModelAdapter, Settings as Settings, pad_channels as pad_channels
from finetrainers.models.experts import Expert as Expert
from finetrainers.models.facts import (
    LatentFacts as LatentFacts,
    PictureFacts as PictureFacts,
    RecipeFacts as RecipeFacts,
    TextFacts as TextFacts,
    TrainingFacts as TrainingFacts,
)
from finetrainers.models.grid import Grid as Grid
from finetrainers.models.load import Model as Model, open_model as open_model
from finetrainers.models.pretrained import DTYPES as DTYPES, Pretrained as Pretrained
from finetrainers.models.registry import adapters as adapters, get_adapter as get_adapter, register_model as register_model
from finetrainers.models.request import Request as Request
