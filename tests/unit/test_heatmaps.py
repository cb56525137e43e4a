from __future__ import annotations

import re

import numpy as np
import pytest
from test_explain import NAMES, response, result, text_of

from imrnn_vdb import heatmap, heatmap_figure
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.heatmaps import heatmap_table
from imrnn_vdb.results import Explanation


def explained(rng, count=4):
    found = []
    for rank in range(1, count + 1):
        parts = Explanation(float(rng.normal()), tuple(rng.normal(size=6).tolist()), NAMES)
        found.append(result(rank, explanation=parts, score=parts.score, id=rank))
    return response(*found)


@pytest.mark.parametrize("rows", [0, 1, 3, 12, None])
def test_every_column_adds_up_to_its_score(rng, rows):
    found = heatmap(explained(rng), rows)
    assert found.values.shape == (len(found.rows), 4)
    assert found.values.sum(0) == pytest.approx([r.score for r in found.results], abs=1e-12)
    assert found.factors == (6 if rows is None else min(rows, 3))
    assert ((found.strengths >= 0) & (found.strengths <= 1)).all()
    assert found.to_dict()["ids"] == [1, 2, 3, 4]


def test_rows_hold_what_their_names_say(rng):
    answer = explained(rng)
    whole = heatmap(answer, None)
    assert whole.rows == (*NAMES, "latent_3", "latent_4", "latent_5", "outside the factor space")
    short = heatmap(answer, 1)
    strongest = NAMES[int(np.abs(whole.values[:3]).max(1).argmax())]
    assert short.rows == (strongest, "2 other named factors", "3 latent factors", "outside the factor space")
    assert short.values[2] == pytest.approx(whole.values[3:6].sum(0))


def test_the_table_shows_bars_numbers_and_the_score(rng):
    shown = text_of(heatmap_table(explained(rng)))
    assert "█" in shown
    assert all(name in shown for name in (*NAMES, "3 latent factors", "score"))


@pytest.mark.parametrize("width", [50, 80, 200])
def test_every_number_stands_whole_on_a_terminal_of_any_width(rng, width):
    answer = explained(rng, 10)
    shown = text_of(heatmap_table(answer), width)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    found = heatmap(answer)
    assert sorted(re.findall(r"[+-]\d\.\d{3}", shown)) == sorted(
        f"{value:+.3f}" for value in [*found.values.ravel(), *(result.score for result in answer)]
    )


def test_the_figure_draws_the_single_factors(rng, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    figure = heatmap_figure(explained(rng))
    assert figure.axes[0].images[0].get_array().shape == (3, 4)
    low, high = (figure.axes[0].images[0].get_cmap()(edge) for edge in (0.0, 1.0))
    assert low[0] > low[2]  # what lowers a score is orange, as on the HTML page, and what raises it is not
    assert high[2] > high[0]
    figure.savefig(tmp_path / "heat.png")
    assert (tmp_path / "heat.png").stat().st_size > 1000


def test_what_cannot_be_shown_is_refused_and_nothing_is_an_empty_map():
    with pytest.raises(InvalidInputError, match="explain=True"):
        heatmap(response(result(explanation=None)))
    with pytest.raises(InvalidInputError, match="rows=-1"):
        heatmap(response(result()), -1)
    assert heatmap(response()).values.shape == (1, 0)
