"""Builds the page as one HTML file that makes no requests: modules become one script, styles and icon are inlined.

A module becomes a function that returns its exports. No bundler is needed because the page's modules follow a few
rules, which are checked: an import is `import { ... } from "./file.js";` at the start of a line, an export is the
declaration of a function, class or constant preceded by `export`, and imports have no cycles.
"""

import base64
import gzip
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

STATIC = Path(__file__).parent / "static"
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.]+)";\n', re.M)
EXPORT = re.compile(r"^export (?:(?:async )?function\*?|class|const) (\w+)", re.M)
LEFT_OVER = re.compile(r"^(?:import|export)\b.*", re.M)
ENDS_SCRIPT = re.compile(r"</script|<!--", re.I)


def script_of(entry: str, replaced: Mapping[str, str] | None = None) -> str:
    """Return a module and its imports as one classic script. Raises ValueError if a module breaks the rules.

    `replaced` maps the names of modules to the names of their replacements.
    """
    parts = [wrapped(name, source, replaced or {}) for name, source in in_order(entry, replaced or {}, [])]
    script = '"use strict";\n' + "\n".join(parts)
    if ENDS_SCRIPT.search(script):
        raise ValueError(
            f"{entry} or a module that it imports contains </script or <!--, which is not allowed in an inline script"
        )
    return script


def in_order(
    name: str, replaced: Mapping[str, str], above: list[str], done: set[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the names and sources of a module's imports, then of the module itself. Each module is yielded once."""
    done = set() if done is None else done
    if name in above:
        raise ValueError(f"modules import each other: {' -> '.join([*above, name])}")
    if name in done:
        return
    done.add(name)
    source = (STATIC / name).read_text(encoding="utf-8")
    for _, imported in IMPORT.findall(source):
        yield from in_order(replaced.get(imported, imported), replaced, [*above, name], done)
    yield name, source


def wrapped(name: str, source: str, replaced: Mapping[str, str]) -> str:
    """Return a module as `const $name = (() => { ...; return { its exports }; })();`."""

    def imported(match: re.Match[str]) -> str:
        names = re.sub(r"\s+", " ", match[1]).replace(" as ", ": ").strip().rstrip(",")
        return f"const {{ {names} }} = {variable(replaced.get(match[2], match[2]))};\n"

    exports = ", ".join(EXPORT.findall(source))
    body = IMPORT.sub(imported, EXPORT.sub(lambda match: match[0].removeprefix("export "), source))
    if left := LEFT_OVER.search(body):
        raise ValueError(f"{name} has a line that cannot be inlined: {left[0]}")
    returned = f"return {{ {exports} }};\n" if exports else ""
    return f"const {variable(name)} = (() => {{\n{body}{returned}}})();\n"


def variable(name: str) -> str:
    return f"${name.removesuffix('.js')}"


def single_file(data: Mapping[str, str]) -> str:
    """Return the page with the given data blocks, which map ids to base64 text for local_api.js.

    The compressed script of the worker is also a data block.
    """
    main = script_of("page.js", {"api.js": "local_api.js"})
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    icon = encoded((STATIC / "icon.svg").read_bytes())
    policy = (
        f"default-src 'none'; script-src {digest(main)}; worker-src blob:; style-src {digest(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    blocks = [
        f'<script type="text/plain" id="{name}">{content}</script>'
        for name, content in {**data, "script-worker": zipped(script_of("worker.js"))}.items()
    ]
    page, charset = (STATIC / "index.html").read_text(encoding="utf-8"), '<meta charset="utf-8">'
    for old, new in (
        (charset, f'{charset}\n  <meta http-equiv="Content-Security-Policy" content="{policy}">'),
        ('href="icon.svg"', f'href="data:image/svg+xml;base64,{icon}"'),
        ('<link rel="stylesheet" href="page.css">', f"<style>{style}</style>"),
        ('  <script type="module" src="page.js"></script>\n', ""),
        ("</body>", "\n".join([*blocks, f"<script>{main}</script>", "</body>"])),
    ):  # fmt: skip
        if page.count(old) != 1:
            raise ValueError(f"index.html must contain once: {old}")
        page = page.replace(old, new)
    return page


def zipped(text: str) -> str:
    """Return a compressed text as base64. Equal texts give equal results."""
    return encoded(gzip.compress(text.encode(), 9, mtime=0))


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def digest(content: str) -> str:
    """Return the source expression of an inline script or style (Content Security Policy Level 2)."""
    return f"'sha256-{encoded(hashlib.sha256(content.encode()).digest())}'"
