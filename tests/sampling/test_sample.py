"""``finetrainers sample``: names that tell requests apart, files that stay, settings of the run that hold."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import Tree, config_of, flux_tree, write_pictures

from finetrainers import ConfigError, sample_run, train
from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.conditioning import build_conditioning
from finetrainers.config import NoConditioning, dump_config, load_config
from finetrainers.models import Request
from finetrainers.sampling.sample import name_of
from finetrainers.sampling.sampler import write_video

NO_CONTROL = build_conditioning(NoConditioning())
REQUEST: Tree = {"prompt": "a cat", "num_inference_steps": 1, "seed": 3}


@pytest.fixture(scope="module")
def run(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    tree = flux_tree(tiny_flux, write_pictures(root / "data", 4), root, train={"steps": 1})
    train(config_of(tree))
    return Path(tree["output_dir"])


def draw(run: Path, output: Path, *requests: Tree, **options: Any) -> list[Path]:
    return sample_run(run, [{**REQUEST, **request} for request in requests], output=output, device="cpu", **options)


def test_each_request_has_its_name(run: Path, tmp_path: Path) -> None:
    requests: list[Tree] = [
        {},
        {"prompt": "a dog"},
        {"seed": 4},
        {"num_inference_steps": 2},
        {"guidance_scale": 2.0},
        {"height": 32},
        {"width": 32},
    ]
    files = [*draw(run, tmp_path, *requests), *draw(run, tmp_path, {}, use_base=True)]
    assert len({file.name for file in files}) == len(files)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert [file.name.split("-")[0] for file in files] == ["step"] * len(requests) + ["base"]
    assert all(
        file.name.endswith("-seed3.png") == (request.get("seed", 3) == 3)
        for file, request in zip(files, [*requests, {}], strict=True)
    )


def test_the_same_request_gives_the_file_that_is_there(run: Path, tmp_path: Path) -> None:
    first = draw(run, tmp_path, {})
    first[0].write_bytes(b"edited by hand")
    again = draw(run, tmp_path, {"prompt": "a dog"}, {}, {})
    assert again[1:] == first * 2
    assert first[0].read_bytes() == b"edited by hand"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("is_shown", [True, False], ids=["a terminal", "a file"])
def test_a_terminal_shows_how_many_samples_are_done_and_a_file_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_shown: bool
) -> None:
    """The bar goes when they are: the names of the files say what was made."""
    monkeypatch.setattr("finetrainers.training.console.bar.is_terminal", lambda: is_shown)
    words = ["--num-inference-steps", "1", "--device", "cpu", "--output", str(tmp_path), "--prompt", "a", "--prompt", "b"]
    assert main(["sample", str(run), *words]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    states = [state.strip() for state in told.err.split("\r") if state.strip()]
    names = [state.partition("  ")[0] for state in states]
    assert [*names[:1], *names[-1:]] == (["generate samples 0/2", "generate samples 2/2"] if is_shown else [])
    assert max((len(state) for state in states), default=0) < 80


def test_a_drawing_that_fails_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetrainers.sampling.sampler import Sampler

    def fail(self: Sampler, request: object, text: object, stem: Path) -> Path:
        stem.with_suffix(".png").write_bytes(b"a half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Sampler, "draw", fail)
    with pytest.raises(KeyboardInterrupt):
        draw(run, tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_a_run_without_weights_says_when_the_first_come(run: Path, tmp_path: Path) -> None:
    config = load_config(run / "config.yaml")
    for every, steps, first in ((500, 1000, 500), (500, 100, 100)):
        changed = {
            "checkpoint": config.checkpoint.model_copy(update={"every": every}),
            "train": config.train.model_copy(update={"steps": steps}),
        }
        (tmp_path / "config.yaml").write_text(dump_config(config.model_copy(update=changed)))
        said = rf"no weights yet: the first are written at step {first} \(checkpoint\.every\)$"
        with pytest.raises(ConfigError, match=said):
            draw(tmp_path, tmp_path / "samples", {})


def test_other_weights_of_the_same_step_have_another_name(run: Path, tmp_path: Path) -> None:
    config, weights = load_config(run / "config.yaml"), tmp_path / "step-000001"
    weights.mkdir()
    names = set()
    for contents in ("a", "b"):
        (weights / "manifest.json").write_text(contents)
        names.add(name_of(Request("x", size=(1, 64, 64), steps=1, seed=0), config, NO_CONTROL, weights))
    assert len(names) == 2


def test_settings_of_the_run_hold(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """memory.vae_tiling, memory.vae_slicing and attention.validate are those of config.yaml."""
    from finetrainers.sampling import sample
    from finetrainers.sampling.sampler import Sampler

    seen: list[Any] = []
    drawn, backend_in_use = Sampler.draw, sample.attention_within

    def spy(self: Sampler, *arguments: Any) -> Path:
        vae = self._components["vae"]
        seen.append((vae.use_tiling, vae.use_slicing))
        return drawn(self, *arguments)

    @contextmanager
    def attention(denoisers: Any, backend: str, *, is_dispatched: bool) -> Any:
        seen.append(backend)
        with backend_in_use(denoisers, backend, is_dispatched=is_dispatched):
            yield

    monkeypatch.setattr(Sampler, "draw", spy)
    monkeypatch.setattr(sample, "attention_within", attention)
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "weights").symlink_to(run / "weights")
    plain = load_config(run / "config.yaml")
    overrides = ["memory.vae_tiling=true", "memory.vae_slicing=true", "attention.validate=_native_math"]
    (copy / "config.yaml").write_text(dump_config(load_config(run / "config.yaml", overrides)))
    assert plain.attention.validation == "auto"
    draw(run, tmp_path / "plain", {})
    draw(copy, tmp_path / "set", {})
    assert seen == ["native", (False, False), "_native_math", (True, True)]


def test_the_command_prints_the_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", str(run), "--prompt", "a cat", "--num-inference-steps", "1", "--seed", "3", "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path)]) == DONE
    assert capsys.readouterr().out == f"{draw(run, tmp_path, {})[0]}\n"


def test_the_command_draws_an_empty_prompt(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", str(run), "--num-inference-steps", "1", "--device", "cpu", "--output", str(tmp_path)]
    assert main([*words, "--prompt", ""]) == DONE
    assert capsys.readouterr().out == f"{draw(run, tmp_path, {'prompt': '', 'seed': 0})[0]}\n"


@pytest.mark.parametrize("seed", [-1, 2**63, 2**65])
def test_the_command_names_a_seed_that_is_none(run: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    assert main(["sample", str(run), "--prompt", "a", "--seed", str(seed)]) == USER_ERROR
    assert f"prompt 1: seed is {seed}; it has to be from 0 to" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["image", "last_image"])
def test_a_changed_picture_is_drawn_anew(run: Path, tmp_path: Path, key: str) -> None:
    """A picture is what its file holds, not what it is called."""
    config = load_config(run / "config.yaml")
    names = []
    for colour in ("red", "blue", "red"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "given.png")
        request = Request(prompt="a", size=(9, 64, 64), steps=1, seed=0, **{key: str(tmp_path / "given.png")})
        names.append(name_of(request, config, NO_CONTROL, None))
    assert names[0] == names[2] != names[1]


def test_changed_references_are_drawn_anew(run: Path, tmp_path: Path) -> None:
    """Their order counts, and without any a request has the name that it had before there were any."""
    config = load_config(run / "config.yaml")
    files = [tmp_path / "red.png", tmp_path / "blue.png"]
    for file in files:
        Image.new("RGB", (8, 8), file.stem).save(file)
    copied = tmp_path / "copied.png"
    copied.write_bytes(files[0].read_bytes())

    def name(*references: Path) -> str:
        request = Request(prompt="a", size=(1, 64, 64), steps=1, seed=0, references=tuple(map(str, references)))
        return name_of(request, config, NO_CONTROL, None)

    names = [name(*references) for references in ((), files[:1], files[1:], files, files[::-1])]
    assert len(set(names)) == 5
    assert name(copied, files[1]) == names[3]


def test_equal_frames_are_written_as_equal_bytes(tmp_path: Path) -> None:
    """A run that is resumed, or drawn from again, differs in no video."""
    blocks = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    frames = [Image.fromarray(block) for block in blocks]
    written = {write_video(tmp_path / f"{number}.mp4", frames, 8.0).read_bytes() for number in range(30)}
    assert len(written) == 1
