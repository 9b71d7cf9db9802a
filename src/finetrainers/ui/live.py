"""New points of a run's curves, sent to a browser as they come (server-sent events)."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

from finetrainers.ui.facts import curves_of
from finetrainers.ui.site import Site, site_of

LOOK_SECONDS = 1.0
ALIVE_SECONDS = 15.0
"""How often something is sent, so that neither side takes the other for gone."""
MAX_NEW_POINTS = 400


async def stream(request: Request) -> StreamingResponse:
    """Send what comes after the point that the browser has."""
    site, name = site_of(request), request.query_params.get("run", "")
    place = request.headers.get("last-event-id") or request.query_params.get("at", "0:-1:0")
    site.folders.run(name)  # an error now, if there is no such run
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_events(site, name, place), media_type="text/event-stream", headers=headers)


async def _events(site: Site, name: str, place: str) -> AsyncIterator[str]:
    silent = 0.0
    yield "retry: 1000\n\n"
    while True:
        told, new = await run_in_threadpool(_look, site, name, place)
        if new is not None:
            place, silent = told, 0.0
            yield f"id: {place}\nevent: points\ndata: {json.dumps(new)}\n\n"
        elif silent >= ALIVE_SECONDS:
            silent = 0.0
            yield ": alive\n\n"
        await asyncio.sleep(LOOK_SECONDS)
        silent += LOOK_SECONDS


def _look(site: Site, name: str, place: str) -> tuple[str, dict[str, Any] | None]:
    """Find what is new after a place: rewinds, the last step and the number of validations, as "0:250:3"."""
    rewinds, step, validations = _parse(place)
    with site.runs.updated(name) as run:
        is_anew = run.rewinds != rewinds
        new = curves_of(run, MAX_NEW_POINTS, after=-1 if is_anew else step)
        last = int(new["steps"][-1]) if new["steps"] else (-1 if is_anew else step)
    told = f"{new['rewinds']}:{last}:{len(new['held_out']['steps'])}"
    return told, None if told == f"{rewinds}:{step}:{validations}" else {**new, "is_anew": is_anew}


def _parse(place: str) -> tuple[int, int, int]:
    try:
        rewinds, step, validations = map(int, place.split(":"))
    except ValueError:
        return 0, -1, 0
    return rewinds, step, validations
