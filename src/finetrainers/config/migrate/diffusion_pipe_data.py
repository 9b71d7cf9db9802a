"""Data sets of diffusion-pipe: resolutions, aspects and frames for all folders, or for one."""

import math
from typing import Any

from finetrainers.config.migrate.draft import Draft, Note
from finetrainers.config.migrate.shared import put_masks
from finetrainers.config.migrate.values import count, lists, number, numbers, switch, table, tables, text
from finetrainers.config.syntax import Tree
from finetrainers.errors import ConfigError

STEP = 16
"""Sizes that ratios are written out to are multiples of so many pixels."""
LOST = {
    "cache_shuffle_num": "captions stay as they are",
    "shuffle_tags": "captions stay as they are",
    "default_mask_file": "give each item a mask, in the folder of mask_path",
    "online_captions": "captions are encoded before training",
    "subsample_ratio": "data.N.repeats below 1 shows fewer in an epoch",
}
IDLE = {
    "cache_shuffle_delimiter": "captions stay as they are",
    "shuffle_metadata": "each epoch is shuffled as a whole",
    "num_ar_buckets": "sizes are all multiples of buckets.step between the aspects",
}


def put_data(draft: Draft, tree: Tree, family: str, *, section: str = "data") -> None:
    """Write the folders of a file as data sets: one for each resolution, since each item has all of them there."""
    shared = {key: value for key, value in tree.items() if key != "directory"}
    folders = tables("dataset: directory", table("dataset", tree).get("directory", []))
    if not folders:
        raise ConfigError("dataset: has no [[directory]]; a configuration needs at least one")
    for index, folder in enumerate(folders):
        inner = Draft({**shared, **folder})
        for data in _sets(draft, inner, family, is_measured=section != "data"):
            number_of = len(
                draft.tree.get("data", []) if section == "data" else draft.tree.get("validation", {}).get("data", [])
            )
            for key, value in data.items():
                draft.put(f"{section}.{number_of}.{key}", value)
        inner.settle(IDLE, LOST)
        inner.finish("is not known here; see docs/configuration.md#datan")
        draft.notes += [Note(note.kind, f"directory.{index}.{note.key}", note.value, note.text) for note in inner.notes]
    put_masks(draft)


def _sets(draft: Draft, inner: Draft, family: str, *, is_measured: bool) -> list[Tree]:
    data: Tree = {"path": inner.take("path", None, text)}
    if data["path"] is None:
        raise ConfigError("directory: has no path; a data set needs a folder")
    prefix = inner.take("caption_prefix", "", text)
    if prefix:
        data["caption_prefix"] = prefix.strip()
        if prefix != f"{prefix.strip()} ":
            inner.differs("caption_prefix", prefix, "a space stands between prefix and caption here")
    repeats = inner.take("num_repeats", 1, number)
    if repeats != 1 and not is_measured:
        data["repeats"] = repeats
    elif repeats != 1:
        inner.idle("num_repeats", repeats, "held-out items are measured once")
    mask, control = inner.take("mask_path", None, text), inner.take("control_path", None, text)
    if mask is not None:
        data["folders"] = {"mask": mask}
        inner.differs("mask_path", mask, "items without a mask are bad samples here")
    if control is not None:
        data.setdefault("folders", {})["reference" if family == "flux" else "control"] = control
        kind = {"kind": "references"} if family == "flux" else {"kind": "channel_concat", "signal": "files"}
        draft.put("conditioning", kind)
    if not inner.take("skip_empty_caption", True, switch):
        inner.lost("skip_empty_caption", False, "items without a caption are bad samples; give them an empty .txt")
    else:
        data["on_error"] = "skip"
    return [{**data, "buckets": buckets} for buckets in _buckets(inner)]


def _buckets(inner: Draft) -> list[Any]:
    """Buckets of each data set that a folder becomes."""
    sizes = inner.take("size_buckets")
    resolutions, ratios = inner.take("resolutions", []), inner.take("ar_buckets")
    frames = [count("frame_buckets", frames) for frames in numbers("frame_buckets", inner.take("frame_buckets", [1]))]
    is_by_aspect = inner.take("enable_ar_bucket", False, switch)
    (low,), (high,) = numbers("min_ar", inner.take("min_ar", 0.5)), numbers("max_ar", inner.take("max_ar", 2.0))
    if sizes:
        return [[[frames, height, width] for width, height, frames in lists("size_buckets", sizes, lengths=(3,))]]
    if not resolutions or not isinstance(resolutions, list):
        raise ConfigError(f"directory: resolutions: {resolutions!r}; a data set needs a list of them, or size_buckets")
    found: list[Any] = []
    for resolution in resolutions:
        pixels = math.prod((numbers("resolutions", resolution) * 2)[:2])
        if not is_by_aspect:
            side = _rounded(math.sqrt(pixels))
            found.append([[number_of, side, side] for number_of in frames])
        elif ratios:
            aspects = [_aspect(ratio) for ratio in (ratios if isinstance(ratios, list) else [ratios])]
            found.append([[number_of, *_size(pixels, aspect)] for number_of in frames for aspect in aspects])
        else:
            found.append({"pixels": round(pixels), "frames": frames, "max_aspect": max(high, 1 / low, 1.0)})
    return found


def _aspect(ratio: Any) -> float:
    """Ratio of width to height, which may be given as both."""
    found = numbers("ar_buckets", ratio)
    return found[0] / found[-1] if isinstance(ratio, list) else found[0]


def _size(pixels: float, aspect: float) -> list[int]:
    """Height and width of an area."""
    return [_rounded(math.sqrt(pixels / aspect)), _rounded(math.sqrt(pixels * aspect))]


def _rounded(length: float) -> int:
    return max(STEP, round(length / STEP) * STEP)
