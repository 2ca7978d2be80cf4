"""The page of a SID vocabulary, as text and in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genrec.data import Catalog, Histories
from genrec.errors import ArtefactError
from genrec.pipeline.inspect_page import Inspected, write_page
from genrec.tokenizers import SidVocabulary, inspect_vocabulary

HOSTILE = "</script><img src=x onerror=document.body.dataset.hacked=1><b>"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--enable-logging=stderr",
    "--virtual-time-budget=6000",
    "--dump-dom",
)
# Opens every row, then notes the SID and title of every item that is shown.
WALK = """
  let closed;
  while ((closed = [...document.querySelectorAll(
      "#tree-0 li[aria-expanded=false] > .row, #tree-0 .more > .row")]).length) {
    closed.forEach((row) => row.click());
  }
  return [...document.querySelectorAll("#tree-0 .row.item")].map((row) => {
    const sid = [];
    for (let line = row.parentElement; line; line = line.parentElement.closest("li")) {
      const codes = line.querySelector(":scope > .row > .sid");
      if (codes) sid.unshift(codes.textContent);
    }
    return [sid.join("/"), row.querySelector(".title").textContent];
  });
"""
KEYS = """
  const focus = () => document.activeElement.querySelector(":scope > .row").textContent;
  const press = (key) => document.activeElement.dispatchEvent(
    new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  document.querySelector("#tree-0 li[tabindex='0']").focus();
  const seen = [];
  for (const key of ["ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowLeft",
      "End", "Home", "Enter"]) {
    press(key);
    seen.push([key, focus(), location.hash,
      document.activeElement.getAttribute("aria-expanded")]);
  }
  return seen;
"""
SEARCH = """
  document.querySelector("#words").value = "ITEM 17";
  document.querySelector("#search").requestSubmit();
  const hits = [...document.querySelectorAll("#results .hit .title")].map((e) => e.textContent);
  document.querySelector("#results .hit").click();
  const found = document.activeElement.querySelector(".title").textContent;
  document.querySelector("#words").value = "nowhere";
  document.querySelector("#search").requestSubmit();
  const none = document.querySelector("#results").textContent;
  document.querySelector("#order").value = "size";
  document.querySelector("#order").dispatchEvent(new Event("change"));
  const sizes = [...document.querySelectorAll("#tree-0 > li > .row > .size")].map(
    (e) => parseInt(e.textContent));
  return [hits, found, none, sizes];
"""


@pytest.fixture(scope="module")
def vocabulary():
    """300 items: 130 in one tuple, one prefix that leads to one item only, a hostile title."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, [3, 20, 5], (300, 3))
    codes[100:230] = [1, 2, 3]
    codes[299] = [3, 19, 4]
    return SidVocabulary(codes, [f"i{n}" for n in range(300)], [4, 20, 5])


@pytest.fixture(scope="module")
def titles():
    found = [f"Item {n}" for n in range(300)]
    found[299] = HOSTILE
    return found


@pytest.fixture(scope="module")
def page(vocabulary, titles, tmp_path_factory):
    catalog = Catalog(
        pd.DataFrame(
            {
                "item_id": vocabulary.item_ids,
                "title": titles,
                "kind": [HOSTILE if n % 2 else "b" for n in range(300)],
            }
        )
    )
    histories = Histories.from_lists([[1, 2, 3, 299], [3, 4, 120]])
    figures = inspect_vocabulary(
        vocabulary, catalog=catalog, histories=histories, category_column="kind", facets=1, k=5
    )
    return write_page(
        tmp_path_factory.mktemp("page") / "new" / "page.html",
        [Inspected(f"voc {HOSTILE}", vocabulary, figures)],
        catalog=catalog,
        category_column="kind",
        counts=histories.counts(300),
    )


@pytest.fixture(scope="module")
def two(vocabulary, tmp_path_factory):
    """Two vocabularies of the same items; ids stand for titles."""
    other = SidVocabulary(vocabulary.codes[:, :2], vocabulary.item_ids, [4, 20])
    shown = [
        Inspected(name, one, inspect_vocabulary(one, k=5))
        for name, one in (("one", vocabulary), ("two", other))
    ]
    return write_page(tmp_path_factory.mktemp("two") / "page.html", shown)


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Opens a page at a fragment, runs a script in it, and returns the DOM and its result."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    place = tmp_path_factory.mktemp("browser")

    def run(page: Path, fragment: str = "", script: str = "") -> tuple[str, object]:
        copy = place / "page.html"
        driver = (
            "<script>const wait = setInterval(() => {"
            'if (document.documentElement.dataset.tree !== "ready") return; clearInterval(wait);'
            f"document.body.dataset.result = JSON.stringify((() => {{{script}}})() ?? null);"
            "}, 20);</script>"
        )
        copy.write_text(page.read_text() + driver)
        user = place / "user"
        shutil.rmtree(user, ignore_errors=True)
        done = subprocess.run(
            [program, *FLAGS, f"--user-data-dir={user}", f"file://{copy}{fragment}"],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert not said, said
        result = re.search(r'data-result="([^"]*)"', done.stdout)
        assert result, "the tree was not ready"
        assert "data-hacked" not in done.stdout
        return done.stdout, json.loads(html.unescape(result.group(1)))

    return run


def test_the_page_stands_alone(page):
    text = page.read_text()
    assert re.search(r'(?:src|href)="(?!#)', text) is None
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_the_page_escapes_what_it_is_given(page):
    text = page.read_text()
    assert HOSTILE not in text and "<img" not in text
    assert text.count("</script>") == 3
    assert f"<h1>voc {html.escape(HOSTILE)}</h1>" in text


def test_the_page_holds_everything(page, two):
    text = page.read_text()
    for heading in (
        "Walk the tree",
        "Use of the codes",
        "Prefixes and fan-out",
        "Buckets",
        "Neighbours",
        "Distortion, popularity and ranks",
        "How it was built",
    ):
        assert f"<h2>{heading}" in text
    for part in ("Facets", "purity", "taken by the same users", "events on colliding items"):
        assert part in text
    assert '<a href="#/1/2/3">1/2/3</a>' in text
    both = two.read_text()
    assert '<a href="#other/1/2">1/2</a>' in both
    assert "<h3>one</h3>" in both and "<h3>two</h3>" in both
    assert "Neighbours</h2>" not in both and "purity" not in both


def test_the_page_is_deterministic_and_whole_or_absent(vocabulary, tmp_path):
    shown = [Inspected("a", vocabulary, inspect_vocabulary(vocabulary))]
    first = write_page(tmp_path / "a.html", shown).read_bytes()
    assert write_page(tmp_path / "b.html", shown).read_bytes() == first
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtefactError, match="writing failed"):
        write_page(tmp_path / "file" / "page.html", shown)


def test_what_was_left_out_is_said(vocabulary, titles, tmp_path):
    catalog = Catalog(pd.DataFrame({"item_id": vocabulary.item_ids, "title": titles}))
    shown = [Inspected("a", vocabulary, inspect_vocabulary(vocabulary))]
    path = write_page(tmp_path / "a.html", shown, catalog=catalog, title_bytes=100)
    assert "<b>Left out:</b> Item ids" in path.read_text()
    assert "of 300 titles; those of the" in path.read_text()


def test_a_fragment_opens_a_prefix(browse, page, vocabulary, titles):
    dom, _ = browse(page, "#/3")
    assert html.escape(HOSTILE, quote=False) in dom
    assert "<img" not in dom
    dom, _ = browse(page, "#/1/2/3")
    tree = dom.partition('id="tree-0"')[2].partition("</section>")[0]
    bucket = vocabulary.bucket([1, 2, 3]).tolist()
    shown = re.findall(r'<span class="title">(Item \d+)</span>', tree)
    for item in bucket[:100]:
        assert titles[item] in shown
    for item in bucket[100:]:
        assert titles[item] not in shown
    assert f"show {len(bucket) - 100} more of {len(bucket) - 100}" in tree
    # Nothing is made of the prefixes that are closed.
    closed = vocabulary.codes[:, 0] == 2
    assert closed.sum() > 10
    assert not {titles[item] for item in np.flatnonzero(closed)} & set(shown)


def test_the_tree_that_is_walked_is_the_vocabulary(browse, page, vocabulary, titles):
    _, found = browse(page, script=WALK)
    sids = ["/".join(map(str, codes)) for codes in vocabulary.codes.tolist()]
    expected = sorted(map(list, zip(sids, titles, strict=True)))
    assert sorted(found) == expected


def test_the_keyboard_walks_the_tree(browse, page):
    _, seen = browse(page, script=KEYS)
    by_key = {}
    for key, text, hash_, expanded in seen:
        by_key.setdefault(key, []).append((text, hash_, expanded))
    opened, inside = by_key["ArrowRight"]
    assert opened[0].startswith("0") and opened[2] == "true"
    assert inside[1].startswith("#/0/")
    assert by_key["ArrowUp"][0] == inside != by_key["ArrowDown"][0]
    up, closed = by_key["ArrowLeft"]
    assert up[1] == "#/0" and up[2] == "true"
    assert closed[2] == "false"
    assert HOSTILE in by_key["End"][0][0]
    assert by_key["Home"][0][1] == by_key["Enter"][0][1] == "#/0"
    assert by_key["Enter"][0][2] == "true"


def test_search_and_order(browse, page):
    _, (hits, found, none, sizes) = browse(page, script=SEARCH)
    assert sorted(hits) == sorted(["Item 17", *(f"Item {n}" for n in range(170, 180))])
    assert found == hits[0]
    assert none == "no item has this in its title"
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 3


def test_an_item_is_found_in_the_other_vocabulary(browse, two, vocabulary):
    jump = """
      const row = document.querySelector("#tree-1 .row.item");
      const name = row.querySelector(".title").textContent;
      row.querySelector(".jump").click();
      return [name, document.activeElement.querySelector(".title").textContent,
        document.activeElement.closest(".tree").id];
    """
    dom, (name, found, tree) = browse(two, "#other/2/4", jump)
    item = int(name[1:])
    assert vocabulary.codes[item, :2].tolist() == [2, 4]
    assert (found, tree) == (name, "tree-0")
    assert f"#{'/'.join(map(str, vocabulary.codes[item]))}" not in dom
