"""How every plot looks, and how it becomes SVG for the page or a PNG file. Knows nothing of what is plotted.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; lines differ in dashes and markers as well,
so that a print without colour can be read. In the page colours become CSS variables: one picture serves light and dark.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1a1a1a"
GRID = "#d9d9d9"
FAINT = "#666666"
PAPER = "#fffffe"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d00", "#7f7f7f")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = "os^DvPX*"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "legend.fontsize": 8.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.facecolor": "none",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.6,
    "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 4,
    "text.parse_math": False,  # a $ in a name is a $
    "text.usetex": False, "axes.unicode_minus": True, "axes.formatter.useoffset": False,
    "svg.fonttype": "none", "svg.hashsalt": "microgpt",  # text stays text; the same picture has the same bytes
}  # fmt: skip
PNG_DPI = 180
WIDTH = 4.7  # inches
TAG = re.compile(r"<[^>]*>")  # matplotlib escapes a > in an attribute
OWN_ID = re.compile(r' id="([^"]+)"')
USED_ID = re.compile(r'((?:href="|url\()#)([^")]+)')
LONG_NUMBER = re.compile(r"(\d\.\d\d)\d+")
VARIABLES = {colour: f"var(--series-{i})" for i, colour in enumerate(COLOURS)} | {
    INK: "var(--ink)",
    GRID: "var(--grid)",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
}


@dataclass(frozen=True)
class Plot:
    """A figure, and what stands around it."""

    name: str  # becomes part of a file's name
    title: str
    caption: str
    figure: "Figure"


@contextmanager
def our_style() -> Iterator[None]:
    """matplotlib's defaults and our style, whatever a matplotlibrc says; the caller's settings come back afterwards.

    A letter that the font lacks is no warning: the page has the reader's fonts, and a PNG shows a box.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def new_axes(height: float, *, left: float = 0.74, bottom: float = 0.5, top: float = 0.12) -> "tuple[Figure, Axes]":
    """A figure of WIDTH x `height` inches with one pair of axes; margins in inches. No pyplot, and so no state."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    FigureCanvasSVG(figure)
    width = WIDTH - left - 0.12
    return figure, figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, (height - bottom - top) / height))


def line_style(number: int) -> dict[str, Any]:
    """Colour, dashes and marker of the number-th series."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def shortened(text: str, most: int) -> str:
    """On one line, and of at most so many characters: the middle goes, as names differ at their ends."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def svg(figure: "Figure", prefix: str) -> str:
    """The figure as an SVG element for inclusion in HTML; `prefix` keeps its ids apart from those of other figures."""
    file = io.StringIO()
    with our_style():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", text, count=1)
    used = {found[2] for tag in TAG.findall(text) for found in USED_ID.finditer(tag)}
    text = TAG.sub(lambda found: adapted(found.group(), prefix, used), text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def adapted(tag: str, prefix: str, used: set[str]) -> str:
    """A tag as the page takes it: colours and font are the page's, ids have the prefix, numbers two decimals."""
    tag = LONG_NUMBER.sub(r"\1", re.sub(r"font-family: [^;]*; ", "", tag.replace("xlink:href", "href")))
    for colour, variable in VARIABLES.items():
        tag = tag.replace(f": {colour}", f": {variable}")
    tag = OWN_ID.sub(lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", tag)
    return USED_ID.sub(rf"\1{prefix}\2", tag)


def png(figure: "Figure") -> bytes:
    """The figure as a PNG on white, for print: the same bytes for the same figure."""
    file = io.BytesIO()
    with our_style():
        figure.savefig(file, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
    return file.getvalue()
