"""One password for the page and the API.

People write it into a form and carry a cookie from then on; programs send ``Authorization: Bearer PASSWORD``. It is compared in
constant time, and wrong ones are answered slowly, one at a time, so that trying them all takes for ever.
"""

import asyncio
import hashlib
import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from unifashion.apps.demo.docs import SHELL, style

COOKIE = "unifashion"
PATH = "/login"
DELAY = 0.5  # seconds that a wrong password costs everybody who sends one
FORM_LIMIT = 4_096  # bytes


class PasswordWall:
    """An ASGI layer that lets nobody through without the password."""

    def __init__(self, app: ASGIApp, password: str, delay: float = DELAY) -> None:
        self._app, self._delay = app, delay
        self._password = hashlib.sha256(password.encode()).digest()
        self._key = secrets.token_bytes(32)  # a restart asks everybody again
        self._one_by_one = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on (the interface of ASGI)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request, path = Request(scope, receive), _path(scope)
        if path == PATH:
            await (await self._login(request))(scope, receive, send)
        elif await self._knows(request.headers):
            await self._app(scope, receive, send)
        elif path.startswith("/api") or "text/html" not in request.headers.get("accept", ""):
            words = (
                "This service asks for a password: send it as 'Authorization: Bearer PASSWORD', or open / in a browser."
            )
            await JSONResponse({"error": words}, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
        else:
            await RedirectResponse(scope.get("root_path", "") + PATH, 303)(scope, receive, send)

    async def _login(self, request: Request) -> Response:
        if request.method != "POST":
            return HTMLResponse(_form(""))
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > FORM_LIMIT:
                return HTMLResponse(_form("That is too long for a password."), 413)
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        if not await self._is_right(given.encode()):
            return HTMLResponse(_form("That is not the password."), 401)
        answer = RedirectResponse(request.scope.get("root_path", "") + "/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, self._pass(), max_age=7 * 86_400, httponly=True, samesite="strict", secure=secure)
        return answer

    async def _knows(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return await self._is_right(given.strip().encode("latin-1"))  # the bytes that were sent
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._pass().encode())

    async def _is_right(self, given: bytes) -> bool:
        if hmac.compare_digest(hashlib.sha256(given).digest(), self._password):
            return True
        async with self._one_by_one:
            await asyncio.sleep(self._delay)
        return False

    def _pass(self) -> str:
        return hmac.new(self._key, self._password, hashlib.sha256).hexdigest()


def _path(scope: Scope) -> str:
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return path.rstrip("/") or "/"


def _form(words: str) -> str:
    told = f'<p class="uf-note uf-failed" role="alert">{words}</p>' if words else ""
    return (
        f"{SHELL}<title>UniFashion</title><style>{style()}</style><body class=uf-plain><form class=uf-login method=post>"
        f"<h1>UniFashion</h1><p>This catalogue asks for a password.</p>{told}<label>Password "
        '<input type="password" name="password" autocomplete="current-password" autofocus required></label>'
        "<button>Open</button></form></body></html>"
    )
