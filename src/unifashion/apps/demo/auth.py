"""One password for the page and the API.

People type it into a form and get a cookie; programs send ``Authorization: Bearer PASSWORD``. It is compared in
constant time, and wrong ones are answered slowly, one at a time, so that trying them all is hopeless.
"""

import asyncio
import hashlib
import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from unifashion.apps.demo.html import render
from unifashion.apps.demo.middleware import error_response, path_of

COOKIE = "unifashion"
PATH = "/login"
DELAY = 0.5  # seconds that every wrong password costs
FORM_LIMIT = 4_096  # bytes
ASK = "This service needs a password: send it as 'Authorization: Bearer PASSWORD', or open / in a browser."


class PasswordMiddleware:
    """An ASGI layer that lets nobody through without the password."""

    def __init__(self, app: ASGIApp, password: str, delay: float = DELAY) -> None:
        self._app, self._delay = app, delay
        self._password = hashlib.sha256(password.encode()).digest()
        # The cookie proves that its bearer knew the password. Whoever steals it cannot test passwords against it offline, because
        # the key never leaves this process. A restart makes a new key, and everybody must log in again.
        self._cookie = hmac.new(secrets.token_bytes(32), self._password, hashlib.sha256).hexdigest()
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on (the interface of ASGI)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":  # and nothing else: a websocket must not be a way round the password
            app = await self._app_for(Request(scope, receive))
            await app(scope, receive, send)

    async def _app_for(self, request: Request) -> ASGIApp:
        path = path_of(request.scope).rstrip("/")
        if path == PATH:
            return await self._login(request)
        if await self._is_known(request.headers):
            return self._app
        if path.startswith("/api") or "text/html" not in request.headers.get("accept", ""):
            return error_response(401, ASK, {"WWW-Authenticate": "Bearer"})
        return RedirectResponse(request.scope.get("root_path", "") + PATH, 303)

    async def _login(self, request: Request) -> Response:
        if request.method != "POST":
            return _form("")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > FORM_LIMIT:
                return _form("That is too long for a password.", 413)
        password = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        if not await self._is_right(password.encode()):
            return _form("That is not the password.", 401)
        answer = RedirectResponse(request.scope.get("root_path", "") + "/", 303)
        # httponly: no script of the page can read it. strict: browsers do not send it with requests that another site starts, so
        # none can act in a visitor's name. secure only behind an https proxy: over the demo's own http, browsers would drop it.
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, self._cookie, max_age=7 * 86_400, httponly=True, samesite="strict", secure=secure)
        return answer

    async def _is_known(self, headers: Headers) -> bool:
        kind, _, password = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return await self._is_right(password.strip().encode("latin-1"))  # the bytes that were sent
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._cookie.encode())

    async def _is_right(self, password: bytes) -> bool:
        # Hashes have equal lengths, so the time of the comparison does not even reveal the password's length.
        if hmac.compare_digest(hashlib.sha256(password).digest(), self._password):
            return True
        async with self._one_at_a_time:  # otherwise a thousand connections would try a thousand passwords in one delay
            await asyncio.sleep(self._delay)
        return False


def _form(message: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(render("login", message=message, failed=True), status)
