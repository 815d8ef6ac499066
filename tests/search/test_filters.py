import numpy as np
import pytest

from unifashion.errors import UserError
from unifashion.search.filters import MAX_DEPTH, Column, matches, parse_filter

ROWS = [
    {"price": 10.0, "category": "dress", "my field": "a'b"},
    {"price": 50.0, "category": "shirt", "my field": 'say "x" \\ y'},
    {"price": -2.5, "category": "Dress", "my field": "é"},
    {"category": "dress"},
    {"price": 49.9},
]
FIELDS = {"price": "number", "category": "text", "my field": "text"}


def columns():
    found = {}
    for name, kind in FIELDS.items():
        values = [row.get(name, 0.0 if kind == "number" else "") for row in ROWS]
        found[name] = Column(np.array(values), np.array([name in row for row in ROWS]))
    return found


def chosen(text):
    return np.flatnonzero(matches(parse_filter(text, FIELDS), columns())).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("price < 50", [0, 2, 4]),
        ("price <= 50 and category == 'dress'", [0]),
        ("category = 'dress' or price > 49", [0, 1, 3, 4]),
        ("category == 'dress' or category == 'shirt' and price > 60", [0, 3]),
        ("(category == 'dress' or category == 'shirt') and price >= 50", [1]),
        ("not price < 50", [1]),
        ("not (price < 50 and category == 'dress')", [1, 2]),
        ("not (price < 50 or category == 'dress')", [1]),
        ("not not price < 0", [2]),
        ("category != 'dress'", [1, 2]),
        ("category in ('dress', \"Dress\")", [0, 2, 3]),
        ("category not in ('dress')", [1, 2]),
        ("price in (10, 49.9)", [0, 4]),
        ("price == -2.5", [2]),
        ("PRICE = 1e1", [0]),
        ("`my field` == 'a\\'b'", [0]),
        ("`my field` == 'say \"x\" \\\\ y'", [1]),
        ("`my field` == 'é'", [2]),
        ("NOT category IN ('dress')", [1, 2]),
    ],
)
def test_a_filter_chooses_the_rows_that_it_names(text, rows):
    assert chosen(text) == rows


def test_missing_values_fit_neither_a_comparison_nor_its_opposite():
    for text in ("price < 50", "category == 'dress'", "price in (1, 10)"):
        assert not set(chosen(text)) & set(chosen(f"not ({text})"))
        present = {row for row, facts in enumerate(ROWS) if text.split()[0] in facts}
        assert set(chosen(text)) | set(chosen(f"not ({text})")) == present


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("colour == 'red'", "no item has a field 'colour'"),
        ("prize < 3", "did you mean 'price'"),
        ("price < 'cheap'", "compares price, which holds number, with the text 'cheap'"),
        ("category == 3", "compares category, which holds text, with the number 3"),
        ("category < 'b'", "category holds text, which knows"),
        ("price <", "needs a number or a quoted text where 'its end' stands"),
        ("price < 3 category == 'x'", "needs 'and' or 'or' where 'category' stands"),
        ("(price < 3", r"needs '\)' where 'its end' stands"),
        ("price in 3", r"needs '\(' where '3' stands"),
        ("price ~ 3", "cannot be read from '~ 3' on"),
        ("category == 'open", "cannot be read from"),
        ("price == 3x", "cannot be read from '3x' on"),
        ("__import__('os').system('true')", "cannot be read from"),
        ("price < 3; drop", "cannot be read from '; drop' on"),
        ("", "needs the name of a field"),
        ("(" * (MAX_DEPTH + 1) + "price < 3" + ")" * (MAX_DEPTH + 1), "brackets within brackets"),
        ("not " * (MAX_DEPTH + 1) + "price < 3", "brackets within brackets"),
        ("price < 3 or " * 500, "2000 is the limit"),
    ],
)
def test_what_is_no_filter_is_refused_in_one_sentence(text, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_filter(text, FIELDS)
