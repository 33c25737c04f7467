"""What README.md and docs/ show to be typed: fenced blocks, the commands in them and in the text.

A block that is of no known kind is an error, so that none goes unread."""

import re
import shlex
from collections.abc import Iterator
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
        assert first.endswith("/") or "──►" in self.text, f"no kind for the block in {self.page}:{self.line}"
        return "listing"


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
    found: list[Command] = []
    for block in (block for block in blocks() if block.kind == "commands"):
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            if line and not line.startswith("#"):
                assert not re.search(r"\S\s+#", line), f"{line}: a comment has a line of its own, for zsh"
                found += _typed(f"{block.page}:{number}", line, fenced=True)
    for page in PAGES:
        text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text("utf-8"))
        for match in INLINE.finditer(text):
            place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
            found += _typed(place, match[1], fenced=False)
    return found


def _typed(place: str, line: str, *, fenced: bool) -> Iterator[Command]:
    """`a && X=1 srun b > file` -> a, b."""
    for part in line.split(" && "):
        words = shlex.split(part.partition(" > ")[0])
        while words[0] == "srun" or re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        yield Command(place, tuple(words), fenced)
