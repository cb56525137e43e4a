"""The HTML page in a real browser: no script errors, hostile texts shown as texts, and nothing wider than a phone."""

from __future__ import annotations

import html as escaping
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from factory import DIM, FACTORS, make_model, make_space
from imrnn_vdb import IMRNNCollection, factor_ends, render_report
from imrnn_vdb.comparison import compare
from imrnn_vdb.factors.tokens import TokenFactors
from imrnn_vdb.report import MarkedText, ReportSection
from imrnn_vdb.results import Explanation, SearchResponse

HOSTILE = (
    "<script>document.title='pwned'</script>\"'><img src=x onerror=\"document.title='pwned'\">"
    "</style></title></textarea><svg/onload=document.title='pwned'>{{ 7*7 }}&lt;b&gt; ‮rtl"
)
PHONE = 360
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium"),
]


class Page(HTMLParser):
    """Text and tags of a serialised document."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def browse(html: str, folder: Path, name: str) -> tuple[str, list[str]]:
    """Open a page; returns its document when all is loaded, and what the console said."""
    page = folder / f"{name}.html"
    page.write_text(html, encoding="utf-8")
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-extensions",
        "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--virtual-time-budget=2000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def section() -> ReportSection:
    """A search of a collection whose ids, titles and texts are hostile; so are its query and a factor's name."""
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(30, DIM)).astype(np.float32)
    with IMRNNCollection.create("qdrant+local::memory:/chromium", make_model()) as collection:
        ids = [f"{HOSTILE}{i}" for i in range(30)]
        collection.upsert(ids, vectors=vectors, texts=[f"{HOSTILE} {i}" for i in range(30)])
        found = collection.search(vectors[0], limit=10, explain=True, trace=True)
        plain = collection.search(vectors[0], limit=10, modulate=False)
        sample = collection.sample()
    results = tuple(with_hostile_factor(result) for result in found)
    response = SearchResponse(results, True, HOSTILE, 100, 30, "s", "m", trace=found.trace)
    tokens = TokenFactors(HOSTILE, ((0, len(HOSTILE)),), np.ones((2, FACTORS), np.float32), make_space())
    return ReportSection(
        HOSTILE,
        response,
        plain,
        HOSTILE,
        comparisons=(compare(results[0], results[1]),),
        texts=(MarkedText(HOSTILE, tokens, ("entity",)),),
        ends=(factor_ends(make_space(), sample, "latent_4"),),
    )


def with_hostile_factor(result):
    old = result.explanation
    return replace(result, explanation=Explanation(old.residual, old.contributions, (HOSTILE, *old.names[1:])))


@pytest.mark.parametrize("guarded", [True, False], ids=["as it is", "without its policy"])
def test_hostile_texts_are_texts_and_no_script_runs(section, tmp_path, guarded):
    html = render_report(HOSTILE, [section], HOSTILE)
    if not guarded:  # escaping alone must do
        html, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
        assert removed == 1
    document, console = browse(html, tmp_path, "report")
    assert console == []
    page = Page(document)
    assert not {"script", "img", "svg", "textarea"} & set(page.tags)
    assert page.tags.count("style") == page.tags.count("title") == 1
    assert page.text.count("<script>document.title='pwned'</script>") >= 20
    assert "{{ 7*7 }}" in page.text
    assert Page(document.partition("</head>")[0]).text.strip().startswith(HOSTILE[:30])  # the title, unchanged


def test_this_browser_would_show_a_script_and_its_error(tmp_path):
    """Without this, the test above could pass because it sees nothing."""
    document, console = browse(
        "<title>x</title><script>document.title='pwned'; nonesuch()</script>", tmp_path, "control"
    )
    assert "<title>pwned</title>" in document
    assert any("nonesuch is not defined" in line for line in console)


def test_nothing_is_wider_than_a_phone(section, tmp_path):
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_report("T", [section]))
    frame = f'<iframe id="phone" width="{PHONE}" height="700" style="border: 0" srcdoc="{escaping.escape(html)}">'
    probe = f"""{frame}</iframe><pre id="found"></pre><script>
    addEventListener("load", () => {{
      const inside = document.getElementById("phone").contentDocument;
      const wide = [...inside.querySelectorAll("body *")].filter(e => !e.closest(".scroll, .hidden, .skip"))
        .filter(e => e.getBoundingClientRect().right > {PHONE} + 1).map(e => e.outerHTML.slice(0, 80));
      document.getElementById("found").textContent =
        JSON.stringify({{width: inside.documentElement.scrollWidth, wide}});
    }});</script>"""
    document, console = browse(probe, tmp_path, "phone")
    assert console == []
    found = json.loads(escaping.unescape(document.partition('<pre id="found">')[2].partition("</pre>")[0]))
    assert found["wide"] == []
    assert found["width"] <= PHONE
