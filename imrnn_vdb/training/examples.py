"""Labelled queries with their first-stage candidates, as tensors."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.datasets import Qrels, check_grades, what_is_asked
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.exact import nearest
from imrnn_vdb.training.embeddings import EmbeddedDataset

_CUT, _BATCH = 10, 64
_log = logging.getLogger("imrnn_vdb")
_INJECTED = 5
_MIN_GAIN = 1e-9
_TEMPERATURES = tuple(np.geomspace(0.005, 0.6, 40).tolist())


@dataclass(frozen=True, eq=False)
class Examples:
    """n labelled queries; all vectors of unit length.

    Attributes
    ----------
    query_ids
        n ids.
    queries
        Shape (n, d).
    documents
        Shape (N, d): every document that is a candidate of some query, or more.
    candidates, cosines
        Shape (n, k): rows of ``documents`` as the first stage ranks them, and its scores.
    grades
        Shape (n, k): judged grade, 0 where not judged.
    mined, mined_cosines, gains
        As the three above, for training: relevant documents that the first stage missed stand in the last places, and
        gains are 2^grade − 1.
    ideal
        Shape (n,): DCG@10 of the perfect ranking of all judged documents, linear gains.
    """

    query_ids: list[str]
    queries: Tensor
    documents: Tensor
    candidates: Tensor
    cosines: Tensor
    grades: Tensor
    mined: Tensor
    mined_cosines: Tensor
    gains: Tensor
    ideal: Tensor

    def __len__(self) -> int:
        return len(self.query_ids)

    def ndcg(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Return nDCG@10 with linear gains, as trec_eval has it.

        Parameters
        ----------
        scores
            Shape (n', k): of the candidates of the queries ``rows``; ties go to the better base rank.
        rows
            Shape (n',).

        Returns
        -------
        Tensor
            Shape (n',), in 0..1.
        """
        best = scores.argsort(dim=1, descending=True, stable=True)[:, :_CUT]
        found = torch.gather(self.grades[rows], 1, best)
        return (found * _discounts(found.shape[1])).sum(1) / self.ideal[rows]

    def log_likelihood(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Return the mean log-probability that a softmax of the scores gives to relevant candidates.

        Its temperature is the one that suits all these queries best, so that only the scores' order and their relative
        distances count. It looks at every relevant candidate, and at how far it is from its rank: a sharper eye than
        nDCG@10 where queries are few.

        Parameters
        ----------
        scores, rows
            As for :meth:`ndcg`.

        Returns
        -------
        Tensor
            Shape (n',), at most 0; 0 for a query without a relevant candidate. Weighted by ``2^grade − 1``.
        """
        gains = 2 ** self.grades[rows].double() - 1
        at = (listwise_likelihood(scores.double(), gains, heat) for heat in _TEMPERATURES)
        return max(at, key=lambda likelihood: float(likelihood.mean()))

    def fingerprint(self) -> str:
        """Return a fingerprint of vectors and judgements: 16 hex digits."""
        digest = hashlib.sha256("\0".join(self.query_ids).encode())
        for tensor in (self.queries, self.mined, self.mined_cosines, self.gains, self.grades):
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return digest.hexdigest()[:16]


def listwise_likelihood(scores: Tensor, gains: Tensor, temperature: float) -> Tensor:
    """Return the mean log-probability, by gain, of each query's relevant candidates in a softmax of the scores.

    Parameters
    ----------
    scores, gains
        Shape (n, k); gains at least 0.
    temperature
        Of the softmax, above 0.

    Returns
    -------
    Tensor
        Shape (n,), at most 0; 0 where no candidate has a gain.
    """
    target = gains / gains.sum(1, keepdim=True).clamp_min(_MIN_GAIN)
    return (target * torch.log_softmax(scores / temperature, -1)).sum(1)


def make_examples(embedded: EmbeddedDataset, split: str, coarse_k: int) -> Examples:
    """Take the different queries of a split with the exact search's top ``coarse_k``; see :func:`merged`.

    Raises
    ------
    InvalidInputError
        If the split is not there or nothing in it is relevant.
    """
    qrels = merged(embedded.data.queries, embedded.data.split(split))
    rows = [i for i, query in enumerate(embedded.query_ids) if query in qrels]
    queries = embedded.query_vectors[rows]
    found, _ = nearest(queries, embedded.document_vectors, coarse_k)
    position = {document: i for i, document in enumerate(embedded.document_ids)}
    query_ids = [embedded.query_ids[i] for i in rows]
    return build_examples(query_ids, queries, embedded.document_vectors, found, qrels, position)


def merged(queries: Mapping[str, str] | Mapping[str, FloatArray], qrels: Qrels) -> Qrels:
    """Merge the judgements of queries that ask the same: in the same words, whatever their case, or by the same vector.

    A log repeats its queries. Held out beside their own repetitions, what was learned by heart would look like skill.

    Parameters
    ----------
    queries
        Text or vector by query id.
    qrels
        Judgements by query id; those of unknown queries are left out.

    Returns
    -------
    dict
        Judgements by the id of the first query of each kind: of each document the best grade.
    """
    first: dict[str | bytes, str] = {}
    together: Qrels = {}
    judged = [name for name in queries if name in qrels]
    for name in judged:
        grades = together.setdefault(first.setdefault(what_is_asked(queries[name]), name), {})
        for document, grade in qrels[name].items():
            grades[document] = max(grade, grades.get(document, grade))
    if len(together) < len(judged):
        _log.warning(
            "%d of %d labelled queries ask what others ask: they count as one query each, with the judgements of all",
            len(judged) - len(together),
            len(judged),
        )
    return together


def build_examples(
    query_ids: list[str],
    queries: FloatArray,
    documents: FloatArray,
    candidates: np.ndarray[tuple[int, ...], np.dtype[np.intp]],
    qrels: Qrels,
    position: Mapping[str, int],
) -> Examples:
    """Put labelled queries and their candidates together.

    Parameters
    ----------
    query_ids, queries
        n ids and shape (n, d), unit vectors.
    documents
        Shape (N, d), unit vectors: all candidates, and the judged documents.
    candidates
        Shape (n, k): rows of ``documents``, best first.
    qrels
        Judgements of at least these queries.
    position
        Row in ``documents`` by document id; judged documents that it lacks count as never found.

    Raises
    ------
    InvalidInputError
        If there is no candidate or no query, a grade is not a whole number from -100 to 100, or no relevant document
        is there.
    """
    if not len(query_ids) or not candidates.shape[1]:
        raise InvalidInputError("training needs labelled queries, and candidates for them")
    check_grades({query: qrels[query] for query in query_ids})
    mined = candidates.copy()
    grades, gains = np.zeros(candidates.shape, np.float32), np.zeros(candidates.shape, np.float32)
    ideal = np.zeros(len(query_ids), np.float32)
    for i, query in enumerate(query_ids):
        judged = {position[document]: grade for document, grade in qrels[query].items() if document in position}
        best = np.array(sorted((grade for grade in qrels[query].values()), reverse=True)[:_CUT], np.float32)
        ideal[i] = (best.clip(0) * _discounts(len(best)).numpy()).sum()
        grades[i] = [max(judged.get(int(row), 0.0), 0.0) for row in candidates[i]]
        there = set(candidates[i].tolist())
        missing = [row for row, grade in judged.items() if grade > 0 and row not in there]
        for place, row in enumerate(missing[: min(_INJECTED, mined.shape[1] - 1)], start=1):
            mined[i, -place] = row
        gains[i] = [2.0 ** max(judged.get(int(row), 0.0), 0.0) - 1.0 for row in mined[i]]
    if not gains.any():
        raise InvalidInputError("none of the relevant documents is there: do the judgements use the collection's ids?")
    q, d = torch.from_numpy(np.ascontiguousarray(queries)), torch.from_numpy(np.ascontiguousarray(documents))
    tensors = [torch.from_numpy(table.astype(np.int64)) for table in (candidates, mined)]
    cosines = [_cosines(q, d, table) for table in tensors]
    labels = (torch.from_numpy(grades), torch.from_numpy(gains), torch.from_numpy(ideal))
    return Examples(query_ids, q, d, tensors[0], cosines[0], labels[0], tensors[1], cosines[1], labels[1], labels[2])


def batches(count: int) -> Iterator[slice]:
    """Yield slices of up to 64 rows. What is made of each is written in place, into a table made before.

    Small results between freed copies of documents would keep all their memory from use.
    """
    yield from (slice(start, start + _BATCH) for start in range(0, count, _BATCH))


def _cosines(queries: Tensor, documents: Tensor, table: Tensor) -> Tensor:
    """Return each query's products with its rows of the documents, shape (n, k); in place, as in :func:`batches`."""
    cosines = torch.empty(table.shape)
    for query, rows, out in zip(queries, table, cosines, strict=True):
        torch.mv(documents[rows], query, out=out)
    return cosines


def _discounts(length: int) -> Tensor:
    return 1 / torch.log2(torch.arange(length, dtype=torch.float32) + 2)
