"""The snippets of the README and of the documentation, run as a reader would run them.

The snippets of a page run from top to bottom in one empty folder. A bash block holds `genrec`
commands, and `make` commands, which CI runs itself; anything else belongs in another kind of block.
A yaml block that begins with a name is a recipe, and is saved as `NAME.yaml`.
A text block behind it shows what it prints: the counts in it are those of the command.
"""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from genrec import cli
from genrec.data.sources import SOURCES
from genrec.models import BACKBONES, HEADS, ITEM_ENCODERS
from genrec.pipeline import Recipe
from genrec.quantization import QUANTIZERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/tutorial.md", "docs/tutorial-tencentgr.md", "docs/how-to")
FLAGS = re.MULTILINE | re.DOTALL
FENCE = re.compile(r"^```(python|bash|text|yaml)\n(.*?)^```$", FLAGS)
COUNT = re.compile(r"(?<![\d.,\w])\d[\d,]*\d(?![\d.,%\w])")  # two digits or more, no fraction


@dataclass(frozen=True)
class Snippet:
    """One fenced block.

    Attributes:
        language: `python`, `bash`, `text` or `yaml`.
        text: what it holds.
        line: where the text starts in the page.
    """

    language: str
    text: str
    line: int


def snippets(page: Path) -> Iterator[Snippet]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start(2)) + 1
        yield Snippet(found.group(1), found.group(2), line)


def commands(text: str) -> list[list[str]]:
    """The words of each command; a backslash continues a line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def counts_missing(shown: str, printed: str) -> list[str]:
    """Lines that show a count which no line of as many words and counts has within a tenth.

    Rows of tables are told apart by their words; figures of quality and time are not compared.
    """

    def parts(line: str) -> tuple[tuple[str, ...], list[int]]:
        numbers = [int(found.replace(",", "")) for found in COUNT.findall(line)]
        return tuple(re.findall(r"[A-Za-z]{3,}", line)), numbers

    known = [parts(line) for line in printed.splitlines()]
    missing = []
    for line in shown.splitlines():
        words, numbers = parts(line)
        alike = [found for those, found in known if those == words and len(found) == len(numbers)]
        if (
            numbers
            and words
            and not any(
                all(abs(a - b) <= 0.1 * a for a, b in zip(numbers, found, strict=True))
                for found in alike
            )
        ):
            missing.append(line)
    return missing


def pages() -> list[str]:
    found = []
    for name in PAGES:
        place = ROOT / name
        some = sorted(place.glob("*.md")) if place.is_dir() else [place]
        found += [str(page.relative_to(ROOT)) for page in some]
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def registries() -> Iterator[None]:
    """Forget what the snippets register."""
    everything: tuple[dict[str, Any], ...] = (
        SOURCES,
        BACKBONES,
        HEADS,
        ITEM_ENCODERS,
        QUANTIZERS,
    )
    before = [dict(registry) for registry in everything]
    yield
    for registry, known in zip(everything, before, strict=True):
        registry.clear()
        registry.update(known)


@pytest.mark.usefixtures("one_thread", "registries")
@pytest.mark.parametrize("page", pages())
def test_snippets_run_in_order(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = ""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("COLUMNS", "80")
    for snippet in snippets(ROOT / page):
        print(f"{page}:{snippet.line}")
        if snippet.language == "text":
            printed += "".join(capsys.readouterr())
            assert not counts_missing(snippet.text, printed), f"{page}:{snippet.line}"
            continue
        if snippet.language == "yaml":
            if named := re.match(r"name: (\S+)", snippet.text):
                Path(f"{named[1]}.yaml").write_text(snippet.text)
            continue
        if snippet.language == "python":
            script = tmp_path / f"line{snippet.line}.py"
            script.write_text(snippet.text)
            runpy.run_path(str(script), run_name="__main__")
            continue
        for program, *arguments in commands(snippet.text):
            if program == "genrec":
                cli.main(arguments)
            else:
                assert program == "make", f"{page}:{snippet.line}: cannot run {program!r}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        for snippet in snippets(ROOT / page):
            if snippet.language == "bash":
                used = {words[1] for words in commands(snippet.text) if words[0] == "make"}
                assert used <= targets, f"{page}:{snippet.line}"


def test_the_recipe_shown_is_valid(tmp_path: Path) -> None:
    found = re.search(r"^```yaml\n(.*?)^```$", (ROOT / "docs/recipes.md").read_text(), FLAGS)
    assert found
    (tmp_path / "shown.yaml").write_text(found.group(1))
    assert Recipe.load(tmp_path / "shown.yaml").name == "demo"


def test_links_inside_the_checkout_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text()):
            assert (ROOT / target).exists(), f"{page} links to {target}"
