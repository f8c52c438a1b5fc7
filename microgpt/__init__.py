"""microgpt: a laboratory for the smallest complete GPT. docs/architecture.md describes the packages."""

__version__ = "0.1.0"
