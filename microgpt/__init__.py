"""microgpt: a laboratory for the smallest complete GPT. See README.md; the rooms are described in docs/architecture.md."""

__version__ = "0.1.0"
