"""Words and their shares, with the real encoder: shares add up to the code, to rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.encoders import MINILM, CallableEncoder, TransformerEncoder
from imrnn_vdb.errors import UnsupportedError
from imrnn_vdb.factors.tokens import token_factors

TEXTS = ["In 1969 Neil Armstrong walked on the Moon.", "naïve Übung — <b>tokenizations</b> 🙂 reunreadable", "x", ""]


@pytest.fixture(scope="module")
def shipped() -> IMRNNModel:
    return IMRNNModel.from_pretrained("minilm")


@pytest.fixture(scope="module")
def encoder() -> TransformerEncoder:
    return TransformerEncoder(MINILM)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("query", [True, False])
def test_shares_add_up_to_the_code(encoder, shipped, text, query):
    found = token_factors(encoder, shipped.space, text, query=query)
    vectors = encoder.encode_queries([text]) if query else encoder.encode_passages([text])
    code = shipped.space.encode(vectors).directions[0]
    assert found.shares.sum(0) == pytest.approx(shipped.space.turn(code), abs=2e-6)
    assert found.shares.shape == (len(found.spans) + 1, shipped.space.num_factors)
    assert found.complete
    assert found.words == [text[first:last] for first, last in found.spans]


def test_pieces_of_a_word_are_one_word(encoder, shipped):
    found = token_factors(encoder, shipped.space, TEXTS[1])
    assert "reunreadable" in found.words
    assert "tokenizations" in found.words


@pytest.mark.parametrize(
    ("factor", "words"),
    [("music", {"guitar"}), ("food", {"cooked", "soup"}), ("family", {"mother"})],
)
def test_the_words_that_carry_a_factor_are_those_a_reader_would_name(encoder, shipped, factor, words):
    found = token_factors(encoder, shipped.space, "My mother cooked soup while the guitar played")
    assert {word for word, _ in found.strongest(factor, len(words))} == words


def test_a_prefix_is_no_word_and_what_is_cut_off_is_told(shipped):
    config = replace(MINILM, query_prefix="query: ", max_length=8)
    prefixed = TransformerEncoder(config)
    found = token_factors(prefixed, shipped.space, "ships of the harbour in old days and nights", query=True)
    assert found.words[0] == "ships"
    assert not found.complete
    code = shipped.space.encode(prefixed.encode_queries([found.text])).directions[0]
    assert found.shares.sum(0) == pytest.approx(code, abs=2e-6)


def test_the_same_word_counts_once(encoder, shipped):
    found = token_factors(encoder, shipped.space, "money money money")
    assert [word for word, _ in found.strongest("money")] == ["money"]
    assert found.strongest("money")[0][1] == pytest.approx(float(found.of("money")[:-1].sum()), abs=1e-6)


def test_encoders_that_cannot_tell_say_so(encoder, shipped):
    with pytest.raises(UnsupportedError, match="CallableEncoder shows no token states"):
        token_factors(CallableEncoder(lambda texts: np.zeros((len(texts), 384))), shipped.space, "x")
    with pytest.raises(UnsupportedError, match="mean pooling"):
        TransformerEncoder(replace(MINILM, pooling="cls")).token_states("x")
