"""Put page and API behind one address, and serve it."""

import logging
import os
import socket

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from unifashion.apps.demo import api
from unifashion.apps.demo.auth import PasswordWall
from unifashion.apps.demo.docs import docs_route
from unifashion.apps.demo.middleware import Guard
from unifashion.apps.demo.service import Service
from unifashion.apps.demo.settings import LOOPBACK
from unifashion.errors import UserError

log = logging.getLogger(__name__)
MAX_CONNECTIONS = 512  # an open page holds one or two
MANUAL = "Search a catalogue by words, by a picture, or by a picture and what should change about it."


def build_app(service: Service, address: str = "http://127.0.0.1:7860") -> ASGIApp:
    """Return the whole demo as an ASGI app; ``address`` is what the documentation names."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from unifashion.apps.demo.page import build_page, mount_options

    app = FastAPI(
        title="UniFashion API",
        version="1",
        description=MANUAL,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    api.install_errors(app)
    app.include_router(docs_route(app, address))
    app.include_router(api.routes(service))
    guarded: ASGIApp = gr.mount_gradio_app(app, build_page(service), path="/", **mount_options())
    if service.settings.password is not None:
        guarded = PasswordWall(guarded, service.settings.password)
    return Guard(guarded, service.settings)


def make_server(service: Service, listener: socket.socket) -> uvicorn.Server:
    """Return a server of the demo for a socket of ``listen``; ``run(sockets=[listener])`` starts it."""
    app = build_app(service, _address(service, listener))
    config = uvicorn.Config(
        app,
        log_level="warning",
        timeout_graceful_shutdown=3,
        server_header=False,
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
    )
    return uvicorn.Server(config)


def serve(service: Service, listener: socket.socket) -> None:
    """Serve the demo on a socket of ``listen`` until it is stopped (Ctrl-C)."""
    settings, address, server = service.settings, _address(service, listener), make_server(service, listener)
    if settings.host not in LOOPBACK and settings.password is None:
        log.warning("everybody who reaches this machine can use the demo; --password asks for one")
    log.info("search at %s (API: %s/api/docs); Ctrl-C ends it", address, address)
    server.run(sockets=[listener])


def _address(service: Service, listener: socket.socket) -> str:
    host = service.settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


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
