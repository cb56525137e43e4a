"""Reading what partial candidates lack, of the rows that are returned: one call for all queries (DESIGN.md §6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from imrnn_vdb.connection import Operation
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.results import page_of
from imrnn_vdb.store import Store
from imrnn_vdb.windows import Window

Rows = npt.NDArray[np.intp]


def complete_pages(
    store: Store, windows: Sequence[Window], request: SearchRequest
) -> Operation[tuple[list[Window], list[Rows]]]:
    """Return the windows with ids and payloads of the rows that the request returns, and these rows.

    A point that was deleted since it was found makes way for the next one: its row is taken out, and what takes its
    place is read in another call.
    """
    done, rows = list(windows), [_page(window, request) for window in windows]
    left = [i for i, window in enumerate(windows) if window.candidates.partial]
    while left:
        found = yield from store.complete([windows[i].candidates for i in left], [rows[i] for i in left])
        for i, (candidates, gone) in zip(left, found, strict=True):
            done[i] = replace(done[i], candidates=candidates, keep=_without(done[i], gone))
        left = [i for i, (_, gone) in zip(left, found, strict=True) if len(gone)]
        for i in left:
            rows[i] = _page(done[i], request)
    return done, rows


def _page(window: Window, request: SearchRequest) -> Rows:
    return page_of(window.candidates.base_scores, window.refined.scored.scores, request, window.keep)


def _without(window: Window, gone: Rows) -> npt.NDArray[np.bool_] | None:
    if not len(gone):
        return window.keep
    keep = np.ones(len(window.candidates), bool) if window.keep is None else window.keep.copy()
    keep[gone] = False
    return keep
