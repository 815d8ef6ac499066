"""Limits of the demo, and where it listens."""

from dataclasses import dataclass

from unifashion.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class DemoSettings:
    """How the demo is reached and what it refuses."""

    host: str = "127.0.0.1"
    port: int = 7860  # 0 = any that is free
    password: str | None = None  # asked of everybody who comes
    max_upload_bytes: int = 12 * 2**20  # of one picture
    max_upload_pixels: int = 50_000_000
    max_text: int = 2_000  # characters of a query
    max_results: int = 100
    at_once: int = 1  # requests that use the model at the same time
    waiting: int = 16  # requests that may wait for it; one more is answered "busy"
    patience: float = 60.0  # seconds that one waits at most
    max_sessions: int = 200  # people whose history is kept; the oldest is forgotten first
    max_turns: int = 30  # steps of a history

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise UserError(f"--port {self.port}: give a number from 0 (any free one) to 65535")
        if self.password is not None and not self.password.strip():
            raise UserError("--password is empty; leave it out, or give one (or set $UNIFASHION_PASSWORD)")
