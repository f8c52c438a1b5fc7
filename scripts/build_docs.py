"""Run the commands of README.md and of the guides in docs/, and replace the output that the pages show.

    python scripts/build_docs.py                    replace the output in all pages
    python scripts/build_docs.py --check            only list outputs that have changed (exit code 1)
    python scripts/build_docs.py --only training    one page; README is the page `README`

A block of output follows the block of the command that printed it:

    <!-- output: first=5 last=8 -->
    ```text
    num docs: 29910
    ```

`first` and `last` are the numbers of lines to keep; `from="text"` begins at the first line that contains the text;
`numbers=vary` leaves numbers out of the comparison, for tables of times; `cut=100` ends longer lines with `...`.

The commands of a page, in `sh` and `python` blocks, run one after the other in one folder. The blocks after the last
one that reads earlier runs each begin without runs, so that their reports contain only their own. A page is out of date
if a word of its output has changed, or a number by more than 2 %; times, rates and dates are not compared. A training
command on which no output depends runs only 20 steps: one that has no block of output and follows the last output that
reads earlier runs. A block marked `<!-- not run -->` is not run.

The content of a block marked `<!-- code: FILE NAME -->` is replaced with the source of that function or class; with
`<!-- code: FILE NAME without docstring -->`, its docstring is left out.
"""

import argparse
import ast
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Their commands are examples, or are run by scripts/repeat_figures.py and scripts/build_findings.py.
NOT_GUIDES = ("adding", "log", "performance", "findings")
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n+)?^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
PROGRAM = re.compile(
    r"(?:.*&& )?((?:python (?:-m microgpt|-c |scripts/)|bash scripts/gpu_check.sh --device cpu |torchrun |curl |echo |"
    r"cat ).*)"
)
# Commands that take minutes, or need names.txt or the network; separate tests run them.
RUN_ELSEWHERE = tuple(
    f"python -m microgpt experiment={name}" for name in ("karpathy", "karpathy_first", "chat", "screening")
)
NEEDS_NAMES = ("experiment=karpathy", "data=makemore")
TRAINS_ANEW = re.compile(r"(?!.*( task=|train\.resume|--help|--cfg))(python -m microgpt|torchrun)")
SHORT = 20  # steps of a command on which no output depends
# Occurs in commands whose output depends on earlier commands, or in that output.
READS_RUNS = re.compile(r"latest|collect|outputs|results/|runs\(")
VARYING = re.compile(
    r"\d{4}-\d\d-\d\d(?:[/ T]\d\d[-:]\d\d[-:]\d\d)?|\b\d\d-\d\d-\d\d_[0-9a-f]{8}\b|_[0-9a-f]{8}\b|"  # dates, folders
    r"~?\d+:\d\d(?::\d\d)?|\d[\d.,]* ?(?:k |M )?(?:[a-z]+/s|ms|s|seconds|minutes)\b|"  # times and rates
    r"\b\d{3,}\.\d+|per_sec=[\d.]+|\bthreads=\d+"  # rates without a unit
)
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
PROGRESS = re.compile(r"jobs \d+ / |evaluated \d+ / |compiling ")  # lines that only a slow machine prints
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
ANY_NUMBER = re.compile(r"\d[\d.,]*(?:e[-+]?\d+)?")
TOLERANCE = 0.02  # allowed relative difference of numbers, for different kinds of CPU
SERVING_SECONDS = 120


@dataclass
class Output:
    """A block of output in a page."""

    span: tuple[int, int]  # of the text between the fences
    shown: str
    first: int
    last: int
    begin: str
    compares_numbers: bool = True
    cut: int = 0  # longest line that is shown; 0: no limit

    def excerpt(self, text: str) -> str:
        """Return the part of a command's output that the page shows."""
        lines = [line.rstrip() for line in text.rstrip().splitlines() if not PROGRESS.match(line)]
        if self.begin:
            start = next((n for n, line in enumerate(lines) if self.begin in line), None)
            if start is None:
                raise SystemExit(f"error: from={self.begin!r}: no line of the output contains this text:\n{text}")
            lines = lines[start:]
        if self.first + self.last and len(lines) > self.first + self.last:
            lines = [*lines[: self.first], *["..."][: bool(self.last)], *lines[len(lines) - self.last :]]
        if self.cut:
            lines = [line if len(line) <= self.cut else f"{line[: self.cut - 4]} ..." for line in lines]
        return "\n".join(lines) + "\n"


@dataclass
class Block:
    """A block of commands, and the output of its last command that the page shows."""

    language: str
    body: str
    output: Output | None = None

    @property
    def reads_runs(self) -> bool:
        return bool(READS_RUNS.search(self.body + (self.output.shown if self.output else "")))

    @property
    def commands(self) -> list[str]:
        if self.language == "python":
            return [self.body]
        lines = [re.sub(r"\s+# .*", "", line) for line in re.sub(r"\\\n\s*", "", self.body).splitlines()]
        return [found[1] for line in lines if (found := PROGRAM.fullmatch(line))]


@dataclass
class Page:
    path: Path
    text: str
    blocks: list[Block] = field(default_factory=list)
    sources: list[tuple[tuple[int, int], str]] = field(default_factory=list)  # where to put the source of what


def read_page(path: Path) -> Page:
    page = Page(path, path.read_text())
    for found in FENCE.finditer(page.text):
        mark, language = found["mark"] or "", found["language"]
        if mark.startswith("output") and language == "text":
            options = {key: quoted or plain for key, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|(\S+))', mark)}
            page.blocks[-1].output = Output(
                found.span("body"), found["body"], int(options.get("first", 0)), int(options.get("last", 0)),
                options.get("from", ""), options.get("numbers") != "vary",
                int(options.get("cut", 0)),
            )  # fmt: skip
        elif mark.startswith("code: "):
            page.sources.append((found.span("body"), mark.removeprefix("code: ")))
        elif language in ("sh", "python") and mark != "set-up: test" and not mark.startswith("not run"):
            page.blocks.append(Block(language, found["body"]))
    return page


class Commands:
    """The folder in which the commands of a page run, and the server that one of them may have started."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.server: subprocess.Popen[str] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        self.ran: list[str] = []
        prepare(folder)

    def run(self, block: Block, shorten: bool) -> str | None:
        """Run a block; return the output of its last command, or None if that was not run. Raises SystemExit."""
        printed = None
        for command in block.commands:
            if command in RUN_ELSEWHERE or (is_without_names() and any(name in command for name in NEEDS_NAMES)):
                continue
            short = shortened(command) if shorten and block.language == "sh" else command
            printed = self.run_command(short, block.language)
            self.ran.append(command)
        return printed

    def remove_runs(self) -> None:
        for name in ("outputs", "results"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def run_command(self, command: str, language: str) -> str:
        command = command.replace("8080", self.port)
        if language == "python":
            arguments, shell = [sys.executable, "-c", command], False
        else:
            command = command.replace("curl ", "curl --fail --silent --show-error ", 1)
            command = command.replace("torchrun", "python -m torch.distributed.run", 1)
            arguments, shell = re.sub(r"\bpython\b", sys.executable, command), True
        if "task=serve" in command:
            return self.serve(str(arguments))
        done = subprocess.run(
            arguments, shell=shell, cwd=self.folder, env=environment(), text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"error: exit code {done.returncode} of: {command}\n{done.stdout[-3000:]}")
        return done.stdout.replace(self.port, "8080").replace(f"{self.folder}/", "")

    def serve(self, shell: str) -> str:
        """Start a server for the following commands; return its output once it accepts requests."""
        log = self.folder / "serve.log"
        with log.open("w") as output:
            self.server = subprocess.Popen(
                f"exec {shell} serve.port={self.port}", shell=True, cwd=self.folder, env=environment(), text=True,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        end = time.monotonic() + SERVING_SECONDS
        while "Ctrl-C to stop" not in (printed := log.read_text()):
            if self.server.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"error: the server did not start: {printed}")
            time.sleep(0.05)
        return printed.replace(self.port, "8080")

    def close(self) -> int:
        """Stop the server, if there is one, and return its exit code."""
        if self.server is None:
            return 0
        self.server.send_signal(signal.SIGTERM)
        return self.server.wait(60)


def shortened(command: str) -> str:
    """Return a command that trains a new model, limited to SHORT steps; any other command unchanged."""
    if not TRAINS_ANEW.match(command):
        return command
    stated = re.search(r" train\.steps=(\d+)", command)
    if stated is None:
        return f"{command} train.steps={SHORT}"
    return command.replace(stated[0], f" train.steps={min(int(stated[1]), SHORT)}")


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHON": sys.executable,
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }


def is_without_names() -> bool:
    return "MICROGPT_DATA_DIR" not in os.environ


def prepare(folder: Path) -> None:
    """Write the files that the commands of the pages read."""
    shutil.copytree(ROOT / "scripts", folder / "scripts")  # also creates the folder
    (folder / "input.txt").write_text("".join(f"the {n} small model reads line {n}.\n" for n in range(200)))
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    talks = [[*talk, {"role": "user", "content": "x" * n}, {"role": "assistant", "content": "y"}] for n in range(20)]
    (folder / "mine.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in talks))
    yaml = re.search(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "data.md").read_text(), re.MULTILINE | re.DOTALL)
    assert yaml
    style = folder / "mine" / "style" / "pirate.yaml"
    style.parent.mkdir(parents=True)
    style.write_text(yaml[1])


def source_of(place: str) -> str:
    """Return the source of a function or class, given as `FILE NAME` or `FILE NAME without docstring`."""
    file, name, *without_docstring = place.split()
    code = (ROOT / file).read_text()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            lines = code.splitlines()[node.lineno - 1 : node.end_lineno]
            if without_docstring:
                docstring = node.body[0]
                del lines[docstring.lineno - node.lineno : (docstring.end_lineno or 0) - node.lineno + 1]
            return textwrap.dedent("\n".join(lines)) + "\n"
    raise SystemExit(f"error: {file} has no {name}")


def has_changed(shown: str, printed: str, compares_numbers: bool = True) -> bool:
    """Return whether two outputs differ in a word, or in a number by more than the tolerance."""
    if not compares_numbers:
        return ANY_NUMBER.sub("#", shown).split() != ANY_NUMBER.sub("#", printed).split()
    before, after = (VARYING.sub("#", THOUSANDS.sub("", text)) for text in (shown, printed))
    if NUMBER.sub("", before).split() != NUMBER.sub("", after).split():
        return True
    pairs = zip_longest(NUMBER.findall(before), NUMBER.findall(after), fillvalue="nan")
    return not all(
        math.isclose(float(a), float(b), rel_tol=TOLERANCE, abs_tol=1e-9) and decimals(a) == decimals(b)
        for a, b in pairs
    )


def decimals(number: str) -> int:
    return len(number.partition(".")[2])


def build(page: Page, folder: Path) -> tuple[str, list[str], list[str]]:
    """Run the commands of a page; return its new text, its changed outputs, and the commands that were run."""
    commands, changed = Commands(folder), []
    shown = [n for n, block in enumerate(page.blocks) if block.output and READS_RUNS.search(block.body)]
    last_needed = max(shown, default=-1)
    last_reading = max((n for n, block in enumerate(page.blocks) if block.reads_runs), default=-1)
    new_texts = {span: source_of(place) for span, place in page.sources}
    changed = [f"{page.path.name}: {p}" for span, p in page.sources if page.text[slice(*span)] != new_texts[span]]
    try:
        for number, block in enumerate(page.blocks):
            if number > last_reading:
                commands.remove_runs()
            printed = commands.run(block, shorten=number > last_needed and block.output is None)
            if block.output is None or printed is None:
                continue
            new = block.output.excerpt(printed)
            if has_changed(block.output.shown, new, block.output.compares_numbers):
                changed.append(f"{page.path.name}: the output of `{block.commands[-1].splitlines()[0]}`")
                new_texts[block.output.span] = new
    finally:
        exit_code = commands.close()
    if exit_code:
        raise SystemExit(f"error: the server of {page.path.name} ended with exit code {exit_code}")
    text = page.text
    for (begin, end), new in sorted(new_texts.items(), reverse=True):
        text = text[:begin] + new + text[end:]
    return text, changed, commands.ran


def page_names() -> list[str]:
    """Return the names of README and of the pages in docs/ that have commands."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    return ["README", *(p.stem for p in pages if p.stem not in NOT_GUIDES and has_commands(p))]


def has_commands(page: Path) -> bool:
    return any(f"\n```{language}\n" in page.read_text() for language in ("sh", "python"))


def page_path(name: str) -> Path:
    return ROOT / "README.md" if name == "README" else ROOT / "docs" / f"{name}.md"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a page is out of date")
    parser.add_argument("--only", choices=page_names(), metavar="PAGE", help="README or the name of a page in docs/")
    parsed = parser.parse_args(arguments)
    changed: list[str] = []
    for name in [parsed.only] if parsed.only else page_names():
        page = read_page(page_path(name))
        with tempfile.TemporaryDirectory() as folder:
            text, differences, ran = build(page, Path(folder) / "work")
        print(f"{page.path.name}: {len(ran)} commands, {len(differences)} outputs have changed", flush=True)
        changed += differences
        if not parsed.check:
            page.path.write_text(text)
    print("\n".join(changed))
    return 1 if changed and parsed.check else 0


if __name__ == "__main__":
    sys.exit(main())
