"""Which words of a text carry a factor: the encoder's token states through the same basis.

A vector that is the mean of its tokens' states is a sum over tokens, and a code is linear in the vector. So each token
has an exact share in every coordinate: the shares of all tokens sum up to the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.errors import UnsupportedError
from imrnn_vdb.factors.ends import factor_column
from imrnn_vdb.space import FactorSpace

if TYPE_CHECKING:
    from imrnn_vdb.encoders import Encoder

_ENDS = "(start, end, prefix)"


@dataclass(frozen=True, slots=True, eq=False)
class TokenFactors:
    """Shares of a text's words in its factor code.

    Attributes
    ----------
    text
        The text.
    spans
        Beginning and end of each of w words in the text.
    shares
        Shape (w + 1, m), float32: share of each word in each coordinate of the text's code before modulation, where
        added factors are coordinates too; the last row is what has no place in the text: the encoder's marks of start
        and end, and its prefix. ``shares.sum(0)`` is the code, to rounding.
    space
        Names the coordinates.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    shares: FloatArray
    space: FactorSpace

    @property
    def words(self) -> list[str]:
        """The w words."""
        return [self.text[first:last] for first, last in self.spans]

    @property
    def complete(self) -> bool:
        """Whether the encoder read the text to its end; what it cut off has no share."""
        return not self.text[self.spans[-1][1] if self.spans else 0 :].strip()

    def of(self, factor: str) -> FloatArray:
        """Return the shares of one factor, shape (w + 1,): a name, or ``latent_<coordinate>``."""
        return self.shares[:, factor_column(self.space, factor)]

    def strongest(self, factor: str, count: int = 3) -> list[tuple[str, float]]:
        """Return the words that carry most of a factor, with their shares, all above 0; the same word counts once."""
        total: dict[str, float] = {}
        for word, share in zip(self.words, self.of(factor)[:-1].tolist(), strict=True):
            total[word] = total.get(word, 0.0) + share
        order = sorted(total.items(), key=lambda item: -item[1])
        return [(word, share) for word, share in order[:count] if share > 0]

    def to_dict(self) -> dict[str, Any]:
        """Return text, spans and the shares of named factors, ready for JSON."""
        named = {name: self.shares[:, j].tolist() for j, name in enumerate(self.space.names)}
        return {"text": self.text, "spans": [list(span) for span in self.spans], "rest": _ENDS, "shares": named}


def token_factors(encoder: Encoder, space: FactorSpace, text: str, *, query: bool = False) -> TokenFactors:
    """Take a text's code apart by words.

    Parameters
    ----------
    encoder
        One that shows its token states, as :class:`TransformerEncoder` does.
    space
        The factor space.
    text
        A query or a passage.
    query
        Whether it is encoded as a query.

    Raises
    ------
    UnsupportedError
        If the encoder shows no token states, or its vectors are not sums over tokens.
    """
    from imrnn_vdb.encoders import TokenEncoder

    if not isinstance(encoder, TokenEncoder):
        raise UnsupportedError(
            f"{type(encoder).__name__} shows no token states: words can be told apart with a transformer that runs here"
        )
    found = encoder.token_states(text, query=query)
    length = float(np.linalg.norm(found.states.sum(axis=0, dtype=np.float64))) or 1.0
    shares = space.turn((found.states @ space.basis / np.float32(length)).astype(np.float32))
    words = list(dict.fromkeys(span for span in found.spans if span is not None))
    table = np.zeros((len(words) + 1, space.num_factors), np.float32)
    place = {span: row for row, span in enumerate(words)}
    for span, share in zip(found.spans, shares, strict=True):
        table[-1 if span is None else place[span]] += share
    return TokenFactors(text, tuple(words), table, space)
