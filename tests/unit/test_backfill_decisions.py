"""Decisions of a backfill, against a store in memory that other writers change at the worst moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from factory import DIM, NAMES, make_space
from imrnn_vdb.backfill import MAX_FAILURES, BackfillOptions, BackfillReport, Filler, Pace, backfill_script
from imrnn_vdb.backfill_plan import FailedPoint, fresh_codes, plan
from imrnn_vdb.codec import Codes, CodeStatus
from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import InvalidInputError, StoreError, StoreUnavailableError, UnsupportedError
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Page, Points
from imrnn_vdb.scripts import run_script
from imrnn_vdb.space import FactorSpace


class MemoryStore:
    """Just what a backfill asks for: vectors by id, and codes beside them."""

    collection, in_flight = "memory", 1

    def __init__(self, space: FactorSpace, vectors: dict[int, np.ndarray]) -> None:
        self.space, self.vectors, self.written = space, vectors, list[list[int]]()
        self.refused: set[int] = set()
        self.error: Exception = StoreError("refused")
        self.after_write: Callable[[], None] = lambda: None
        self.codes: dict[int, Codes] = {}
        self.without_score: set[int] = set()

    def prepare_codes(self, *, in_place: bool) -> Any:
        yield from ()
        return True

    def sweep(self, limit: int, cursor: Any) -> Any:
        yield from ()
        return 0, None

    def _points(self, ids: Sequence[int]) -> Points:
        if not ids:
            return Points([], None, [])
        nothing = Codes(np.zeros((1, 8), np.float32), np.zeros(1, np.float32), np.full(1, CodeStatus.MISSING, np.uint8))
        held = [self.codes.get(key, nothing) for key in ids]
        joined = Codes(*(np.concatenate([getattr(c, n) for c in held]) for n in ("directions", "norms", "status")))
        vectors = np.stack([self.vectors[key] for key in ids])
        scores = self.space.factor_scores(joined.directions)
        scores[[key in self.without_score for key in ids], -1] = np.nan
        return Points(list(ids), vectors, [{} for _ in ids], joined, scores)

    def scroll(self, limit: int, cursor: Any, payload_filter: Any, **_: bool) -> Any:
        yield from ()
        ids = sorted(key for key in self.vectors if cursor is None or key > cursor)[:limit]
        return Page(self._points(ids), ids[-1] if len(ids) == limit else None)

    def fetch(self, ids: Sequence[int], **_: bool) -> Any:
        yield from ()
        return self._points([key for key in ids if key in self.vectors])

    def changed(self, ids: Sequence[int], vectors: np.ndarray) -> Any:
        yield from ()
        assert ids, "no engine is asked for nothing"
        pairs = zip(ids, vectors, strict=True)
        return [key for key, old in pairs if key not in self.vectors or not np.array_equal(self.vectors[key], old)]

    def forget_codes(self, ids: Sequence[int]) -> Any:
        yield from ()
        for key in ids:
            del self.codes[key]

    def write_codes(self, ids: Sequence[int], codes: Codes, scores: np.ndarray, lacking: np.ndarray) -> Any:
        yield from ()
        assert lacking.shape == (len(ids), 1 + scores.shape[1])
        assert lacking.any(axis=1).all()
        if self.refused & set(ids):
            raise self.error
        self.written.append(list(ids))
        for row, key in enumerate(ids):
            if lacking[row, 0]:
                self.codes[key] = codes.take(np.array([row]))
            if lacking[row, -1]:
                self.without_score.discard(key)
        self.after_write()


@pytest.fixture
def store(space: FactorSpace, rng: np.random.Generator) -> MemoryStore:
    return MemoryStore(space, {key: rng.normal(size=DIM).astype(np.float32) for key in range(10)})


def fill(store: MemoryStore, **options: Any) -> BackfillReport:
    filler = Filler(store, store.space, Metric.DOT, BackfillOptions(**options))  # type: ignore[arg-type]
    return run_script(Connection(None, lambda exc: StoreError(str(exc))), backfill_script(filler, lambda _count: None))


def test_points_that_are_refused_are_listed_and_do_not_stop_the_rest(store: MemoryStore) -> None:
    store.refused = {3, 7}
    report = fill(store)
    assert (report.seen, report.written, report.failed) == (10, 8, 2)
    assert [(failure.id, failure.reason) for failure in report.failures] == [(3, "refused"), (7, "refused")]
    assert sorted(store.codes) == [0, 1, 2, 4, 5, 6, 8, 9]


def test_a_batch_may_be_refused_as_a_whole(store: MemoryStore) -> None:
    store.refused = set(store.vectors)
    report = fill(store)
    assert (report.seen, report.written, report.failed, report.unsettled) == (10, 0, 10, 0)


def test_what_is_refused_for_every_point_is_told_once(store: MemoryStore) -> None:
    """A disk that is full, a quota, a key that may not write: halving each batch would take an age."""
    store.vectors = dict.fromkeys(range(500), store.vectors[0])
    store.refused = set(store.vectors)
    with pytest.raises(StoreError, match="refused"):
        fill(store)
    store.refused = set(range(1, 500))
    assert fill(store).failed == 499


def test_a_database_that_is_gone_ends_the_backfill(store: MemoryStore) -> None:
    store.refused, store.error = {3}, StoreUnavailableError("gone")
    with pytest.raises(StoreUnavailableError):
        fill(store)


def test_what_the_collection_does_not_allow_is_told_once(store: MemoryStore) -> None:
    store.refused, store.error = set(store.vectors), UnsupportedError("rows are rewritten as a whole")
    with pytest.raises(UnsupportedError, match="as a whole"):
        fill(store)


def test_vectors_that_hold_nan_are_listed(store: MemoryStore) -> None:
    store.vectors[4][0] = np.nan
    report = fill(store)
    assert (report.written, [failure.id for failure in report.failures]) == (9, [4])
    assert "NaN" in report.failures[0].reason


def test_a_vector_that_changes_under_the_write_gets_its_code_again(store: MemoryStore) -> None:
    changes = [np.full(DIM, 2.0, np.float32)]

    def change() -> None:
        if changes:
            store.vectors[5] = changes.pop()

    store.after_write = change
    report = fill(store)
    assert (report.written, report.unsettled) == (10, 0)
    assert store.written == [list(range(10)), [5]]
    np.testing.assert_allclose(
        store.codes[5].directions, fresh_codes(store.space, Metric.DOT, [[2.0] * DIM]).directions, rtol=1e-5
    )


def test_a_vector_that_never_rests_is_left_to_the_next_pass(store: MemoryStore, rng: np.random.Generator) -> None:
    def change() -> None:
        store.vectors[5] = rng.normal(size=DIM).astype(np.float32)

    store.after_write = change
    assert fill(store).unsettled == 1
    store.after_write = lambda: None
    report = fill(store)
    assert (report.written, report.current, report.unsettled) == (1, 9, 0)


def test_a_point_that_is_deleted_under_the_write_stays_deleted(store: MemoryStore) -> None:
    store.after_write = lambda: store.vectors.pop(6, None)
    assert fill(store).unsettled == 0
    assert len(store.written) == 1
    assert sorted(store.codes) == [0, 1, 2, 3, 4, 5, 7, 8, 9]  # nor is its code left behind


def test_a_pace_spreads_points_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imrnn_vdb.backfill.monotonic", lambda: 100.0)
    pace = Pace(50.0)
    assert [pace.delay(25), pace.delay(25), pace.delay(0)] == [0.0, 0.5, 1.0]
    assert Pace(None).delay(10**9) == 0.0


def test_batches_are_bounded_by_bytes() -> None:
    assert BackfillOptions(batch_size=500).batch_points(384) == 500
    assert BackfillOptions(batch_size=5000).batch_points(4096) == 512


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"limit": 0}, {"rate": 0.0}, {"rate": float("nan")}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        BackfillOptions(**wrong)


def test_nothing_needs_nothing() -> None:
    assert plan(make_space(), Metric.COSINE, Points([], None, [])).ids == []


def test_a_plan_says_which_part_of_a_point_is_lacking(space: FactorSpace, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(4, DIM)).astype(np.float32)
    codes = fresh_codes(space, Metric.DOT, vectors)
    scores = space.factor_scores(codes.directions)
    status = codes.status.copy()
    status[1] = CodeStatus.MISSING
    scores[2, 0] = np.nan  # a factor that was added since
    stored = Codes(codes.directions, codes.norms, status)
    wanted = plan(space, Metric.DOT, Points([0, 1, 2, 3], vectors, [{}] * 4, stored, scores))
    assert (wanted.ids, wanted.current) == ([1, 2], 2)
    assert wanted.lacking[:, 0].tolist() == [True, False]
    assert wanted.lacking[0, 1:].tolist() == [False] * scores.shape[1]
    assert wanted.lacking[1, 1:].tolist() == [True] + [False] * (scores.shape[1] - 1)


def test_a_score_is_that_of_the_code_which_lies_beside_it(space: FactorSpace, rng: np.random.Generator) -> None:
    """A vector may give another last bit than the stored code has, as engines scale vectors."""
    vectors = rng.normal(size=(300, DIM)).astype(np.float32)
    before = fresh_codes(space, Metric.COSINE, vectors)
    half = before.directions.astype(np.float16)
    kept = replace(before, directions=np.nextafter(half, np.float16(1)).astype(np.float32))
    scores = space.factor_scores(kept.directions)
    asked = np.where(np.arange(len(NAMES)) == 1, np.float32(np.nan), scores)  # a factor that was added since
    ids, payloads = list(range(300)), [{}] * 300
    wanted = plan(space, Metric.COSINE, Points(ids, vectors, payloads, kept, asked))
    assert wanted.lacking.any(axis=0).tolist() == [False, False, True, False]
    np.testing.assert_array_equal(wanted.scores, scores)
    np.testing.assert_array_equal(wanted.codes.directions, kept.directions)
    moved = vectors + 0.02 * rng.normal(size=vectors.shape).astype(np.float32)
    wanted = plan(space, Metric.COSINE, Points(ids, moved, payloads, before, scores))
    assert (np.abs(wanted.scores - scores[wanted.ids]) < 1e-3).any()
    np.testing.assert_array_equal(wanted.lacking[:, 1:], (wanted.scores != scores[wanted.ids]))


def test_a_vector_of_another_length_needs_another_code_where_the_length_counts(space: FactorSpace) -> None:
    vectors = np.eye(2, DIM, dtype=np.float32)
    for metric, needed in ((Metric.DOT, [1]), (Metric.COSINE, [])):
        codes = fresh_codes(space, metric, vectors)
        stored = Points([0, 1], vectors * [[1], [2]], [{}] * 2, codes, space.factor_scores(codes.directions))
        assert plan(space, metric, stored).ids == needed


def test_a_stored_score_that_is_not_what_the_code_gives_is_written_again(space: FactorSpace) -> None:
    codes = fresh_codes(space, Metric.COSINE, np.eye(2, DIM))
    scores = space.factor_scores(codes.directions)
    stored = scores.copy()
    stored[1, 0] += 0.01
    wanted = plan(space, Metric.COSINE, Points([0, 1], np.eye(2, DIM, dtype=np.float32), [{}] * 2, codes, stored))
    assert wanted.ids == [1]
    np.testing.assert_array_equal(wanted.scores, scores[1:])


def test_all_failures_are_counted_and_the_first_are_listed() -> None:
    many = tuple(FailedPoint(key, "refused") for key in range(600))
    report = BackfillReport(failed=600, failures=many) + BackfillReport(failed=600, failures=many)
    assert (report.failed, len(report.failures)) == (1200, MAX_FAILURES)


def test_a_point_that_lacks_a_score_and_is_refused_is_tried_once(store: MemoryStore) -> None:
    fill(store)
    store.without_score, store.refused, store.written = {2, 3}, {3}, []
    report = fill(store)
    assert (report.written, report.failed, [failure.id for failure in report.failures]) == (1, 1, [3])
    assert store.written == [[2]]


def test_a_code_that_goes_while_its_new_score_is_written_is_written_again(store: MemoryStore) -> None:
    fill(store)
    store.without_score, store.written = {2, 3}, []

    def put_anew() -> None:  # a writer replaces a whole point, with the same vector
        store.codes.pop(3, None)
        store.after_write = lambda: None

    store.after_write = put_anew
    report = fill(store)
    assert (report.written, report.unsettled) == (2, 0)
    assert store.written == [[2, 3], [3]]
    assert 3 in store.codes
    assert not store.without_score
