"""The better direction of a metric, by the words of its name."""

from __future__ import annotations

import itertools
import re

from search.study.trial import Direction

_MIN = "loss error mae mse rmse mape msle crossentropy perplexity divergence"
_MAX = "accuracy acc auc precision recall sensitivity specificity f1 fbeta iou dice r2 correlation"
_TURNED = "neg negative negated inv inverse inverted reciprocal minus complement non not no anti false skill"
"""Words that may turn a value around."""
_DERIVED = (
    "gap difference diff delta change drop decrease reduction improvement std var variance threshold scale weight"
)
"""Words for something else about a metric than its value, such as its spread."""

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_ONE_MINUS = re.compile(r"(?:^|[\s(])1\s*-")


def directions_in_name(name: str) -> frozenset[Direction]:
    """Return the directions that the words of a metric's name speak for.

    Both, if there are words of both kinds, or a word that may turn the meaning around, such as `neg`. None, if no word
    is known. Words are told apart by signs, by digits and by capitals, so that `MeanIoU` has the word `iou`.
    """
    parts = [part.lower() for part in _WORD.findall(name)]
    pairs = {first + second for first, second in itertools.pairwise(parts)}  # f1, r2, io_u, cross_entropy
    known = {*parts, *pairs}
    if known & {*_TURNED.split(), *_DERIVED.split()} or _ONE_MINUS.search(name):
        return frozenset(("min", "max"))
    kinds: dict[Direction, str] = {"min": _MIN, "max": _MAX}
    return frozenset(direction for direction, words in kinds.items() if known & {*words.split()})


def direction_of_name(name: str) -> Direction | None:
    """Return the direction that the words of a metric's name leave no doubt about, or None."""
    found = directions_in_name(name)
    return next(iter(found)) if len(found) == 1 else None
