"""HTML and SVG elements that are escaped by construction and well-formed as XML too."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

__all__ = ["Child", "Markup", "joined", "tag"]

VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})
"""The HTML elements in use that have no end tag."""

# XML has no way to write these, and a lone surrogate cannot be written as UTF-8 at all.
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is markup already. Any other string is text, and is escaped where it is put into an element."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]
"""What an element may hold: markup, text, a number, nothing, or several of these."""


def _written(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int):
        return html.escape(UNWRITABLE.sub("\ufffd", str(child)))
    return "".join(map(_written, child))


def joined(*children: Child) -> Markup:
    """Several pieces one after another, text escaped.

    >>> joined("a < b", None, ["&"])
    'a &lt; b&amp;'
    """
    return Markup(_written(children))


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """One element.

    Args:
        name: The element's name.
        children: What it holds.
        attributes: Underscores become hyphens and one at the end is dropped (``class_``, ``stroke_width``); None leaves
            an attribute out; numbers are rounded to two decimals, which is a hundredth of a pixel.

    >>> tag("p", "1 < 2", class_="note", hidden=None)
    '<p class="note">1 &lt; 2</p>'
    >>> tag("rect", width=1/3)
    '<rect width="0.33"></rect>'
    """
    written = "".join(f' {_attribute_name(key)}="{_attribute(value)}"' for key, value in attributes.items() if value is not None)
    if name in VOID:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{_written(children)}</{name}>")


def _attribute_name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _attribute(value: str | float) -> str:
    return _written(value) if isinstance(value, str) else f"{round(value, 2):g}"
