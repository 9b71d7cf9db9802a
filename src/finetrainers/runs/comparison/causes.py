"""Which settings can make two runs part, and when: before the first update, by an update, by rounding, or never."""

import re
from typing import Any, Literal

Effect = Literal["first", "update", "rounding", "none"]
"""``first``: on the first loss; ``update``: on what comes after the first update; ``rounding``: on the last digits alone."""
EFFECTS: tuple[tuple[str, Effect], ...] = (  # the first that matches
    (r"(output_dir|cache|loader|checkpoint|track|push_to_hub|hub_repo|hub_private)(\..*)?", "none"),
    (r"validation\.(held_out|data)(\..*)?", "first"),  # which items are trained on
    (r"validation\..*", "none"),
    (r"data\.\d+\.(on_error|recheck)", "none"),
    (r"train\.steps", "update"),  # by the schedule
    (r"(optimizer|schedule)(\..*)?|train\.(clip_norm|ema_decay|non_finite)", "update"),
    (r"tuning\.(kind|start_from)", "first"),
    (r"tuning\..*", "update"),  # an adapter begins as one that changes nothing, whatever its size
    (r"memory\.(weights|text_encoder_weights)", "first"),
    (r"(attention|memory|compile|parallel)(\..*)?", "rounding"),
    (r"train\.(micro_batch_size|gradient_checkpointing|matmul_precision|device)", "rounding"),
)
_PATTERNS = tuple((re.compile(pattern), effect) for pattern, effect in EFFECTS)
PLACES = re.compile(r"(validation\.)?data\.\d+\.(path|control_path|folders\..+)|model\.path")
"""Keys of places: what is there is compared by its contents."""


def effect_of(key: str) -> Effect:
    """Say on what a key has an effect."""
    return next((effect for pattern, effect in _PATTERNS if pattern.fullmatch(key)), "first")


def flat(tree: object, key: str = "") -> dict[str, Any]:
    """Write a tree of plain values as one value for each key, such as data.0.path."""
    match tree:
        case dict() if tree:
            pairs = [(f"{key}.{name}" if key else str(name), value) for name, value in tree.items()]
        case list() if tree and all(isinstance(value, dict) for value in tree):
            pairs = [(f"{key}.{number}", value) for number, value in enumerate(tree)]
        case _:
            return {key: tree}
    return {name: own for place, value in pairs for name, own in flat(value, place).items()}


def order_of(effect: Effect, *, is_first: bool, is_small: bool) -> int:
    """Say how likely a difference with this effect is why two runs part, the lowest the most.

    Args:
        effect: Of the difference.
        is_first: Whether they part at the first step, whose loss no update has had an effect on.
        is_small: Whether they part in the last digits.
    """
    ranks: dict[Effect, int] = {"first": 1, "update": 3 if is_first else 0, "rounding": 0 if is_small else 2, "none": 4}
    return ranks[effect]
