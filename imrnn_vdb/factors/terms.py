"""The terms that set groups of texts apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imrnn_vdb.errors import MissingExtraError

_TERMS = 8
_MIN_LETTERS = 3

Rows = npt.NDArray[np.intp]


def telling_terms(texts: Sequence[str], groups: Sequence[Rows]) -> list[list[str]]:
    """Return the terms that set groups of texts apart, the most telling first, at most eight a group.

    Class-based TF-IDF: ``tf(t, group)·log(1 + A / f(t))``, A the mean number of words of a group.

    Parameters
    ----------
    texts
        n texts.
    groups
        Rows of each group, in 0..n−1.

    Raises
    ------
    MissingExtraError
        If scikit-learn, whose list of function words is used, is not installed.
    """
    counts = [Counter(word for row in rows for word in _words(texts[row])) for rows in groups]
    spread = Counter(word for rows in groups for row in rows for word in set(_words(texts[row])))
    total: Counter[str] = sum(counts, Counter())
    mean = sum(total.values()) / max(len(groups), 1)

    def weight(word: str, count: int) -> float:
        return count * float(np.log1p(mean / total[word]))

    found = []
    for count in counts:
        weights = {word: weight(word, times) for word, times in count.items() if spread[word] > 1}
        found.append(sorted(weights, key=lambda word, of=weights: (-of[word], word))[:_TERMS])  # type: ignore[misc]
    return found


class _Signs(dict[int, str]):
    """What stands for each sign of a text: letters of any script, their marks and apostrophes for themselves."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        in_word = f"a{sign}".isidentifier() and not sign.isdigit() and sign != "_"
        return self.setdefault(code, sign if in_word else " ")


_SIGNS = _Signs({ord("'"): "'", 0x2019: "'"})


def _words(text: str) -> list[str]:
    """Return the words that may name a topic: no English function words, nothing short, letters of any script only."""
    try:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
    except ImportError as exc:
        raise MissingExtraError("scikit-learn", "train") from exc
    words = (word.strip("'") for word in text.lower().translate(_SIGNS).split())
    return [word for word in words if len(word) >= _MIN_LETTERS and "'" not in word and word not in ENGLISH_STOP_WORDS]
