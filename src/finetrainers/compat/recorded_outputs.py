"""Hidden states of transformers' models whose class changes after they are made.

transformers knows by the name of a model's class which of its outputs can be recorded, and enters it when the model is made
(``transformers.utils.output_capturing``); ``fully_shard`` gives a module another class, whose hidden states are then None.
"""

from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY


def record_outputs_again(model: nn.Module) -> None:
    """Enter a model under the name of its present class, as its initializer did under that of the first one."""
    if isinstance(model, PreTrainedModel):
        _CAN_RECORD_REGISTRY[model] = model._can_record_outputs
