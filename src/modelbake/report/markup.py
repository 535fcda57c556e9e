"""HTML by construction: elements of a tree, which escape all text that is put into them when they are written."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Child = Element | str
# What no text needs and HTML does not allow.
_CONTROLS = dict.fromkeys((*range(9), 11, *range(14, 32), 127), "�")


def el(tag: str, *children: Child, **attributes: str | int | float) -> Element:
    """An element; `cls` stands for class, and an underscore in a name for a hyphen."""
    names = {"cls": "class"}
    element = Element(tag, {names.get(n, n.replace("_", "-")): _clean(str(value)) for n, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + _clean(child)
        else:
            element.text = (element.text or "") + _clean(child)
    return element


def table(header: Sequence[str], rows: Sequence[Sequence[Child]], **attributes: str | int | float) -> Element:
    """A table whose rows' first cells are their headings."""
    head = el("thead", el("tr", *(el("th", cell, scope="col") for cell in header)))
    body = [el("tr", el("th", row[0], scope="row"), *(el("td", cell) for cell in row[1:])) for row in rows]
    # A wide table scrolls in its own box, not the page.
    return el("div", el("table", head, el("tbody", *body), **attributes), cls="wide")


def page(title: str, style: str, *body: Child) -> str:
    """A whole document.

    Its policy allows this one style sheet and nothing else: no script, no image, no font, no connection, no frame.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        # Or a browser would ask the server for one.
        el("link", rel="icon", href="data:,"),
        el("title", title),
        el("style", style),
    )
    document = el("html", head, el("body", *body), lang="en")
    return f"<!doctype html>\n{ElementTree.tostring(document, encoding='unicode', method='html')}\n"


def _clean(text: str) -> str:
    return text.translate(_CONTROLS)
