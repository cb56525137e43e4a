"""Searches with a factor filter where the factor scores lie in a sidecar, which Milvus cannot join.

Two ways find the matches, and both read payload and codes of no more points than they must. *Windows*: the nearest
points are searched, and the sidecar is asked which of them match; a window that held too few grows by the share that
matched. *Listing*: the sidecar says which points match, and the search runs in these alone. Counts of what matches
are remembered as hints: they choose the way and the first window, and never what is returned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from imrnn_vdb.connection import Operation
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.guard import Guard
from imrnn_vdb.hints import Hints
from imrnn_vdb.layout import Layout
from imrnn_vdb.planning import next_window
from imrnn_vdb.points import Candidates, PointId
from imrnn_vdb_milvus.beside import SidecarSteps
from imrnn_vdb_milvus.expressions import every, is_one_of
from imrnn_vdb_milvus.hits import Row
from imrnn_vdb_milvus.schema import Schema, search_params
from imrnn_vdb_milvus.steps import MAX_WINDOW, SESSION

_LISTED = 8_000
"""Up to how many matching points go into a search as a list of keys."""
_SPARE = 2_000
"""How many more keys than were counted are read, since a count may be old."""
_GROWTH = 8
"""How much larger than the one before a window may be, at most."""
_WITH_PAYLOAD = 8
"""Windows of up to so many times the limit are read with their payload; of larger ones, only that of matches, last."""
_LISTING_CALL, _LISTED_KEY, _WINDOW_KEY = 3.4, 0.0045, 0.01
"""Milliseconds on 2.3.5: of one more call, of a key that is listed and searched in, of a key in a window."""


class FilteredSteps(SidecarSteps):
    """Steps for factor filters on a sidecar."""

    def __init__(self, collection: str, layout: Layout, guard: Guard = None) -> None:
        super().__init__(collection, layout, guard)
        self._counts = Hints[str, int]()

    def _search_filtered(
        self, schema: Schema, question: dict[str, Any], limit: int, given: str | None, factor_filter: FactorFilter
    ) -> Operation[list[Candidates]]:
        """Search with a factor filter, exactly: what is left out is farther than what is returned, or matches nothing.

        Where more than 8,000 points match and too few of the nearest 16,384 do, fewer are returned than there are, and
        the candidates say so.
        """
        yield from self._await_loaded()
        condition = self._factor_condition(factor_filter)
        matching = yield from self._about_how_many(condition)
        window = yield from self._first_window(limit, matching)
        while not _better_listed(matching, window):
            found, fewest, answered = yield from self._picked(schema, question, window, limit, given, condition)
            if fewest >= limit:
                return found
            matching = yield from self._count_anew(condition)
            if answered:
                return self._checked(found, limit, matching, given)
            if window == MAX_WINDOW:
                if matching > _LISTED:
                    return found
                break
            window = min(next_window(window, fewest, limit, MAX_WINDOW), _GROWTH * window)
        keys = yield from self._keys_matching(condition, matching + _SPARE)
        if len(keys) == matching + _SPARE:  # more than were counted, once: count again
            yield from self._count_anew(condition)
            return (yield from self._search_filtered(schema, question, limit, given, factor_filter))
        self._counts.note(condition, len(keys))
        if not keys:
            return [self._candidates(schema, question, [], [], [], {}) for _ in question["data"]]
        listed = every(given, is_one_of(schema.key, keys))
        found = yield from self._search_beside(schema, question, limit, listed)
        return self._checked(found, limit, len(keys), given)

    def _checked(self, found: list[Candidates], limit: int, matching: int, given: str | None) -> list[Candidates]:
        """Mark candidates that are fewer than match, where nothing but the factor filter chose them.

        The index did not reach the others, as that of a segment that still grows may not (docs/troubleshooting.md),
        or their points are gone.
        """
        if given is not None or self._guard is not None:
            return found
        wanted = min(limit, matching)
        return [replace(candidates, cut_short=len(candidates) < wanted) for candidates in found]

    def _about_how_many(self, condition: str = "") -> Operation[int]:
        """Return how many codes match, as of the last time they were counted."""
        known = self._counts.get(condition)
        return (yield from self._count_anew(condition)) if known is None else known

    def _count_anew(self, condition: str) -> Operation[int]:
        number = yield from self._number_of_codes(condition)
        self._counts.note(condition, number)
        return number

    def _first_window(self, limit: int, matching: int) -> Operation[int]:
        """Return a window that most likely holds enough matches, if the filter has nothing to do with the query."""
        everything = yield from self._about_how_many()
        if matching > everything:  # it is older
            everything = yield from self._count_anew("")
        enough = limit + 3 * math.sqrt(limit)
        return min(MAX_WINDOW, max(limit, math.ceil(enough * everything / max(matching, 1))))

    def _picked(
        self, schema: Schema, question: dict[str, Any], window: int, limit: int, given: str | None, condition: str
    ) -> Operation[tuple[list[Candidates], int, bool]]:
        """Search a window, and ask the sidecar which of it match.

        Also says how many matches a query found at least, and whether that answers all queries: enough matches were
        found, or there are no more points.
        """
        params = search_params(schema.index_types[question["anns_field"]], window)
        whole = window <= _WITH_PAYLOAD * limit
        asked = question if whole else {**question, "output_fields": [schema.key]}
        reply = yield from self._hits(limit=window, filter=given or "", search_params=params, **asked)
        keys = list({key for hits in reply for key in hits.ids})
        codes = yield from self._codes(keys, [self._beside.key, self.layout.code_field], condition)
        places = [[i for i, key in enumerate(hits.ids) if key in codes][:limit] for hits in reply]
        answered = [len(some) >= limit or len(hits.ids) < window for some, hits in zip(places, reply, strict=True)]
        last = {} if whole else (yield from self._payloads(schema, question, reply, places))
        found = []
        for hits, some, enough in zip(reply, places, answered, strict=True):
            there = [i for i in some if whole or hits.ids[i] in last]  # others were deleted in between
            read = [hits.rows[i] if whole else last[hits.ids[i]] for i in there]
            ids, distances = [hits.ids[i] for i in there], [hits.distances[i] for i in there]
            candidates = self._candidates(schema, question, ids, distances, read, codes)
            found.append(replace(candidates, cut_short=not enough))
        return found, min(map(len, places)), all(answered)

    def _payloads(
        self, schema: Schema, question: dict[str, Any], reply: Any, places: Sequence[Sequence[int]]
    ) -> Operation[dict[PointId, Row]]:
        """Read the payload of the hits at some places of each query's reply."""
        wanted = list({hits.ids[i] for hits, some in zip(reply, places, strict=True) for i in some})
        return self._rows(schema, wanted, question["output_fields"])

    def _keys_matching(self, condition: str, limit: int) -> Operation[list[PointId]]:
        """Return keys that match, so many at most."""
        key = self._beside.key
        found = yield from self._about(
            self._sidecar_name, "query", filter=condition, output_fields=[key], limit=limit, **SESSION
        )
        return [row[key] for row in found]


def _better_listed(matching: int, window: int) -> bool:
    """Say whether listing so many matches costs less than searching a window."""
    return matching <= _LISTED and _LISTING_CALL + _LISTED_KEY * matching < _WINDOW_KEY * window
