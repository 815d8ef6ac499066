"""What people say: descriptions of a garment, and feedback that leads from one garment to another. Every word is true."""

import random

from unifashion.apps.toy_catalogue.garment import LENGTHS, SLEEVES, Garment

LENGTH_WORDS: dict[str, dict[str, str]] = {
    "dress": {"short": "mini", "medium": "knee-length", "long": "maxi"},
    "shirt": {"short": "cropped", "medium": "hip-length", "long": "tunic-length"},
    "top": {"short": "cropped", "medium": "hip-length", "long": "tunic-length"},
}
PATTERN_NOUNS = {"striped": "stripes", "dotted": "dots", "checked": "checks", "floral": "flowers"}
SLEEVE_NOUNS = {"sleeveless": "no sleeves", "short-sleeved": "short sleeves", "long-sleeved": "long sleeves"}


def describe(garment: Garment, rng: random.Random) -> str:
    """Write a product description that states every attribute."""
    length = LENGTH_WORDS[garment.category][garment.length]
    neck, sleeves = garment.neckline, SLEEVE_NOUNS[garment.sleeve]
    cloth = f"plain {garment.colour}"
    with_pattern = ""
    if garment.second_colour:
        cloth = f"{garment.colour} and {garment.second_colour} {garment.pattern}"
        with_pattern = f" with {garment.second_colour} {PATTERN_NOUNS[garment.pattern]}"
    plain_colour = garment.colour if with_pattern else f"plain {garment.colour}"
    kind = garment.category
    return rng.choice(
        [
            f"A {length} {kind} in {plain_colour}{with_pattern}, {garment.sleeve}, {neck}.",
            f"{garment.sleeve.capitalize()} {cloth} {kind}, {length} cut with a {neck}.",
            f"{length.capitalize()} {kind} with a {neck} and {sleeves}, in {plain_colour}{with_pattern}.",
            f"This {cloth} {kind} has a {neck} and {sleeves}. {length.capitalize()} fit.",
            f"{plain_colour.capitalize()} {kind}{with_pattern}: {neck}, {sleeves}, {length}.",
        ]
    )


def phrase(garment: Garment, rng: random.Random) -> str:
    """Write the few words that someone looking for such a garment would type: some of its attributes."""
    colour, kind, sleeve = garment.colour, garment.category, garment.sleeve
    noun = PATTERN_NOUNS.get(garment.pattern, "no pattern")
    return rng.choice(
        [
            f"{colour} {kind}",
            f"{colour} {garment.pattern} {kind}",
            f"{sleeve} {colour} {kind} with {noun}",
            f"{garment.pattern} {kind} with a {garment.neckline}",
            f"{colour} {LENGTH_WORDS[kind][garment.length]} {kind} with {SLEEVE_NOUNS[sleeve]}",
        ]
    )


def caption(garment: Garment) -> str:
    """Write a neutral caption from the attributes alone, as a captioning model would."""
    fabric = f"{garment.second_colour} {PATTERN_NOUNS[garment.pattern]}" if garment.second_colour else "no pattern"
    length = LENGTH_WORDS[garment.category][garment.length]
    return (
        f"The {garment.category} is {garment.colour} with {fabric}. "
        f"It is {length}, has a {garment.neckline} and {SLEEVE_NOUNS[garment.sleeve]}."
    )


def feedback(reference: Garment, target: Garment, rng: random.Random) -> tuple[str, str]:
    """Write two sentences that say how the target differs from the reference.

    Together they usually name every difference; one time in ten both sentences name the same one, as people do.
    """
    names = [name for name in reference.differences(target) if name != "second_colour"] or ["second_colour"]
    rng.shuffle(names)
    says = {name: lambda name=name: _say(name, reference, target, rng) for name in names}
    if len(names) == 1 or rng.random() < 0.1:
        return says[names[0]](), says[names[0]]()
    return says[names[0]](), " and ".join(says[name]() for name in names[1:])


def _say(name: str, reference: Garment, target: Garment, rng: random.Random) -> str:
    if name == "colour":
        new, old = target.colour, reference.colour
        return rng.choice([f"is {new} instead of {old}", f"is {new}", f"is {new} in color", f"has a {new} color"])
    if name in ("pattern", "second_colour"):
        if target.pattern == "plain":
            return rng.choice(["is plain", "has no pattern", f"is plain instead of {reference.pattern}"])
        noun = f"{target.second_colour} {PATTERN_NOUNS[target.pattern]}"
        return rng.choice([f"has {noun}", f"is {target.pattern} with {target.second_colour}", f"has {noun} on it"])
    if name == "sleeve":
        longer = SLEEVES.index(target.sleeve) > SLEEVES.index(reference.sleeve)
        noun = SLEEVE_NOUNS[target.sleeve]
        return rng.choice(
            [f"has {noun}", f"is {target.sleeve}", f"has {'longer' if longer else 'shorter'} sleeves, {noun}"]
        )
    if name == "neckline":
        return rng.choice([f"has a {target.neckline}", f"has a {target.neckline} instead of a {reference.neckline}"])
    word = LENGTH_WORDS[target.category][target.length]
    longer = LENGTHS.index(target.length) > LENGTHS.index(reference.length)
    return rng.choice([f"is {'longer' if longer else 'shorter'}, {word}", f"is {word}", f"has a {word} cut"])
