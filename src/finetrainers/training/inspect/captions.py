"""What the captions are: how many, how long, which are repeated, and which are longer than what the model sees of them."""

from collections import Counter
from typing import Any

import numpy as np

from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.sources.captions import final_caption
from finetrainers.errors import ModelError
from finetrainers.training.inspect.facts import NUM_EXAMPLES, spread
from finetrainers.training.prepared import Prepared

TOKENIZED = 100_000
"""Different captions whose tokens are counted, at most."""
AT_ONCE = 1000


def about_captions(prepared: Prepared) -> dict[str, Any]:
    """Count captions as the text encoders get them, prefix and clean-up applied."""
    counts = _captions(prepared.plan.catalog)
    distinct = list(counts)
    repeated = [{"caption": text, "count": count} for text, count in counts.most_common(NUM_EXAMPLES) if count > 1]
    return {
        "count": sum(counts.values()),
        "distinct": len(distinct),
        "words": spread(np.array([len(text.split()) for text in distinct])),
        "repeated": repeated,
        "max_tokens": prepared.model.max_length,
        **_tokens(prepared, distinct[:TOKENIZED]),
    }


def _captions(catalog: Catalog) -> Counter[str]:
    counts: Counter[str] = Counter()
    for data in catalog.sets:
        rows = np.unique(data.item)
        for texts in data.table["captions"].take(rows).to_pylist():
            counts.update(final_caption(text, data.config) for text in texts)
    return counts


def _tokens(prepared: Prepared, captions: list[str]) -> dict[str, Any]:
    """Count the tokens of each, and name the longest of those that are cut."""
    model = prepared.model
    try:
        tokenizer = model.pretrained.load(model.adapter.text.main_tokenizer)
    except ModelError as error:
        return {"tokens": None, "cut": [], "num_cut": None, "why_no_tokens": str(error)}
    lengths: list[int] = []
    for start in range(0, len(captions), AT_ONCE):
        tokens = tokenizer(captions[start : start + AT_ONCE], truncation=False, verbose=False)["input_ids"]
        lengths += [len(own) for own in tokens]
    order = np.argsort(-np.array(lengths), kind="stable")
    cut = [int(row) for row in order if lengths[row] > model.max_length]
    named = [{"caption": captions[row], "lost_tokens": lengths[row] - model.max_length} for row in cut[:NUM_EXAMPLES]]
    return {"tokens": spread(np.array(lengths)), "num_cut": len(cut), "cut": named}
