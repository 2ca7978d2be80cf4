from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.artefacts import MANIFEST, file_sha256, read_json, write_json
from genrec.errors import ArtefactError, DataError
from genrec.quantization import make_quantizer
from genrec.tokenizers import SidVocabulary


def same(one: SidVocabulary, other: SidVocabulary) -> bool:
    arrays = ("codes", "tie_order", "item_ids")
    facts = ("codebook_sizes", "collision_policy", "vectors_fingerprint", "fingerprint", "config")
    return all(
        (getattr(one, name) == getattr(other, name)).all()
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in arrays
    ) and all(getattr(one, name) == getattr(other, name) for name in facts)


@pytest.mark.parametrize("policy", ["allow", "append", "reassign"])
def test_round_trip_to_the_bit(vocabularies, vectors, tmp_path, policy):
    saved = vocabularies[policy]
    saved.save_pretrained(tmp_path / "sids")
    loaded = SidVocabulary.from_pretrained(tmp_path / "sids")
    assert same(loaded, saved)
    assert (loaded.fitted == saved.fitted).all()
    assert (loaded.quantizer.encode(vectors) == saved.quantizer.encode(vectors)).all()
    again = loaded.save_pretrained(tmp_path / "again")
    assert read_json(again / MANIFEST) == read_json(tmp_path / "sids" / MANIFEST)


@settings(max_examples=15, deadline=None)
@given(
    st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20, unique=True),
        st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=20, unique=True),
    ),
    st.lists(st.sampled_from([1, 2, 256, 65_535]), min_size=1, max_size=5),
    st.integers(0, 1000),
)
def test_round_trip_of_any_ids_and_codes(tmp_path_factory, ids, sizes, seed):
    codes = np.random.default_rng(seed).integers(0, sizes, (len(ids), len(sizes)))
    saved = SidVocabulary(codes, ids, sizes, config={"note": "imported"})
    folder = tmp_path_factory.mktemp("any") / "sids"
    saved.save_pretrained(folder)
    loaded = SidVocabulary.from_pretrained(folder)
    assert same(loaded, saved)
    assert loaded.quantizer is None and loaded.fitted is None


@pytest.fixture
def folder(vocabularies, tmp_path):
    return vocabularies["reassign"].save_pretrained(tmp_path / "sids")


def edit_items(folder, change, *, mend_manifest):
    table = pq.read_table(folder / "items.parquet").to_pydict()
    change(table)
    pq.write_table(pa.table(table), folder / "items.parquet")
    if mend_manifest:
        manifest = read_json(folder / MANIFEST)
        manifest["files"]["items.parquet"] = file_sha256(folder / "items.parquet")
        write_json(folder / MANIFEST, manifest)


def swap_code(table):
    table["code_1"][3] = (table["code_1"][3] + 1) % 8


def test_an_edited_code_is_noticed(folder):
    edit_items(folder, swap_code, mend_manifest=False)
    with pytest.raises(ArtefactError, match=r"items\.parquet: was changed or truncated"):
        SidVocabulary.from_pretrained(folder)


def test_an_edited_code_is_noticed_even_with_a_mended_manifest(folder):
    edit_items(folder, swap_code, mend_manifest=True)
    with pytest.raises(ArtefactError, match=r"items\.parquet: does not match the fingerprint"):
        SidVocabulary.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t["code_2"].__setitem__(5, 8),
            r"items\.parquet: code_2, item 'item-005'.* is 8",
        ),
        (
            lambda t: t["item_id"].__setitem__(5, "item-004"),
            "'item-004': in row 4 and again in row 5",
        ),
        (lambda t: t["tie_order"].__setitem__(0, 10**6), "tie_order: is not a permutation"),
        (lambda t: t.pop("code_1"), "lacks .*code_1"),
        (lambda t: t.pop("item_id"), "lacks .*item_id"),
        (lambda t: t.__setitem__("code_0", [0.5] * 120), "expected integers"),
    ],
)
def test_inconsistent_items(folder, change, message):
    edit_items(folder, change, mend_manifest=True)
    with pytest.raises(ArtefactError, match=message):
        SidVocabulary.from_pretrained(folder)


def test_truncated(folder):
    path = folder / "items.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtefactError, match=r"items\.parquet: was changed or truncated"):
        SidVocabulary.from_pretrained(folder)
    path.unlink()
    with pytest.raises(ArtefactError, match=r"items\.parquet: is missing"):
        SidVocabulary.from_pretrained(folder)


def test_truncated_with_a_mended_manifest(folder):
    path = folder / "items.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    manifest = read_json(folder / MANIFEST)
    manifest["files"]["items.parquet"] = file_sha256(path)
    write_json(folder / MANIFEST, manifest)
    with pytest.raises(ArtefactError, match=r"items\.parquet"):
        SidVocabulary.from_pretrained(folder)


def test_a_fact_is_missing(folder):
    facts = json.loads((folder / "vocabulary.json").read_text())
    del facts["codebook_sizes"]
    write_json(folder / "vocabulary.json", facts)
    manifest = read_json(folder / MANIFEST)
    manifest["files"]["vocabulary.json"] = file_sha256(folder / "vocabulary.json")
    write_json(folder / MANIFEST, manifest)
    with pytest.raises(ArtefactError, match="lacks 'codebook_sizes'"):
        SidVocabulary.from_pretrained(folder)


def test_another_quantizer_does_not_pass(vocabularies, vectors, folder):
    other = make_quantizer("rq-kmeans", codebook_sizes=[8, 8, 8], seed=5).fit(vectors)
    other.save_pretrained(folder / "quantizer")
    with pytest.raises(ArtefactError, match=r"quantizer.* was changed or truncated"):
        SidVocabulary.from_pretrained(folder)
    smaller = make_quantizer("rq-kmeans", codebook_sizes=[8, 8]).fit(vectors)
    saved = vocabularies["reassign"]
    with pytest.raises(DataError, match=r"codebooks of \(8, 8\) codes, .* need \(8, 8, 8\)"):
        SidVocabulary(saved.codes, saved.item_ids, saved.codebook_sizes, quantizer=smaller)


def test_another_kind_of_folder(vocabularies, tmp_path):
    vocabularies["allow"].quantizer.save_pretrained(tmp_path / "quantizer")
    with pytest.raises(ArtefactError, match="is a 'quantizer' folder"):
        SidVocabulary.from_pretrained(tmp_path / "quantizer")
    with pytest.raises(ArtefactError, match="no such folder"):
        SidVocabulary.from_pretrained(tmp_path / "absent")


def test_nothing_is_left_behind_where_nothing_can_be_written(vocabularies, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtefactError, match="choose another name"):
        vocabularies["allow"].save_pretrained(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing(vocabularies, tmp_path, monkeypatch):
    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", no_space)
    with pytest.raises(ArtefactError, match="No space left on device"):
        vocabularies["allow"].save_pretrained(tmp_path / "sids")
    assert not list(tmp_path.iterdir())
