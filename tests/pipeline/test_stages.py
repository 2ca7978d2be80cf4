from __future__ import annotations

import os

import pytest
from rich.console import Console

from genrec.pipeline.stages import Stages, embedded_from, prepared_from


def test_what_a_kill_kept_from_being_redone_is_redone_later(tmp_path):
    done = []

    def go(*names):
        done.clear()
        stages = Stages(tmp_path, Console(quiet=True))
        for before, name in zip((None, *names), names, strict=False):

            def work(name=name):
                (tmp_path / name).mkdir(exist_ok=True)
                done.append(name)

            stages.do(name, 1, work, after=[before] if before else None)
        return list(done)

    assert go("a", "b", "c") == ["a", "b", "c"]
    assert go("a", "b", "c") == []
    (tmp_path / "a").rmdir()
    assert go("a") == ["a"]  # and killed
    assert go("a", "b", "c") == ["b", "c"]
    assert go("a", "b", "c") == []


@pytest.fixture
def files(tmp_path):
    for name in ("export/interactions.csv", "export/items.csv", "elsewhere/items.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a")
    return tmp_path


def changes(inputs, change):
    """Whether the inputs tell that something was changed."""
    seen = inputs()
    assert inputs() == seen
    change()
    return inputs() != seen


@pytest.mark.parametrize("path", ["export", "export/interactions.csv"])
@pytest.mark.parametrize("items", ["../elsewhere/items.csv", "{root}/elsewhere/items.csv"])
def test_tables_outside_of_the_path_are_inputs(files, path, items):
    options = {"path": str(files / path), "items": items.format(root=files)}

    def inputs():
        return prepared_from(options)

    assert changes(inputs, lambda: os.utime(files / "elsewhere/items.csv"))


def test_a_table_is_listed_once(files):
    plain = {"path": str(files / "export")}
    assert prepared_from({**plain, "items": "items.csv"}) == prepared_from(plain)
    assert prepared_from({**plain, "items": None, "metadata": "none"}) == prepared_from(plain)
    assert prepared_from({}) is None
    assert prepared_from({**plain, "download": True}) is None


def test_a_folder_may_hold_the_recipe_and_its_output_too(files):
    plain = {"path": str(files / "export")}
    both = {**plain, "interactions": "interactions.csv", "items": "items.csv"}

    def spoil():
        (files / "export/runs").mkdir()
        (files / "export/runs/items.parquet").touch()

    assert not changes(lambda: prepared_from(plain), spoil)
    assert changes(lambda: prepared_from(plain), lambda: os.utime(files / "export/items.csv"))
    assert not changes(lambda: prepared_from(both), (files / "export/recipe.yaml").touch)
    assert changes(lambda: prepared_from(both), lambda: os.utime(files / "export/items.csv"))


def model_at(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder / "weights.safetensors"


def test_the_content_of_a_model_folder_is_an_input(tmp_path, monkeypatch):
    weights = model_at(tmp_path / "home/model")
    weights.write_text("1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = {"type": "fused", "parts": [{"type": "text", "model": "~/model"}]}

    def inputs():
        return embedded_from(config)

    assert inputs() is not None
    assert not changes(inputs, lambda: os.utime(weights))  # content, not time
    assert changes(inputs, lambda: weights.write_text("2"))


def test_the_content_of_a_packaged_model_is_an_input(tmp_path, monkeypatch):
    weights = model_at(tmp_path / "packaged_encoder/minilm")
    weights.write_text("1")
    (tmp_path / "packaged_encoder/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))

    def inputs():
        return embedded_from({"type": "text", "model": "package:packaged_encoder"})

    assert changes(inputs, lambda: weights.write_text("2"))


def test_a_model_on_the_hub_is_not_asked_for():
    assert embedded_from({"type": "text", "model": "somebody/some-model"}) is None
    assert embedded_from({"type": "lexical"}) is None
