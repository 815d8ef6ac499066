"""Where the demo listens, and its limits."""

from dataclasses import dataclass

from unifashion.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class DemoSettings:
    """How the demo is reached, and its limits."""

    host: str = "127.0.0.1"
    port: int = 7860  # 0 = any free one
    password: str | None = None  # asked of every visitor
    max_upload_bytes: int = 12 * 2**20  # of one picture
    max_upload_pixels: int = 50_000_000
    max_text: int = 2_000  # characters of a query
    max_results: int = 100
    at_once: int = 1  # requests that use a model at the same time
    waiting: int = 16  # requests that may wait for it; one more is answered "busy"
    patience: float = 60.0  # seconds that a request waits at most
    max_sessions: int = 200  # visitors whose history is kept; the oldest is dropped first
    max_steps: int = 30  # steps of a history

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise UserError(f"--port {self.port}: give a number from 0 (any free one) to 65535")
        if self.password is not None and not self.password.strip():
            raise UserError("--password is empty; leave it out, or give one (or set $UNIFASHION_PASSWORD)")
