"""For the pages: examples in a docstring's text become code blocks, roles become code, types lose their marks."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Read by mkdocstrings (``mkdocs.yml``)."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    """Fence doctests outside of an ``Examples`` section, and turn ``:func:`~a.b``` into code."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    # a parameter's type is set as code already: the marks in it would show
    text = re.sub(r"^\w+(?:, \w+)* : .*``.*$", lambda line: line[0].replace("``", ""), text, flags=re.MULTILINE)
    lines: list[str] = []
    fenced, inside = False, "\nExamples\n---" in text  # griffe itself knows what to do with a section
    for line in text.split("\n"):
        starts = line.lstrip().startswith(">>>")
        if starts and not fenced and not inside:
            lines += ["", "```python"]
            fenced = True
        elif fenced and not line.strip():
            lines.append("```")
            fenced = False
        lines.append(line)
    return "\n".join([*lines, "```"] if fenced else lines)
