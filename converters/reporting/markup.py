"""How text gets into the report's page: through one function, which escapes all that is not markup already."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

__all__ = ["Markup", "html", "together"]


def html(template: str, *values: object, **named: object) -> Markup:
    """Markup with values in its fields, as :meth:`str.format` puts them there; each is escaped, also in attributes.

    Parameters
    ----------
    template : str
        Markup, written in the source: a constant, never text that was read or put together. Attributes stand in
        double quotes.
    *values, **named
        What goes into the fields. Only what this function or :func:`together` returned goes in as it is.

    Returns
    -------
    Markup
        A string that :func:`html` does not escape again.

    Examples
    --------
    >>> html('<b title="{}">{:,} of {}</b>', '">', 1234, html("<i>{}</i>", "<x>"))
    Markup('<b title="&#34;&gt;">1,234 of <i>&lt;x&gt;</i></b>')
    """
    return Markup(template).format(*values, **named)


def together(parts: Iterable[object]) -> Markup:
    """Parts one after another; those that are not markup are escaped.

    >>> together([html("<br>"), "<br>"])
    Markup('<br>&lt;br&gt;')
    """
    return Markup("").join(parts)  # type: ignore[arg-type]  # it escapes and joins whatever can be written
