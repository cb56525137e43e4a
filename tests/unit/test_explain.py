from __future__ import annotations

from html.parser import HTMLParser

import pytest
from rich.console import Console

from imrnn_vdb.explain import (
    ReportSection,
    explanation_parts,
    explanation_table,
    headline,
    moved,
    render_report,
    results_table,
    tags,
)
from imrnn_vdb.results import Explanation, SearchResponse, SearchResult

NAMES = ("entity", "numeric", "temporal")
HOSTILE = "<script>alert('x')</script> [bold]&amp; \"quoted\""


def result(rank=1, base_rank=1, payload=None, **changes):
    explanation = Explanation(0.4, (0.05, -0.02, 0.0, 0.01, 0.06), NAMES)
    values = {
        "id": HOSTILE,
        "rank": rank,
        "score": 0.5,
        "base_rank": base_rank,
        "base_score": 0.45,
        "modulated": True,
        "reason": None,
        "payload": {"title": HOSTILE} if payload is None else payload,
        "factors": {"entity": 0.9},
        "explanation": explanation,
    }
    return SearchResult(**{**values, **changes})


def response(*results, **changes):
    values = {"modulated": True, "reason": None, "coarse_k": 100, "candidates": 2, "space_id": "s", "model_id": "m"}
    return SearchResponse(results, **{**values, **changes})


def text_of(renderable) -> str:
    out = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    out.print(renderable)
    out.file.close()
    return out.export_text()


class Page(HTMLParser):
    """Collects tags and texts as a browser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_an_explanation_is_the_score_taken_apart():
    explanation = result().explanation
    assert explanation.score == pytest.approx(0.5)
    assert explanation.named == {"entity": 0.05, "numeric": -0.02, "temporal": 0.0}
    assert explanation.latent == pytest.approx(0.07)
    assert explanation.top(1) == [("entity", 0.05)]


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_the_parts_shown_add_up_to_the_score(count):
    parts = explanation_parts(result().explanation, count)
    assert sum(value for _, value in parts) == pytest.approx(0.5)


def test_tags_name_what_raised_the_score():
    assert tags(result().explanation) == "entity +0.050"


def test_movement_is_against_the_databases_order():
    assert [moved(result(rank, base)) for rank, base in ((1, 4), (4, 1), (2, 2))] == ["↑3", "↓3", "="]


def test_a_headline_is_one_line():
    assert headline(result(payload={"text": "a\n b " * 60})).endswith("…")
    assert headline(result(payload={})) == HOSTILE
    assert headline(result(payload={"title": 7, "text": "words"})) == "words"


def test_terminal_tables_show_markup_as_text():
    shown = text_of(results_table(response(result()), title="[red]query"))
    assert "[bold]" in shown
    assert "[red]query" in shown
    assert "entity +0.050" in shown
    assert "█" in text_of(explanation_table(result()))
    assert "contribution" in text_of(explanation_table(result(explanation=None)))


def test_the_report_escapes_what_comes_from_outside():
    section = ReportSection(HOSTILE, response(result(), result(2, 1)), response(result()), HOSTILE)
    html = render_report(HOSTILE, [section], HOSTILE)
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 6
    assert "http" not in html.split("</style>")[1].replace(HOSTILE, "")


def test_the_report_reads_well_with_a_screen_reader():
    page = Page(render_report("Title", [ReportSection("q", response(result()), response(result()))]))
    assert page.tags.count("caption") == page.tags.count("table") == 3
    assert {"main", "h1", "h2", "thead", "tbody", "th"} <= set(page.tags)
    assert "+0.050" in page.text


def test_the_report_stands_without_explanations_or_results():
    page = Page(
        render_report("T", [ReportSection("q", response(result(explanation=None))), ReportSection("r", response())])
    )
    assert "no result" in page.text
    assert page.tags.count("table") == 2


def test_dictionaries_are_ready_for_json():
    import json

    data = json.loads(json.dumps(response(result()).to_dict()))
    assert data["results"][0]["explanation"]["named"]["entity"] == 0.05
    assert {"rank", "id", "score", "base_rank", "base_score", "modulated"} <= set(data["results"][0])
