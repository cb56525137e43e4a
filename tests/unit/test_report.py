"""The HTML page: escaped, self-contained, made of tables that a screen reader can follow."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
from test_explain import HOSTILE, NAMES, response, result

from factory import DIM, make_model, make_space
from imrnn_vdb import IMRNNCollection, explain_search, factor, render_report
from imrnn_vdb.comparison import compare
from imrnn_vdb.encoders import TokenStates
from imrnn_vdb.factors.ends import EndDocument, FactorEnds
from imrnn_vdb.factors.tokens import TokenFactors
from imrnn_vdb.factors.topics import TopicMatch
from imrnn_vdb.report import MarkedText, ReportSection
from imrnn_vdb.results import Explanation
from imrnn_vdb.trace import StepTrace


class Page(HTMLParser):
    """Collects tags and texts as a browser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def everything_hostile() -> ReportSection:
    """A section in which every text that can come from outside is hostile."""
    names = (HOSTILE, *NAMES[1:])
    first, second = (
        result(
            rank,
            3 - rank,
            id=f"{HOSTILE}{rank}",
            explanation=Explanation(0.4, parts, names, (), (TopicMatch(HOSTILE, 0.5),), frozenset({HOSTILE})),
            score=0.4 + sum(parts),
        )
        for rank, parts in ((1, (0.05, -0.02, 0.0, 0.01, 0.06)), (2, (0.01, 0.02, 0.0, 0.0, 0.0)))
    )
    trace = StepTrace(("database", HOSTILE), (first.id, second.id), ((0.4, 0.3), (0.5, 0.4)), ((2, 1), (1, 2)))
    shares = np.full((2, 8), 0.1, np.float32)
    tokens = TokenFactors(HOSTILE, ((0, len(HOSTILE)),), shares, make_space())
    document = EndDocument(HOSTILE, HOSTILE, 0.5)
    return ReportSection(
        HOSTILE,
        response(first, second, trace=trace, reason=HOSTILE, topics=(TopicMatch(HOSTILE, 0.5),)),
        response(second),
        HOSTILE,
        comparisons=(compare(first, second),),
        texts=(MarkedText(HOSTILE, tokens, ("entity",)),),
        ends=(FactorEnds(HOSTILE, (document,), (document,), (HOSTILE,), (HOSTILE,), 9),),
    )


def test_the_report_escapes_what_comes_from_outside():
    html = render_report(HOSTILE, [everything_hostile()], HOSTILE)
    page = Page(html)
    assert not {"script", "img", "iframe", "link", "object", "base", "form"} & set(page.tags)
    assert page.text.count(HOSTILE) >= 24
    assert not [a for a in page.attributes if a[1].startswith("on") or a[1] in {"src", "action"}]
    assert all(value.startswith("#") for _, name, value in page.attributes if name == "href")
    assert "http" not in html.split("</style>")[1].replace(HOSTILE, "")
    assert "default-src 'none'" in html.replace("&#39;", "'")


def test_the_report_reads_well_with_a_screen_reader():
    html = render_report("Title", [everything_hostile(), ReportSection("q", response(result()))])
    page = Page(html)
    assert page.tags.count("caption") == page.tags.count("table") >= 6
    assert {"main", "header", "nav", "h1", "h2", "h3", "thead", "tbody", "tfoot", "th"} <= set(page.tags)
    assert ("html", "lang", "en") in page.attributes
    assert ("meta", "name", "viewport") in page.attributes
    headers = [tag for tag in re.findall(r"<th\b[^>]*>", html) if "aria-hidden" not in tag]
    assert all("scope=" in tag for tag in headers)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value for _, name, value in page.attributes if name == "aria-labelledby"} <= set(ids)
    scrolling = [tag for tag in re.findall(r"<div[^>]*>", html) if 'class="scroll"' in tag]
    assert all("tabindex" in tag and "aria-label" in tag for tag in scrolling)  # by keyboard, and by name
    assert "+0.050" in page.text


def test_numbers_beside_texts_of_any_direction_stand_as_they_are():
    """Beside a Hebrew word that is not kept apart, a browser shows ``+0.5`` as ``0.5+``."""
    word = "שלום"
    found = result(payload={"title": word})
    tokens = TokenFactors(word, ((0, len(word)),), np.full((2, 8), 0.1, np.float32), make_space())
    ends = FactorEnds("latent_5", (EndDocument(1, word, 0.5),), (), (word,), (), 9)
    section = ReportSection(
        word, response(found), texts=(MarkedText(word, tokens, ("entity",)),), ends=(ends,), take_apart=True
    )
    html = render_report("T", [section, section])
    assert html.count(word) >= 18
    assert word not in re.sub(r'<bdi>.*?</bdi>|<blockquote dir="auto">.*?</blockquote>', "", html)


def test_a_result_that_was_not_modulated_is_marked_for_all_to_see():
    odd = result(modulated=False, reason="this point has no factor code yet")
    html = render_report("T", [ReportSection("q", response(odd))])
    assert "<small>(not modulated: this point has no factor code yet)</small>" in html


def test_colours_stand_out_enough_to_read():
    """Contrast of the text, by WCAG 2: 4.5 and more against white and the strongest background of a cell."""
    html = render_report("T", [everything_hostile()])
    inks = {name: tuple(bytes.fromhex(found)) for name, found in re.findall(r"--(ink|soft): #(\w{6})", html)}
    grounds = [tuple(map(int, found.split(","))) for found in re.findall(r"--(?:plus|minus): ([\d, ]+)", html)]
    strongest = [tuple(0.6 * c + 0.4 * 255 for c in ground) for ground in grounds]
    assert set(inks) == {"ink", "soft"}
    assert len(strongest) == 2
    for ground in [(255, 255, 255), *strongest]:
        assert contrast(inks["ink"], ground) >= 4.5
    assert contrast(inks["soft"], (255, 255, 255)) >= 4.5


def contrast(a, b) -> float:
    def luminance(colour):
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_report_stands_without_explanations_or_results():
    page = Page(
        render_report("T", [ReportSection("q", response(result(explanation=None))), ReportSection("r", response())])
    )
    assert "no result" in page.text
    assert page.tags.count("table") == 2


class LetterEncoder:
    """Texts to vectors by their letters, with the share of each word."""

    def encode_queries(self, texts):
        return np.stack([self.token_states(text).states.sum(0) for text in texts])

    encode_passages = encode_queries

    def token_states(self, text, *, query=False):
        spans = [match.span() for match in re.finditer(r"\w+", text)]
        states = np.zeros((len(spans), DIM), np.float32)
        for row, (first, last) in enumerate(spans):
            for letter in text[first:last]:
                states[row, ord(letter) % DIM] += 1
        return TokenStates(tuple(spans), states)


def test_a_search_is_explained_as_a_whole(rng):
    texts = [f"ship{i} harbour" if i % 2 else f"bread{i} oven" for i in range(40)]
    with IMRNNCollection.create("qdrant+local::memory:/r", make_model(), encoder=LetterEncoder()) as collection:
        collection.upsert(range(40), texts=texts)
        section = explain_search(collection, "ship in the harbour", sample=40, limit=5)
        page = Page(render_report("Ships", [section]))
        assert len(section.comparisons) == 2
        assert len(section.ends) == 3
        assert section.response.trace is not None
        assert [text.title for text in section.texts][:1] == ["The query"]
        assert "mark" in page.tags
        assert page.tags.count("details") == 5
        first, second = collection.model.space.names[:2]
        wanted = {"factor_filter": factor(first) >= 0.1, "only": first, "steer": {second: 1.5}}
        told = explain_search(collection, "ship", limit=5, **wanted).note
        assert told == f"Only {first}. Only where {first} >= 0.1. Steered: {second} × 1.5."
        plain = IMRNNCollection.create(
            "qdrant+local::memory:/p", make_model(), encoder=lambda texts: LetterEncoder().encode_queries(texts)
        )
        plain.upsert(range(3), texts=texts[:3])
        assert explain_search(plain, "ship").texts == ()  # this encoder shows no tokens
