"""What is nearly a list of buckets: how to write what was meant."""

from collections.abc import Sequence
from typing import Any

Location = tuple[str | int, ...]
IS_LIST = "buckets are a list of [frames, height, width]"


def place_of_buckets(place: Location) -> Location | None:
    """Cut the place of what is inside the buckets of a data set to that of the buckets; None for all others."""
    for index, part in enumerate(place):
        if part == "buckets" and "data" in place[:index]:
            return place[: index + 1]
    return None


def about_buckets(value: Any) -> str | None:  # whatever a file holds
    """Say how to write what is nearly a list of buckets; None where it is nothing of the kind."""
    if not isinstance(value, list) or not value:
        return None
    if _are_numbers(value):
        return _about_numbers(value)
    wrong = next((own for own in value if isinstance(own, list) and len(own) != 3 and _are_numbers(own)), None)
    if wrong is None:
        return None
    pictures = f"; for images write {[1, *wrong]}" if len(wrong) == 2 else ""
    return f"{wrong}: a bucket is [frames, height, width]{pictures}"


def _about_numbers(value: Sequence[int]) -> str:
    """Say of a plain list of numbers what it may have been meant for."""
    if len(value) == 3:
        return f"{value} is one bucket, and {IS_LIST}: write [{value}]"
    if len(value) == 1:
        return f"{value} is not a bucket; for all aspect ratios write the number alone: {value[0]}"
    if len(value) == 2:
        return f"{value}: {IS_LIST}; for images write {[[1, *value]]}, or one number for all aspect ratios"
    return f"{value} are not buckets; {IS_LIST}"


def _are_numbers(value: Sequence[Any]) -> bool:
    return all(isinstance(own, int) and not isinstance(own, bool) for own in value)
