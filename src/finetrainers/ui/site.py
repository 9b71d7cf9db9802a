"""What all pages share: the folders, the queue, and the templates."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from finetrainers.events.words import as_size
from finetrainers.files.whole import MANIFEST
from finetrainers.runs.inside import files_below
from finetrainers.runs.outputs import Saved
from finetrainers.ui.checks import Checks
from finetrainers.ui.folders import Folders, OpenRuns
from finetrainers.ui.guard import Access
from finetrainers.ui.queue import Queue

HERE = Path(__file__).parent
UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Site:
    """One server."""

    folders: Folders
    access: Access
    queue: Queue
    checks: Checks
    runs: OpenRuns
    templates: Jinja2Templates

    def page(self, request: Request, template: str, /, status: int = 200, **values: Any) -> Response:
        """Fill a template."""
        return self.templates.TemplateResponse(request, template, values, status_code=status)

    def title(self, name: str) -> str:
        """Name a run as people do: without the number of the folder, where there is one folder."""
        number, _, path = name.partition("/")
        folder = self.folders.runs[int(number)]
        path = folder.name if path == "." else path
        return path if len(self.folders.runs) == 1 else f"{folder.name}/{path}"


def build_site(folders: Folders, access: Access, devices: list[str]) -> Site:
    """Put a server together; the queue's folder is made."""
    loader = jinja2.FileSystemLoader(HERE / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals.update(files_of=files_of)
    environment.tests.update(at_index=is_at)
    environment.filters.update(ago=ago, clock=clock, figure=figure, size=size, sentence=sentence)
    return Site(
        folders,
        access,
        Queue(folders.state, devices),
        Checks(folders.state / "checks"),
        OpenRuns(folders),
        Jinja2Templates(env=environment),
    )


def site_of(request: Request) -> Site:
    """Find the server that a request is for."""
    site = request.app.state.site
    assert isinstance(site, Site)
    return site


def files_of(saved: Saved) -> list[str]:
    """Names of the weights in a folder, as they are asked for."""
    found = sorted(file for file, _ in files_below(saved.path))
    return ["/".join((*saved.path.parts[-2:], str(file.relative_to(saved.path)))) for file in found if file.name != MANIFEST]


def is_at(name: str, section: str, index: int) -> bool:
    """Whether a field's name is of one of several sections."""
    return name.startswith(f"{section}.{index}.")


def clock(seconds: float | None) -> str:
    """Write a length of time, such as 1 h 05 min."""
    if seconds is None:
        return UNKNOWN
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def ago(seconds: float | None) -> str:
    """Write how long ago a time was, seconds since 1970 UTC."""
    if seconds is None:
        return UNKNOWN
    past = max(0.0, datetime.now().timestamp() - seconds)
    return "now" if past < 5 else f"{clock(past)} ago"


def figure(value: float | str | None) -> str:
    """Write a number with four digits that count; one that is not finite is a word in events."""
    return UNKNOWN if value is None else value if isinstance(value, str) else f"{value:.4g}"


def size(num_bytes: float) -> str:
    """Write a number of bytes, as terminal and report do."""
    return as_size(num_bytes / 1e9)


def sentence(text: str) -> Markup:
    """Show what stands between double backquotes as code."""
    parts = str(escape(text)).split("``")
    return Markup("").join(Markup(f"<code>{part}</code>" if index % 2 else part) for index, part in enumerate(parts))


def number_of(request: Request, name: str, default: int) -> int:
    """Read a number from a query; what is none, or too large, is the default."""
    return as_number(request.query_params.get(name, ""), default)


def as_number(text: str, default: int) -> int:
    """Read a number that a browser sent; what is none, or too large, is the default."""
    return int(text) if text.isdecimal() and len(text) < 10 else default
