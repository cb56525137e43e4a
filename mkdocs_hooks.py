"""What MkDocs does to our pages: what is good where the repository or the source is read, becomes plain text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_OUT_OF_DOCS = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)\)")
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(?=<code>)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links that leave the folder of the pages; one that leads nowhere is an error."""

    def text_of(link: re.Match[str]) -> str:
        target = (Path(page.file.abs_src_path).parent / link[2]).resolve()
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_path} links to {link[2]}, which is not there")
        return f"{link[1]} (`{link[2].lstrip('./')}`)"

    return _OUT_OF_DOCS.sub(text_of, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Take the roles of Sphinx off names: docstrings have them for readers of the source."""
    return _ROLE.sub("", html)
