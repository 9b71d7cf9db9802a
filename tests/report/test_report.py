"""The report of a run: all that is on it, nothing from elsewhere, and no run that it could harm."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from runs import Tree, config_of, events_of, flux_tree, merged

from finetrainers.cli.entry import main
from finetrainers.distributed.world import alone
from finetrainers.errors import ConfigError, Interrupted, StoppedAtOnceError
from finetrainers.export.changes import Kronecker, LowRank
from finetrainers.export.formats import lost_layers
from finetrainers.export.names import FAMILIES
from finetrainers.files.marks import mark_run
from finetrainers.files.steps import step_directory
from finetrainers.files.whole import whole_directory
from finetrainers.runs.curves import Columns
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.outputs import Sample
from finetrainers.runs.report import facts, pictures
from finetrainers.runs.report.charts import HEIGHT, Chart, Line, draw, ticks
from finetrainers.runs.report.markdown import PLACE, as_markdown, text
from finetrainers.runs.report.page import as_page, charts_of
from finetrainers.runs.report.pictures import Pictures
from finetrainers.runs.report.sheet import MAX_CELLS, chosen_steps, sheet
from finetrainers.training import record
from finetrainers.training.data_sheet import SHEET_FOLDER
from finetrainers.training.report_page import ReportPage
from finetrainers.training.session import open_session
from finetrainers.training.track.track import StepLog
from finetrainers.training.trainer import Metrics, Trainer

VOID = {"meta", "img", "input", "path", "circle", "br"}


class Reader(HTMLParser):
    """What a page says, and what it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.loads, self.tags, self.open = "", [], [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "data", "srcset", "poster")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"


@pytest.fixture(scope="module")
def page(first: Path) -> Reader:
    """What training itself has written."""
    return Reader((first / "report.html").read_text())


def test_training_writes_the_report_with_all_its_parts(page: Reader) -> None:
    told = page.words
    for words in (
        "done, step 4 of 4",
        "text-to-image (flux)",
        "lora, rank 4, alpha 8",
        "Training loss",
        "Held-out loss by noise level",
        "best: step",
        "What training sees of bucket 64 x 64",
        "optimizer.lr",
        "FluxPipeline.from_pretrained",
        "finetrainers export",
        "diffusers",
    ):
        assert words in told
    assert not page.open


def test_a_report_loads_nothing_from_elsewhere(page: Reader) -> None:
    """Pictures are in it; links lead into the run directory."""
    links = [place for place in page.loads if not place.startswith("data:image/jpeg;base64,")]
    assert links
    assert all(re.fullmatch(r"validation/step-00000\d/0\d\.png", link) for link in links)


def test_captions_and_prompts_are_no_html(page: Reader) -> None:
    assert "alert('x')" in page.words
    assert page.tags.count("script") == 1
    assert "alert('x')" not in page.words.split('"use strict"')[1]


def test_markdown_names_no_place_of_this_machine(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(first), "--markdown"]) == 0
    told = capsys.readouterr().out
    assert "| optimizer.lr | 0.001 |" in told
    assert "![](samples/00.png)" in told
    assert str(first.parent) not in told
    assert "<script" not in told
    rows = [line for line in told.splitlines() if line.startswith("| a ")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3]


def test_markdown_names_no_place_in_whatever_value(first: Path, tmp_path: Path) -> None:
    """Such as the file of an objective, and a component: the whole row is left out."""
    run = tmp_path / "run"
    shutil.copytree(first, run)
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["model"]["components"] = {"vae": {"path": "/private/vae"}, "text_encoder": {"path": "~/private/text"}}
    tree["objective"] = {"kind": "/private/objective.py:Loss"}
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    folder = RunFolder(run)
    folder.update()
    assert {"objective.kind", "model.components"} <= {row[0] for row in facts.settings(folder.config)}
    told = as_markdown(folder, folder.standing())
    assert "private" not in told
    assert "| optimizer.lr | 0.001 |" in told


@pytest.mark.parametrize(
    "value, is_place",
    [
        ("/a/b.py:Loss", True), ("[x, /a]", True), ("vae: path: ~/a", True), ("~user/a", True), ("../a", True),
        ("org/name", False), ("1/2", False), ("a / b", False), ("~", False), ("in a/b, c.d/e", False),
    ],
)  # fmt: skip
def test_a_place_is_told_from_other_values(value: str, is_place: bool) -> None:
    assert (PLACE.search(value) is not None) == is_place


@pytest.mark.parametrize(("resume", "words"), [(300, "config.yaml checkpoint.resume=latest "), ("latest", "config.yaml ")])
def test_the_page_says_how_to_go_on_from_the_last_checkpoint(tmp_path: Path, resume: int | str, words: str) -> None:
    mark_run(tmp_path)
    tree = merged(flux_tree(tmp_path, tmp_path, tmp_path), {"checkpoint": {"resume": resume}})
    (tmp_path / "config.yaml").write_text(json.dumps(tree))
    run = RunFolder(tmp_path)
    page = Reader(as_page(run, run.standing(), Pictures()))
    assert f"finetrainers train {run.path}/{words}" in page.words


def test_markdown_of_any_words_is_one_line_of_them() -> None:
    assert text("a\n# b | <b>*c*</b> [d](e)") == r"a \# b \| &lt;b&gt;\*c\*&lt;/b&gt; \[d\](e)"


def test_the_command_writes_the_page_where_it_is_asked_to(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With links that lead from there."""
    file = tmp_path / "page.html"
    assert main(["report", str(first), "--output", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    links = [place for place in Reader(file.read_text()).loads if not place.startswith("data:")]
    assert all((tmp_path / link).is_file() for link in links)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x.txt"], "--output: x.txt is no .html; name the file of the report"),
        (["--output", "x.html", "--markdown"], "--output: x.html is no .md; name the file of the report"),
    ],
)
def test_a_file_that_is_no_report_is_not_overwritten(
    first: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(first), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--output"], ["--markdown", "--output"]])
def test_what_holds_no_report_is_not_overwritten(
    first: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report is, and an empty file."""
    file = tmp_path / f"x{'.md' if len(words) > 1 else '.html'}"
    file.touch()
    for _ in range(2):
        assert main(["report", str(first), *words, str(file)]) == 0
    file.write_text("<p>## Training of mine, Written by me")
    assert main(["report", str(first), *words, str(file)]) == 2
    assert f"--output: {file} is there, and holds no report of a run; name another file" in capsys.readouterr().err
    assert file.read_text().endswith("by me")


@pytest.mark.parametrize("error, num_ends", [(StoppedAtOnceError, 0), (Interrupted, 1)])
def test_who_stops_at_once_waits_for_no_report(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], num_ends: int
) -> None:
    ends: list[ReportPage] = []

    def end(page: ReportPage, _seconds: float = 0.0) -> None:
        ends.append(page)

    monkeypatch.setattr(ReportPage, "end", end)
    config = config_of(merged(tree, {"output_dir": str(tmp_path / "run")}))
    with pytest.raises(error), open_session(config, alone(), kept=""):
        raise error("stopped")
    assert len(ends) == num_ends


def test_a_report_that_fails_is_a_warning_and_the_run_goes_on(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "write_data_sheet", fail)
    monkeypatch.setattr("finetrainers.runs.report.write.as_page", fail)
    events = events_of(train("failing", train={"steps": 1}, validation={"every": None, "prompts": None}))
    told = [event["message"] for event in events if event["event"] == "warning" and "No space left" in event["message"]]
    assert len(told) == 2
    assert "the run is not affected" in told[1]
    assert [event["event"] for event in events if event["event"] in ("end", "error")] == ["end"]


def test_a_report_says_how_a_run_stopped_and_that_it_went_on(
    train: Callable[..., Path], tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(tree["output_dir"]).with_name("stopped") / "report.html"
    log = StepLog.__call__

    def stop(self: StepLog, trainer: Trainer, metrics: Metrics) -> None:
        log(self, trainer, metrics)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "__call__", stop)
        with pytest.raises(Interrupted):
            train("stopped", validation={"prompts": None})
    told = Reader(file.read_text()).words
    assert "stopped after step 1 of 4: stopped by SIGTERM" in told
    assert f"finetrainers train {file.with_name('config.yaml')}" in told
    train("stopped", validation={"prompts": None})
    told = Reader(file.read_text()).words
    assert "done, step 4 of 4" in told
    assert "Marks on the axis of steps: validations. Dashed lines: the run was started again." in told


def test_validations_are_marked_on_every_curve(first: Path) -> None:
    """At their steps; of a run without any, nothing is."""
    run = RunFolder(first)
    run.update()
    charts = [draw(chart) for chart in charts_of(run)]
    marks = [re.findall(r'<path class="validation" d="([^"]*)"', chart) for chart in charts if chart]
    assert len(marks) >= 6
    assert {len(own) for own in marks} == {1}
    assert {own[0].count("M") for own in marks} == {len(run.validations())} == {2}
    assert 'class="validation"' not in draw(Chart("", [Line("", ([1, 2], [1.0, 2.0]), "one")], 2))
    many = draw(Chart("", [Line("", ([1, 2], [1.0, 2.0]), "one")], 10_000, validations=range(10_000)))
    assert len(many) < 10_000


def test_the_name_of_a_sample_elsewhere_tells_its_step_and_its_prompt() -> None:
    prompt = 'A fox / in "snow", ' + "very " * 40
    sample = Sample(500, 3, prompt, Path("03.mp4"), {})
    assert sample.title == "step000500-03-a-fox-in-snow-very-very-very-very-very-very-very.mp4"
    assert Sample(0, 0, "..", Path("00.png"), {}).title == "step000000-00.png"


def test_a_run_that_wants_no_report_leaves_none(train: Callable[..., Path]) -> None:
    run = train("bare", track={"report": False}, train={"steps": 0}, validation={"every": None, "prompts": None})
    assert not (run / "report.html").exists()
    assert not (run / SHEET_FOLDER).exists()


def test_a_report_is_not_written_before_training_begins(tmp_path: Path, tree: Tree) -> None:
    """An error of the configuration leaves no page that says nothing."""
    from runs import config_of, merged

    config = config_of(merged(tree, {"output_dir": str(tmp_path / "run")}))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("output_dir: x\n")
    ReportPage(config).end()
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["config.yaml"]


def test_a_damaged_sample_is_linked_and_a_large_video_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.mp4").write_bytes(b"x" * 100)
    (tmp_path / "c.mp4").write_bytes(b"x" * 101)
    monkeypatch.setattr(pictures, "VIDEO_BYTES", 100)
    made = Pictures()
    samples = [Sample(1, n, "p", tmp_path / name, {}) for n, name in enumerate(("a.png", "b.mp4", "c.mp4"))]
    assert [made.embed(sample, 10) is not None for sample in samples] == [False, True, False]
    links = Reader("".join(sheet(samples, made, folder=tmp_path, best=None))).loads
    assert links.count("a.png") == 3
    assert links.count("c.mp4") == 2


def test_a_page_holds_no_more_than_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    sample = Sample(1, 0, "p", tmp_path / "a.png", {})
    made = Pictures()
    size = len(made.embed(sample, 8) or "")
    monkeypatch.setattr(pictures, "PAGE_BYTES", size + 1)
    made.begin()
    assert [made.embed(sample, 8) is not None for _ in range(3)] == [True, False, False]


def test_of_many_steps_the_page_shows_first_last_and_best(tmp_path: Path) -> None:
    samples = [Sample(step, number, "p", tmp_path, {}) for step in range(1000) for number in range(10)]
    steps = chosen_steps(samples, 123)
    assert {0, 999, 123} <= set(steps)
    assert len(steps) * 10 <= MAX_CELLS


def test_charts_leave_out_what_is_not_finite() -> None:
    lines = [Line("loss", ([1, 2, 3, 4], [1.0, float("nan"), float("inf"), 2.0]), "one")]
    drawn = draw(Chart("Loss", lines, 4))
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert draw(Chart("Empty", [Line("x", ([1], [float("nan")]), "one")], 4)) == ""


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize(
    "values",
    [[0.0], [1e-300], [1e300], [5.0, 5.0], [1.0, 1 + 1e-15], [-1.0], [0.1, 0.1000001], [9.9e-5, 1.01e-4], [1e-9, 1e9]],
)
def test_a_chart_of_any_values_is_drawn(values: list[float], is_log: bool) -> None:
    """With places inside the picture, and labels that differ."""
    drawn = draw(Chart("Any", [Line("x", (range(len(values)), values), "one")], 4, is_log=is_log))
    if max(values) <= 0 and is_log:
        assert drawn == ""
        return
    heights = [float(y) for y in re.findall(r'cy="([^"]+)"', drawn)]
    assert len(heights) == len(values)
    assert all(0 <= y <= HEIGHT for y in heights)
    labels = re.findall(r'text-anchor="end">([^<]+)<', drawn)
    assert len(labels) > 1
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3e-9, 5e-9), (123456.0, 123457.0), (2.0, 2.0000001)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)


def test_settings_are_what_differs_from_the_defaults(first: Path) -> None:
    config = RunFolder(first).config
    assert config is not None
    rows = {key: (value, default) for key, value, default in facts.settings(config)}
    assert rows["optimizer.lr"] == ("0.001", "auto")
    assert rows["data.0.buckets"] == ("[[1, 64, 64]]", "auto")
    assert "optimizer.name" not in rows


def test_parameters_are_counted_by_the_headers_alone(first: Path) -> None:
    from safetensors.torch import load_file

    run = RunFolder(first)
    saved = run.weights()[-1]
    (file,) = saved.path.glob("*.safetensors")
    assert facts.num_parameters(run.path, saved) == sum(tensor.numel() for tensor in load_file(file).values())


def test_time_left_follows_from_the_last_steps(tmp_path: Path) -> None:
    from finetrainers.files.marks import mark_run
    from finetrainers.runs.state import Standing

    mark_run(tmp_path)
    (tmp_path / "config.yaml").write_text("train: {steps: 110}\n")
    run = RunFolder(tmp_path)
    run.columns = Columns()
    for step in range(1, 11):
        run.columns.add({"step": step, "time": float(step), "step_seconds": 30.0, "data_seconds": 6.0})
    assert "36 s a step, about 1 h 00 min left" in facts.time_sentence(run, Standing("running", 10, "", 10.0, None))


def test_a_name_of_a_crop_leads_nowhere_else(tmp_path: Path) -> None:
    from finetrainers.files.marks import mark_run

    mark_run(tmp_path)
    (tmp_path / "config.yaml").write_text("{}\n")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    run_event: dict[str, Any] = {"event": "run", "resumed_from": None, "num_samples": 1, "num_held_out": 0, "time": 1.0}
    (tmp_path / "events.jsonl").write_text(json.dumps(run_event) + "\n")
    with whole_directory(tmp_path / SHEET_FOLDER) as folder:
        shown = [{"ref": "r", "caption": "c", "files": ["../secret.jpg"]}]
        (folder / "sheet.json").write_text(json.dumps({"buckets": [{"size": [1, 8, 8], "shown": shown}]}))
    run = RunFolder(tmp_path)
    run.update()
    assert "c2VjcmV0" not in as_page(run, run.standing(), Pictures())


LAYERS = {"wan": "blocks.0.attn1.to_q", **dict.fromkeys(("cogvideox", "ltx_video"), "transformer_blocks.0.attn1.to_q")}
"""A layer that adapters change, where it is not the usual one."""


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
@pytest.mark.parametrize("family", [*FAMILIES, "mine"])
def test_comfyui_is_named_where_an_export_for_it_is_not_refused(tree: Tree, family: str, kind: str) -> None:
    own = {"kind": "lora", "dora": True} if kind == "dora" else {"kind": kind}
    nothing = torch.empty(0, 0)
    change = Kronecker({}, 1.0) if kind == "lokr" else LowRank(nothing, nothing, 1.0, nothing if kind == "dora" else None)
    try:
        lost = lost_layers("comfyui", {LAYERS.get(family, "transformer_blocks.0.attn.to_q"): change}, family)
    except ConfigError:
        lost = {"all": "refused"}
    assert facts.fits_comfyui(config_of(merged(tree, {"tuning": own})), family) is not bool(lost)


def test_comfyui_is_not_named_with_layers_of_a_control_or_a_family_of_the_user_s_own(
    tree: Tree, first: Path, tmp_path: Path
) -> None:
    control = config_of(merged(tree, {"conditioning": {"kind": "channel_concat", "signal": "canny"}}))
    assert not facts.fits_comfyui(control, "flux")
    pages = []
    for family in ("flux", "mine"):
        own = Path(shutil.copytree(first, tmp_path / family))
        events = own / "events.jsonl"
        events.write_text(events.read_text().replace('"family": "flux"', f'"family": "{family}"'))
        run = RunFolder(own)
        run.update()
        assert run.begun is not None
        assert run.begun["family"] == family
        pages.append(as_page(run, run.standing(), Pictures()))
    assert ["--to comfyui" in page for page in pages] == [True, False]


def test_a_report_of_a_run_that_goes_on_says_so(first: Path) -> None:
    """The last report is written while the process still has the directory: it says done, and an earlier one running."""
    from finetrainers.runs.state import standing

    with (first / ".lock").open("rb") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        assert standing(first).state == "running"
        assert standing(first, is_over=True).state == "done"
    assert step_directory(first / "validation", 4).is_dir()
