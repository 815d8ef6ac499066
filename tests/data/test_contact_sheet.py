import pytest
from PIL import Image, ImageChops

from unifashion.data.contact_sheet import FRAME, GAP, LINE, contact_sheet

RED, BLUE, GREEN, WHITE = (255, 0, 0), (0, 0, 255), (0, 128, 0), (255, 255, 255)


def test_images_stand_in_rows_on_white():
    sheet = contact_sheet([Image.new("RGB", (20, 20), colour) for colour in (RED, BLUE, GREEN)], columns=2, cell=20)
    assert sheet.mode == "RGB" and sheet.size == (2 * (20 + GAP) + GAP, 2 * (20 + GAP) + GAP)
    first, second = GAP + 10, GAP + 20 + GAP + 10
    assert sheet.getpixel((first, first)) == RED
    assert sheet.getpixel((second, first)) == BLUE
    assert sheet.getpixel((first, second)) == GREEN
    assert sheet.getpixel((second, second)) == WHITE  # the cell that is left over
    assert sheet.getpixel((GAP + 20 + GAP // 2, first)) == WHITE  # the gap


def test_an_image_is_fitted_into_its_cell_with_its_proportions():
    sheet = contact_sheet([Image.new("RGB", (10, 40), RED)], columns=1, cell=40)
    row = [sheet.getpixel((x, GAP + 20)) for x in range(sheet.width)]
    assert 9 <= sum(pixel == RED for pixel in row) <= 11
    assert row[GAP + 20] == RED and row[GAP + 2] == WHITE


def test_images_of_any_mode_are_shown():
    sheet = contact_sheet([Image.new("L", (8, 8), 0), Image.new("P", (8, 8))], columns=2, cell=8)
    assert sheet.getpixel((GAP + 4, GAP + 4)) == (0, 0, 0)


def test_words_are_written_below_their_image_and_never_over_it():
    image = Image.new("RGB", (60, 60), RED)
    long = "is a much longer dress with many small white dots on it " * 5
    plain = contact_sheet([image, image], columns=2, cell=60)
    worded = contact_sheet([image, image], columns=2, cell=60, captions=["", long], caption_lines=2)
    assert worded.size == (plain.width, plain.height + 2 * LINE)
    below = worded.crop((0, GAP + 60, worded.width, worded.height))
    left, right = (below.crop((x, 0, x + 60, below.height)).convert("L") for x in (GAP, GAP + 60 + GAP))
    assert left.getextrema() == (255, 255)
    assert right.getextrema()[0] < 128
    area = (0, 0, worded.width, GAP + 60)
    assert worded.crop(area).tobytes() == plain.crop(area).tobytes()


@pytest.mark.parametrize("words", ["W" * 40, "MMMM WWWW " * 20, "i" * 200])
def test_words_stay_below_their_own_image(words):
    images = [Image.new("RGB", (50, 50), RED)] * 2
    silent = contact_sheet(images, columns=2, cell=50, captions=["", ""])
    sheet = contact_sheet(images, columns=2, cell=50, captions=[words, ""])
    changed = ImageChops.difference(sheet, silent).getbbox()
    assert changed and changed[0] >= GAP and changed[2] <= GAP + 50 and changed[1] >= GAP + 50


def test_the_next_row_starts_below_the_words():
    images = [Image.new("RGB", (20, 20), colour) for colour in (RED, BLUE)]
    sheet = contact_sheet(images, columns=1, cell=20, captions=["", ""], caption_lines=2)
    column = [sheet.getpixel((GAP + 10, y)) for y in range(sheet.height)]
    second = GAP + 20 + 2 * LINE + GAP
    assert column.index(BLUE) == second and column.count(RED) == column.count(BLUE) == 20
    assert sheet.height == second + 20 + 2 * LINE + GAP


def test_a_text_that_is_cut_says_so():
    image = [Image.new("RGB", (50, 50), RED)]
    sheets = [
        contact_sheet(image, columns=1, cell=50, captions=[text], caption_lines=1)
        for text in ("is red", "is red and has very long sleeves", "is red and has short sleeves")
    ]
    assert sheets[0].tobytes() != sheets[1].tobytes() == sheets[2].tobytes()


def test_a_frame_surrounds_its_image_alone():
    sheet = contact_sheet([Image.new("RGB", (30, 30), RED)] * 2, columns=2, cell=30, frames={1: GREEN})
    left = GAP + 30 + GAP
    assert sheet.getpixel((left, GAP)) == sheet.getpixel((left + 29, GAP + 29)) == GREEN
    assert sheet.getpixel((left + FRAME, GAP + FRAME)) == RED
    assert sheet.getpixel((GAP, GAP)) == RED


def test_captions_must_match_the_images():
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        contact_sheet([Image.new("RGB", (8, 8))] * 2, columns=2, cell=8, captions=["one"])
