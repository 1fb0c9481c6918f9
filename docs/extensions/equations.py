"""Equations to MathML when the site is built: no script and no network on the reader's side."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """A hook of mkdocs: what ``pymdownx.arithmatex`` marked becomes ``<math>``."""
    return _EQUATION.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    math = convert(unescape(found[2]).strip(), display=display)
    return f'<div class="equation">{math}</div>' if display == "block" else math
