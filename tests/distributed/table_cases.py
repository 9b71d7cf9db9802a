"""The rows of the table of layouts: every family, LoRA and full rank, and what a run can have besides."""

import json
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runs import write_pictures

from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest

sys.path.append(str(Path(__file__).parents[1] / "models"))
from cases import all_cases  # noqa: E402

Tree = dict[str, Any]
STEPS = 10
FIRSTS = {
    "flux": "flux dev text-to-image",
    "ltx_video": "ltx_video 0.9.0 text-to-video",
    "wan": "wan 2.1-t2v text-to-video",
    "hunyuan_video": "hunyuan_video t2v text-to-video",
    "cogvideox": "cogvideox 5b text-to-video",
    "cogview4": "cogview4 6b text-to-image",
}
"""A case of each family that is shown nothing but a prompt."""
GIVEN = (
    "ltx_video 0.9.0 image-to-video",
    "ltx_video 0.9.5 first-last-frame-to-video",
    "wan 2.1-i2v image-to-video",
    "wan 2.1-flf2v first-last-frame-to-video",
    "wan 2.2-ti2v-5b image-to-video",
    "hunyuan_video i2v image-to-video",
    "hunyuan_video i2v-33ch image-to-video",
    "cogvideox 5b-i2v image-to-video",
)
"""Tasks with given frames, in each way that there is."""
EXPERTS = ("wan 2.2-t2v-a14b text-to-video", "wan 2.2-i2v-a14b image-to-video")
"""Two transformers, each for some noise levels."""
KONTEXT = "flux kontext image-to-image"
AVERAGED = {"train": {"ema_decay": 0.5}}
EIGHT_BITS = {"optimizer": {"name": "adamw_8bit"}}
SUBSET = ("flux, LoRA", "wan, full, EMA", "wan, LoRA, 8-bit states", "ltx_video, LoRA, control", f"{EXPERTS[0]}, LoRA")
"""Rows that `make test` has time for: one of each kind."""


BOUND = 1e-5
OTHER_BLOCKS = 1e-3
"""Where states of 8 bits are in blocks of a weight's part: other blocks than one process has. 3.4e-4 was seen, and from the
third step on; the states of these LoRAs are too small to be kept in few bits."""


def bound_of(name: str, parallel: Mapping[str, int]) -> float:
    """How far losses and gradient norms of a row may be from those of one process."""
    return OTHER_BLOCKS if name.endswith("full, 8-bit states") and parallel.get("shard", 1) > 1 else BOUND


def make_trees(tiny: Callable[[str, str], Path], root: Path, names: Collection[str] = ()) -> dict[str, Tree]:
    """The configuration of each row, or of some, without its layout."""
    rows = dict(_rows(tiny, root))
    return {name: make() for name, make in rows.items() if not names or name in names}


def _rows(tiny: Callable[[str, str], Path], root: Path) -> Iterator[tuple[str, Callable[[], Tree]]]:
    """Names of rows, and what makes them: tiny models take their time."""
    cases = all_cases()

    @cache
    def subject_of(name: str) -> ModelUnderTest:
        case, folder = cases[name], root / name
        folder.mkdir()
        model = tiny(case.family, case.variant)
        if case.family == "wan":
            model = _with_even_heads(model, folder / "model")
        return ModelUnderTest(case.section(model), case.size, folder, device="cpu")

    for family, name in FIRSTS.items():
        yield f"{family}, LoRA", lambda name=name: tree_of(subject_of(name), LORA)
        yield f"{family}, full", lambda name=name: tree_of(subject_of(name), FULL)
        yield f"{family}, LoRA, control", lambda name=name: tree_of(subject_of(name).controlled, LORA)
    for name in (*GIVEN, *EXPERTS):
        yield f"{name}, LoRA", lambda name=name: tree_of(subject_of(name), LORA)
    for name in EXPERTS:
        yield f"{name}, full", lambda name=name: tree_of(subject_of(name), FULL)
    for family in ("flux", "wan"):
        for kind, tuning in (("LoRA", LORA), ("full", FULL)):
            for title, sections in (("EMA", AVERAGED), ("8-bit states", EIGHT_BITS)):
                yield (
                    f"{family}, {kind}, {title}",
                    lambda family=family, tuning=tuning, own=sections: tree_of(subject_of(FIRSTS[family]), tuning, **own),
                )
    yield "flux, LoRA, references", lambda: _with_references(subject_of(KONTEXT))


def _with_even_heads(model: Path, copied: Path) -> Path:
    """Wan in small has three heads, which two processes cannot share: six of half the width have the same weights."""
    shutil.copytree(model, copied)
    for file in copied.glob("transformer*/config.json"):
        settings = json.loads(file.read_text())
        if settings["num_attention_heads"] == 3:
            file.write_text(json.dumps({**settings, "num_attention_heads": 6, "attention_head_dim": 12}))
    return copied


def _with_references(subject: ModelUnderTest) -> Tree:
    data = [{"path": str(_write_pairs(subject.folder)), "buckets": [list(subject.size)]}]
    references = {"kind": "references", "pixels": 2048, "step": 16, "probability": 0.7}
    return tree_of(subject, LORA, data=data, conditioning=references)


def tree_of(subject: ModelUnderTest, tuning: Mapping[str, Any], **sections: Any) -> Tree:
    """A run of four samples a step, each a micro-batch of its own where one process has them all."""
    train = {"steps": STEPS, "batch_size": 4, "micro_batch_size": 1, **sections.pop("train", {})}
    optimizer = {"lr": 1e-3, **sections.pop("optimizer", {})}
    config = subject.config("run", tuning, train=train, optimizer=optimizer, **sections)
    tree: Tree = config.model_dump(mode="json", exclude_unset=True)
    return tree


def _write_pairs(folder: Path) -> Path:
    """Pictures with one or two others that they were made of."""
    media = write_pictures(folder / "pairs", 4)
    write_pictures(folder / "before", 4, size=(40, 80), seed=20)
    rows = [
        {"file_name": f"{n:02d}.png", "text": f"edit {n}", "reference": [f"../before/{m:02d}.png" for m in range(n % 2, 2)]}
        for n in range(4)
    ]
    for caption in media.glob("*.txt"):
        caption.unlink()
    (media / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return media
