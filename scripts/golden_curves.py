"""Short runs of all families and variants: curves and weights that a change of structure must not change by a bit.

    python scripts/golden_curves.py before.json            # record
    python scripts/golden_curves.py after.json before.json # record, and compare with what was recorded before

The bits depend on the processor and on the versions of the packages, so records of one machine are compared, and none is
committed. Each case trains a LoRA (with held-out loss), all weights, and a LoRA with a control.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path += [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent.parent / "tests/models")]

import numpy as np
import torch
from cases import Case, all_cases
from PIL import Image
from safetensors.torch import load_file

from finetrainers import load_config, train
from finetrainers.testing import make_tiny

STEPS = 3
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"tuning": {"kind": "lora", "rank": 2, "alpha": 6}},
    "full": {"tuning": {"kind": "full"}},
    "control": {
        "tuning": {"kind": "lora", "rank": 2, "alpha": 6},
        "conditioning": {"kind": "channel_concat", "signal": "gray", "probability": 0.7},
    },
}
"""Sections of the runs of each case."""


def record(case: Case, model: Path, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train each kind of run of a case; yield its name and what it was."""
    training, held_out = (_write_media(folder / name, case, seed) for name, seed in (("train", 0), ("held-out", 9)))
    for kind, sections in KINDS.items():
        tree = {
            "output_dir": str(folder / kind),
            "model": case.section(model),
            "data": [{"path": str(training), "buckets": [list(case.size)], "fps": None, "caption_dropout": 0.2}],
            "optimizer": {"lr": 1e-2},
            "train": {"steps": STEPS, "batch_size": 2, "micro_batch_size": 1, "device": "cpu"},
            "loader": {"workers": 0},
            "cache": {"path": str(folder / "cache"), "workers": 1},
            **sections,
        }
        if kind != "full":
            data = {"path": str(held_out), "buckets": [list(case.size)], "fps": None}
            tree["validation"] = {"data": [data], "noise_levels": 2}
        file = folder / f"{kind}.json"
        file.write_text(json.dumps(tree))
        result = train(load_config(file))
        yield kind, _facts(result.output_dir, result.weights)


def _write_media(folder: Path, case: Case, seed: int) -> Path:
    """Three coloured items of the case's size, with captions of different lengths."""
    folder.mkdir(parents=True)
    frames, height, width = case.size
    random = np.random.default_rng(seed)
    for number, caption in enumerate(("a red ball on the grass", "a dog", "two blue stars above the sea")):
        blocks = random.integers(0, 256, (frames, height // 8, width // 8, 3), np.uint8)
        pictures = [Image.fromarray(block.repeat(8, 0).repeat(8, 1)) for block in blocks]
        if frames == 1:
            pictures[0].save(folder / f"{number}.png")
        else:
            _write_clip(folder / f"{number}.mov", pictures)
        (folder / f"{number}.txt").write_text(caption, encoding="utf-8")
    return folder


def _write_clip(file: Path, pictures: list[Image.Image]) -> None:
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("png", rate=8)  # libx264 makes other bytes of the same pictures from time to time
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "rgb24"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        container.mux(stream.encode())


def _facts(run: Path, weights: Path) -> dict[str, Any]:
    """What must stay: curves, held-out losses, and a hash of all exported tensors."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(weights.rglob("*.safetensors")):
        for name, tensor in sorted(load_file(file).items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        "steps": [[e["loss"], e["grad_norm"], e["lr"]] for e in events if e["event"] == "step"],
        "held_out": [[e["held_out_loss"], e["held_out_bins"]] for e in events if e["event"] == "validation"],
        "weights": digest.hexdigest(),
    }


def main(output: str, before: str | None = None) -> int:
    """Record all cases; compare with an earlier record, and return how many runs differ."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    cases = {name: case for name, case in all_cases().items() if not case.label}
    with tempfile.TemporaryDirectory() as temporary:
        models: dict[tuple[str, str], Path] = {}
        for number, (name, case) in enumerate(cases.items()):
            place = case.family, case.variant
            if place not in models:
                models[place] = make_tiny(case.family, Path(temporary) / "-".join(place), variant=case.variant)
            for kind, facts in record(case, models[place], Path(temporary) / str(number)):
                found[f"{name}, {kind}"] = facts
    Path(output).write_text(json.dumps(found, indent=1))
    if before is None:
        print(f"{len(found)} runs recorded in {output}")
        return 0
    known = json.loads(Path(before).read_text())
    different = [name for name in sorted({*found, *known}) if found.get(name) != known.get(name)]
    for name in different:
        print(f"differs: {name}\n  before {known.get(name)}\n  now    {found.get(name)}")
    print(f"{len(found)} runs, {len(different)} differ")
    return len(different)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:3]))
