"""Searches with a factor filter where the factor scores lie in a sidecar, which Milvus cannot join.

What such a search costs is, in this order: the payload of hits that the filter drops (1,600 hits with a small payload
took 166 ms on Milvus 2.3.5, their keys alone 8 ms), long lists of keys in a condition (2,000: 8 ms), and round trips
(2-3 ms each). So keys are searched first and payload is read last; how many points match decides how they are found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from imrnn_vdb.connection import Operation
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.points import Candidates, PointId
from imrnn_vdb_milvus.beside import SidecarSteps
from imrnn_vdb_milvus.expressions import every, is_one_of
from imrnn_vdb_milvus.rows import Row, candidates_of
from imrnn_vdb_milvus.schema import Schema, search_params
from imrnn_vdb_milvus.sidecar import with_codes
from imrnn_vdb_milvus.steps import MAX_WINDOW, SESSION

_FEW = 2_000
"""Up to how many matching points they go into the search as a list of keys, at once."""
_LISTED = 8_000
"""The same, once a window has held too few of them."""
_GROWTH = 4
"""How a window grows for a filter that matches more points than can be listed."""


class FilteredSteps(SidecarSteps):
    """Steps for factor filters on a sidecar."""

    _codes_in_all = 0

    def _search_filtered(
        self, schema: Schema, question: dict[str, Any], limit: int, given: str | None, factor_filter: FactorFilter
    ) -> Operation[list[Candidates]]:
        """Search with a factor filter, exactly: what is left out is farther than what is returned, or matches nothing.

        Where more than 8,000 points match and too few of the nearest 16,384 do, fewer are returned than there are, and
        the candidates say so.
        """
        yield from self._await_loaded()
        condition = self._factor_condition(factor_filter)
        matching = yield from self._number_of_codes(condition)
        if matching > _FEW:
            window = yield from self._first_window(limit, matching)
            while True:
                found, answered = yield from self._picked(schema, question, window, limit, given, condition)
                if answered or (window == MAX_WINDOW and matching > _LISTED):
                    return found
                if matching <= _LISTED:
                    break
                window = min(_GROWTH * window, MAX_WINDOW)
        keys = yield from self._keys_matching(condition, matching)
        if not keys:
            return [self._candidates(schema, question, [], {}, {}) for _ in question["data"]]
        return (yield from self._search_beside(schema, question, limit, every(given, is_one_of(schema.key, keys))))

    def _first_window(self, limit: int, matching: int) -> Operation[int]:
        """Return a window that most likely holds enough matches, if the filter has nothing to do with the query."""
        if matching > self._codes_in_all:  # a hint, so it may be old
            self._codes_in_all = yield from self._number_of_codes()
        enough = limit + 3 * math.sqrt(limit)
        return min(MAX_WINDOW, max(limit, math.ceil(enough * self._codes_in_all / matching)))

    def _picked(
        self, schema: Schema, question: dict[str, Any], window: int, limit: int, given: str | None, condition: str
    ) -> Operation[tuple[list[Candidates], bool]]:
        """Search keys, ask the sidecar which of them match, and read the payload of those that are returned.

        Also says whether that answers all queries: enough matches were found, or there are no more points.
        """
        params = search_params(schema.index_types[question["anns_field"]], window)
        bare = {**question, "output_fields": [schema.key]}
        reply = yield from self._ask("search", limit=window, filter=given or "", search_params=params, **bare)
        keys = list({key for hits in reply for key in hits.ids})
        codes = yield from self._codes(keys, [self._beside.key, self.layout.code_field], condition)
        matches = [[(k, s) for k, s in zip(h.ids, h.distances, strict=True) if k in codes][:limit] for h in reply]
        wanted = list({key for pairs in matches for key, _ in pairs})
        rows = yield from self._rows(schema, wanted, question["output_fields"])
        answered = [len(pairs) >= limit or len(hits.ids) < window for pairs, hits in zip(matches, reply, strict=True)]
        found = [self._candidates(schema, question, pairs, rows, codes) for pairs in matches]
        found = [replace(c, cut_short=not enough) for c, enough in zip(found, answered, strict=True)]
        return found, all(answered)

    def _candidates(
        self,
        schema: Schema,
        question: dict[str, Any],
        pairs: Sequence[tuple[PointId, float]],
        rows: dict[PointId, Row],
        codes: dict[PointId, Row],
    ) -> Candidates:
        there = [(key, distance) for key, distance in pairs if key in rows]  # others were deleted in between
        metric = schema.vectors[question["anns_field"]].metric
        joined = [with_codes(rows[key], key, codes) for key, _ in there]
        return candidates_of([key for key, _ in there], [d for _, d in there], joined, schema, self.layout, metric)

    def _keys_matching(self, condition: str, count: int) -> Operation[list[PointId]]:
        """Return the keys that match; some more than were counted, if points were added since."""
        if not count:
            return []
        key = self._beside.key
        found = yield from self._about(
            self._sidecar_name, "query", filter=condition, output_fields=[key], limit=count + _FEW, **SESSION
        )
        return [row[key] for row in found]
