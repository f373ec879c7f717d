"""A matplotlib figure as SVG that lives inside a page.

The page's own colours and fonts apply (so that a chart follows dark mode), ids are unique to the
chart, no address is left in it, and the same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure

# Placeholder colours: drawn with by charts.py, replaced by the page's custom properties.
INK = "#010101"
MUTED = "#010102"
LINE = "#010103"
BEFORE = "#010104"
AFTER = "#010105"
PINNED = "#010106"
BOUND = "#010107"
ATTACKED = "#010108"
OBSERVED = "#010109"
SURFACE = "#01010a"

_PROPERTIES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    BEFORE: "var(--before)",
    AFTER: "var(--after)",
    PINNED: "var(--pinned)",
    BOUND: "var(--bound)",
    ATTACKED: "var(--attacked)",
    OBSERVED: "var(--observed)",
    SURFACE: "var(--surface)",
}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeprune",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "axes.unicode_minus": True,
}
_FONT = re.compile(r"font(-family|-style|-variant|-stretch)?\s*:[^;]*;?")
_SIZE = re.compile(r"font\s*:[^;]*?([\d.]+)px")


def inline(draw: Callable[[], Figure], name: str, title: str, description: str) -> Markup:
    """The figure that `draw` makes, as an `<svg>` element that a screen reader can announce.

    Args:
        draw: makes the figure; called with matplotlib's default style in force.
        name: prefix of every id; unique in the page, letters only.
        title: what the chart is.
        description: what it shows, in words.
    """
    buffer = io.BytesIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with style.context(["default", _SETTINGS]), warnings.catch_warnings():
        # The reader's own fonts draw the text; it does not matter what matplotlib's lacks.
        warnings.filterwarnings("ignore", message="Glyph")
        draw().savefig(buffer, format="svg", metadata=nothing, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        _rewrite(element, name)
    _strip(root)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", f"{title}. {description}")
    return Markup(ElementTree.tostring(root, encoding="unicode", method="html"))


def _rewrite(element: ElementTree.Element, name: str) -> None:
    """Take namespaces off, make ids unique and colours the page's own."""
    element.tag = element.tag.rpartition("}")[2]
    element.tail = None
    if element.tag != "text":
        element.text = None
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        local = key.rpartition("}")[2]
        if local == "id":
            value = f"{name}-{value}"
        elif local == "href":
            value = value.replace("#", f"#{name}-", 1)
        elif local == "style":
            value = _style(value)
        element.set(local, value.replace("url(#", f"url(#{name}-"))


def _style(value: str) -> str:
    for placeholder, own in _PROPERTIES.items():
        value = value.replace(placeholder, own)
    size = _SIZE.search(value)
    value = _FONT.sub("", value).strip()
    return f"font-size: {size.group(1)}px; {value}" if size else value


def _strip(root: ElementTree.Element) -> None:
    """Drop what a page must not get from a chart: its style sheet, metadata, ids that nothing uses."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("style", "metadata"):
                parent.remove(child)
    used = {
        match
        for element in root.iter()
        for value in element.attrib.values()
        for match in re.findall(r"#([\w-]+)", value)
    }
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
