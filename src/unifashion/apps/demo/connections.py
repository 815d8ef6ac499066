"""Connections, before there is a request: how many an address may have, and how long it may take to say what it wants.

uvicorn waits for ever for the end of a request's headers, so that a few hundred connections which say nothing would keep
everybody else out.
"""

import asyncio
import ipaddress
import json
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from unifashion.apps.demo.settings import RETRY_AFTER, DemoSettings


def client_key(host: str) -> str:
    """Return what one client is known by: its address, or the first half of an IPv6 address, which is all one household."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Connections:
    """Makes the protocols of one server, which share a count of the connections of every client."""

    def __init__(self, settings: DemoSettings) -> None:
        self.settings, self.open = settings, Counter[str]()

    def __call__(self, **given: Any) -> asyncio.Protocol:
        """Return the protocol of a new connection; uvicorn's arguments."""
        return _Connection(self, **given)


class _Connection(H11Protocol):
    def __init__(self, shared: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._shared, self._key = shared, ""
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        settings, count = self._shared.settings, self._shared.open
        host = self.client[0] if self.client else ""
        self._key = client_key(host)
        count[self._key] += 1
        # Twice as many as requests: who opens a few too many is told so by an answer to a request (middleware.py).
        if count[self._key] > 2 * settings.per_client and host != settings.proxy:
            self._refuse(429, "Too many connections from your address; close some.")
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._shared.open[self._key] -= 1
        if not self._shared.open[self._key]:
            del self._shared.open[self._key]
        self._unset_deadline()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        """Set a deadline unless a request is being answered; a byte now and then does not move it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unset_deadline()
        elif self._deadline is None:
            seconds = self._shared.settings.header_seconds
            self._deadline = self.loop.call_later(seconds, self._refuse, 408, "The request took too long to arrive.")

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps({"error": message}).encode()
        reason = {408: "Request Timeout", 429: "Too Many Requests"}[status]
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Retry-After: {RETRY_AFTER}\r\nConnection: close\r\n\r\n".encode() + body)
        self.transport.close()
