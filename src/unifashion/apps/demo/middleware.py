"""The first checks of every request: which addresses exist, how much may be sent, and which headers answers carry.

Gradio serves and receives files, proxies addresses and edits apps at addresses of its own. The page needs none of that (pictures
come by /api, uploads as text), so all of Gradio but ``ROUTES`` is closed: a list of what is open stays correct when the next
version of Gradio adds addresses.
"""

import re

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unifashion.apps.demo.settings import DemoSettings

ROUTES = re.compile(
    r"/|/login|/api/.*|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/(static|assets|svelte)/.*"
    r"|/gradio_api/(info|startup-events|theme\.css|reset|cancel|queue/(join|data)|heartbeat/[^/]*|run/predict|app_id)/?"
)
# default-src 'self': browsers load nothing from elsewhere, neither for Gradio nor for a catalogue's contents. Gradio has
# scripts inside its HTML ('unsafe-inline') and compiles functions from text, page.js among them ('unsafe-eval'; without it the
# page stays empty). So the policy cannot stop an injected script: preventing injection is up to the escaping in html.py.
HEADERS = {
    b"content-security-policy": b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; base-uri 'self'; "
    b"frame-ancestors 'self'; form-action 'self'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class RequestFilter:
    """An ASGI layer: 404 for closed addresses, 413 for bodies above the limit, headers on every answer."""

    def __init__(self, app: ASGIApp, settings: DemoSettings) -> None:
        self._app = app
        self._limit = settings.max_upload_bytes * 4 // 3 + 2**20  # a picture as base64, and words

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on (the interface of ASGI)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":  # websockets, which nothing here uses, are never answered
            path, send = path_of(scope), _with_headers(send)
            if not ROUTES.fullmatch(path):
                await error_response(404, f"There is nothing at {path[:200]}; see /api/docs.")(scope, receive, send)
            elif _length(scope) > self._limit:
                await error_response(413, self._too_much())(scope, receive, send)
            else:
                await self._app(scope, self._counting(receive), send)

    def _counting(self, receive: Receive) -> Receive:
        """Also count what arrives: a body may come without a length, or with a false one."""
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, self._too_much())
            return message

        return count

    def _too_much(self) -> str:
        return f"More than {self._limit // 2**20} MiB were sent; send a smaller picture."


def path_of(scope: Scope) -> str:
    """Return the path of a request below the prefix where a proxy or another app serves the demo."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error as all routes of the API give it."""
    return JSONResponse({"error": message}, status, headers)


def _length(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *((n, v) for n, v in HEADERS.items() if n not in present)]
        await send(message)

    return sent
