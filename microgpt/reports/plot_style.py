"""The look of all plots, and their conversion to SVG for the page and to PNG files.

Colours are those of Okabe and Ito, which the colour-blind can distinguish; series differ in dashes and markers as well,
for prints without colour. In the page colours are CSS variables, so that one SVG serves the light and the dark theme.
"""

import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawn = TypeVar("Drawn")
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
    "legend.frameon": False, "legend.borderpad": 0.1, "legend.labelspacing": 0.25, "legend.handlelength": 3.2,
    "lines.linewidth": 1.6, "lines.markersize": 4,
    "text.parse_math": False,  # a $ is a $
    "text.usetex": False, "axes.unicode_minus": True, "axes.formatter.useoffset": False,
    "svg.fonttype": "none", "svg.hashsalt": "microgpt",  # text stays text; equal figures have equal bytes
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


def drawn(plot: str, draw: Callable[[], Drawn], otherwise: Drawn) -> Drawn:
    """Return what `draw` returns; if that fails, `otherwise`, with a sentence on standard error for the user."""
    try:
        return draw()
    except Exception as error:
        print(f"left out the plot {plot}: {type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        return otherwise


def load_matplotlib() -> None:
    """Import matplotlib without MPLBACKEND, then set it for others who draw in this process: a notebook's cells.

    Notebooks export it to every command, often as a module that the command's Python does not have, and matplotlib
    raises an error at its import then. The plots use canvases of their own and need no backend.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib

        if backend is not None:
            with suppress(ValueError):  # it is not on this machine
                matplotlib.rcParams["backend"] = backend
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


@cache
def checked_style() -> dict[str, Any]:
    """Return matplotlib's defaults with STYLE, checked by matplotlib once: that takes a hundredth of a second."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        return {key: value for key, value in dict.items(matplotlib.rcParams) if key != "backend"}


@contextmanager
def plot_style() -> Iterator[None]:
    """Use matplotlib's defaults and STYLE, regardless of a matplotlibrc; then restore the caller's settings.

    A glyph that the font lacks gives no warning: the page uses the reader's fonts, and a PNG shows a box.
    """
    load_matplotlib()
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        dict.update(matplotlib.rcParams, checked_style())
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def new_axes(height: float, *, left: float = 0.74, bottom: float = 0.5, top: float = 0.12) -> "tuple[Figure, Axes]":
    """Return a figure of WIDTH x `height` inches with one pair of axes; margins in inches. pyplot would keep state."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    FigureCanvasSVG(figure)
    width = WIDTH - left - 0.22  # half of a tick label may be right of the axes
    return figure, figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, (height - bottom - top) / height))


def line_style(number: int) -> dict[str, Any]:
    """Return the colour, dashes and marker of a series."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def shortened(text: str, most: int) -> str:
    """Return the text on one line of at most `most` characters, without its middle: names differ at their ends."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def svg(figure: "Figure", prefix: str) -> str:
    """Return the figure as an SVG element to include in HTML; `prefix` makes its ids unique in the page."""
    file = io.StringIO()
    with plot_style():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", text, count=1)
    used = {found[2] for tag in TAG.findall(text) for found in USED_ID.finditer(tag)}
    text = TAG.sub(lambda found: adapt_tag(found.group(), prefix, used), text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def adapt_tag(tag: str, prefix: str, used: set[str]) -> str:
    """Return a tag with the colours and font of the page, prefixed ids, and numbers of two decimals."""
    tag = LONG_NUMBER.sub(r"\1", re.sub(r"font-family: [^;]*; ", "", tag.replace("xlink:href", "href")))
    for colour, variable in VARIABLES.items():
        tag = tag.replace(f": {colour}", f": {variable}")
    tag = OWN_ID.sub(lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", tag)
    return USED_ID.sub(rf"\1{prefix}\2", tag)


def png(figure: "Figure") -> bytes:
    """Return the figure as a PNG on white: the same bytes for the same figure."""
    file = io.BytesIO()
    with plot_style():
        figure.savefig(
            file, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None},
            pil_kwargs={"compress_level": 3},
        )  # fmt: skip
    return file.getvalue()
