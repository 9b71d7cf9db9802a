"""Who may ask: checks the host, the origin and the token of each request, and tells browsers what pages may do."""

import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "finetrainers-token"
"""Name of the cookie, with the port after it: cookies do not tell the servers of one host apart."""
PARAMETER = "token"
SAFE_METHODS = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'self'; frame-src 'self'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer, our own posts would have no origin
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
}


def new_token() -> str:
    """Make a token that nobody guesses."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Access:
    """Whom the interface answers."""

    address: str = "127.0.0.1"
    """It is bound to."""
    names: tuple[str, ...] = ()
    """Further names of this host, besides localhost and the address."""
    token: str | None = None
    """Asked of everybody; None for nobody, on a loopback address."""

    def is_host(self, host: str) -> bool:
        """Whether a Host header names this server: a page elsewhere that has its own name lead here does not."""
        try:
            name, _ = urlsplit(f"//{host}").hostname or "", urlsplit(f"//{host}").port
        except ValueError:  # no host, or no port
            return False
        if name == "localhost" or name in {own.lower() for own in (self.address, *self.names)}:  # as ``hostname`` is
            return True
        return is_loopback(name) or (not is_loopback(self.address) and _is_address(name))

    def is_token(self, given: str | None) -> bool:
        """Whether a token is the right one, in a time that does not tell how much of it is."""
        if self.token is None:
            return True
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    return address == "localhost" or (_is_address(address) and ipaddress.ip_address(address).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Middleware that lets nothing through that ``Access`` does not allow."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        answer = self._refusal(scope)
        await (self._app if answer is None else answer)(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._access.is_host(host):
            return _refuse("this server does not answer to that name; start it with --allow-host NAME", 421)
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        bearer = credentials if scheme.lower() == "bearer" else ""  # Basic is a proxy's
        if not _is_same_origin(scope["method"], headers, has_bearer=bool(bearer and self._access.token)):
            return _refuse("requests from other sites are refused", 403)
        if self._access.token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get(PARAMETER)
        if scope["method"] in SAFE_METHODS and given is not None and self._access.is_token(given):
            return _with_cookie(scope["path"], [pair for pair in query if pair[0] != PARAMETER], _cookie_name(host), given)
        if self._access.is_token(bearer or _cookie(headers)):
            return None
        return _refuse("a token is needed: open the address that the server printed when it was started", 401)


def _is_same_origin(method: str, headers: Headers, *, has_bearer: bool) -> bool:
    """Whether a request comes from a page of ours, or from no page at all where that does no harm."""
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == headers.get("host") and urlsplit(origin).scheme in ("http", "https")
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
    if method not in SAFE_METHODS:
        return has_bearer or site == "same-origin"  # browsers send an Origin with each post; a script has the token
    return site in ("none", "same-origin") or mode == "navigate"


def _cookie_name(host: str) -> str:
    return f"{COOKIE}-{urlsplit(f'//{host}').port or 80}"


def _cookie(headers: Headers) -> str | None:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(_cookie_name(headers.get("host", "")))
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _with_cookie(path: str, query: Iterable[tuple[str, str]], name: str, token: str) -> Response:
    """Keep the token where no script reads it, and take it out of the address."""
    rest = urlencode(list(query))
    safe = "/" + path.lstrip("/\\")  # else //elsewhere would be another server
    response = RedirectResponse(f"{safe}?{rest}" if rest else safe, status_code=303)
    response.set_cookie(name, token, httponly=True, samesite="strict", path="/")
    return response


def _refuse(message: str, status: int) -> Response:
    return PlainTextResponse(f"{message}\n", status_code=status)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if not headers.get("content-type", "").startswith(("text/css", "text/javascript", "image/", "video/")):
                headers.setdefault("cache-control", "no-store")
        await send(message)

    return send_with_headers
