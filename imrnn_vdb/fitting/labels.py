"""Weak labels: from a text to a number per factor, by word lists and patterns.

A label is not the factor. It is a noisy hint that a linear probe turns into a direction, and only what that direction
tells on texts of other sources counts (see `imrnn_vdb.fitting.probes`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from imrnn_vdb.fitting import lexicon

Labeller = Callable[[str], float]

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?|\d[\d.,:]*")
_PRIOR_WORDS = 8  # added to the length, so that one hit in three words does not outweigh five in fifty


def pattern(words: str) -> re.Pattern[str]:
    """Compile a word list of :mod:`imrnn_vdb.fitting.lexicon` into one case-insensitive pattern.

    Parameters
    ----------
    words
        Words parted by blanks; ``stem*`` matches any ending, ``two_words`` are written with an underscore.

    Returns
    -------
    re.Pattern
        Matches whole words, and their plural in -s.
    """
    plain, signs = [], []
    for word in sorted(set(words.split()), key=lambda item: (-len(item), item)):
        if not word[0].isalpha():
            signs.append(re.escape(word))
        elif word.endswith("*"):
            plain.append(re.escape(word[:-1]) + r"\w*")
        else:
            plain.append(re.escape(word).replace("_", r"\s+") + "s?")
    whole = rf"(?<!\w)(?:{'|'.join(plain)})(?!\w)"
    return re.compile("|".join([whole, *signs]), re.IGNORECASE)


def count_words(text: str) -> int:
    """Return the number of words and numbers in a text."""
    return sum(1 for _ in _WORD.finditer(text))


def density(hits: float, text: str) -> float:
    """Return hits per word, damped for short texts."""
    return hits / (count_words(text) + _PRIOR_WORDS)


def from_words(words: str) -> Labeller:
    """Return a labeller: the density of a word list's words."""
    compiled = pattern(words)
    return lambda text: density(sum(1 for _ in compiled.finditer(text)), text)


_CAPITALISED = re.compile(r"(?<![.!?\"\u201c:#@/\w-]\s)(?<![#@/\w-])(?<!^)[A-Z][a-z]+(?:-[A-Z][a-z]+)*\b(?!\()|\b[A-Z]{2,5}\b")
_NUMBER = re.compile(r"(?<![\w.])[$\u00a3\u20ac#]?\d[\d.,:/%]*")
_YEAR = re.compile(r"\b(?:1[5-9]|20)\d\d(?:s\b|\b)|\b\d{1,2}(?::\d\d)?\s?(?:am|pm)\b|\b\d{1,2}/\d{1,2}(?:/\d+)?\b", re.IGNORECASE)
_NUMBER_WORDS = pattern(lexicon.NUMBER_WORDS)
_TIMES = pattern(lexicon.TIMES)
_MONTHS = pattern(lexicon.MONTHS)
_QUESTION = re.compile(r"\?|(?:^|[.!?]\s+)(?:how|why|what|when|where|who|which|does|did|do|is|are|can|could|should|would)\b", re.IGNORECASE)
_POSITIVE = pattern(lexicon.POSITIVE)
_NEGATIVE = pattern(lexicon.NEGATIVE)
_NEGATIONS = pattern(lexicon.NEGATIONS + " n't n'_t")
_LOOK_BACK = 24  # characters before a word in which a negation turns its sentiment


def entity(text: str) -> float:
    """Return the density of capitalised words within sentences, and of short words in capitals."""
    if text.isupper():
        return 0.0
    return density(sum(1 for _ in _CAPITALISED.finditer(text)), text)


def numeric(text: str) -> float:
    """Return the density of numbers: digits fully, number words by half."""
    digits = sum(1 for _ in _NUMBER.finditer(text))
    return density(digits + 0.5 * sum(1 for _ in _NUMBER_WORDS.finditer(text)), text)


def temporal(text: str) -> float:
    """Return the density of dates: years, clock times and months fully, other words of time by half."""
    dates = sum(1 for _ in _YEAR.finditer(text)) + sum(1 for _ in _MONTHS.finditer(text))
    return density(dates + 0.5 * sum(1 for _ in _TIMES.finditer(text)), text)


def sentiment(text: str) -> float:
    """Return positive minus negative words by length; a negation shortly before a word turns its sign."""
    total = 0.0
    for compiled, sign in ((_POSITIVE, 1.0), (_NEGATIVE, -1.0)):
        for match in compiled.finditer(text):
            before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
            total += -0.5 * sign if _NEGATIONS.search(before) else sign
    return density(total, text)


def question(text: str) -> float:
    """Return the density of question marks and of sentences that open with a question word."""
    return density(sum(1 for _ in _QUESTION.finditer(text)), text)


def negation(text: str) -> float:
    """Return the density of negating words."""
    return density(sum(1 for _ in _NEGATIONS.finditer(text)), text)


LABELLERS: dict[str, Labeller] = {
    "entity": entity,
    "numeric": numeric,
    "temporal": temporal,
    "sentiment": sentiment,
    "question": question,
    "negation": negation,
    **{name: from_words(words) for name, words in lexicon.LANGUAGE.items()},
    **{name: from_words(words) for name, words in lexicon.SUBJECTS.items()},
}
"""The weak labels that the project ships, by factor name."""


def label_texts(texts: Sequence[str], labellers: Mapping[str, Labeller]) -> npt.NDArray[np.float32]:
    """Apply every labeller to every text.

    Parameters
    ----------
    texts
        n texts.
    labellers
        P labellers by factor name.

    Returns
    -------
    numpy.ndarray
        Shape (n, P), float32, columns in the order of ``labellers``.
    """
    return np.array([[label(text) for label in labellers.values()] for text in texts], np.float32).reshape(len(texts), -1)
