import pytest

from unifashion.data.markup import without_markup

UNTOUCHED = (
    "A red dress with short sleeves.",
    "waist < 30 cm and > 20 cm",
    "R&D, H&M; Dolce&Gabbana and black&notwhite",
    "size <M>, <not a tag>, a<b and c>d",
    "two  spaces,\ta tab",
    "&nosuchentity; &#; &;",
    "",
)


@pytest.mark.parametrize("text", UNTOUCHED)
def test_a_text_without_markup_is_returned_to_the_byte(text):
    assert without_markup(text) == text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("red<br>dress<BR/>with<br />sleeves", "red dress with sleeves"),
        ("<p class='x'>Soft<b>ly</b> draped</p><ul><li>cotton</li><li>silk</li></ul>", "Softly draped cotton silk"),
        ("black &amp; white, 5&nbsp;cm &lt; 6&#x20;cm, caf&eacute;&#39;s", "black & white, 5 cm < 6 cm, café's"),
        ("&lt;p&gt;escaped once&lt;/p&gt; &amp;lt;br&amp;gt; twice", "escaped once twice"),
        ("<style>p{color:red}</style><!-- hidden -->blue<script>alert('<b>')</script> top", "blue top"),
        ("<div><br></div>", ""),
        ('<a href="https://example.org/?a=1&amp;b=2">link</a> text', "link text"),
    ],
)
def test_tags_and_entities_become_what_a_reader_would_see(text, plain):
    assert without_markup(text) == plain
    assert without_markup(plain) == plain


def test_long_texts_of_brackets_stay_as_they_are():
    text = "<" * 20_000 + "&" * 20_000 + "<!--" * 2_000
    assert without_markup(text) == text
