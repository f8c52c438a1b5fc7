"""An explanation of one training step of the scalar engine, as text, an HTML page or a drawing of the graph."""
