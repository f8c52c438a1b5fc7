"""The formats of the lesson: each returns the content of a file, or the text to print."""

from collections.abc import Callable

from microgpt.explain.graph import Graph, svg
from microgpt.explain.lesson import lesson, plain_text
from microgpt.explain.step import Step
from microgpt.reports.html import html

# explain.format -> function that returns the content
FORMATS: dict[str, Callable[[Step, Graph], str]] = {
    "text": lambda step, graph: plain_text(lesson(step)),
    "html": lambda step, graph: html(lesson(step, graph)),
    "svg": lambda step, graph: svg(graph),
}
