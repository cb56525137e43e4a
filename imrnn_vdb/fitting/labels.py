"""Weak labels: from a text to a number per factor, by word lists and patterns.

A label is not the factor. It is a noisy hint that a linear probe turns into a direction, and only what that direction
tells on texts of other sources counts (see `imrnn_vdb.fitting.probes`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from imrnn_vdb.fitting import lexicon

Labeller = Callable[[str], float]

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?|\d[\d.,:]*")
_PRIOR_WORDS = 8  # added to the length, so that one hit in three words does not outweigh five in fifty


@lru_cache(maxsize=16)
def tokens(text: str) -> tuple[str, ...]:
    """Return the words and numbers of a text in lower case, apostrophes made straight."""
    return tuple(match.group().replace("\u2019", "'") for match in _WORD.finditer(text.lower()))


class WordList:
    """Counts the words of one list of :mod:`imrnn_vdb.fitting.lexicon` in a text.

    Parameters
    ----------
    words
        Words parted by blanks: ``word`` also matches its plural in -s, ``stem*`` any ending, ``two_words`` both with
        blanks between them; whatever does not start with a letter matches anywhere.
    """

    def __init__(self, words: str) -> None:
        items = set(words.lower().split())
        stems = tuple(item[:-1] for item in items if item.endswith("*"))
        self._signs = sorted(item for item in items if not item[0].isalpha())
        self._phrases: dict[str, list[tuple[str, ...]]] = {}
        for item in sorted(items):
            first, *others = item.split("_")
            if others and item[0].isalpha():
                self._phrases.setdefault(first, []).append(tuple(others))
        plain = {item for item in items if item[0].isalpha() and "_" not in item and not item.endswith("*")}
        plain |= {item + "s" for item in plain}
        self._has = lru_cache(maxsize=None)(lambda word: word in plain or word.startswith(stems))

    def positions(self, text: str) -> list[int]:
        """Return the places of the words and phrases among the tokens of a text, ascending; signs have none."""
        words = tokens(text)
        found = [place for place, word in enumerate(words) if self._has(word)]
        if self._phrases:
            found += [
                place
                for place, word in enumerate(words)
                for rest in self._phrases.get(word, ())
                if words[place + 1 : place + 1 + len(rest)] == rest
            ]
        return sorted(found)

    def count(self, text: str) -> int:
        """Return how many words, phrases and signs of the list a text holds."""
        lower = text.lower() if self._signs else ""
        return len(self.positions(text)) + sum(lower.count(sign) for sign in self._signs)


def count_words(text: str) -> int:
    """Return the number of words and numbers in a text."""
    return len(tokens(text))


def density(hits: float, text: str) -> float:
    """Return hits per word, damped for short texts."""
    return hits / (count_words(text) + _PRIOR_WORDS)


def from_words(words: str) -> Labeller:
    """Return a labeller: the density of a word list's words."""
    compiled = WordList(words)
    return lambda text: density(compiled.count(text), text)


_LOWER_CASE = re.compile(r"(?<![\w#@/.])[a-z]{2,}(?![\w/])")
_CAPITALISED = re.compile(r"(?<![\w.(])[A-Z][A-Za-z]+(?![(\w])")
_HANDLE = re.compile(r"[@#]\s?\w+|https?\S+|\bRT\b")  # what posts are full of, and no names
_NUMBER = re.compile(r"(?<![\w.])[$\u00a3\u20ac#]?\d[\d.,:/%]*")
_YEAR = re.compile(
    r"\b(?:1[5-9]|20)\d\d(?:s\b|\b)|\b\d{1,2}(?::\d\d)?\s?(?:am|pm)\b|\b\d{1,2}/\d{1,2}(?:/\d+)?\b", re.IGNORECASE
)
_NUMBER_WORDS = WordList(lexicon.NUMBER_WORDS)
_TIMES = WordList(lexicon.TIMES)
_MONTHS = WordList(lexicon.MONTHS)
_POSITIVE = WordList(lexicon.POSITIVE)
_NEGATIVE = WordList(lexicon.NEGATIVE)
_NEGATIONS = WordList(lexicon.NEGATIONS + " n't n'_t")
_LOOK_BACK = 3  # words before a word in which a negation turns its sentiment


class EntityLabeller:
    """The density of names: capitalised words that the texts at large do not also write in lower case.

    Parameters
    ----------
    texts
        Texts to learn from which words are ordinary.
    min_count
        How often a word must be seen in lower case to be ordinary.
    """

    def __init__(self, texts: Sequence[str], min_count: int = 4) -> None:
        counts = Counter(word for text in texts for word in _LOWER_CASE.findall(text))
        self._ordinary = frozenset(word for word, count in counts.items() if count >= min_count)

    def __call__(self, text: str) -> float:
        """Return the density of names in a text."""
        plain = _HANDLE.sub(" ", text)
        names = [word for word in _CAPITALISED.findall(plain) if word.lower() not in self._ordinary]
        return density(len(names), plain)


def numeric(text: str) -> float:
    """Return the density of numbers: digits fully, number words by half."""
    digits = sum(1 for _ in _NUMBER.finditer(text))
    return density(digits + 0.5 * _NUMBER_WORDS.count(text), text)


def temporal(text: str) -> float:
    """Return the density of dates: years, clock times and months fully, other words of time by half."""
    dates = sum(1 for _ in _YEAR.finditer(text)) + _MONTHS.count(text)
    return density(dates + 0.5 * _TIMES.count(text), text)


def sentiment(text: str) -> float:
    """Return positive minus negative words by length; a negation shortly before a word turns its sign."""
    negated = set(_NEGATIONS.positions(text))
    total = 0.0
    for words, sign in ((_POSITIVE, 1.0), (_NEGATIVE, -1.0)):
        places = words.positions(text)
        total += sign * (words.count(text) - len(places))
        for place in places:
            total += -0.5 * sign if negated.intersection(range(place - _LOOK_BACK, place)) else sign
    return density(total, text)


def negation(text: str) -> float:
    """Return the density of negating words."""
    return density(_NEGATIONS.count(text), text)


def default_labellers(texts: Sequence[str]) -> dict[str, Labeller]:
    """Return the weak labels that the project ships, by factor name.

    Parameters
    ----------
    texts
        The texts of the fit: they tell which words are ordinary and which are names.
    """
    return {
        "entity": EntityLabeller(texts),
        "numeric": numeric,
        "temporal": temporal,
        "sentiment": sentiment,
        "negation": negation,
        **{name: from_words(words) for name, words in lexicon.LANGUAGE.items()},
        **{name: from_words(words) for name, words in lexicon.SUBJECTS.items()},
    }


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
    return np.array([[label(text) for label in labellers.values()] for text in texts], np.float32).reshape(
        len(texts), -1
    )
