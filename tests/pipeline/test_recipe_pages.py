"""The recipes of the repository, and the page that documents them."""

from __future__ import annotations

import re
from pathlib import Path

from genrec.pipeline.recipe import Recipe


def test_the_recipes_of_the_repository_are_right(monkeypatch):
    monkeypatch.setenv("GENREC_DATA", "/data")
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert Recipe.load(path).name


def test_every_recipe_is_listed_and_says_how_it_is_run_where_and_with_what_result():
    root = Path(__file__).parents[2]
    listed = (root / "docs" / "recipes.md").read_text()
    for path in sorted((root / "recipes").glob("*.yaml")):
        head = path.read_text().partition("\nname:")[0]
        for what in ("Run:", "Machine:", "Result:"):
            assert f"\n# {what}" in head, f"{path.name}: no {what}"
        assert f"genrec run recipes/{path.name}" in head and f"`{path.stem}`" in listed, path.name


def test_the_pages_name_every_part_and_option():
    import inspect

    from genrec.models import BACKBONES, HEADS, ITEM_ENCODERS
    from genrec.pipeline import evaluate, quantize
    from genrec.pipeline.recipe import SUPPLIED_TO_EVALUATE
    from genrec.pipeline.resolved import SUPPLIED
    from genrec.quantization import QUANTIZERS

    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "recipes.md").read_text()
    models = [*ITEM_ENCODERS, *BACKBONES, *HEADS]
    parts = [*QUANTIZERS, *models]
    options = [
        name
        for function, supplied in ((evaluate, SUPPLIED_TO_EVALUATE), (quantize, SUPPLIED))
        for name in inspect.signature(function).parameters
        if name not in supplied
    ]
    for name, known in (
        ("recipes.md", parts),
        ("how-to/train-a-recommender.md", models),
        ("how-to/build-a-sid-vocabulary.md", QUANTIZERS),
    ):
        text = (docs / name).read_text()
        assert [part for part in known if f"`{part}`" not in text] == [], f"docs/{name}"
    assert [name for name in options if not re.search(rf"[`.]{name}`", page)] == []


def test_the_pages_name_every_source():
    from genrec.data.sources import SOURCES

    docs = Path(__file__).parents[2] / "docs"
    row = re.search(r"^\| `prepare\.source` \|.*$", (docs / "recipes.md").read_text(), re.M)
    page = (docs / "how-to" / "prepare-public-data.md").read_text()
    for source in SOURCES:
        assert row and f"`{source}`" in row[0], f"docs/recipes.md: {source}"
        assert f"`{source}`" in page, f"docs/how-to/prepare-public-data.md: {source}"
