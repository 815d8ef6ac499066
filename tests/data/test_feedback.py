import json
import random
from collections import Counter
from pathlib import Path

import pytest

from unifashion.data.feedback import MAX_WORDS, evaluation_feedback, prepare_text, training_feedback

GOLDEN = Path(__file__).resolve().parents[1] / "golden/original/text_rules.json"
SENTENCES = (" is shiny and Silver. ", "has ruffles?, ")
A_AND_B = "Is shiny and silver and has ruffles"
B_AND_A = "Has ruffles and is shiny and Silver"
A, B = "Is shiny and silver", "Has ruffles"


class Fixed(random.Random):
    """A generator that always draws the same number."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def random(self):
        return self.draw


@pytest.fixture
def rules():
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    ("sentences", "joined"),
    [
        (SENTENCES, A_AND_B),
        (
            ["is RED", "Longer SLEEVES"],
            "Is red and Longer SLEEVES",
        ),  # only the first is capitalised, which lowers its rest
        ([".,? is red!", "?"], "Is red! and "),
        (["", "is red"], " and is red"),
        (["is red."], "Is red"),
        ([], ""),
        (["is red", "is long", "has dots"], "Is red and is long and has dots"),
    ],
)
def test_evaluation_joins_the_sentences_in_order(sentences, joined):
    assert evaluation_feedback(sentences) == joined


@pytest.mark.parametrize(
    ("draw", "joined"),
    [
        (0, A_AND_B),
        (0.249, A_AND_B),
        (0.251, B_AND_A),
        (0.499, B_AND_A),
        (0.501, A),
        (0.749, A),
        (0.751, B),
        (0.999, B),
        (0.25, B),  # the original compares with < on both sides, so the borders fall through to the last form
        (0.5, B),
        (0.75, B),
    ],
)
def test_training_joins_as_the_draw_says(draw, joined):
    assert training_feedback(SENTENCES, Fixed(draw)) == joined


def test_each_form_of_the_feedback_is_as_likely():
    rng = random.Random(0)
    counts = Counter(training_feedback(SENTENCES, rng) for _ in range(4000))
    assert set(counts) == {A_AND_B, B_AND_A, A, B}
    assert all(900 < count < 1100 for count in counts.values())


def test_the_given_generator_alone_decides():
    first = [training_feedback(SENTENCES, random.Random(seed)) for seed in range(20)]
    random.seed(123)
    assert [training_feedback(SENTENCES, random.Random(seed)) for seed in range(20)] == first


@pytest.mark.parametrize(("sentences", "joined"), [(["is red."], "Is red"), ([], "")])
def test_fewer_than_two_sentences_train_as_they_are_and_draw_nothing(sentences, joined):
    rng = random.Random(5)
    state = rng.getstate()
    assert training_feedback(sentences, rng) == joined
    assert rng.getstate() == state


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ('Is "RED"; (very) #1*~!', "is red very 1"),
        ("v-neck, 3/4 sleeves?", "v-neck, 3/4 sleeves?"),
        ("  two   blanks\n", "two blanks"),
        ("a: b.", "a b"),
        ("", ""),
        ("...", ""),
        ("Ärmel — naïve", "ärmel — naïve"),
    ],
)
def test_captions_are_cleaned(text, prepared):
    assert prepare_text(text) == prepared


def test_captions_are_cut_after_fifty_words():
    words = [f"w{number}" for number in range(60)]
    assert MAX_WORDS == 50
    assert prepare_text(" ".join(words)) == " ".join(words[:50])
    assert prepare_text(" ".join(words[:50])) == " ".join(words[:50])
    assert prepare_text("a b c", max_words=2) == "a b"


def test_cleaning_twice_changes_nothing():
    once = prepare_text('The "dress" is ... LONG (very)')
    assert prepare_text(once) == once == "the dress is long very"


def test_evaluation_feedback_is_that_of_the_original(rules):
    for sentences, joined in rules["fiq_compose"]:
        assert evaluation_feedback(sentences) == joined


def test_training_feedback_is_that_of_the_original(rules):
    for seed, joined in rules["randomized_data_utils"]:
        assert training_feedback([" is shiny and silver. ", "has ruffles?, "], random.Random(seed)) == joined
    queries = [sentences for sentences, _ in rules["fiq_compose"]]
    for seed, first_draw, joined in rules["randomized_utils"]:
        rng = random.Random(seed)
        assert [training_feedback(sentences, rng) for sentences in queries] == joined
        assert random.Random(seed).random() == first_draw


def test_cleaning_is_that_of_the_original(rules):
    for text, prepared in rules["pre_caption"]:
        assert prepare_text(text) == prepared
