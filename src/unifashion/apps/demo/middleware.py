"""What stands before everything: which addresses exist, how much may be sent, and what browsers are told.

Gradio serves and receives files, proxies addresses and edits apps at addresses of its own. The page needs none of that (pictures
come by /api, uploads as text), so all of Gradio but ``PAGE_ROUTES`` is shut.
"""

import re

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unifashion.apps.demo.settings import DemoSettings

PAGE_ROUTES = re.compile(
    r"/|/login|/api/.*|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/(static|assets|svelte)/.*"
    r"|/gradio_api/(info|startup-events|theme\.css|reset|cancel|queue/(join|data)|heartbeat/[^/]*|run/predict|app_id)/?"
)
HEADERS = {
    b"content-security-policy": b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; base-uri 'self'; "
    b"frame-ancestors 'self'; form-action 'self'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class Guard:
    """An ASGI layer: 404 for closed addresses, 413 for bodies above the limit, headers on every answer."""

    def __init__(self, app: ASGIApp, settings: DemoSettings) -> None:
        self._app = app
        self._limit = settings.max_upload_bytes * 4 // 3 + 2**20  # a picture as base64, and words

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on (the interface of ASGI)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
        if not PAGE_ROUTES.fullmatch(path):
            await _error(404, f"There is nothing at {path[:200]}; see /api/docs.")(scope, receive, _with_headers(send))
            return
        if _length(scope) > self._limit:
            await _error(413, self._words())(scope, receive, _with_headers(send))
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:  # a body without a length, or with a false one
                raise HTTPException(413, self._words())
            return message

        await self._app(scope, counted, _with_headers(send))

    def _words(self) -> str:
        return f"More than {self._limit // 2**20} MiB were sent; send a smaller picture."


def _error(status: int, words: str) -> JSONResponse:
    return JSONResponse({"error": words}, status)


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
