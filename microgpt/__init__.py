"""microgpt: a laboratory for the smallest complete GPT. docs/architecture.md describes its rooms."""

__version__ = "0.1.0"
