"""The table of protocols: which apply to which data set, in which order, and what they say of themselves."""

from dataclasses import replace

import pytest

from unifashion.data.datasets import retrieval_sets, spec_of
from unifashion.errors import UserError
from unifashion.evaluation.composed import main_protocol
from unifashion.evaluation.protocols import registry
from unifashion.evaluation.protocols.registry import (
    PROTOCOLS,
    ComposedProtocol,
    PairProtocol,
    protocol_sentence,
    protocols_of,
    register,
)


def names(dataset, kind):
    return [row.name for row in protocols_of(dataset, kind)]


def test_own_protocols_stand_before_those_of_every_set_and_replace_those_of_their_name():
    assert names("fashiongen", PairProtocol) == [
        *("fashiongen/sub100", "fashiongen/full", "fashiongen/blocks100", "fashiongen/full-by-text")
    ]
    assert names("catalogue", PairProtocol) == ["catalogue/full", "catalogue/full-by-text"]
    assert names("somebody's own", PairProtocol) == ["somebody's own/full", "somebody's own/full-by-text"]


def test_the_main_protocol_of_a_composed_set_is_its_first():
    assert {name: main_protocol(name).name for name in ("fashioniq", "cirr", "circo")} == {
        "fashioniq": "fashioniq/original",
        "cirr": "cirr/standard",
        "circo": "circo/standard",
    }
    assert [main_protocol(name).without_reference for name in ("fashioniq", "cirr", "circo")] == [False, True, False]
    assert [main_protocol(name).all_targets for name in ("fashioniq", "cirr", "circo")] == [False, False, True]
    two = ("Is red.", "has long sleeves")
    assert spec_of("fashioniq").join_feedback(two) == "Is red and has long sleeves"
    assert spec_of("cirr").join_feedback(two[:1]) == "Is red."


def test_a_composed_set_without_a_protocol_is_one_sentence():
    with pytest.raises(UserError, match="shoes has no protocol; register one"):
        protocols_of("shoes", ComposedProtocol)


HEADLINES = [(spec.name, spec.headline) for spec in retrieval_sets() if spec.headline is not None]


@pytest.mark.parametrize(("dataset", "headline"), HEADLINES)
def test_the_headline_of_a_data_set_is_of_a_protocol_that_it_has(dataset, headline):
    composed = dataset in ("fashioniq", "cirr", "circo")
    assert headline[0] in names(dataset, ComposedProtocol if composed else PairProtocol)


def test_every_protocol_has_one_sentence_for_readers_whatever_its_suffix():
    for name, row in PROTOCOLS.items():
        assert row.name == name and row.sentence.endswith(".") and row.sentence.count(". ") == 0
        assert protocol_sentence(name.format(dataset="shoes") + "+itm50+captions") == row.sentence
    assert protocol_sentence("tryon/catvton/paired") == ""


def test_a_name_is_taken_once_and_a_new_row_applies_at_once(monkeypatch):
    monkeypatch.setattr(registry, "PROTOCOLS", dict(PROTOCOLS))
    row = protocols_of("cirr", ComposedProtocol)[0]
    with pytest.raises(ValueError, match="there is already a protocol 'cirr/standard'"):
        register(row)
    register(replace(row, name="cirr/again"))
    assert names("cirr", ComposedProtocol) == ["cirr/standard", "cirr/again"]
