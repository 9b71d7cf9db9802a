"""The page of a new run: the form, its YAML, and what other commands say of it before it is begun."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from finetrainers.config.syntax import Tree
from finetrainers.errors import ConfigError
from finetrainers.ui.checks import json_answer
from finetrainers.ui.fields import OUTLINE, REPEATED, all_fields, form_fields
from finetrainers.ui.form import MAX_SECTIONS, Checked, check_form, counts_of, read_yaml, to_values, unknown_keys
from finetrainers.ui.site import Site, as_number, number_of, site_of
from finetrainers.ui.tail import tail

MAX_FIELDS = 5000
STARTING = {"train.steps": "1000"}
"""Values of an empty form, which most runs change."""
REFUSED = 422


def new_page(request: Request) -> Response:
    """An empty form, or one that is filled as another run, or as a start that failed."""
    site, source, number = site_of(request), request.query_params.get("from"), request.query_params.get("job", "")
    if number:
        return _fill(request, site, read_yaml(site.queue.job(as_number(number, 0)).config.read_text(encoding="utf-8")))
    if source is None:
        return _show(request, site, {**STARTING, "cache.path": str(site.folders.runs[0] / "cache")})
    tree = {key: value for key, value in site.folders.run(source).tree.items() if key != "output_dir"}
    if isinstance(tree.get("checkpoint"), dict):  # a number is a checkpoint of that run
        tree["checkpoint"] = {key: value for key, value in tree["checkpoint"].items() if key != "resume"}
    return _fill(request, site, tree)


async def load_yaml(request: Request) -> Response:
    """Fill the form with a configuration that was pasted."""
    form, site = await request.form(), site_of(request)
    text = str(form.get("yaml", ""))
    try:
        return _fill(request, site, read_yaml(text))
    except ConfigError as error:
        return _show(request, site, STARTING, Checked({}, {"yaml": [str(error)]}), pasted=text)


def _fill(request: Request, site: Site, tree: Tree) -> Response:
    left_out = [f"{key} has no field in this form, and is left out" for key in unknown_keys(tree)]
    return _show(request, site, to_values(tree), Checked(tree, {"": left_out} if left_out else {}), status=200)


async def check(request: Request) -> Response:
    """Check the form while it is filled in."""
    values = _values(await _form(request))
    checked = await run_in_threadpool(check_form, values, site_of(request).folders)
    return JSONResponse({"errors": checked.errors, "yaml": checked.shown})


async def create(request: Request) -> Response:
    """Put a run into the queue; what is wrong is said beside its field."""
    form, site = await _form(request), site_of(request)
    values = _values(form)
    return await run_in_threadpool(_create, request, site, values)


def _create(request: Request, site: Site, values: dict[str, str]) -> Response:
    checked = check_form(values, site.folders)
    if not checked.errors:
        run = Path(checked.tree["output_dir"]).resolve()
        try:
            job = site.queue.add(run, checked.yaml, device=values.get("device") or None, files=checked.files)
            return RedirectResponse(f"/job?number={job.number}", status_code=303)
        except ConfigError as error:
            key, _, message = str(error).partition(": ")
            checked.errors[key] = [message]
    return _show(request, site, values, checked)


async def start_check(request: Request) -> Response:
    """Let another command look at the configuration of the form."""
    form, site = await _form(request), site_of(request)
    return await run_in_threadpool(_start_check, request, site, request.path_params["kind"], _values(form))


def _start_check(request: Request, site: Site, kind: str, values: dict[str, str]) -> Response:
    checked = check_form(values, site.folders)
    if checked.errors:
        return site.page(request, "_check.html", kind=kind, state="refused", errors=checked.errors)
    try:
        job = site.checks.start(kind, checked.yaml, checked.files, gpu=values.get("gpu", "").strip())
    except ConfigError as error:
        return site.page(request, "_check.html", kind=kind, state="refused", errors={"": [str(error)]})
    return _show_check(request, site, job.folder.name)


def check_answer(request: Request) -> Response:
    """What a command has answered by now."""
    return _show_check(request, site_of(request), request.query_params.get("check", ""))


def _show_check(request: Request, site: Site, name: str) -> Response:
    job = site.checks.job(name)
    kind, state = name.partition("-")[0], job.state
    answer = json_answer(job) if kind == "plan" else None
    text = job.answer.read_text(encoding="utf-8", errors="replace") if job.answer.exists() else ""
    return site.page(
        request,
        "_check.html",
        kind=kind,
        state=state,
        check=name,
        answer=answer,
        text=text if answer is None else "",
        log=tail(job.output),
        has_page=(job.folder / "page.html").exists(),
        errors={},
    )


def data_page(request: Request) -> Response:
    """The page that ``finetrainers data inspect`` has written: its own style, pictures in it, and no script."""
    job = site_of(request).checks.job(request.query_params.get("check", ""))
    text = (job.folder / "page.html").read_text(encoding="utf-8")
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)[:1]
    hashes = " ".join(f"'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'" for style in styles)
    policy = f"default-src 'none'; style-src {hashes or chr(39) + 'none' + chr(39)}; img-src data:; frame-ancestors 'self'"
    return HTMLResponse(text, headers={"content-security-policy": policy})


def one_more(request: Request) -> Response:
    """The fields of one more section of a kind of which there may be several."""
    site, section = site_of(request), request.query_params.get("section", "")
    index = number_of(request, "index", MAX_SECTIONS)
    if section not in REPEATED or index >= MAX_SECTIONS:
        raise ConfigError(f"section: there is no {section!r} of number {index}")
    fields = [field.at(index) for field in all_fields()[section]]
    return site.page(request, "_more.html", section=section, index=index, fields=fields, values={}, errors={})


def _show(
    request: Request,
    site: Site,
    values: dict[str, str],
    checked: Checked | None = None,
    *,
    pasted: str = "",
    status: int = 0,
) -> Response:
    counts, errors = counts_of(values), {} if checked is None else checked.errors
    fields = form_fields(counts)
    names = {field.name for section in fields.values() for field in section} | {"yaml", "device", "prompts"}
    general = [line for name, lines in errors.items() if name not in names for line in lines]
    return site.page(
        request,
        "new.html",
        status=status or (REFUSED if errors else 200),
        outline=OUTLINE,
        fields=fields,
        counts=counts,
        values=values,
        errors=errors,
        general=general,
        yaml="" if checked is None else checked.shown,
        pasted=pasted,
        devices=site.queue.choices,
        runs=list(site.folders.all_runs())[:200],
    )


async def _form(request: Request) -> FormData:
    return await request.form(max_fields=MAX_FIELDS)


def _values(form: FormData) -> dict[str, Any]:
    return {name: value for name, value in form.items() if isinstance(value, str)}
