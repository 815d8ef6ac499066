"""The answers to the queries: recall curves, recall by groups of queries, and queries with their best five.

The queries shown are drawn at random with a fixed seed, as many with a right answer among the first five as without: none is
hand-picked.
"""

import random
from collections.abc import Sequence
from typing import Any

from unifashion.apps.report.curves import recall_figure
from unifashion.apps.report.glossary import DIRECTIONS
from unifashion.apps.report.load_runs import by_protocol, grouped
from unifashion.evaluation.bootstrap import interval
from unifashion.evaluation.ranked_lists import NUM_SHOWN, RankedList

NUM_GROUPS = 12  # of one kind, the largest
NUM_CURVES = 28  # in a figure, the largest; so many look different
NUM_EXAMPLES = 4  # of hits, and of misses
SEED = 0
AT = 10


def answer_sections(answers: Sequence[RankedList], name: str) -> list[dict[str, Any]]:
    """Return what answers.html shows about the answers, for each protocol.

    ``name`` begins the names of the figures.
    """
    sections = []
    for index, (protocol, own) in enumerate(by_protocol(answers).items()):
        curves = sorted(grouped(own, _curve_label).items(), key=lambda curve: -len(curve[1]))[:NUM_CURVES]
        lines = {label: [group] for label, group in grouped(own, _curve_label).items() if label in dict(curves)}
        directions = grouped(own, lambda answer: answer.direction)
        section = {
            "protocol": protocol,
            "figure": recall_figure(f"{name}-recall{f'-{index}' if index else ''}", protocol, lines),
            "most_targets": max(len(answer.targets) for answer in own),
            "directions": [_direction(DIRECTIONS[direction], asked) for direction, asked in directions.items()],
        }
        sections.append(section)
    return sections


def choose(
    answers: Sequence[RankedList], count: int = NUM_EXAMPLES, seed: int = SEED
) -> tuple[list[RankedList], list[RankedList]]:
    """Return up to ``count`` hits and up to ``count`` misses, drawn at random, each sorted by rank."""
    rng = random.Random(seed)
    groups: tuple[list[RankedList], list[RankedList]] = ([], [])
    for answer in answers:
        groups[answer.rank >= NUM_SHOWN].append(answer)
    hits, misses = (rng.sample(group, min(count, len(group))) for group in groups)
    return sorted(hits, key=lambda answer: answer.rank), sorted(misses, key=lambda answer: answer.rank)


def _curve_label(answer: RankedList) -> str:
    """Return the curve that an answer counts in: its category where it is composed, else its direction."""
    return answer.category if answer.direction == "composed" and answer.category else DIRECTIONS[answer.direction]


def _direction(title: str, answers: Sequence[RankedList]) -> dict[str, Any]:
    hits, misses = choose(answers)
    num_hits = sum(answer.rank < NUM_SHOWN for answer in answers)
    return {
        "title": title,
        "tables": _group_tables(answers),
        "galleries": sorted({answer.gallery for answer in answers}),
        "hits": hits,
        "misses": misses,
        "num_hits": num_hits,
        "num_misses": len(answers) - num_hits,
    }


def _group_tables(answers: Sequence[RankedList]) -> list[dict[str, Any]]:
    """Return recall at 10 by every kind of group that the answers name, one table each."""
    kinds: dict[str, dict[str, list[RankedList]]] = {}
    for answer in answers:
        for kind, name in answer.slices.items():
            kinds.setdefault(kind, {}).setdefault(name, []).append(answer)
    tables: dict[str, dict[str, list[RankedList]]] = {}
    for kind, groups in kinds.items():
        if set(groups) == {"yes"}:  # such as "aspect colour": a query can have several aspects, each its own kind
            first, _, rest = kind.partition(" ")
            tables.setdefault(first, {})[rest or first] = groups["yes"]
        else:
            tables[kind] = groups
    return [_group_table(kind, groups) for kind, groups in tables.items() if len(groups) > 1]


def _group_table(kind: str, groups: dict[str, list[RankedList]]) -> dict[str, Any]:
    largest = sorted(groups, key=lambda name: (-len(groups[name]), name))[:NUM_GROUPS]
    lines = []
    for name in sorted(largest, key=_in_order):
        hits = [answer.rank < AT for answer in groups[name]]
        low, high = interval([hits])
        recall = 100 * sum(hits) / len(hits)
        lines.append({"name": name, "recall": recall, "low": low, "high": high, "num_queries": len(hits)})
    left_out = f", the {NUM_GROUPS} largest of {len(groups)}" if len(groups) > NUM_GROUPS else ""
    return {"caption": f"{kind.replace('_', ' ')}{left_out}", "lines": lines}


def _in_order(name: str) -> tuple[int, str]:
    """Sort "5-8" before "13+", and words alphabetically."""
    digits = name.split("-")[0].rstrip("+")
    return (int(digits), name) if digits.isdecimal() else (0, name)
