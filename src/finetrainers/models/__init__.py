"""Model families: one adapter each, and the code they share."""

from finetrainers.models.base import Grid as Grid, ModelAdapter as ModelAdapter, Request as Request
from finetrainers.models.load import DTYPES as DTYPES, Model as Model, Pretrained as Pretrained, open_model as open_model
from finetrainers.models.registry import adapters as adapters, get_adapter as get_adapter, register_model as register_model
