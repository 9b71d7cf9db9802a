"""The list of runs, and the queue."""

import asyncio
import sys
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from finetrainers.errors import ConfigError
from finetrainers.ui.facts import row_of
from finetrainers.ui.job import ENDED, Job
from finetrainers.ui.site import Site, as_number, number_of, site_of
from finetrainers.ui.tail import tail

MAX_ROWS = 200


def list_page(request: Request) -> Response:
    """All runs, and the queue."""
    return site_of(request).page(request, "runs.html", **_listed(request), **_queued(site_of(request)))


def list_rows(request: Request) -> Response:
    """The rows of the list, as they are now."""
    return site_of(request).page(request, "_rows.html", **_listed(request))


def queue_panel(request: Request) -> Response:
    """The queue, as it is now."""
    site = site_of(request)
    return site.page(request, "_queue.html", **_queued(site))


def _listed(request: Request) -> dict[str, Any]:
    site, query = site_of(request), request.query_params.get("q", "").strip()
    rows = []
    for name, run in site.folders.all_runs().items():
        if query.lower() in name.lower():
            rows.append(row_of(name, run, title=site.title(name)))
    rows.sort(key=lambda row: (row.state != "running", -(row.time or 0.0), row.name))
    return {"rows": rows[:MAX_ROWS], "num_rows": len(rows), "query": query}


def _queued(site: Site) -> dict[str, Any]:
    jobs = [(job, job.state) for job in site.queue.jobs()]
    waiting = [(job, state, _job_title(site, job)) for job, state in jobs if state in ("running", "queued")]
    ended = [(job, state, _job_title(site, job)) for job, state in jobs if state in ENDED][-5:]
    return {"waiting": waiting, "ended": ended[::-1], "devices": site.queue.devices}


def _job_title(site: Site, job: Job) -> str:
    name = site.folders.name(job.run)
    return str(job.run) if name is None else site.title(name)


def job_page(request: Request) -> Response:
    """A start of a run, which may not have a directory yet."""
    site = site_of(request)
    job = site.queue.job(number_of(request, "number", 0))
    name = site.folders.name(job.run)
    has_run = (job.run / "config.yaml").is_file()
    values: dict[str, Any] = {
        "job": job,
        "state": job.state,
        "title": _job_title(site, job),
        "name": name if has_run else None,
    }
    template = "_job.html" if "part" in request.query_params else "job.html"
    return site.page(request, template, **values, text=tail(job.output))


async def cancel_job(request: Request) -> Response:
    """Take a job out of the queue."""
    form, site = await request.form(), site_of(request)
    job = site.queue.job(as_number(str(form.get("number", "")), 0))
    if not await run_in_threadpool(site.queue.cancel, job):
        raise ConfigError(f"queue: number {job.number} is {job.state}, and waits no longer")
    return RedirectResponse("/", status_code=303)


async def keep_starting(site: Site, *, seconds: float = 0.5) -> None:
    """Start what is due in the queue, again and again; other servers of these folders do the same, one at a time."""
    told = ""
    while True:
        try:
            await run_in_threadpool(site.queue.start_due)
        except Exception as error:  # noqa: BLE001 - such as a full disk: what waits is started once that is over
            if repr(error) != told:
                told = repr(error)
                sys.stderr.write(f"finetrainers: ui: the queue cannot start what waits: {told}\n")
        await asyncio.sleep(seconds)
