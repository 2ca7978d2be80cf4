"""Places that cannot be written, or hold something else: exit code 2, and all stays as it was."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

ID_MODEL = ["--item_encoder.type=id", "--head.type=dense", "--d_model=8", "--progress=false"]


def writers(root: Path, out: Path) -> dict[str, list]:
    return {
        "prepare": ["prepare", "generated", out, "--num_items=150", "--num_users=20"],
        "embed": ["embed", root / "dataset", out],
        "quantize": ["quantize", root / "vectors", out, "--quantizer.codebook_sizes=[8,8]"],
        "inspect": ["inspect", root / "vocabulary", "--out", out],
        "train": ["train", root / "dataset", out, "--training.epochs=1", *ID_MODEL],
        "evaluate": ["evaluate", root / "ids", out, "--beams=[]", "--progress=false"],
        "recommend": ["recommend", root / "ids", "--users=U00001", "--out", f"{out}.csv"],
    }


VERBS = list(writers(Path(), Path()))


@pytest.mark.parametrize("verb", VERBS)
def test_a_place_that_cannot_be_written(refused, shop, tmp_path, verb):
    file = tmp_path / "file"
    file.write_text("mine")
    refused(writers(shop, file / "below" / "out")[verb], file / "below")
    assert file.read_text() == "mine"


def test_the_output_folder_of_a_recipe_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "recipe.yaml"
    path.write_text("{name: x, prepare: {source: generated}}")
    refused(["run", path, "--out", tmp_path / "file" / "out"], tmp_path / "file", "is a file")


@pytest.mark.parametrize("verb", ["prepare", "embed", "quantize", "train"])
def test_a_folder_of_somebody_else_is_left_alone(refused, shop, tmp_path, verb):
    out = tmp_path / "thesis"
    (out / "model").mkdir(parents=True)
    (out / "model" / "chapter.tex").write_text("mine")
    refused(writers(shop, out)[verb], out, "choose another output folder")
    assert [p.name for p in out.rglob("*")] == ["model", "chapter.tex"]


KINDS = {"prepare": "vectors", "embed": "dataset", "quantize": "vectors", "evaluate": "dataset"}


@pytest.mark.parametrize(("verb", "kind"), KINDS.items())
def test_an_artefact_of_another_kind_is_not_replaced(refused, own_shop, verb, kind):
    out = own_shop / kind
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    refused(writers(own_shop, out)[verb], out, "folder", "choose another output folder")
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_training_does_not_replace_an_artefact(refused, own_shop):
    out = own_shop / "dataset"
    before = sorted(out.rglob("*"))
    refused(writers(own_shop, out)["train"], out, "is no run of genrec")
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_one_may_not_write_to(refused, shop, tmp_path, verb, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    if os.access(closed, os.W_OK):  # to root all folders are open
        real = os.access
        monkeypatch.setattr("os.access", lambda path, mode: path != closed and real(path, mode))
    refused(writers(shop, closed / "out")[verb], closed / "out", "no permission for", closed)
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize("verb", ["inspect", "recommend"])
def test_a_folder_where_a_file_is_to_be_written(refused, shop, tmp_path, verb):
    out = tmp_path / "out.csv"
    out.mkdir()
    command = writers(shop, out)[verb]
    refused([*command[:-1], out], out, "is a folder, expected a file")
    assert list(out.iterdir()) == []


# The largest file of each verb has more bytes than the last of these.
ROOMS = {"quantize": [0, 500, 2000], "inspect": [0, 500], "recommend": [0, 500]}


@pytest.mark.parametrize(
    ("verb", "room"), [(verb, room) for verb in VERBS for room in ROOMS.get(verb, [0, 1200, 4000])]
)
def test_a_full_disk(refused, own_shop, tmp_path, verb, room):
    """No file may grow beyond `room` bytes: the system refuses it in the middle of a write."""
    out = tmp_path / "out"
    command = writers(own_shop, out)[verb]
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        refused(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    if verb == "train":
        assert not (out / "run.json").exists()
        assert not (out / "model").exists()
    elif verb == "evaluate":
        assert not (out / "report.html").exists()
    else:
        assert not out.exists()
        assert not out.with_name("out.csv").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_said_to_be_full(refused, own_shop, tmp_path, verb, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        patch.setattr(Path, "replace", full)
        refused(
            writers(own_shop, tmp_path / "out")[verb], "No space left on device", "free some space"
        )
