"""What is done to captions before they are encoded: openings of captioning models cut off, the data set's prefix put on."""

import re

import pyarrow as pa

from finetrainers.config.data import DataConfig

_MEDIUM = (
    r"(?:short |brief )?(?:video|clip|footage|animation|image|picture|photo|photograph|scene|sequence)(?: clip| sequence)?"
)
_SHOWS = (
    r"(?:show|depict|display|feature|capture|present|portray|illustrate|showcase)s|begins with|starts with|opens with|"
    r"is of|is (?=an? )"
)
_SEE = r"(?:we (?:can )?see|you (?:can )?see|there (?:is|are)|it (?:shows|depicts))"

LLM_OPENINGS = (
    r"(?:sure|certainly|of course)[,!.]",
    r"here(?:'s| is) (?:a|an|the|your)[^:.]{0,60} (?:caption|description|prompt)[^:.]{0,60}:",
    rf"(?:(?:{_MEDIUM}) )?(?:caption|description|prompt):",
    rf"(?:in|throughout) (?:the|this) (?:{_MEDIUM}),? (?:{_SEE})\b",
    rf"(?:in|throughout) (?:the|this) (?:{_MEDIUM}),",
    rf"(?:the|this) (?:{_MEDIUM}) (?:{_SHOWS})",
    rf"{_SEE}\b",
)
"""Openings that captioning models put before what they see, as regular expressions; they are tried in this order, again
and again, at the start of a caption, whatever the case: "Sure! Here is a caption: The video shows a cat" is "A cat"."""

_OPENING = re.compile(rf"\s*(?:{'|'.join(LLM_OPENINGS)})[\s,]*", re.IGNORECASE)


def final_caption(text: str, config: DataConfig) -> str:
    """Make of a caption what the text encoders see: "PIKA_CRUSH A cat" of "The video shows a cat", if the config says so.

    An empty caption, which items have that come without one, is the prefix alone.
    """
    if config.remove_common_llm_caption_prefixes:
        text = _without_opening(text)
    return f"{config.caption_prefix} {text}" if config.caption_prefix and text else config.caption_prefix + text


def clean_captions(captions: pa.Array, config: DataConfig) -> pa.Array:
    """Apply ``final_caption`` to an array of texts, or of lists of texts, keeping its form."""
    if pa.types.is_large_list(captions.type):
        offsets, values = captions.offsets, captions.values
        return pa.LargeListArray.from_arrays(offsets, clean_captions(values, config))
    return pa.array((final_caption(text.as_py(), config) for text in captions), pa.large_string())


def _without_opening(text: str) -> str:
    """Cut openings and capitalise what is then the first letter; a caption that is nothing but an opening is kept."""
    rest = text
    while (opening := _OPENING.match(rest)) is not None and opening.end() < len(rest):
        rest = rest[opening.end() :]
    return rest if rest == text else rest[:1].upper() + rest[1:]
