from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from genrec.errors import ConfigError
from genrec.tokenizers import (
    SidVocabulary,
    export_vocabulary,
    import_vocabulary,
    item_texts,
    item_tokens,
    sid_tokens,
)
from genrec.tokenizers.tokens import level_name, parse_token

WAYS = {
    "index.json": ("sids.index.json", {}),
    "index.json by id": ("sids.json", {"names": "ids"}),
    "npy": ("sids.npy", {}),
    "parquet": ("sids.parquet", {}),
}


@st.composite
def any_vocabulary(draw):
    ids = draw(
        st.one_of(
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=15, unique=True),
            st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, unique=True),
        )
    )
    sizes = draw(st.lists(st.sampled_from([1, 2, 256, 65_535]), min_size=1, max_size=30))
    seed = draw(st.integers(0, 1000))
    codes = np.random.default_rng(seed).integers(0, sizes, (len(ids), len(sizes)))
    return SidVocabulary(codes, ids, sizes)


@settings(max_examples=40, deadline=None)
@given(any_vocabulary(), st.sampled_from(sorted(WAYS)))
def test_export_and_import_are_the_identity(tmp_path_factory, vocabulary, way):
    name, options = WAYS[way]
    path = tmp_path_factory.mktemp("export") / name
    format = way.split()[0]
    export_vocabulary(vocabulary, path, format=format, **options)
    layout = {"layout": "items"} if format == "npy" else {}
    again = import_vocabulary(
        path,
        vocabulary.item_ids,
        codebook_sizes=None if format == "parquet" else vocabulary.codebook_sizes,
        **options,
        **layout,
    )
    assert again.fingerprint == vocabulary.fingerprint
    assert again.codes.tolist() == vocabulary.codes.tolist()


def test_parquet_alone_says_everything(vocabularies, tmp_path):
    for vocabulary in vocabularies.values():
        export_vocabulary(vocabulary, tmp_path / "sids.parquet", format="parquet")
        assert import_vocabulary(tmp_path / "sids.parquet").fingerprint == vocabulary.fingerprint


def test_index_json_reads_as_letter_writes_it(vocabularies, tmp_path):
    vocabulary = vocabularies["append"]
    export_vocabulary(vocabulary, tmp_path / "x.index.json", format="index.json")
    content = json.loads((tmp_path / "x.index.json").read_text())
    assert list(content) == [str(number) for number in range(120)]
    for number, codes in enumerate(vocabulary.codes.tolist()):
        a, b, c, d = codes
        assert content[str(number)] == [f"<a_{a}>", f"<b_{b}>", f"<c_{c}>", f"<d_{d}>"]


def test_level_names_go_on_like_the_columns_of_a_spreadsheet():
    names = [level_name(level) for level in range(26 * 27 + 1)]
    assert names[:2] == ["a", "b"] and names[25:28] == ["z", "aa", "ab"] and names[-1] == "aaa"
    assert [parse_token(f"<{name}_7>") for name in names] == [(n, 7) for n in range(len(names))]


@pytest.mark.parametrize(
    "token",
    ["<a_>", "<_1>", "a_1", "<a_-1>", "<a_1> ", "<A_1>", "<a_1", "", "<L_1>", "<L01_1>", "<l0_1>"],
)
def test_what_is_no_token(token):
    assert parse_token(token) is None


def test_tokens_are_stable_and_whole():
    vocabulary = SidVocabulary([[0, 2], [1, 0]], ["x", "y"], [2, 3])
    expected = ["<a_0>", "<a_1>", "<b_0>", "<b_1>", "<b_2>"]
    assert sid_tokens(vocabulary) == expected
    assert item_tokens(vocabulary).tolist() == [["<a_0>", "<b_2>"], ["<a_1>", "<b_0>"]]
    assert item_texts(vocabulary) == ["<a_0><b_2>", "<a_1><b_0>"]
    places = np.array([0, 2]) + vocabulary.codes
    assert [[expected[n] for n in row] for row in places] == item_tokens(vocabulary).tolist()


def test_a_language_models_tokenizer_learns_and_reads_them(vocabularies, tmp_path):
    vocabulary = vocabularies["reassign"]
    export_vocabulary(vocabulary, tmp_path / "tokens.json", format="tokens")
    content = json.loads((tmp_path / "tokens.json").read_text())
    words = {"[UNK]": 0, "buy": 1, "next": 2}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    assert tokenizer.add_special_tokens(content["special_tokens"]) == sum(vocabulary.codebook_sizes)
    starts = np.cumsum([0, *vocabulary.codebook_sizes[:-1]]) + len(words)
    for item, codes in zip(vocabulary.item_ids, vocabulary.codes, strict=True):
        encoded = tokenizer.encode(f"buy {content['items'][item]} next")
        assert encoded.ids == [1, *(starts + codes).tolist(), 2]
    text = tokenizer.decode(encoded.ids, skip_special_tokens=False).replace(" ", "")
    assert text == f"buy{content['items'][item]}next"


def test_a_tokenizer_of_transformers_takes_them_too(vocabularies):
    from transformers import PreTrainedTokenizerFast

    vocabulary = vocabularies["append"]
    words = {"[UNK]": 0, "buy": 1}
    plain = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]")
    tokens = sid_tokens(vocabulary)
    assert tokenizer.add_special_tokens({"additional_special_tokens": tokens}) == len(tokens)
    starts = np.cumsum([0, *vocabulary.codebook_sizes[:-1]]) + len(words)
    encoded = tokenizer(item_texts(vocabulary)).input_ids
    assert encoded == (starts + vocabulary.codes).tolist()


def test_bad_options(vocabularies, tmp_path):
    with pytest.raises(ConfigError, match=r"'index' is unknown; did you mean 'index\.json'"):
        export_vocabulary(vocabularies["allow"], tmp_path / "x", format="index")
    with pytest.raises(ConfigError, match="names: 'npy' has no choice"):
        export_vocabulary(vocabularies["allow"], tmp_path / "x", format="npy", names="ids")
    assert not (tmp_path / "x").exists()
