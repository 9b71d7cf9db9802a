"""``finetrainers init`` on a terminal and without one."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import write_pictures

from finetrainers.cli.entry import main
from finetrainers.cli.init import TRIGGER
from finetrainers.config import load_config
from finetrainers.testing import make_tiny

COLUMNS = 80


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("flux", tmp_path_factory.mktemp("model") / "flux")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_pictures(tmp_path / "data", 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def type_in(monkeypatch: pytest.MonkeyPatch, *answers: str | type[BaseException]) -> None:
    """Answer what is asked, as at a terminal; an exception is a key such as Ctrl-C."""
    left: Iterator[str | type[BaseException]] = iter(answers)

    def answer() -> str:
        print(file=sys.stderr)  # the line that the key Enter ends
        said = next(left)
        if isinstance(said, str):
            return said
        raise said

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)


def test_questions_lead_to_a_configuration_and_wrong_answers_are_asked_again(
    model: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, "nothing here", str(model), "nowhere", "data", "styles", "style", "ohwx", "rtx9999", "")
    assert main(["init"]) == 0
    config, told = load_config(place / "config.yaml"), capsys.readouterr()
    assert (config.model.path, config.data[0].path, config.data[0].caption_prefix) == (str(model), "data", "ohwx")
    for said in (
        "'nothing here' is neither a folder",
        "there is no nowhere",
        "there is no 'styles'",
        "there is no 'rtx9999'",
    ):
        assert said in " ".join(told.err.split())
    assert told.out.split() == ["config.yaml", "config-prompts.json"]  # what another command may read
    lines = [line for line in (told.out + told.err).splitlines() if str(model) not in line and "\r" not in line]
    assert max(map(len, lines)) <= COLUMNS
    assert "finetrainers check config.yaml" in told.err


def test_a_trigger_word_that_the_data_needs_is_asked_for_again(
    model: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the other answers kept."""
    for caption in (place / "data").glob("*.txt"):
        caption.unlink()
    type_in(monkeypatch, str(model), "data", "style", "", "", "ohwx")
    assert main(["init"]) == 0
    assert load_config(place / "config.yaml").data[0].caption_prefix == "ohwx"
    assert "--trigger: 4 of 4 items in data have no caption" in capsys.readouterr().err


def test_a_trigger_word_has_no_spaces_around_it() -> None:
    assert TRIGGER.answer("  sks ", is_asking=False, takes_suggested=False) == "sks"
    assert TRIGGER.answer(" none ", is_asking=False, takes_suggested=False) is None


def test_without_a_terminal_a_missing_answer_is_an_error_that_names_its_option(
    model: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", str(model), "--data", "data", "--learn", "style", "--trigger", "none", "--card", "none"]
    for option in range(0, len(given), 2):
        assert main(["init", *given[:option], *given[option + 2 :]]) == 2
        assert f"{given[option]} is not given" in capsys.readouterr().err
    assert main(["init", "--yes", *given[:4]]) == 2
    assert "--learn is not given, and it has no default" in capsys.readouterr().err
    assert [file.name for file in place.iterdir()] == ["data"]


@pytest.mark.parametrize("key", [KeyboardInterrupt, EOFError])
def test_who_leaves_in_the_middle_leaves_nothing(
    key: type[BaseException], model: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, str(model), "data", key)
    assert main(["init"]) == (130 if key is KeyboardInterrupt else 2)
    assert "Traceback" not in capsys.readouterr().err
    assert [file.name for file in place.iterdir()] == ["data"]


def test_what_could_not_be_written_is_refused_before_anything_is_asked(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "mine.yaml").write_text("mine")
    for name, why in (
        ("mine.yaml", "exists already"),
        ("config.txt", "is no .yaml"),
        ("no/config.yaml", "there is no folder"),
    ):
        assert main(["init", name]) == 2
        assert why in capsys.readouterr().err
    assert (place / "mine.yaml").read_text() == "mine"


def test_pairs_are_refused_where_nothing_would_look_at_them(
    model: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["init", "--yes", "--model", str(model), "--data", "data"]
    assert main([*given, "--learn", "style", "--pairs", "data"]) == 2
    assert "--pairs: data has no effect with --learn style" in capsys.readouterr().err
