"""Embeddings of a data set, cached by content: a second run on the same texts starts at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.datasets import Dataset
from imrnn_vdb.encoders import Encoder, TransformerEncoder, one_each
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.files import replace_file
from imrnn_vdb.space import check_vectors

Side = Literal["query", "passage"]
_KEY_BYTES = 16


@dataclass(frozen=True, eq=False)
class EmbeddedDataset:
    """A data set with unit vectors, so that inner products are cosines.

    Attributes
    ----------
    data
        Texts and judgements.
    document_ids, document_vectors
        n ids, and shape (n, d), float32.
    query_ids, query_vectors
        q ids, and shape (q, d), float32.
    """

    data: Dataset
    document_ids: list[str]
    document_vectors: FloatArray
    query_ids: list[str]
    query_vectors: FloatArray

    @property
    def dim(self) -> int:
        """Number of dimensions d."""
        return int(self.document_vectors.shape[1])


class EmbeddingCache:
    """Vectors on disk by the SHA-256 of encoder, side and text; one folder an encoder, one file a batch written.

    Parameters
    ----------
    folder
        Where to keep them; ``$XDG_CACHE_HOME/imrnn_vdb/embeddings``, or ``~/.cache/…``, if None.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = Path(folder) if folder is not None else home / "imrnn_vdb" / "embeddings"

    def encode(
        self, encoder_id: str, side: Side, texts: Sequence[str], encode: Callable[[list[str]], FloatArray]
    ) -> FloatArray:
        """Return the vectors of texts, encoding only those that are not here.

        Parameters
        ----------
        encoder_id
            Fingerprint of the encoder and its settings.
        side
            Whether the texts are queries or passages: prefixes may differ.
        texts
            n texts.
        encode
            Called once with the distinct missing texts, if there are any.

        Returns
        -------
        numpy.ndarray
            Shape (n, d), float32.

        Raises
        ------
        InvalidInputError
            If vectors kept under this ``encoder_id`` differ in dimension from one another or from new ones: then it is
            not the same encoder.
        """
        keys = [_key(encoder_id, side, text) for text in texts]
        known = self._load(encoder_id, set(keys))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            vectors = encode(list(missing.values()))
            known.update(zip(missing, vectors, strict=True))
        dims = sorted({len(vector) for vector in known.values()})
        if len(dims) > 1:
            raise InvalidInputError(
                f"vectors of the encoder {encoder_id!r} have {' and '.join(map(str, dims))} dimensions: give it "
                f"another encoder_id where it was changed, or remove the cache {self.folder / encoder_id}"
            )
        if missing:
            self._store(encoder_id, list(missing), vectors)
        return np.stack([known[key] for key in keys]).astype(np.float32)

    def _load(self, encoder_id: str, wanted: set[bytes]) -> dict[bytes, FloatArray]:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        known: dict[bytes, FloatArray] = {}
        for path in sorted((self.folder / encoder_id).glob("*.safetensors")):
            try:
                table = load_file(path)
                rows = zip((row.tobytes() for row in table["keys"]), table["vectors"], strict=True)
            except (OSError, SafetensorError, KeyError):
                continue  # half-written or foreign: its texts are encoded again
            known.update((key, vector) for key, vector in rows if key in wanted)
        return known

    def _store(self, encoder_id: str, keys: list[bytes], vectors: FloatArray) -> None:
        from safetensors.numpy import save

        folder = self.folder / encoder_id
        folder.mkdir(parents=True, exist_ok=True)
        table = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), _KEY_BYTES)
        data = save({"keys": table, "vectors": np.ascontiguousarray(vectors, np.float32)})
        replace_file(folder / f"{hashlib.sha256(table.tobytes()).hexdigest()[:16]}.safetensors", data)


def embed(data: Dataset, encoder: Encoder, cache: EmbeddingCache | None = None) -> EmbeddedDataset:
    """Encode a data set, through the cache where the encoder can be recognised.

    Parameters
    ----------
    data
        Documents and the queries of all splits.
    encoder
        One with an ``encoder_id`` is cached; a bare callable cannot be recognised again and is not.
    cache
        None for the default one.

    Raises
    ------
    InvalidInputError
        If there are no documents or no queries, the encoder does not return a vector for each, one is zero or not
        finite, or those of queries and passages differ in dimension.
    """
    if not data.documents or not data.queries:
        raise InvalidInputError(f"the data set {data.name!r} needs documents and queries")
    identity = getattr(encoder, "encoder_id", None)
    store = cache if cache is not None else EmbeddingCache()

    def passages(texts: list[str]) -> FloatArray:
        if isinstance(encoder, TransformerEncoder):
            return encoder.encode_passages(texts, f"encoding {len(texts)} passages")
        return one_each(encoder.encode_passages(texts), texts)

    def asked(texts: list[str]) -> FloatArray:
        return one_each(encoder.encode_queries(texts), texts)

    tables = []
    for side, texts, encode in (
        ("passage", list(data.documents.values()), passages),
        ("query", list(data.queries.values()), asked),
    ):
        vectors = store.encode(identity, side, texts, encode) if identity else encode(texts)  # type: ignore[arg-type]
        tables.append(unit_vectors(vectors))
    sides = [table.shape[1] for table in tables]
    if sides[0] != sides[1]:
        raise InvalidInputError(
            f"passages have {sides[0]} dimensions and queries {sides[1]}: "
            + (f"remove the cache {store.folder / identity}" if identity else "one encoder makes both")
        )
    return EmbeddedDataset(data, list(data.documents), tables[0], list(data.queries), tables[1])


def unit_vectors(vectors: FloatArray) -> FloatArray:
    """Bring vectors of shape (n, d) to unit length.

    Raises
    ------
    InvalidInputError
        If one is zero or not finite.
    """
    table = check_vectors(vectors, np.shape(vectors)[1])
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    if not norms.all():
        raise InvalidInputError(f"vector {int(np.flatnonzero(norms == 0)[0])} is zero: it has no direction")
    return np.asarray(table / norms, np.float32)


def _key(encoder_id: str, side: Side, text: str) -> bytes:
    return hashlib.sha256(f"{encoder_id}\0{side}\0{text}".encode()).digest()[:_KEY_BYTES]
