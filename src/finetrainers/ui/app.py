"""The application: which page answers which address."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from finetrainers.errors import ConfigError, DataError
from finetrainers.ui import list_pages, new_pages, run_pages
from finetrainers.ui.folders import Folders
from finetrainers.ui.guard import Access, Guard
from finetrainers.ui.live import stream
from finetrainers.ui.queue import find_devices
from finetrainers.ui.site import HERE, build_site, site_of

MAX_BODY_BYTES = 4 << 20
GET, POST = ["GET"], ["POST"]
ROUTES = (
    Route("/", list_pages.list_page, methods=GET),
    Route("/rows", list_pages.list_rows, methods=GET),
    Route("/queue", list_pages.queue_panel, methods=GET),
    Route("/queue/cancel", list_pages.cancel_job, methods=POST),
    Route("/job", list_pages.job_page, methods=GET),
    Route("/compare", run_pages.compare_page, methods=GET),
    Route("/run", run_pages.run_page, methods=GET),
    Route("/run/status", run_pages.run_status, methods=GET),
    Route("/run/curves", run_pages.run_curves, methods=GET),
    Route("/run/stream", stream, methods=GET),
    Route("/run/samples", run_pages.run_samples, methods=GET),
    Route("/run/log", run_pages.run_log, methods=GET),
    Route("/run/file", run_pages.run_file, methods=GET),
    *(Route(f"/run/{part}", partial(run_pages.run_part, part=part), methods=GET) for part in ("messages", "weights")),
    Route("/run/{action:str}", run_pages.run_action, methods=POST),
    Route("/new", new_pages.new_page, methods=GET),
    Route("/new", new_pages.create, methods=POST),
    Route("/new/check", new_pages.check, methods=POST),
    Route("/new/yaml", new_pages.load_yaml, methods=POST),
    Route("/new/more", new_pages.one_more, methods=GET),
    Route("/new/ask/{kind:str}", new_pages.start_check, methods=POST),
    Route("/check", new_pages.check_answer, methods=GET),
    Route("/check/page", new_pages.data_page, methods=GET),
    Mount("/static", StaticFiles(directory=HERE / "static")),
)


def make_app(
    folders: Folders, access: Access | None = None, *, devices: list[str] | None = None, starts_runs: bool = True
) -> Starlette:
    """Build the application.

    Args:
        folders: What may be seen.
        access: Who may see it.
        devices: Devices that runs are started on, one at a time each; by default those of this machine.
        starts_runs: Whether this server starts what waits in the queue; if not, another one of these folders does.
    """
    access = Access() if access is None else access
    site = build_site(folders, access, find_devices() if devices is None else devices)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        starter = asyncio.create_task(list_pages.keep_starting(site)) if starts_runs else None
        yield
        if starter is not None:
            starter.cancel()
            with suppress(asyncio.CancelledError):
                await starter

    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={
            DataError: _not_found,
            FileNotFoundError: _not_found,
            ConfigError: _refused,
            HTTPException: _failed,
        },
        lifespan=lifespan,
        max_body_size=MAX_BODY_BYTES,
    )
    app.state.site = site
    return app


def _not_found(request: Request, error: Exception) -> Response:
    message = str(error) if isinstance(error, DataError) else "there is nothing here (any more)"
    return site_of(request).page(request, "error.html", status=404, message=message)


def _refused(request: Request, error: Exception) -> Response:
    return site_of(request).page(request, "error.html", status=409, message=str(error))


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return site_of(request).page(request, "error.html", status=error.status_code, message=error.detail)
