"""A small recipe, and a way to run it."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from genrec.pipeline import run

TRAINING = {"epochs": 1, "batch_size": 64}


@pytest.fixture
def plan(tmp_path):
    """A recipe over a user's own tables; small enough to run in a second or two."""
    export = tmp_path / "export"
    export.mkdir()
    rows = [
        (f"u{user}", f"i{(user * 7 + 3 * step) % 40}", 1_600_000_000 + 86_400 * step)
        for user in range(40)
        for step in range(6)
    ]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    events.to_csv(export / "interactions.csv", index=False)
    words = ["red", "blue", "lamp", "chair", "desk", "soap"]
    items = [(f"i{n}", f"{words[n % 6]} {words[n % 5]} {words[n % 4]}") for n in range(40)]
    pd.DataFrame(items, columns=["item_id", "title"]).to_csv(export / "items.csv", index=False)
    return {
        "name": "small",
        "prepare": {"source": "tables", "path": "${EXPORT}"},
        "vectors": {"text": {"type": "lexical", "dim": 6}},
        "vocabularies": {
            "rq": {
                "vectors": "text",
                "quantizer": {"type": "rq-kmeans", "codebook_sizes": [4, 4, 4]},
            }
        },
        "runs": {
            "sid": {
                "vocabulary": "rq",
                "head": {"type": "parallel"},
                "d_model": 8,
                "training": dict(TRAINING),
            },
            "ids": {
                "item_encoder": {"type": "id"},
                "head": {"type": "dense"},
                "d_model": 8,
                "training": dict(TRAINING),
            },
        },
        "evaluate": {"bootstrap": 10, "beams": [], "examples": 1},
    }


@pytest.fixture
def recipe(plan, tmp_path, monkeypatch):
    """Writes the plan, runs it and tells which stages were done."""
    monkeypatch.setenv("EXPORT", str(tmp_path / "export"))
    path = tmp_path / "recipe.yaml"

    def go(**options):
        path.write_text(yaml.safe_dump(plan))
        notes = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/.stages").glob("*.json")}
        folder = run(str(path), out=str(tmp_path / "out"), **{"progress": False, **options})
        assert folder == tmp_path / "out"
        after = (tmp_path / "out/.stages").glob("*.json")
        return sorted(p.stem for p in after if notes.get(p) != p.stat().st_mtime_ns)

    go.path = path
    return go
