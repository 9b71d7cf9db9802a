"""Pages about one run, and about several beside each other."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from finetrainers.config.syntax import dump_yaml
from finetrainers.errors import ConfigError, DataError
from finetrainers.files.steps import STEP_NAME
from finetrainers.runs.comparison.compare import compare
from finetrainers.runs.comparison.words import as_text
from finetrainers.runs.folder import CONFIG_FILE, RunFolder
from finetrainers.runs.inside import is_inside
from finetrainers.runs.outputs import PICTURES, VIDEOS, Sample, samples_of
from finetrainers.runs.pace import seconds_left
from finetrainers.ui.facts import curves_of, differences, row_of, state_of
from finetrainers.ui.folders import visible
from finetrainers.ui.job import ENDED
from finetrainers.ui.site import Site, number_of, site_of
from finetrainers.ui.tail import tail

MAX_COMPARED, TWO = 12, 2
MAX_POINTS = 2000
MAX_MESSAGES = 200
REPORT_PAGE = "report.html"
DOWNLOADS = ("weights", "checkpoints")
MESSAGES = ("warning", "error", "end")


def run_page(request: Request) -> Response:
    """One run."""
    site, name = site_of(request), request.query_params.get("run", "")
    with site.runs.updated(name) as run:
        values = _status(site, name, run)
        values |= _outputs(run)
        values |= {
            "config": dump_yaml(run.tree),
            "sources": [log.name for log in run.logs()],
        }
    return site.page(request, "run.html", **values)


def run_status(request: Request) -> Response:
    """State, progress and buttons of a run, as they are now."""
    site, name = site_of(request), request.query_params.get("run", "")
    with site.runs.updated(name) as run:
        values = _status(site, name, run)
    return site.page(request, "_status.html", **values)


def run_part(request: Request, part: str) -> Response:
    """Messages or weights of a run, as they are now."""
    site, name = site_of(request), request.query_params.get("run", "")
    with site.runs.updated(name) as run:
        values = _outputs(run)
    return site.page(request, f"_{part}.html", name=name, **values)


def _outputs(run: RunFolder) -> dict[str, Any]:
    return {
        "messages": [event for event in run.kept if event["event"] in MESSAGES][-MAX_MESSAGES:][::-1],
        "weights": run.weights()[::-1],
        "checkpoints": run.checkpoints()[::-1],
        "items": next((event["items"] for event in reversed(run.kept) if isinstance(event.get("items"), dict)), None),
        "has_report": is_inside(run.path, REPORT_PAGE),
    }


def _status(site: Site, name: str, run: RunFolder) -> dict[str, Any]:
    job = site.queue.latest(run.path)
    state, why = state_of(run, job)
    standing = run.standing()
    return {
        "name": name,
        "title": site.title(name),
        "state": state,
        "why": why,
        "step": standing.step,
        "steps": run.steps,
        "last": standing.last or {},
        "left": seconds_left(run, standing.step) if state == "running" else None,
        "progress": run.progress if state == "running" else None,
        "job": job,
        "is_ours": job is not None and job.state == "running",
        "can_save": job is not None and job.state == "running" and bool(standing.last) and state == "running",
        "can_go_on": state in ("stopped", "failed", "killed", "new", "cancelled") and bool(run.tree),
    }


def run_curves(request: Request) -> Response:
    """All curves of a run, of a bounded number of points."""
    site, name = site_of(request), request.query_params.get("run", "")
    points = min(number_of(request, "points", 800), MAX_POINTS)
    with site.runs.updated(name) as run:
        curves = curves_of(run, points)
    return JSONResponse(curves)


def run_samples(request: Request) -> Response:
    """What a run has generated, by prompt and step."""
    site, name = site_of(request), request.query_params.get("run", "")
    run = site.folders.run(name)
    found = [
        {
            "step": sample.step,
            "number": sample.number,
            "prompt": sample.prompt,
            "is_video": sample.is_video,
            "file": str(sample.file.relative_to(run.path)),
        }
        for sample in run.samples()
    ]
    return JSONResponse(found)


def run_log(request: Request) -> Response:
    """The end of what a run has written: its process, or one of its others."""
    site, name = site_of(request), request.query_params.get("run", "")
    run, source = site.folders.run(name), request.query_params.get("source", "")
    job = site.queue.latest(run.path)
    known = {log.name: log.path for log in run.logs()}
    file = known.get(source) if source else None if job is None else job.output
    text = "" if file is None else tail(file)
    state, _ = state_of(run, job)
    return site.page(
        request, "_log.html", text=text, name=name, source=source, is_live=state in ("running", "stopping", "queued")
    )


def run_file(request: Request) -> Response:
    """A sample to look at, or weights to take away; nothing else of a run."""
    site, name = site_of(request), request.query_params.get("run", "")
    run, path = site.folders.run(name), request.query_params.get("file", "")
    file = visible(run.path, path)
    folder = file.relative_to(run.path).parts[:1]
    if folder == ("validation",) and file.suffix.lower() in PICTURES | VIDEOS and file.is_file():
        title = next((f"{run.name}-{sample.title}" for sample in _drawn_beside(run, file) if sample.file == file), file.name)
        headers = {"cache-control": "private, max-age=60"}
        return FileResponse(file, headers=headers, filename=title, content_disposition_type="inline")
    if path == REPORT_PAGE and file.is_file():  # to take away: it has a script, which pages of this server may not have
        return FileResponse(file, media_type="application/octet-stream", filename=f"{run.name}-report.html")
    if folder and folder[0] in DOWNLOADS and file.is_file():
        is_named_after_run = file.name.startswith(f"{run.name}-")
        title = file.name if is_named_after_run else f"{run.name}-{file.parent.name}-{file.name}"
        return FileResponse(file, media_type="application/octet-stream", filename=title)
    raise DataError(f"{path!r} is no sample and no weights of this run")


def _drawn_beside(run: RunFolder, file: Path) -> list[Sample]:
    """What a validation generated into the folder of a file."""
    step = STEP_NAME.fullmatch(file.parent.name)
    return [] if step is None else samples_of(run.path, int(step[1]), file.parent)


async def run_action(request: Request) -> Response:
    """Stop a run, let it save, or go on with it."""
    form = await request.form()
    name, action = str(form.get("run", "")), request.path_params["action"]
    await run_in_threadpool(_act, site_of(request), name, action)
    return RedirectResponse(f"/run?{urlencode({'run': name})}", status_code=303)


def _act(site: Site, name: str, action: str) -> None:
    """Do what was asked for; what another browser has asked for meanwhile is done, and no error."""
    run = site.folders.run(name)
    job = site.queue.latest(run.path)
    is_going = job is not None and job.state not in ENDED
    match action:
        case "go_on" if not is_going:
            device = job.device if job is not None and job.device in site.queue.choices else None
            config = (run.path / CONFIG_FILE).read_text(encoding="utf-8")  # may name the checkpoint of an earlier start
            site.queue.add(run.path, config, device=device, overrides=["checkpoint.resume=latest"])
        case "stop" if job is not None:
            if not job.stop() and job.state == "running":
                raise ConfigError(f"stop: {run.name} runs on another host; stop it there")
        case "save" if job is not None:
            if not job.save_now() and job.state == "running":
                raise ConfigError(f"save: {run.name} has made no directory yet; wait for its first step")
        case "go_on":
            pass
        case _:
            raise ConfigError(f"{action}: {run.name} was not started by the queue of this server; see to it where it was")


def compare_page(request: Request) -> Response:
    """Curves of several runs over each other, and what differs between their configurations."""
    site = site_of(request)
    names = list(dict.fromkeys(request.query_params.getlist("run")))[:MAX_COMPARED]
    runs = {name: site.folders.run(name) for name in names}
    rows = [row_of(name, run, title=site.title(name)) for name, run in runs.items()]
    told = as_text(compare(*runs.values())) if len(runs) == TWO else ""
    return site.page(request, "compare.html", rows=rows, differences=differences(runs), told=told)
