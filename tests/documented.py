"""What README.md and docs/ show to be typed: fenced blocks, the commands in them and in the text.

A block of commands is read by bash itself, whole, as a reader pastes it; its programs only record their
arguments. A block that is of no known kind is an error, so that none goes unread."""

import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:pipeline|python|pytest|pip|mkdocs) [^`\n]+)`")
LANGUAGES = ("python", "cpp", "toml", "yaml")
PROGRAMS = (
    *("pipeline", "pip", "pytest", "python", "python3", "mkdocs"),
    *("gcc", "g++", "openssl", "srun", ".", "#SBATCH", "ros2"),
)

# In place of the programs: functions that write down the line they stand in and their arguments.
RECORDER = r"""
set -eu
record() { printf '%s\0' "${BASH_LINENO[-2]}" "$@" @@@ >> "$RECORD"; }
for program in pipeline pip pytest python python3 mkdocs gcc g++ openssl ros2; do
  eval "function $program { record $program \"\$@\"; }"
done
function srun { "$@"; }
"""


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str

    @property
    def kind(self) -> str:
        """`python`, `cpp`, `toml`, `yaml`, `commands`, or `listing` of files; AssertionError if none."""
        if self.language in LANGUAGES:
            return self.language
        first = next(line for line in self.text.splitlines() if not line.startswith("# ")).split()[0]
        if first.partition("=")[0].isupper() or first in PROGRAMS:
            return "commands"
        assert first.endswith("/") or "──►" in self.text, f"no kind for the block in {self.place}"
        return "listing"

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    place: str
    words: tuple[str, ...]
    fenced: bool

    @property
    def stage(self) -> str:
        """The subcommand of `pipeline`, or the program."""
        return self.words[1] if self.words[0] == "pipeline" else self.words[0]

    def __str__(self) -> str:
        return f"{self.place} {' '.join(self.words)}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(str(page.relative_to(ROOT)), line, match[1], match[2]))
    return found


def commands() -> list[Command]:
    """Of all blocks and of all text."""
    found = []
    for block in blocks():
        if block.kind == "commands":
            found += typed(block)
    for page in PAGES:
        text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text("utf-8"))
        for match in INLINE.finditer(text):
            place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
            found += _of_text(place, match[1])
    return found


def typed(block: Block) -> list[Command]:
    """Returns what bash makes of a block of commands; AssertionError for what it cannot run.

    Variables before a command and `srun` are no part of it. A comment has a line of its own: behind a command
    zsh takes it for arguments, unless it is told otherwise."""
    assert not re.search(r"\S[ \t]+#", block.text), block.place
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / ".venv" / "bin").mkdir(parents=True)
        (work / ".venv" / "bin" / "activate").touch()
        for name, text in (("recorder.sh", RECORDER), ("block.sh", block.text), ("record", "")):
            (work / name).write_text(text)
        own = {"BASH_ENV": str(work / "recorder.sh"), "RECORD": str(work / "record")}
        done = subprocess.run(
            ["bash", "block.sh"], cwd=work, env=os.environ | own, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block.place}: {done.stderr}"
        fields = (work / "record").read_text().split("@@@\0")[:-1]
    found = []
    for field in fields:
        line, *words = field.split("\0")[:-1]
        found.append(Command(f"{block.page}:{block.line + int(line)}", tuple(words), True))
    return sorted(found, key=lambda command: int(command.place.rpartition(":")[2]))


def _of_text(place: str, line: str) -> list[Command]:
    """`a && b` -> a, b."""
    parts = line.split(" && ")
    return [Command(place, tuple(shlex.split(part.partition(" > ")[0])), False) for part in parts]
