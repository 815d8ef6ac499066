"""Put page and API behind one address, and serve it."""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import anyio.to_thread
import uvicorn
from fastapi import FastAPI
from starlette.routing import Mount
from starlette.types import ASGIApp

from unifashion.apps.demo import api
from unifashion.apps.demo.auth import PasswordMiddleware
from unifashion.apps.demo.connections import Connections
from unifashion.apps.demo.middleware import RequestFilter
from unifashion.apps.demo.service import Service
from unifashion.apps.demo.settings import LOOPBACK
from unifashion.errors import UserError

log = logging.getLogger(__name__)
MAX_CONNECTIONS = 512  # an open page holds one or two


def build_app(service: Service) -> ASGIApp:
    """Return the whole demo as an ASGI app."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # no telemetry and no update check, in the whole process
    import gradio as gr  # takes seconds, and a taken port should be reported before that

    from unifashion.apps.demo.page import MOUNT_OPTIONS, build_page

    app = FastAPI(
        title="UniFashion API",
        version="1",
        description="Search a catalogue by words, by a picture, or by a picture and what should change about it.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # api.py has a page that needs no network
        redoc_url=None,
        lifespan=lambda app: _threads(service.settings.waiting),
    )
    api.install_errors(app)
    app.include_router(api.routes(service))
    root_path = service.settings.root_path or None
    served: ASGIApp = gr.mount_gradio_app(app, build_page(service), path="/", root_path=root_path, **MOUNT_OPTIONS)
    for route in app.routes:
        if isinstance(route, Mount) and isinstance(route.app, FastAPI):
            api.install_malformed(route.app)  # Gradio is an app of its own, with errors of its own
    if service.settings.password is not None:
        served = PasswordMiddleware(served, service.settings.password)
    return RequestFilter(served, service.settings)


@asynccontextmanager
async def _threads(waiting: int) -> AsyncIterator[None]:
    """Allow a thread for every request that may wait for a model, besides those that thumbnails are served from."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens += waiting
    yield


def make_server(service: Service) -> uvicorn.Server:
    """Return a server of the demo; ``run(sockets=[listener])``, with a socket of ``listen``, starts it."""
    settings = service.settings
    config = uvicorn.Config(
        build_app(service),
        http=cast(type[asyncio.Protocol], Connections(settings)),  # called as the class would be
        log_level="warning",
        timeout_graceful_shutdown=3,
        server_header=False,
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        root_path=settings.root_path,
        proxy_headers=settings.proxy is not None,  # by default it believes every program on this machine
        forwarded_allow_ips=settings.proxy,
    )
    return uvicorn.Server(config)


def serve(service: Service, listener: socket.socket) -> None:
    """Serve the demo on a socket of ``listen`` until it is stopped (Ctrl-C)."""
    host, password = service.settings.host, service.settings.password
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # by default nothing is cleaned up
    with tempfile.TemporaryDirectory(prefix="unifashion-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of this user alone; by default all users of a machine share one
        server = make_server(service)
        if host not in LOOPBACK and password is None:
            log.warning("anyone who can reach this machine can use the demo; --password restricts it")
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        log.info("search at %s (API: %s/api/docs); Ctrl-C stops it", address, address)
        server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at ``host`` and ``port``.

    Raises:
        UserError: the port is taken or forbidden, or the host is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except socket.gaierror:
        listener.close()
        raise UserError(f"--host {host}: no address of that name; use 127.0.0.1, or 0.0.0.0 for all networks") from None
    except OSError as error:
        listener.close()
        raise UserError(
            f"--port {port} on {host} cannot be used ({error.strerror}); choose another port, or 0 for any free one"
        ) from None
    listener.listen(128)
    return listener
