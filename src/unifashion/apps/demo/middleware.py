"""The first checks of every request: by which name it was sent, which addresses exist, how much and how fast, by whom.

Gradio serves and receives files, proxies addresses and edits apps at addresses of its own. The page needs none of that (pictures
come by /api, uploads as text), so all of Gradio but ``ROUTES`` is closed: a list of what is open stays correct when the next
version of Gradio adds addresses.

A name that is not known is refused, because a page of another site can give its own name this machine's address, and would
then be allowed to read the answers (DNS rebinding). A client is an address; what a proxy says about it is believed if the proxy
was named.
"""

import asyncio
import ipaddress
import logging
import re
import socket
import time
from collections import Counter
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unifashion.apps.demo.connections import client_key
from unifashion.apps.demo.settings import LOOPBACK, RETRY_AFTER, DemoSettings

log = logging.getLogger(__name__)

ROUTES = re.compile(
    r"/|/login|/api/.*|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/(static|assets|svelte)/.*"
    r"|/gradio_api/(info|startup-events|theme\.css|reset|cancel|queue/(join|data)|heartbeat/[^/]*|run/predict|app_id)/?"
)
HEALTH = "/health"  # for machines that watch the demo; needs no password and says nothing about what is served
BODIES = 16  # bodies of the largest size that are held at the same time, of all clients
# default-src 'self': browsers load nothing from elsewhere, neither for Gradio nor for a catalogue's contents. Gradio has
# scripts inside its HTML ('unsafe-inline') and compiles functions from text, page.js among them ('unsafe-eval'; without it the
# page stays empty). So the policy cannot stop an injected script: preventing injection is up to the escaping in html.py.
HEADERS = {
    b"content-security-policy": b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; base-uri 'self'; "
    b"frame-ancestors 'self'; form-action 'self'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"SAMEORIGIN",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"referrer-policy": b"same-origin",  # without any, the origin of the login form would be "null"
}


class RequestFilter:
    """An ASGI layer: answers what may not pass, limits what may, and puts headers on every answer."""

    def __init__(self, app: ASGIApp, settings: DemoSettings) -> None:
        self._app, self._settings = app, settings
        self._limit = settings.max_upload_bytes * 4 // 3 + 2**20  # a picture as base64, and words
        self._under_way, self._held = Counter[str](), 0
        self._names = {"localhost", settings.host.lower(), *(name.lower() for name in settings.allow_host)}
        self._is_public = settings.host not in LOOPBACK
        if self._is_public:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on (the interface of ASGI)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":  # websockets, which nothing here uses, are never answered
            answer = _Answer(send)
            started = time.perf_counter()
            await self._answer(scope, receive, answer)
            if self._settings.access_log:
                path = scope.get("raw_path", b"").decode("ascii", "replace")
                seconds = time.perf_counter() - started
                log.info("%s %s %s %d %.3f s", _client_of(scope), scope["method"], path[:200], answer.status, seconds)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, answer)
            return
        if self._settings.proxy is None:  # Gradio would believe whom nobody vouches for
            scope = {**scope, "headers": [one for one in scope["headers"] if not one[0].startswith(b"x-forwarded-")]}
        client, body = client_key(_client_of(scope)), _Body(self._limit, self._settings.body_seconds)
        self._under_way[client] += 1
        try:
            await self._app(scope, lambda: self._next_part(body, receive), answer)
        except HTTPException as error:  # of ``_next_part``, where a layer outside of FastAPI reads the body
            if answer.status:
                raise
            await error_response(error.status_code, str(error.detail), error.headers)(scope, receive, answer)
        finally:
            self._held -= body.received
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """Return the answer to a request that may not pass."""
        path, headers = path_of(scope), Headers(scope=scope)
        if path == HEALTH:
            return JSONResponse({"status": "ok"})
        for name in (headers.get("host", ""), *self._forwarded_host(headers)):
            if not self._knows(name):
                shown = _host_of(name)[:100]
                return error_response(
                    421, f"There is no {shown!r} here; if it should be, start the demo with --allow-host."
                )
        if scope["method"] not in ("GET", "HEAD") and not self._is_own_page(headers):
            return error_response(403, "Pages of other sites may not use this service.")
        if not ROUTES.fullmatch(path):
            return error_response(404, f"There is nothing at {path[:200]}; see /api/docs.")
        if _length(headers) > self._limit:
            return error_response(413, _too_much(self._limit))
        if self._under_way[client_key(_client_of(scope))] >= self._settings.per_client:
            wait = {"Retry-After": str(RETRY_AFTER)}
            return error_response(429, "Too many requests at once from your address; wait for some answers.", wait)
        return None

    def _forwarded_host(self, headers: Headers) -> list[str]:
        hosts = headers.get("x-forwarded-host", "") if self._settings.proxy is not None else ""
        return [host.strip() for host in hosts.split(",") if host.strip()]

    def _knows(self, host: str) -> bool:
        name = _host_of(host)
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._is_public or address.is_loopback  # a number is not a name that somebody else can point here

    def _is_own_page(self, headers: Headers) -> bool:
        """Return whether a browser sent it for the demo's own page; programs that are no browsers name no origin."""
        origin = headers.get("origin")
        if origin is None:
            return True
        own = {headers.get("host", ""), *self._forwarded_host(headers)}
        return origin.partition("://")[2] in own or _host_of(origin.partition("://")[2]) in self._settings.allow_host

    async def _next_part(self, body: "_Body", receive: Receive) -> Message:
        """Receive, and count what arrives and how long it takes: a body may come without a length, with a false one, or never."""
        try:
            message = await asyncio.wait_for(receive(), body.seconds_left())
        except asyncio.TimeoutError:
            raise HTTPException(408, "The request took too long to arrive.", {"Connection": "close"}) from None
        size = len(message.get("body", b""))
        body.received += size
        self._held += size
        body.is_complete = not message.get("more_body", False)
        if body.received > self._limit:
            raise HTTPException(413, _too_much(self._limit))
        if self._held > BODIES * self._limit:
            wait = {"Retry-After": str(RETRY_AFTER)}
            raise HTTPException(503, "Too many pictures are being sent right now; try again in a few seconds.", wait)
        return message


class _Body:
    """How much of a request's body has arrived, and until when the rest must."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit, self.received, self.is_complete = limit, 0, False
        self._end = time.monotonic() + seconds

    def seconds_left(self) -> float | None:
        """Return how long to wait for the next part; None after the last one, when only the end of the connection can come."""
        return None if self.is_complete else max(0.0, self._end - time.monotonic())


class _Answer:
    """Sends an answer with ``HEADERS``, and keeps its status: 0 before there is one."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *((n, v) for n, v in HEADERS.items() if n not in present)]
        await self._send(message)


def path_of(scope: Scope) -> str:
    """Return the path of a request below the prefix where a proxy or another app serves the demo."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an error as all routes of the API give it; what is no text in it is replaced."""
    return JSONResponse({"error": message.encode("utf-8", "replace").decode()}, status, headers)


def _client_of(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _host_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:  # brackets that hold no address
        return ""


def _length(headers: Headers) -> int:
    value = headers.get("content-length", "0")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else 0


def _too_much(limit: int) -> str:
    return f"More than {limit // 2**20} MiB were sent; send a smaller picture."
