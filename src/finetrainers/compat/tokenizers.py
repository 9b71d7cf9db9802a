"""transformers 5 gives each LlamaTokenizerFast the splitting of Llama 2, whatever its tokenizer.json says.

HunyuanVideo's tokenizer is that of Llama 3, saved under this name: it would lose spaces and line breaks, and the prompt
template would not have the tokens that the pipeline counts on (https://github.com/huggingface/transformers/issues/45488).
"""

from collections.abc import Mapping

FAITHFUL_CLASSES: Mapping[str, str] = {"LlamaTokenizerFast": "PreTrainedTokenizerFast"}
"""Class that loads what a class of a model_index.json has saved, as it was saved."""
