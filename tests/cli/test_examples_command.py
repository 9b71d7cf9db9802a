"""``finetrainers examples``: what is listed can be copied, and what is copied runs from any folder."""

import tomllib
from pathlib import Path

import pytest

from finetrainers.cli.entry import main
from finetrainers.cli.examples import NAMED, example_names, examples_root
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.config import load_config

ROOT = Path(__file__).parents[2]
CRUSH = "training/sft/ltx_video/crush_smol"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_examples_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples"]) == DONE
    names = capsys.readouterr().out.split()
    assert main(["examples", "list"]) == DONE
    assert names == capsys.readouterr().out.split() == example_names(examples_root())
    assert {CRUSH, "custom_model", "bench/ltx-video-2b.yaml", "data/prepare.yaml"} <= set(names)
    assert not any(name.startswith(f"{CRUSH}/") for name in names)


def test_all_that_training_examples_name_is_there_after_the_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in example_names(examples_root()) if name.startswith("training/")]
    assert len(names) > 15
    for name in reversed(names):  # so that none finds what it needs from another copied already
        assert main(["examples", "copy", name]) == DONE
        folder = tmp_path / "examples" / name
        prompts = load_config(folder / "config.yaml").validation.prompts
        assert prompts is not None
        assert prompts.is_file()  # relative to where the run is started
        texts = [file.read_text() for file in folder.iterdir() if file.suffix in (".md", ".json", ".yaml")]
        named = {path for text in texts for path in NAMED.findall(text) if not path.endswith("README.md")}
        assert all(Path(path).is_file() for path in named if path.startswith("examples/training")), named
    assert "Read examples/training/edit/flux_kontext/README.md" in capsys.readouterr().out


def test_the_end_of_a_name_will_do_if_it_is_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "copy", "disney_keyframes"]) == DONE
    assert (tmp_path / "examples/training/sft/ltx_video/disney_keyframes/config.yaml").is_file()
    for name, said in {
        "crush_smol": f"several end in 'crush_smol': training/sft/cogvideox/crush_smol, {CRUSH}",
        "disney_keyframe": "did you mean 'training/sft/ltx_video/disney_keyframes'?",
        "../secret": "there is no '../secret'",
    }.items():
        assert main(["examples", "copy", name]) == USER_ERROR
        assert said in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "copy", CRUSH]) == DONE
    config, prompts = (tmp_path / "examples" / CRUSH / name for name in ("config.yaml", "validation.json"))
    config.write_text("mine")
    prompts.unlink()
    assert main(["examples", "copy", CRUSH]) == USER_ERROR
    assert f"{config} exists already and differs" in capsys.readouterr().err
    assert (config.read_text(), prompts.exists()) == ("mine", False)


def test_the_wheel_holds_them_where_the_command_looks() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {"examples": "finetrainers/examples"}
    assert examples_root() == ROOT / "examples"
