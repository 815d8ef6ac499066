"""What was asked and what was found: recall curves, recall by groups of queries, and queries with their best five."""

from collections.abc import Sequence
from pathlib import Path

from unifashion.apps.report import html
from unifashion.apps.report.curves import recall_figure
from unifashion.apps.report.figures import Figure
from unifashion.apps.report.glossary import DIRECTIONS
from unifashion.apps.report.html import text
from unifashion.apps.report.pictures import SEED, Album, choose
from unifashion.evaluation.bootstrap import interval
from unifashion.evaluation.ranked_lists import NUM_SHOWN, Answer, Direction, Shown

NUM_GROUPS = 12  # of one kind, the largest
AT = 10


def answer_sections(answers: Sequence[Answer], name: str, level: int, album: Album) -> tuple[str, list[Figure]]:
    """Return all that answers show, for each protocol they were given under; ``name`` begins those of its figures."""
    parts, figures = [], []
    for number, protocol in enumerate(dict.fromkeys(answer.protocol for answer in answers)):
        own = [answer for answer in answers if answer.protocol == protocol]
        figure = recall_figure(f"{name}-recall{f'-{number}' if number else ''}", protocol, _curves(own))
        figures.append(figure)
        parts += [html.heading(level, f"Recall at k: {protocol}"), figure.html(), html.soft(_many_targets(own))]
        for direction in dict.fromkeys(answer.direction for answer in own):
            asked = [answer for answer in own if answer.direction == direction]
            parts.append(_groups(asked, direction, level))
            parts.append(_examples(asked, direction, level, album))
    return "".join(parts), figures


def _curves(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """Group answers by category where they are composed, else by direction."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        label = answer.category if answer.direction == "composed" and answer.category else DIRECTIONS[answer.direction]
        groups.setdefault(label, []).append(answer)
    return groups


def _many_targets(answers: Sequence[Answer]) -> str:
    most = max(len(answer.targets) for answer in answers)
    if most < 2:
        return ""
    return f"Queries have up to {most} right answers; one is found when any of them is. The dotted lines know that too."


# Groups ---------------------------------------------------------------------------------------------------------------


def _groups(answers: Sequence[Answer], direction: Direction, level: int) -> str:
    """Return recall at 10 by every kind of group that the answers name, a table each."""
    kinds = dict.fromkeys(kind for answer in answers for kind in answer.slices)
    tables: dict[str, dict[str, list[Answer]]] = {}
    for kind in kinds:
        values: dict[str, list[Answer]] = {}
        for answer in answers:
            if kind in answer.slices:
                values.setdefault(answer.slices[kind], []).append(answer)
        if set(values) == {"yes"}:  # such as "aspect colour": a kind of its own, of which a query can have several
            first, _, rest = kind.partition(" ")
            tables.setdefault(first, {})[rest or first] = values["yes"]
        else:
            tables[kind] = values
    shown = "".join(_group_table(kind, values) for kind, values in tables.items() if len(values) > 1)
    if not shown:
        return ""
    galleries = sorted({answer.gallery for answer in answers})
    sizes = f" Galleries hold {', '.join(map(str, galleries))} items." if len(galleries) > 1 else ""
    words = (
        f"Recall at {AT} in percent. The line on a bar is the 95 % bootstrap interval (none where all queries are alike, all "
        f"found or none: resampling tells nothing then); N is the number of queries.{sizes}"
    )
    return f'{html.heading(level, f"By group: {DIRECTIONS[direction]}")}{html.soft(words)}<div class="tables">{shown}</div>'


def _group_table(kind: str, values: dict[str, list[Answer]]) -> str:
    largest = sorted(values, key=lambda name: (-len(values[name]), name))[:NUM_GROUPS]
    rows = []
    for name in sorted(largest, key=_in_order):
        hits = [float(answer.rank < AT) for answer in values[name]]
        recall, (low, high) = 100 * sum(hits) / len(hits), interval([hits])
        sure = "–" if low is None else f"{low:.0f}–{high:.0f}"
        rows.append([text(name), f"{html.bar(recall, low, high)}<span>{recall:.1f}</span>", sure, f"{len(hits):,}"])
    left_out = f", the {NUM_GROUPS} largest of {len(values)}" if len(values) > NUM_GROUPS else ""
    return html.table(["", f"R@{AT}", "95 %", "N"], [("", rows)], f"{kind.replace('_', ' ')}{left_out}")


def _in_order(name: str) -> tuple[int, str]:
    """Sort "5-8" before "13+", and words by the alphabet."""
    digits = name.split("-")[0].rstrip("+")
    return (int(digits), name) if digits.isdecimal() else (0, name)


# Queries with their answers -------------------------------------------------------------------------------------------


def _examples(answers: Sequence[Answer], direction: Direction, level: int, album: Album) -> str:
    hits, misses = choose(answers)
    num_hits = sum(answer.rank < NUM_SHOWN for answer in answers)
    rule = (
        f"Drawn at random (seed {SEED}), not picked: {len(hits)} of the {num_hits:,} queries with a right answer among the first "
        f"five, and {len(misses)} of the {len(answers) - num_hits:,} others. Right answers are framed."
    )
    columns = [("Found among the first five", hits), ("Not among the first five", misses)]
    shown = "".join(
        f"<div>{html.heading(level + 1, title)}{''.join(_query(answer, album) for answer in drawn)}</div>"
        for title, drawn in columns
        if drawn
    )
    title = f"Queries and their answers: {DIRECTIONS[direction]}"
    return f'{html.heading(level, title)}{html.soft(rule)}<div class="columns">{shown}</div>'


def _query(answer: Answer, album: Album) -> str:
    asked = _photo(answer.image, "asked", "Asked with", album) if answer.image else ""
    words = f"<p>{text(answer.text)}</p>" if answer.text else ""
    place = f'<p class="place">{_place(answer)}</p>'
    target = ""
    if not any(shown.hit for shown in answer.top) and answer.targets and answer.direction != "i2t":
        target = (
            f'<div class="wanted">{_photo(answer.targets[0], "hit", "Right answer", album)}<span>wanted</span></div>'
        )
    elif not any(shown.hit for shown in answer.top) and answer.targets:
        place += f'<p class="hit words">{text(answer.targets[0])}</p>'
    found = "".join(_found(number, shown, album) for number, shown in enumerate(answer.top, 1))
    kind = "found texts" if answer.direction == "i2t" else "found"
    return (
        f'<article class="query"><div class="asks">{asked}<div>{words}{place}</div>{target}</div>'
        f'<ol class="{kind}">{found}</ol></article>'
    )


def _place(answer: Answer) -> str:
    among = f"of {answer.gallery:,}"
    best = "Best right answer" if len(answer.targets) > 1 else "Right answer"
    return f"{best} at place <strong>{answer.rank + 1:,}</strong> {among}"


def _found(number: int, shown: Shown, album: Album) -> str:
    right = '<span class="right">✓ right</span>' if shown.hit else ""
    if shown.text:
        content = f'<span class="words">{text(shown.text)}</span>'
    else:
        content = _photo(
            shown.image, "hit" if shown.hit else "", f"Place {number}{', right' if shown.hit else ''}", album
        )
    return f'<li{" class=hit" if shown.hit else ""}>{content}<span class="number">{number} {right}</span></li>'


def _photo(path: str, kind: str, role: str, album: Album) -> str:
    address = album.address(path)
    if address is None:
        return f'<span class="photo none {kind}">photo not there</span>'
    name = Path(path).name
    return f'<img class="photo {kind}" src="{address}" alt="{text(f"{role}: {name}")}">'
