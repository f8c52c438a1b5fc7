"""Charts: what is drawn, how series are distinguished, and the SVG and PNG files."""

import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import FillBetweenPolyCollection, PathCollection

from microgpt.reports import plot_style
from microgpt.reports.charts import MOST_DOTS, Strip, curves, strips, thinned
from microgpt.reports.curves import Band
from microgpt.reports.paired_statistics import Interval, summary
from microgpt.reports.plot_style import COLOURS, DASHES, MARKERS, png, shortened, svg

X = np.array([0.0, 50.0, 100.0, 150.0])


def band(*means: float, half: float = 0.1, runs: int = 4) -> Band:
    mean = np.array(means)
    return Band(X[: len(mean)], mean, mean - half, mean + half, runs)


def lines_by_label(figure) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.array(line.get_xydata()) for line in figure.axes[0].get_lines()}


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


# Curves


def test_curves_draw_each_mean_as_a_line_and_each_interval_as_an_area():
    bands = {"one": band(3.3, 2.8, 2.6, 2.5), "other": band(3.4, 2.9, 2.5, 2.4, half=0.05)}
    figure = curves(bands, x_label="training steps")
    drawn = lines_by_label(figure)
    assert list(drawn) == ["one", "other"]
    areas = [a for a in figure.axes[0].collections if isinstance(a, FillBetweenPolyCollection)]
    for area, (name, given_band) in zip(areas, bands.items(), strict=True):
        np.testing.assert_array_equal(drawn[name], np.column_stack([given_band.x, given_band.mean]))
        outline = area.get_paths()[0].vertices
        assert {(x, y) for x, y in np.asarray(outline)} >= {*zip(X, given_band.low, strict=True)}
        assert {(x, y) for x, y in np.asarray(outline)} >= {*zip(X, given_band.high, strict=True)}
    assert figure.axes[0].get_xlabel() == "training steps"
    assert "nats per token" in figure.axes[0].get_ylabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "other"]


def test_series_differ_in_more_than_their_colours():
    figure = curves({str(i): band(3.0 - i / 10, 2.5) for i in range(8)}, x_label="x")
    drawn = figure.axes[0].get_lines()
    assert len({line.get_color() for line in drawn}) == len(COLOURS) == 8
    assert len({str(line.get_marker()) for line in drawn}) == len(MARKERS) == 8
    assert len({(line.get_color(), str(line.get_linestyle())) for line in drawn}) == 8
    assert len(set(map(str, DASHES))) == 4


def test_the_colours_differ_without_colour_vision():
    """Any two differ in lightness or, for red-green blindness, on the axis from blue to yellow."""

    def seen(colour: str) -> np.ndarray:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return np.array([0.3 * red + 0.59 * green + 0.11 * blue, blue - (red + green) / 2])

    first = [seen(colour) for colour in COLOURS[:4]]
    assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(first) for b in first[:i])


def test_references_in_range_are_lines():
    figure = curves({"a": band(3.3, 2.8, 2.6, 2.5)}, x_label="x", references={"bigram": 2.6, "uniform": 9.0})
    references = [np.array(line.get_xydata()) for line in figure.axes[0].get_lines()[1:]]
    assert [line[:, 1].tolist() for line in references] == [[2.6, 2.6]]
    assert texts(figure) == ["bigram\ncounts"]


def test_from_x_draws_only_the_points_from_there_on():
    figure = curves({"a": band(3.3, 2.8, 2.6, 2.5, half=0.01)}, x_label="x", from_x=75)
    assert lines_by_label(figure)["a"].tolist() == [[100, 2.6], [150, 2.5]]
    low, high = figure.axes[0].get_ylim()
    assert 2.4 < low < 2.49
    assert 2.61 < high < 2.7


def test_a_wide_band_does_not_set_the_scale():
    figure = curves({"a": band(3.0, 2.0, half=50.0)}, x_label="x")
    low, high = figure.axes[0].get_ylim()
    assert high - low < 4
    assert low < 2 < 3 < high


def test_curves_without_intervals_and_without_slope_are_drawn():
    flat = Band(X, np.full(4, 2.5), np.full(4, np.nan), np.full(4, np.nan), 1)
    low, high = curves({"a": flat}, x_label="x").axes[0].get_ylim()
    assert low < 2.5 < high


# Strips


def strip(label: str, *values: float, series: int = 0) -> Strip:
    found = summary(values)
    return Strip(label, values, found.mean, found.interval, series)


def dots_of(figure) -> list[np.ndarray]:
    return [np.asarray(c.get_offsets()) for c in figure.axes[0].collections if isinstance(c, PathCollection)]


def vertical_lines(figure) -> list[float]:
    """Return the x of the lines from bottom to top."""
    drawn = [np.array(line.get_xydata()) for line in figure.axes[0].get_lines()]
    return [line[0, 0] for line in drawn if line[:, 1].tolist() == [0, 1]]


def test_strips_draw_every_value_as_a_dot_and_the_mean_on_its_interval():
    rows = [strip("first", 2.5, 2.6, 2.4), strip("second", 2.7, 2.8, series=1)]
    figure = strips(rows, x_label="loss")
    assert [dots[:, 0].tolist() for dots in dots_of(figure)] == [list(row.values) for row in rows]
    drawn = [np.array(line.get_xydata()) for line in figure.axes[0].get_lines()]
    for row, interval, mean in zip(rows, drawn[::2], drawn[1::2], strict=True):
        assert row.interval is not None
        assert interval[:, 0].tolist() == [row.interval.low, row.interval.high]
        assert mean[:, 0].tolist() == [row.mean]
    assert texts(figure) == ["first", "second"]


def test_the_first_strip_is_on_top_and_rows_do_not_mix():
    figure = strips([strip(str(i), *np.linspace(0, 1, 50)) for i in range(3)], x_label="x")
    heights = [dots[:, 1] for dots in dots_of(figure)]
    assert all(abs(h - place).max() < 0.151 for place, h in enumerate(heights))
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > 2
    assert top < 0


def test_a_plot_of_differences_has_a_line_at_zero():
    figure = strips([strip("a − b", 0.25, 0.5)], x_label="x", zero=True)
    assert vertical_lines(figure) == [0]
    assert vertical_lines(strips([strip("a", 1, 2)], x_label="x")) == []


def test_a_strip_without_dots_and_one_without_an_interval_are_drawn():
    figure = strips([Strip("Welch", (), 0.1, Interval(0.0, 0.2)), strip("one seed", 0.3)], x_label="x")
    assert [len(dots) for dots in dots_of(figure)] == [0, 1]
    assert len(figure.axes[0].get_lines()) == 3


def test_references_of_strips_in_range_are_vertical_lines():
    figure = strips([strip("a", 2.4, 2.6)], x_label="x", references={"bigram": 2.5, "uniform": 9.0})
    assert texts(figure) == ["a", "bigram\ncounts"]
    assert vertical_lines(figure) == [2.5]


@given(st.integers(1, 2000))
def test_dots_are_thinned_in_the_order_of_the_seeds(count):
    values = np.arange(count, dtype=float)
    kept = thinned(values.tolist())
    assert len(kept) == min(count, MOST_DOTS)
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert np.diff(kept).max(initial=1) <= count / MOST_DOTS + 2


# Files


def figures():
    yield curves({"a": band(3.3, 2.8, 2.6), "b": band(3.2, 2.9, 2.7)}, x_label="x", references={"bigram": 2.7})
    yield strips([strip("a", 2.5, 2.6, 2.4)], x_label="x", zero=True)


def test_a_figure_drawn_twice_has_the_same_bytes():
    first = [(svg(figure, "s-"), png(figure)) for figure in figures()]
    assert first == [(svg(figure, "s-"), png(figure)) for figure in figures()]


def test_a_png_is_white_has_no_date_and_is_large_enough_to_print():
    for figure in figures():
        content = png(figure)
        assert content.startswith(b"\x89PNG")
        assert b"tEXt" not in content
        width = int.from_bytes(content[16:20], "big")
        assert width / 180 == pytest.approx(plot_style.WIDTH, abs=0.01)


def test_svg_loads_nothing_and_uses_the_colours_of_the_page():
    for figure in figures():
        text = svg(figure, "s1-")
        assert text.startswith("<svg viewBox=")
        assert text.endswith("</svg>")
        assert "http" not in text
        assert "<style" not in text
        assert "font-family" not in text
        assert re.findall(r"#[0-9a-f]{6}\b", text) == []
        assert "var(--series-0)" in text
        assert "var(--ink)" in text


def test_ids_of_two_figures_differ_and_every_reference_has_its_target():
    one, other = (svg(figure, f"s{number}-") for number, figure in enumerate(figures()))
    for text, prefix in ((one, "s0-"), (other, "s1-")):
        ids = re.findall(r'\bid="([^"]+)"', text)
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
        assert used == set(ids)
        assert len(ids) == len(set(ids))
        assert all(name.startswith(prefix) for name in ids)


@pytest.mark.parametrize("label", [
    "<script>alert(1)</script>", 'a" onload="alert(1)', "cost $x^2$ \\frac{", "id=\"x\" href=\"#y\" : #0072b2 1.23456",
    "two\nlines\tand a tab", "é – 💥 漢字",
])  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_any_label_is_shown_literally(label):
    for figure in (curves({label: band(3, 2)}, x_label="x"), strips([strip(label, 1, 2)], x_label="x")):
        text = svg(figure, "s-")
        assert "<script" not in text
        shown = re.findall(r"<text[^>]*>([^<]*)</text>", text)
        plain = " ".join(label.split())
        assert plain in [one.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for one in shown]
        assert png(figure)


@given(st.text(), st.integers(3, 60))
def test_a_shortened_label_keeps_both_ends(text, most):
    found = shortened(text, most)
    plain = " ".join(text.split())
    assert len(found) <= most
    assert found == plain or (found[0] == plain[0] and found[-1] == plain[-1] and "…" in found)


def test_the_user_s_rcparams_have_no_effect_and_are_restored(monkeypatch):
    plain = [svg(figure, "s-") for figure in figures()]
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    monkeypatch.setitem(matplotlib.rcParams, "savefig.bbox", "tight")
    monkeypatch.setitem(matplotlib.rcParams, "xtick.direction", "in")
    assert [svg(figure, "s-") for figure in figures()] == plain
    assert matplotlib.rcParams["axes.facecolor"] == "red"


def test_pyplot_is_never_loaded():
    code = (
        "import sys; import numpy as np; from microgpt.reports.charts import Strip, strips;"
        "from microgpt.reports.plot_style import png; png(strips([Strip('a', (1.0, 2.0), 1.5, None)], x_label='x'));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
