"""Where the demo listens, and its limits."""

import ipaddress
import re
from dataclasses import dataclass

from unifashion.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
RETRY_AFTER = 5  # seconds after which a client that was refused should come back


@dataclass(frozen=True)
class DemoSettings:
    """How the demo is reached, and its limits."""

    host: str = "127.0.0.1"
    port: int = 7860  # 0 = any free one
    password: str | None = None  # asked of every visitor
    allow_host: tuple[str, ...] = ()  # names by which it is reached, besides its address
    proxy: str | None = None  # address of a proxy whose word about the client is believed
    root_path: str = ""  # where that proxy serves the demo; it sends on the rest of the path
    access_log: bool = False
    per_client: int = 64  # requests at the same time from one address; twice as many connections
    header_seconds: float = 10.0  # until the headers of a request are there
    body_seconds: float = 120.0  # until its body is: a phone sends a photo slowly
    max_upload_bytes: int = 12 * 2**20  # of one picture
    max_upload_pixels: int = 50_000_000
    max_text: int = 2_000  # characters of a query
    max_results: int = 100
    waiting: int = 96  # requests that may wait for the models; one more is answered "busy"
    patience: float = 60.0  # seconds that a request waits at most
    max_sessions: int = 200  # visitors whose history is kept; the oldest is dropped first
    max_steps: int = 30  # steps of a history
    max_kept_bytes: int = 64 * 2**20  # of all visitors' uploads; the one that was longest unused is dropped first

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise UserError(f"--port {self.port}: give a number from 0 (any free one) to 65535")
        if self.password is not None and not self.password.strip():
            raise UserError("--password is empty; leave it out, or give one (or set $UNIFASHION_PASSWORD)")
        if self.per_client < 1:
            raise UserError(f"--per-client {self.per_client}: give at least 1")
        if self.proxy is not None and not _is_address(self.proxy):
            raise UserError(
                f"--proxy {self.proxy}: give the IP address that the proxy connects from, such as 127.0.0.1"
            )
        if self.root_path and not re.fullmatch(r"(/[\w.~-]+)+", self.root_path, re.ASCII):
            raise UserError(
                f"--root-path {self.root_path}: give the path that the proxy serves it at, such as /fashion"
            )
        for name in self.allow_host:
            if not re.fullmatch(r"[a-z0-9._-]+", name, re.IGNORECASE | re.ASCII):
                raise UserError(f"--allow-host {name}: give a name without port and slashes, such as shop.example.com")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
