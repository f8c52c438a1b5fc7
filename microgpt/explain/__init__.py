"""One training step of the scalar engine, explained: as text, as a page and as a drawing of the graph."""
