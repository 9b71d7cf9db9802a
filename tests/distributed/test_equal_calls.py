"""Every process calls the denoiser equally often, with equally many tokens: with sharded weights others wait for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
from runs import config_of, curve, flux_tree, write_pictures

from finetrainers.config import Config, dump_config
from finetrainers.testing.model_under_test import ModelUnderTest

TRAIN = {"steps": 6, "batch_size": 4, "micro_batch_size": 1}
Tiny = Callable[[str, str], Path]


class Clips(ModelUnderTest):
    captions = ("a red ball on the grass", "a dog", "a cat", "a boat")


def train_counted(file: str) -> list[tuple[str, int]]:
    """Train; return for each call of a denoiser which it was, and how many values it was given of a sample."""
    from finetrainers import load_config
    from finetrainers.models.experts import Experts
    from finetrainers.training import run

    calls: list[tuple[str, int]] = []
    build = run.build_trainer

    def build_counted(*args: Any, **named: Any) -> Any:
        trainer = build(*args, **named)
        denoiser = trainer.denoiser
        for name, part in denoiser.named_children() if isinstance(denoiser, Experts) else [("denoiser", denoiser)]:

            def note(_module: Any, _args: Any, told: Any, name: str = name) -> None:
                calls.append((name, told["hidden_states"][0].numel()))

            part.register_forward_pre_hook(note, with_kwargs=True)
        return trainer

    run.build_trainer = build_counted
    run.train(load_config(file))
    return calls


def two_experts(tiny: Tiny, root: Path, name: str) -> Config:
    """Wan 2.2 T2V A14B."""
    clips = Clips({"path": str(tiny("wan", "2.2-t2v-a14b")), "max_sequence_length": 16}, (5, 32, 32), root)
    return clips.config(name, train=TRAIN)


def later_frames(tiny: Tiny, root: Path, name: str) -> Config:
    """LTX-Video 0.9.5, with any frames given."""
    section = {"path": str(tiny("ltx_video", "0.9.5")), "task": "first-last-frame-to-video", "max_sequence_length": 16}
    given = {"kind": "given_frames", "frames": "random", "probability": 0.8}
    return Clips(section, (17, 64, 64), root, given).config(name, train=TRAIN)


def dropped_references(tiny: Tiny, root: Path, name: str) -> Config:
    """FLUX.1 Kontext, which is shown references half of the time."""
    media = write_pictures(root / "media", 4)
    folders = {"reference": str(write_pictures(root / "references", 4, size=(32, 64), seed=1))}
    shown = {"kind": "references", "pixels": 2048, "step": 16, "probability": 0.5}
    data = [{"path": str(media), "buckets": [[1, 64, 64]], "folders": folders}]
    tree = flux_tree(tiny("flux", "kontext"), media, root, conditioning=shown, train=TRAIN)
    return config_of({**tree, "data": data, "output_dir": str(root / name)})


@pytest.mark.parametrize(
    "config_of_run",
    [two_experts, *(pytest.param(own, marks=pytest.mark.distributed) for own in (later_frames, dropped_references))],
)
def test_two_processes_call_what_one_calls(config_of_run: Callable[..., Config], tiny: Tiny, tmp_path: Path) -> None:
    """The same denoisers in each step, with the same number of tokens, and of two processes each half as often as one."""
    calls = {}
    for count in (1, 2):
        config = config_of_run(tiny, tmp_path, f"of-{count}")
        file = tmp_path / f"of-{count}.yaml"
        file.write_text(dump_config(config))
        calls[count] = ranks.results(train_counted, count, str(file), folder=tmp_path / f"ranks-{count}")
    ((alone,), (first, second)) = calls[1], calls[2]
    assert len(alone) == TRAIN["steps"] * TRAIN["batch_size"]
    assert first == second == alone[::2]
    assert alone[::2] == alone[1::2]
    steps = [set(alone[start : start + 4]) for start in range(0, len(alone), 4)]
    assert all(len(step) == 1 for step in steps)
    assert len(set.union(*steps)) > 1, "all steps are alike, and show nothing"
    figures = [curve(tmp_path / f"of-{count}", "loss", "grad_norm") for count in (1, 2)]
    assert len(figures[0]) == TRAIN["steps"]
    for one, both in zip(*figures, strict=True):
        assert both == pytest.approx(one, rel=1e-5)
