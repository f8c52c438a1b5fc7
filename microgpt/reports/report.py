"""The model of a report: sections made of paragraphs, lists, tables, plots and samples.

sections.py builds it; html.py and markdown.py render it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from microgpt.reports.factor_effects import Compared

Cells = dict[str, str]  # column -> text


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str
    style: Literal["plain", "strong", "caption", "command"] = "plain"
    code: Sequence[str] = ()  # short pieces of code that follow the text


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of the same columns; `references` are rows that are set apart at the end."""

    title: str
    rows: Sequence[Cells]
    note: str = ""
    references: Sequence[Cells] = ()
    is_text: bool = False  # cells are text, which is aligned at the left and wrapped


@dataclass(frozen=True)
class Plot:
    name: str  # part of a file name
    title: str
    caption: str
    figure: "Figure"


@dataclass(frozen=True)
class Plots:
    plots: Sequence[Plot]


@dataclass(frozen=True)
class Drawing:
    """An SVG element that is included in the page unchanged, at its own size."""

    title: str
    svg: str


@dataclass(frozen=True)
class Samples:
    """Generated texts of several variants, side by side."""

    variants: Mapping[str, Mapping[int, Sequence[str]]]  # name -> seed -> texts


Block = Heading | Paragraph | Bullets | Table | Plots | Drawing | Samples


@dataclass(frozen=True)
class Analysis:
    """What an analysis of a family adds to its section (analyses.py)."""

    findings: Sequence[str] = ()  # sentences for "What the data show"
    plots: Sequence[Plot] = ()  # next to the other plots of the family
    blocks: Sequence[Block] = ()  # below the plots
    data: Mapping[str, Any] = field(default_factory=dict)  # the numbers, of plain types, for report.json
    first: Sequence[Block] = ()  # above all findings
    last: Sequence[str] = ()  # sentences for the end of "What the data show"
    compared: "Compared | None" = None  # of the analysis of effects: each variant with the best one


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]
    anchor: str = ""  # of a link to the section
    summary: str = ""  # next to that link
    comparison: str = ""  # of an ablation: its comparison key
    data: Mapping[str, Any] = field(default_factory=dict)  # the numbers of a family, for report.json

    @property
    def plots(self) -> list[Plot]:
        return [plot for block in self.blocks if isinstance(block, Plots) for plot in block.plots]


@dataclass(frozen=True)
class Report:
    title: str
    summary: str
    sections: Sequence[Section]
    footer: str = ""
