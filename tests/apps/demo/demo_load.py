"""Many requests at the same time, as one program with several connections sends them; for the load test and its benchmark."""

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

PATIENCE = 120.0  # seconds until a request counts as lost


@dataclass(frozen=True)
class Answer:
    """Status and body of an answer, its Retry-After if there is one, and the seconds it took."""

    status: int
    body: bytes
    retry_after: str | None
    seconds: float


def ask(address: str, query: dict[str, Any]) -> Answer:
    """Send one search."""
    body, headers = json.dumps(query).encode(), {"Content-Type": "application/json"}
    request, started = urllib.request.Request(f"{address}/api/search", body, headers), time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            status, content, retry_after = answer.status, answer.read(), None
    except urllib.error.HTTPError as error:
        status, content, retry_after = error.code, error.read(), error.headers["Retry-After"]
    return Answer(status, content, retry_after, time.perf_counter() - started)


def ask_all(address: str, searches: Sequence[dict[str, Any]], clients: int) -> list[Answer]:
    """Send searches from ``clients`` threads, each with its next one after an answer; return the answers in the same order."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda query: ask(address, query), searches))


def mixed_searches(count: int, side: int) -> list[dict[str, Any]]:
    """Return searches by words, by a photo of ``side`` pixels, and by both, in turns."""
    searches: list[dict[str, Any]] = []
    for index in range(count):
        words = {"text": f"a {('red', 'blue', 'green')[index % 3]} dress"}
        photo = {"image": _photo(side, index)}
        searches.append({"k": 5} | (words, photo, words | photo)[index % 3])
    return searches


def _photo(side: int, red: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (red % 256, 90, 160)).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()
