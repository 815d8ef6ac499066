"""The demo under a bounded load on loopback: everybody is answered, what is too much is turned away, memory stays constant."""

import json
from pathlib import Path

import pytest
from demo_load import Answer, ask, ask_all, mixed_searches
from demo_shop import Shop, open_shop, served

from unifashion.apps.demo.service import Loaded, Service
from unifashion.apps.demo.settings import DemoSettings


@pytest.fixture(scope="module")
def shop(tmp_path_factory, make_model) -> Shop:
    return open_shop(tmp_path_factory.mktemp("shop"), make_model())


def resident() -> float:
    """Return the MiB that this process holds."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 2**10


def ids_of(answer: Answer) -> list[str]:
    return [hit["id"] for hit in json.loads(answer.body)["hits"]]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from Linux' /proc")
def test_everybody_gets_the_right_answer_and_memory_stays(shop):
    searches = mixed_searches(120, side=1000)
    with served(Service(Loaded(shop))) as address:
        alone = [ask(address, asked) for asked in searches[:12]]
        ask_all(address, searches[:40], clients=8)  # allocators fill up first
        before = resident()
        answers = ask_all(address, searches, clients=8)
        grown = resident() - before
    assert [answer.status for answer in answers] == [200] * len(searches)
    assert list(map(ids_of, answers[:12])) == list(map(ids_of, alone))
    assert grown < 80  # 80 photos of a megapixel that stayed would be 229


def test_requests_above_the_limit_are_told_when_to_come_back(shop):
    shop.delay = 0.2
    try:
        with served(Service(Loaded(shop), DemoSettings(waiting=2))) as address:
            answers = ask_all(address, [{"text": "red dress"}] * 16, clients=16)
            after = ask(address, {"text": "red dress"})
    finally:
        shop.delay = 0.0
    served_well = [answer for answer in answers if answer.status == 200]
    turned_away = [answer for answer in answers if answer.status == 503]
    assert len(served_well) >= 3 and turned_away and len(served_well) + len(turned_away) == 16
    assert all(answer.retry_after == "5" and "try again" in json.loads(answer.body)["error"] for answer in turned_away)
    assert {tuple(ids_of(answer)) for answer in served_well} == {tuple(ids_of(after))}


def test_searches_that_wait_together_use_the_model_once_and_are_answered_as_they_would_be_alone(shop):
    words = [
        {"text": f"a {colour} dress{' with long sleeves' * n}", "k": 25} for n, colour in enumerate(("red", "blue"))
    ]
    searches = [
        *words,
        *mixed_searches(9, side=200),
        {"text": "red", "filter": "size > 3"},
        {"text": "skirt", "rerank": 5},
    ]
    with served(Service(Loaded(shop))) as address:
        alone = [ask(address, asked) for asked in searches]
        shop.delay, shop.num_calls = 0.2, 0
        try:
            together = ask_all(address, searches, clients=len(searches))
        finally:
            shop.delay = 0.0
    assert shop.num_calls < 6, "thirteen searches, of which the first few arrive while nobody waits"
    assert [answer.status for answer in together] == [answer.status for answer in alone]
    for one, other in zip(alone, together, strict=True):
        hits, others = (json.loads(answer.body).get("hits", []) for answer in (one, other))
        assert [hit["id"] for hit in hits] == [hit["id"] for hit in others]
        assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in others], abs=1e-6)
