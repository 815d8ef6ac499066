"""What a garment is: its attributes, which combinations exist, and how one garment becomes another."""

import random
from dataclasses import asdict, dataclass, replace

CATEGORIES = ("dress", "shirt", "top")
COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (32, 32, 36),
    "white": (244, 244, 240),
    "grey": (142, 145, 150),
    "red": (204, 34, 42),
    "orange": (240, 132, 28),
    "yellow": (246, 210, 52),
    "green": (44, 140, 66),
    "teal": (24, 148, 150),
    "blue": (40, 96, 208),
    "purple": (124, 58, 168),
    "pink": (244, 140, 176),
    "brown": (122, 76, 42),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "floral")
SLEEVES = ("sleeveless", "short-sleeved", "long-sleeved")
LENGTHS = ("short", "medium", "long")
NECKLINES: dict[str, tuple[str, ...]] = {
    "dress": ("round neck", "v-neck", "square neck"),
    "shirt": ("collar", "round neck", "v-neck"),
    "top": ("round neck", "v-neck", "square neck"),
}
ATTRIBUTES = ("colour", "second_colour", "pattern", "sleeve", "neckline", "length")


@dataclass(frozen=True, slots=True)
class Garment:
    """One garment by its attributes; ``second_colour`` is that of the pattern, and empty exactly if it is plain."""

    category: str
    colour: str
    second_colour: str
    pattern: str
    sleeve: str
    neckline: str
    length: str

    def __post_init__(self) -> None:
        if (self.pattern == "plain") != (self.second_colour == "") or self.colour == self.second_colour:
            raise ValueError(f"no such garment: {self}")

    def differences(self, other: "Garment") -> tuple[str, ...]:
        """Return the names of the attributes in which the two differ."""
        mine, theirs = asdict(self), asdict(other)
        return tuple(name for name in ATTRIBUTES if mine[name] != theirs[name])


def draw_garment(category: str, rng: random.Random) -> Garment:
    """Draw a garment of a category, all attributes at random (a third of them plain)."""
    colour = rng.choice(list(COLOURS))
    pattern = "plain" if rng.random() < 1 / 3 else rng.choice(PATTERNS[1:])
    return Garment(
        category=category,
        colour=colour,
        second_colour="" if pattern == "plain" else rng.choice([name for name in COLOURS if name != colour]),
        pattern=pattern,
        sleeve=rng.choice(SLEEVES),
        neckline=rng.choice(NECKLINES[category]),
        length=rng.choice(LENGTHS),
    )


def change(garment: Garment, rng: random.Random) -> Garment:
    """Return a garment that differs in one to three attributes, so that two sentences can name the differences."""
    names = rng.sample(["colour", "pattern", "sleeve", "neckline", "length"], rng.choice((1, 1, 2, 2)))
    for name in names:
        garment = _change_one(garment, name, rng)
    return garment


def _change_one(garment: Garment, name: str, rng: random.Random) -> Garment:
    if name == "colour":
        free = [colour for colour in COLOURS if colour not in (garment.colour, garment.second_colour)]
        return replace(garment, colour=rng.choice(free))
    if name == "pattern":
        pattern = rng.choice([pattern for pattern in PATTERNS if pattern != garment.pattern])
        if pattern == "plain":
            return replace(garment, pattern=pattern, second_colour="")
        second = garment.second_colour or rng.choice([colour for colour in COLOURS if colour != garment.colour])
        return replace(garment, pattern=pattern, second_colour=second)
    choices = {"sleeve": SLEEVES, "neckline": NECKLINES[garment.category], "length": LENGTHS}[name]
    value = rng.choice([choice for choice in choices if choice != getattr(garment, name)])
    if name == "sleeve":
        return replace(garment, sleeve=value)
    return replace(garment, neckline=value) if name == "neckline" else replace(garment, length=value)
