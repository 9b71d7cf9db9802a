"""The inference snippets of the model pages run as they are written, on tiny models and weights that training exported."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from test_docs import DOCS, FENCE
from test_examples import RELEASES

from finetrainers.models import adapters
from finetrainers.testing.model_under_test import LORA, ModelUnderTest
from finetrainers.training.export import export_weights
from finetrainers.tuning import build_tuning

PAGES = [page for page in sorted((DOCS / "models").glob("*.md")) if page.stem in adapters()]
SNIPPETS = [
    pytest.param(page.stem, text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(FENCE.findall(page.read_text()))
    if language == "python"
]
SMALLER = {
    r'\.to\("cuda"\)': "",
    r"torch\.bfloat16": "torch.float32",
    r"height=\d+": "num_inference_steps=2, max_sequence_length=16, height=64",
    r"width=\d+": "width=64",
}
"""What changes in a snippet: the device, the data type and the size."""


def exported(path: Path, folder: Path, *, frames: int) -> Path:
    """Weights that one step of LoRA exported."""
    subject = ModelUnderTest({"path": str(path), "max_sequence_length": 16}, (frames, 64, 64), folder)
    config = subject.config("run", LORA)
    trainer = subject.trainer(LORA)
    trainer.train_step(subject.batch)
    return export_weights(trainer, config, subject.model, build_tuning(config.tuning))


def test_every_page_has_a_snippet() -> None:
    assert {parameter.values[0] for parameter in SNIPPETS} == set(adapters())


@pytest.mark.parametrize("family, text", SNIPPETS)
def test_the_snippet_runs(
    family: str, text: str, tiny: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (model,) = {name for name in re.findall(r'"([\w.-]+/[\w.-]+)"', text) if name.rpartition("/")[2] in RELEASES}
    path = tiny(family, RELEASES[model.rpartition("/")[2]])
    weights = exported(path, tmp_path / "made", frames=17 if "num_frames" in text else 1)
    (written,) = set(re.findall(r'"(runs/[\w./-]+)"', text))
    for name in re.findall(r'"(\w+\.png)"', text):
        Image.new("RGB", (64, 64), "red").save(name)
    for old, new in {re.escape(model): str(path), re.escape(written): str(weights), **SMALLER}.items():
        text, count = re.subn(old, new.replace("\\", "/"), text)
        assert count, old
    exec(compile(text, family, "exec"), {})
    videos = [str(file.name) for file in tmp_path.glob("*.mp4")]
    assert videos == re.findall(r'write_video\("(\w+\.mp4)"', text)
    assert len(videos) == text.count("num_frames=")
