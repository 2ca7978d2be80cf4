import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.artefacts import cache_folder
from genrec.embedding.cache import VectorCache, text_keys
from genrec.errors import ArtefactError


def vectors_of(keys):
    """A vector that depends on the key, so that a mix-up shows."""
    return keys.view(np.uint8).reshape(len(keys), 32)[:, :4].astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 40), min_size=1, max_size=15), max_size=4),
    st.sets(st.integers(0, 60), max_size=25),
)
def test_agrees_with_a_dictionary(tmp_path_factory, shards, wanted):
    cache = VectorCache(tmp_path_factory.mktemp("cache"))
    stored = {}
    for shard in shards:
        keys = text_keys("model", [f"text {n}" for n in sorted(shard)])
        cache.put(keys, vectors_of(keys))
        stored |= dict(zip(sorted(shard), vectors_of(keys), strict=True))
    asked = sorted(wanted, key=lambda n: n * 7919 % 61)
    found, vectors = cache.get(text_keys("model", [f"text {n}" for n in asked]))
    assert found.tolist() == [n in stored for n in asked]
    for n, hit, vector in zip(asked, found, vectors, strict=True):
        if hit:
            np.testing.assert_array_equal(vector, stored[n])


def test_keys_with_zero_bytes_are_told_apart(tmp_path):
    keys = np.zeros((4, 32), dtype=np.uint8)
    keys[1, 31], keys[2, 0], keys[3, 15] = 1, 200, 7
    keys = keys.view("S32").ravel()
    cache = VectorCache(tmp_path)
    cache.put(keys[[2, 0]], np.array([[2.0], [0.5]]))
    cache.put(keys[[3, 1]], np.array([[3.0], [1.0]]))
    found, vectors = cache.get(keys)
    assert found.all()
    assert vectors.ravel().tolist() == [0.5, 1.0, 2.0, 3.0]


def test_keys_depend_on_model_and_text():
    keys = [text_keys(m, [t])[0] for m in ("a", "b") for t in ("x", "y", "", "x\ud800")]
    assert len(set(keys)) == 8


def test_a_damaged_shard_says_which_file_to_delete(tmp_path):
    keys = text_keys("model", ["a", "b"])
    cache = VectorCache(tmp_path)
    cache.put(keys, np.ones((2, 3)))
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(ArtefactError, match=f"{shard.name}.*delete"):
        cache.get(keys)


def test_an_unwritable_place_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match="cache_dir"):
        VectorCache(tmp_path / "file" / "cache")


@pytest.mark.parametrize("where", ["save", "rename"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, where):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    cache = VectorCache(tmp_path)
    if where == "save":
        monkeypatch.setattr("safetensors.numpy.save_file", full)
    else:
        monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(ArtefactError, match="No space left"):
        cache.put(text_keys("model", ["a"]), np.ones((1, 3)))
    assert os.listdir(tmp_path) == []


def test_the_default_place_follows_the_environment(monkeypatch):
    monkeypatch.setenv("GENREC_CACHE", "/somewhere")
    assert str(cache_folder("text")) == "/somewhere/text"
    monkeypatch.delenv("GENREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/other")
    assert str(cache_folder("text")) == "/other/genrec/text"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/me")
    assert str(cache_folder("text")) == "/me/.cache/genrec/text"
