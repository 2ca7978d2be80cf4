from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from genrec.artefacts import (
    atomic_folder,
    check_folder,
    check_folder_place,
    check_place,
    check_target,
)
from genrec.data import Dataset
from genrec.errors import ArtefactError, DataError


def write(target: Path, text: str, kind: str = "vectors") -> None:
    with atomic_folder(target, kind=kind) as folder:
        (folder / "content.txt").write_text(text)


def test_a_folder_is_replaced_by_one_of_its_kind_only(tmp_path):
    target = tmp_path / "out"
    write(target, "one")
    write(target, "two")
    assert (target / "content.txt").read_text() == "two"
    with pytest.raises(ArtefactError, match=r"out: is a 'vectors' folder, which a 'dataset'"):
        write(target, "three", kind="dataset")
    assert (target / "content.txt").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_was_there_comes_back_where_the_new_folder_cannot_take_its_place(
    tmp_path, monkeypatch, error
):
    target = tmp_path / "out"
    write(target, "one")
    real = Path.rename

    def rename(self, place):
        if place == target and not self.name.endswith(".old"):
            raise error
        return real(self, place)

    expected = ArtefactError if isinstance(error, OSError) else KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(expected):
        patch.setattr(Path, "rename", rename)
        write(target, "two")
    check_folder(target, kind="vectors")
    assert (target / "content.txt").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_where_the_old_folder_cannot_come_back_it_is_named(tmp_path, monkeypatch):
    target = tmp_path / "out"
    write(target, "one")
    real = Path.rename

    def rename(self, place):
        if place == target:
            raise OSError(5, "Input/output error")
        return real(self, place)

    with monkeypatch.context() as patch, pytest.raises(ArtefactError) as raised:
        patch.setattr(Path, "rename", rename)
        write(target, "two")
    (old,) = tmp_path.iterdir()
    assert f"what it held is in {old} now" in str(raised.value)
    assert (old / "content.txt").read_text() == "one"
    # As after a kill at that moment: whoever looks for the folder is told where it is.
    with pytest.raises(ArtefactError, match=f"no such folder.*{old}: rename it back"):
        check_folder(target, kind="vectors")
    with pytest.raises(DataError, match=f"no such folder.*{old}: rename it back"):
        Dataset.load(target)
    with pytest.raises(ArtefactError) as raised:
        check_folder(tmp_path / "ou", kind="vectors")
    assert "rename it back" not in str(raised.value)


def test_an_old_folder_that_cannot_be_removed_is_named_and_the_new_one_stays(tmp_path, monkeypatch):
    target = tmp_path / "out"
    write(target, "one")

    def refuse(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match=r"is written, but.*old"):
        patch.setattr(shutil, "rmtree", refuse)
        write(target, "two")
    assert (target / "content.txt").read_text() == "two"


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"kind": "vectors", "files": []}', '"vectors"'])
def test_a_manifest_of_another_shape_is_refused(tmp_path, manifest):
    target = tmp_path / "out"
    write(target, "one")
    (target / "manifest.json").write_text(manifest)
    for check in (check_folder, check_target):
        with pytest.raises(ArtefactError, match=r"manifest.json: expected an object with `kind`"):
            check(target, kind="vectors")


def test_a_file_is_no_place_for_a_folder_and_a_folder_none_for_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="is a file, expected a folder to write"):
        check_folder_place(tmp_path / "file")
    with pytest.raises(ArtefactError, match="is a folder, expected a file to write"):
        check_place(tmp_path)
