"""Pages about runs: what they show, bounded whatever the size, and what they ask for."""

import fcntl
import json
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from ui_runs import append_event, append_step, write_run

import finetrainers
from finetrainers.events import EVENTS
from finetrainers.runs.pace import seconds_left
from finetrainers.ui.app import make_app
from finetrainers.ui.facts import CURVES, curves_of
from finetrainers.ui.folders import Folders, OpenRuns
from finetrainers.ui.job import SAVE_FILE, Job
from finetrainers.ui.live import _look
from finetrainers.ui.process import Process, this_process
from finetrainers.ui.run_pages import MESSAGES
from finetrainers.ui.tail import tail

HOME = "http://127.0.0.1:7865"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred runs, one of them of a hundred thousand steps."""
    folder = tmp_path_factory.mktemp("many").resolve()
    for number in range(100):
        write_run(folder / f"run-{number:03d}", steps=100_000 if number == 7 else 20, total=100_000)
    return folder


def test_a_hundred_runs_and_a_hundred_thousand_steps_are_answered_quickly(many: Path) -> None:
    app = make_app(Folders((many,)), devices=["cpu"], starts_runs=False)
    client = TestClient(app, base_url=HOME)
    first = client.get("/run/curves?run=0/run-007&points=500")  # reads the whole file
    begun = time.process_time()
    page = client.get("/")
    curves = client.get("/run/curves?run=0/run-007&points=500").json()
    status = client.get("/run/status?run=0/run-007")
    seconds = time.process_time() - begun
    assert seconds < 1.5
    assert page.text.count('name="run"') == 100
    assert "100000 / 100000" in page.text
    assert "100000 / 100000" in status.text
    assert len(first.content) < 200_000
    assert len(curves["steps"]) == 500
    assert (curves["count"], curves["steps"][-1]) == (100_000, 100_000)
    assert len(client.get("/run/curves?run=0/run-007&points=99999999").json()["steps"]) == 2000
    _, after_a_silence = _look(app.state.site, "0/run-007", "0:10:10")
    assert after_a_silence is not None
    assert len(after_a_silence["steps"]) == 400
    assert client.get("/rows?q=run-01").text.count('name="run"') == 10


def test_what_is_new_is_sent_from_where_the_browser_is(runs: Path) -> None:
    site = make_app(Folders((runs,)), devices=["cpu"], starts_runs=False).state.site
    place, all_of_it = _look(site, "0/crush", "0:-1:0")
    assert all_of_it is not None
    assert (place, len(all_of_it["steps"])) == ("0:100:10", 100)
    assert _look(site, "0/crush", place) == (place, None)
    append_step(runs / "crush", 101, 0.25)
    place, new = _look(site, "0/crush", place)
    assert new is not None
    assert (place, new["steps"], new["mean"]["loss"], new["is_anew"]) == ("0:101:10", [101], [0.25], False)
    append_step(runs / "crush", 51, 0.75)  # a run that was killed goes on from an earlier checkpoint
    place, new = _look(site, "0/crush", place)
    assert new is not None
    assert (place, new["is_anew"], new["steps"][-1]) == ("1:51:10", True, 51)


def test_time_left_is_of_the_steps_that_are_left(tmp_path: Path) -> None:
    write_run(tmp_path / "run", steps=40, total=100)
    with OpenRuns(Folders((tmp_path.resolve(),))).updated("0/run") as run:
        assert seconds_left(run, int(run.columns.steps()[-1])) == pytest.approx(60 * 0.5)
        assert curves_of(run, 10)["held_out"]["bins"].keys() == {"0.00-0.50", "0.50-1.00"}


def test_samples_are_given_by_prompt_and_step(client: TestClient) -> None:
    samples = client.get("/run/samples?run=0/crush").json()
    assert {(sample["step"], sample["prompt"]) for sample in samples} == {
        (step, f"a fox number {number}") for step in range(10, 101, 10) for number in range(2)
    }
    for sample in samples[:2]:
        assert client.get("/run/file", params={"run": "0/crush", "file": sample["file"]}).status_code == 200


def test_differences_of_configurations_are_named(client: TestClient, runs: Path) -> None:
    write_run(runs / "other", rank=16)
    page = client.get("/compare?run=0/crush&run=0/other").text
    assert "<code>tuning.rank</code></th><td>4</td><td>16</td>" in page
    assert "train.steps" not in page


def test_a_run_of_the_queue_is_stopped_and_gone_on_with(client: TestClient, runs: Path) -> None:
    refused = client.post("/run/stop", data={"run": "0/crush"})
    assert refused.status_code == 409
    assert client.post("/run/go_on", data={"run": "0/crush"}).status_code == 303
    queue = client.app.state.site.queue
    (job,) = queue.jobs()
    assert (job.run, job.state) == (runs / "crush", "queued")
    assert job.words == ("train", str(job.config), f"output_dir={runs / 'crush'}", "checkpoint.resume=latest")
    assert "queued" in client.get("/run/status?run=0/crush").text
    assert client.post("/run/go_on", data={"run": "0/crush"}).status_code == 303  # as another browser may
    assert queue.jobs() == [job]
    assert client.post("/queue/cancel", data={"number": "1"}).status_code == 303
    assert job.state == "cancelled"
    for path, data in (("/queue/cancel", {"number": "77"}), ("/run/stop", {"run": "0/none"})):
        assert client.post(path, data=data).status_code == 404
    assert client.post("/run/rm", data={"run": "0/crush"}).status_code == 409


def running(client: TestClient, run: Path, device: str = "cpu") -> Job:
    """A job that looks as if this process did it."""
    job = client.app.state.site.queue.add(run, "x: 1")
    assert isinstance(job, Job)
    this_process().save(job.folder / "process.json")
    (job.folder / "device").write_text(device)
    return job


def test_going_on_keeps_the_device_that_was_asked_for(client: TestClient, runs: Path) -> None:
    queue = client.app.state.site.queue
    queue.cancel(queue.add(runs / "crush", "x: 1", device="cpu"))
    assert client.post("/run/go_on", data={"run": "0/crush"}).status_code == 303
    assert [job.device for job in queue.jobs()] == ["cpu", "cpu"]


@pytest.mark.parametrize("device", ["cpu", "all"])
def test_a_run_of_any_number_of_processes_is_asked_to_save(client: TestClient, runs: Path, device: str) -> None:
    from finetrainers.training import session

    running(client, runs / "crush", device)
    assert client.post("/run/save", data={"run": "0/crush"}).status_code == 303
    assert SAVE_FILE == session.SAVE_FILE
    assert (runs / "crush" / SAVE_FILE).is_file()


def test_what_cannot_be_asked_of_a_run_is_said(client: TestClient, runs: Path) -> None:
    job = running(client, runs / "crush")
    Process(1, "a time", "another-host").save(job.folder / "process.json")
    with (job.folder / "held").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = client.post("/run/stop", data={"run": "0/crush"})
    assert answer.status_code == 409
    assert "stop it there" in answer.text
    assert not job.is_stopping


def test_a_loss_that_is_not_finite_leaves_a_gap_in_its_curve(client: TestClient, runs: Path) -> None:
    append_event(runs / "crush", "validation", time=2e9, step=101, held_out_loss="nan", held_out_bins={"0.00-0.50": "inf"})
    (runs / "crush" / "validation" / "step-000101").mkdir()
    held_out = client.get("/run/curves?run=0/crush").json()["held_out"]
    assert (held_out["steps"][-1], held_out["loss"][-1], held_out["bins"]["0.00-0.50"][-1]) == (101, None, None)
    assert held_out["loss"][0] > 0
    _, new = _look(client.app.state.site, "0/crush", "0:-1:0")
    json.dumps(new, allow_nan=False)


def test_a_run_that_cannot_be_read_hides_no_other(client: TestClient, runs: Path, tmp_path: Path) -> None:
    for name in ("folder", "linked"):
        write_run(runs / name).joinpath("events.jsonl").unlink()
    (runs / "folder" / "events.jsonl").mkdir()
    (runs / "linked" / "events.jsonl").symlink_to(tmp_path / "secret.txt")
    page = client.get("/")
    assert page.status_code == 200
    assert page.text.count('name="run"') == 3
    assert page.text.count("unreadable</span>") == 2
    assert "events.jsonl: cannot be read: Is a directory" in page.text
    assert client.get("/run?run=0/folder").status_code == 404


def test_messages_are_events_that_there_are() -> None:
    assert set(MESSAGES) <= {kind.event for kind in EVENTS}


def test_events_without_some_fields_are_shown(client: TestClient, runs: Path) -> None:
    append_event(runs / "crush", "step", step=101)
    append_event(runs / "crush", "warning", message="a word")
    append_event(runs / "crush", "progress")
    running(client, runs / "crush")
    assert "101 / 100" in client.get("/run/status?run=0/crush").text
    assert "a word" in client.get("/run/messages?run=0/crush").text


def test_a_run_that_is_being_stopped_says_so(client: TestClient, runs: Path) -> None:
    job = running(client, runs / "crush")
    status = client.get("/run/status?run=0/crush").text
    assert 'id="stop"' in status
    assert 'id="go-on"' not in status
    (job.folder / "stopping").touch()
    status = client.get("/run/status?run=0/crush").text
    assert "stopping" in status
    assert 'id="stop"' not in status


def test_of_a_log_the_end_is_shown_and_of_a_bar_how_it_looks_now(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("first\n" + "x" * 80_000 + "\ntrain: 1%\rtrain: 2%\rtrain: 3%\nlast \u00e9\n")
    assert tail(file) == "train: 3%\nlast \u00e9"
    assert tail(tmp_path / "none") == ""


def test_data_and_plan_are_asked_in_processes_of_their_own(client: TestClient, runs: Path, tmp_path: Path) -> None:
    own = {"output_dir": "style", "model.path": str(runs / "no-model"), "data.0.path": str(tmp_path / "data")}
    own |= {"data.0.buckets": "[[1, 64, 64]]", "cache.path": str(runs / "cache")}
    refused = client.post("/new/ask/data", data={**own, "train.steps": "-1"}).text
    assert "to be corrected first" in refused
    check = client.post("/new/ask/data", data={**own, "data.0.path": "hf://x/y"})
    name = check.text.partition("/check?check=")[2].partition('"')[0]
    folder = runs / ".finetrainers-ui" / "checks" / name
    assert json.loads((folder / "job.json").read_text())["words"][:2] == ["data", "inspect"]
    job = client.app.state.site.checks.job(name)
    assert job.process is not None
    job.stop()
    page = '<html><head><style>p { color: red; }</style></head><body onload="x()"></body></html>'
    (folder / "page.html").write_text(page)
    shown = client.get(f"/check/page?check={name}")
    assert "script" not in shown.headers["content-security-policy"]
    assert "style-src 'sha256-" in shown.headers["content-security-policy"]
    for wrong in ("data-../../../x", "other-1", f"{name}x", ""):
        assert client.get("/check", params={"check": wrong}).status_code == 404


def test_a_plan_is_shown_with_its_verdict_whatever_its_exit_status(client: TestClient, runs: Path, tmp_path: Path) -> None:
    own = {"output_dir": "style", "model.path": "a/b", "data.0.path": "hf://x/y", "data.0.buckets": "[[1, 64, 64]]"}
    own |= {"cache.path": str(runs / "cache"), "gpu": "24GB"}
    assert "names none" in client.post("/new/ask/plan", data={**own, "gpu": "24GB; rm -rf /"}).text
    check = client.post("/new/ask/plan", data=own)
    name = check.text.partition("/check?check=")[2].partition('"')[0]
    job = client.app.state.site.checks.job(name)
    assert job.words == ("plan", str(job.config), "--json", "-", "--gpu=24GB")
    job.stop()
    until = time.monotonic() + 30
    while job.state == "running":
        assert time.monotonic() < until
    stage = {"stage": "step", "allocated": 21_700_000_000, "parts": {"weights": 2_000_000}, "host": 0, "note": ""}
    plan = {"v": 1, "gpu": "24GB", "limit": 21_600_000_000, "gpus": 1, "num_trained": 5632, "stages": [stage], "fits": False}
    disk = {"items": 12, "item": 6184, "cache": 74_208, "checkpoint": 67_760, "checkpoints": 203_280, "weights": 20_000}
    plan |= {"run": {"steps": 1000, "seconds": None}, "disk": disk, "steps": [], "techniques": [], "proposal": "a: <b>\n"}
    job.answer.write_text(json.dumps(plan))
    shown = client.get(f"/check?check={name}").text
    assert "<b>It does not fit</b> 1 × 24GB, of which 21.6 GB may be counted" in shown
    assert "21.7 GB" in shown
    assert "<dd>203 KB</dd>" in shown
    assert "a: &lt;b&gt;" in shown
    job.answer.write_text(json.dumps({"v": 2, "something": {"else": [1, 2.5, None, True]}}))  # of a version to come
    assert "something" in client.get(f"/check?check={name}").text


def test_every_number_that_is_drawn_is_of_a_step_event() -> None:
    schema = json.loads((Path(finetrainers.__file__).parent / "training/events.schema.json").read_text())
    assert set(CURVES) <= schema["$defs"]["step"]["properties"].keys()


def test_alarms_and_items_that_are_hard_are_named(client: TestClient, runs: Path) -> None:
    hard, easy = (
        {"path": f"{name}.png", "loss": loss, "first_loss": 0.5} for name, loss in (("hard", "nan"), ("easy", 0.125))
    )
    items = {"items": 9, "loss": 0.3, "easiest": [easy], "hardest": [hard]}
    lines = [{"event": "validation", "step": 100, "items": items, "directory": ""}]
    lines += [{"event": "warning", "message": "it does not move", "kind": "loss_flat", "step": 100}]
    with (runs / "crush" / "events.jsonl").open("a") as log:
        log.writelines(json.dumps({"v": 1, "time": 1e9, **line}) + "\n" for line in lines)
    page = client.get("/run/messages?run=0/crush").text
    assert "<b>loss flat</b> it does not move" in page
    assert page.index("hard.png") < page.index("easy.png")
    assert ">0.125</td>" in page
