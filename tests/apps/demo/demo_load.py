"""Many requests at the same time, as one program with several connections sends them; for the load test and its benchmark."""

import base64
import functools
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
    return send(urllib.request.Request(f"{address}/api/search", body, headers))


def send(request: urllib.request.Request) -> Answer:
    """Send one request."""
    started = time.perf_counter()
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


@dataclass
class Visits:
    """What visitors were answered, and how many seconds they stayed."""

    seconds: float
    searches: list[Answer] = field(default_factory=list)
    pictures: list[Answer] = field(default_factory=list)


def visit(address: str, clients: int, seconds: float, side: int) -> Visits:
    """Let ``clients`` visitors search and look at pictures for some seconds, each as fast as it is answered."""
    visits, started = Visits(seconds), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for one in [
            pool.submit(_visitor, address, client, started + seconds, side, visits) for client in range(clients)
        ]:
            one.result()
    visits.seconds = time.perf_counter() - started
    return visits


def _visitor(address: str, client: int, end: float, side: int, visits: Visits) -> None:
    turn, seen = client, {}
    while time.perf_counter() < end:
        words, photo, change, both = searches_of(client % 8, side)
        answer = ask(address, (words, photo, {**change, **seen}, both)[turn % 4])
        visits.searches.append(answer)
        turn += 1
        if answer.status != 200:  # a visitor that does as it is told, but not beyond the end
            time.sleep(max(0.0, min(float(answer.retry_after or 0), end - time.perf_counter())))
            continue
        hits = json.loads(answer.body)["hits"]
        seen = {"image_id": hits[0]["id"]}
        for hit in hits[:3]:
            visits.pictures.append(send(urllib.request.Request(f"{address}{hit['image']}?side=240")))


@functools.cache
def searches_of(visitor: int, side: int) -> list[dict[str, Any]]:
    """Return a search of each kind: by words, by a photo of ``side`` pixels, by a product and words, by a photo and words."""
    words = (
        f"a {('red', 'blue', 'green', 'black')[visitor % 4]} {('dress', 'shirt')[visitor % 2]} with {visitor} buttons"
    )
    photo = _photo(side, visitor * 30)
    queries: list[dict[str, Any]] = [
        {"text": words},
        {"image": photo},
        {"text": "is longer"},
        {"image": photo, "text": words},
    ]
    return [{"k": 12, **query} for query in queries]


def _photo(side: int, red: int) -> str:
    file = io.BytesIO()
    paper = Image.new("RGB", (side, side), (red % 256, 90, 160))
    noise = Image.effect_noise((side, side), 40).convert("RGB")  # so that it is as large as a photo is
    Image.blend(paper, noise, 0.3).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()
