from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from genrec.errors import ConfigError, DataError
from genrec.tokenizers import SidVocabulary, import_vocabulary

CODES = np.array([[183, 70, 2], [4, 0, 9], [183, 70, 2], [0, 1, 1]])
IDS = ["i0", "i1", "i2", "i3"]


def letters(row):
    return [f"<{'abc'[level]}_{code}>" for level, code in enumerate(row)]


def write_json(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_index_json_of_tokens_in_any_order(tmp_path):
    shuffled = {str(n): letters(CODES[n]) for n in (2, 0, 3, 1)}
    path = write_json(tmp_path / "beauty.index.json", shuffled)
    made = import_vocabulary(path, IDS, codebook_sizes=[256, 256, 256])
    assert made.codes.tolist() == CODES.tolist()
    assert made.item_ids.tolist() == IDS
    assert made.codebook_sizes == (256, 256, 256)
    assert made.quantizer is None and made.vectors_fingerprint == ""
    assert made.config["imported"]["file"] == "beauty.index.json"
    assert made.config["collisions"]["colliding_items_after"] == 2
    alone = import_vocabulary(path)
    assert alone.item_ids.tolist() == [0, 1, 2, 3]
    assert alone.codes.tolist() == CODES.tolist()
    assert alone.codebook_sizes == (184, 71, 10)


def test_json_of_codes_with_ids_as_keys(tmp_path):
    content = dict(zip(IDS, CODES.tolist(), strict=True))
    path = write_json(tmp_path / "codebook.json", content)
    assert import_vocabulary(path, names="ids").item_ids.tolist() == IDS
    turned = import_vocabulary(path, IDS[::-1], names="ids")
    assert turned.codes.tolist() == CODES[::-1].tolist()
    numbers = write_json(tmp_path / "numbers.json", {"70": [1], "7": [0]})
    assert import_vocabulary(numbers, names="ids").item_ids.tolist() == [70, 7]
    assert import_vocabulary(numbers, [7, 70], names="ids").codes[:, 0].tolist() == [0, 1]
    assert import_vocabulary(numbers).item_ids.tolist() == [7, 70]


def test_codebook_of_unigenrec(tmp_path):
    lines = (
        '{"0": "<L0_182> <L1_65> <L2_137> <L3_186> <L4_0>",\n'
        ' "2": "<L0_0> <L1_255> <L2_9> <L3_10> <L4_1>",\n'
        ' "1": " <L0_182>\\t<L1_65>  <L2_137> <L3_186> <L4_1> "}'
    )
    expected = [[182, 65, 137, 186, 0], [182, 65, 137, 186, 1], [0, 255, 9, 10, 1]]
    path = write_json(tmp_path / "codebook.json", lines)
    made = import_vocabulary(path, IDS[:3], codebook_sizes=[256, 256, 256, 256, 2])
    assert made.codes.tolist() == expected
    lists = {key: text.split() for key, text in json.loads(lines).items()}
    assert import_vocabulary(write_json(tmp_path / "l.json", lists)).codes.tolist() == expected
    texts = {str(n): " ".join(letters(row)) for n, row in enumerate(CODES)}
    made = import_vocabulary(write_json(tmp_path / "t.json", texts))
    assert made.codes.tolist() == CODES.tolist()


def test_append_numbers_the_items_of_a_tuple(tmp_path):
    np.save(tmp_path / "codes.npy", CODES)
    made = import_vocabulary(tmp_path / "codes.npy", IDS, collisions="append")
    assert made.collision_policy == "append"
    assert made.codes[:, :3].tolist() == CODES.tolist()
    assert made.codebook_sizes == (184, 71, 10, 2)
    assert sorted(made.codes[[0, 2], 3].tolist()) == [0, 1]
    made.save_pretrained(tmp_path / "v")
    assert SidVocabulary.from_pretrained(tmp_path / "v").fingerprint == made.fingerprint


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64])
@pytest.mark.parametrize("turned", [False, True])
def test_npy_and_tensors_in_either_layout(tmp_path, dtype, turned):
    codes = CODES.clip(max=100).astype(dtype)
    stored = codes.T if turned else codes
    np.save(tmp_path / "codes.npy", stored)
    torch.save(torch.from_numpy(np.ascontiguousarray(stored)), tmp_path / "codes.pt")
    for name in ("codes.npy", "codes.pt"):
        for options in ({}, {"item_ids": IDS}, {"layout": "levels" if turned else "items"}):
            made = import_vocabulary(tmp_path / name, **options)
            assert made.codes.tolist() == codes.tolist()


def test_a_square_file_needs_the_layout(tmp_path):
    square = np.array([[0, 1], [1, 2]])
    np.save(tmp_path / "codes.npy", square)
    for ids in (None, ["a", "b"]):
        with pytest.raises(DataError, match="say layout 'items'"):
            import_vocabulary(tmp_path / "codes.npy", ids)
    assert import_vocabulary(tmp_path / "codes.npy", layout="levels").codes[0].tolist() == [0, 1]
    made = import_vocabulary(tmp_path / "codes.npy", layout="levels")
    assert made.codes.tolist() == square.T.tolist()


LISTS = CODES.tolist()
COLUMNS = {f"code_{level}": CODES[:, level] for level in range(3)}


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ({"codes": pa.array(LISTS, pa.list_(pa.int32(), 3))}, None),
        ({"codes": pa.array(LISTS, pa.large_list(pa.uint64())), "weight": [1, 2, 3, 4]}, None),
        ({**COLUMNS, "tie_order": [0, 1, 2, 3]}, None),
        ({f"sid{level + 1}": CODES[:, level].astype(np.uint64) for level in range(3)}, None),
        ({"x": CODES[:, 0], "y": CODES[:, 1], "z": CODES[:, 2]}, ["x", "y", "z"]),
        ({"old": pa.array([[1]] * 4), "new": pa.array(LISTS)}, ["new"]),
    ],
    ids=["fixed list", "large list", "levels", "levels from 1", "named levels", "named list"],
)
def test_parquet(tmp_path, table, columns):
    pq.write_table(pa.table({"item_id": IDS, **table}), tmp_path / "sids.parquet")
    made = import_vocabulary(tmp_path / "sids.parquet", columns=columns)
    assert made.codes.tolist() == CODES.tolist()
    assert made.item_ids.tolist() == IDS
    order = ["i2", "i0", "i1", "i3"]
    made = import_vocabulary(tmp_path / "sids.parquet", order, columns=columns)
    assert made.codes.tolist() == CODES[[2, 0, 1, 3]].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"0": ["<a_1>"],\n "1": ["<a_1>"', r"is not JSON \(.*line 2"),
        ("[[1, 2]]", "holds a list; expected one object"),
        ("{}", "holds no items"),
        ('{"0": [1], "1": [2], "0": [3]}', "item '0' comes twice, as entry 1 and again as entry 3"),
        ('{"0": {"a": 1}}', "item '0': is an object; expected a list"),
        ('{"0": [1], "7": "<a_1><b_2>"}', "item '7': is \"<a_1><b_2>\"; expected a list"),
        ('{"0": [1, 2], "1": [2, 3], "2": [4]}', "item '2': has 1 codes, most items have 2"),
        ('{"0": []}', "item '0': has 0 codes"),
        ('{"0": ["<a_1>", "<a_2>"]}', "item '0': token 2 is '<a_2>'; expected '<b_CODE>'"),
        ('{"0": ["<a_1>"], "1": ["<a_01>"]}', "item '1': token 1 is '<a_01>'; expected '<a_CODE>'"),
        ('{"0": ["<a_1>"], "1": ["a1"]}', "item '1': token 1 is 'a1'"),
        ('{"0": ["<a_1>", 2]}', "item '0': code 2 is 2; expected a token"),
        ('{"0": [1], "1": [true]}', "item '1': code 1 is true"),
        ('{"0": [1], "1": [null]}', "item '1': code 1 is null"),
        ('{"0": "<L0_1> <L1_2>", "1": "<L0_1> <L1_1>", "2": "<L0_1>  "}', "'2': has 1 codes, most"),
        ('{"0": " "}', "item '0': has 0 codes"),
        ('{"0": "<L0_1> <L2_2>"}', "token 2 is '<L2_2>'; expected '<b_CODE>' or '<L1_CODE>'"),
        ('{"0": "<L1_1> <L2_2>"}', "token 1 is '<L1_1>'; expected '<a_CODE>' or '<L0_CODE>'"),
        ('{"0": "<L0_1>", "1": ["<L0_2>"]}', "item '0': is \"<L0_1>\"; expected a list, or for"),
        ('{"0": [1.5]}', "item '0': code 1 is 1.5"),
        ('{"0": [1], "1": [99999999999999999999]}', "item '1': code 1 is 99999999999999999999"),
        ('{"0": [1], "1": [-4]}', r"item 1 \(row 2\), level 0 is -4"),
        ('{"0": [1], "1": [2147483647]}', "level 0 is 2147483647; expected a code from 0"),
        ('{"0": ["<a_9999999999>"]}', "level 0 is 9999999999"),
        ('{"0": [1], "B07": [2]}', "item 'B07': is no item number; .* say names 'ids'"),
        ('{"0": [1], "01": [2]}', "item '01': is no item number"),
    ],
)
def test_json_that_is_wrong(tmp_path, content, message):
    path = write_json(tmp_path / "x.json", content)
    with pytest.raises(DataError, match=message) as caught:
        import_vocabulary(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"0": [1], "2": [1]}, {"item_ids": ["a", "b"]}, "item 2: is the number of none of the 2"),
        (
            {"0": [1]},
            {"item_ids": ["a", "b"]},
            r"no SID for 1 of 2 items, such as 'b' \(number 1\)",
        ),
        ({"a": [1], "c": [0]}, {"item_ids": ["a", "b"], "names": "ids"}, "'c': is the id of none"),
        ({"a": [1]}, {"item_ids": ["a", "b"], "names": "ids"}, "no SID for 1 of 2 items"),
        ({"0": [5]}, {"codebook_sizes": [4]}, r"code_0, item 0 \(row 0\): is 5; expected 0..3"),
    ],
)
def test_items_that_do_not_fit(tmp_path, content, options, message):
    path = write_json(tmp_path / "x.json", content)
    with pytest.raises(DataError, match=message):
        import_vocabulary(path, **options)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2)), "holds float64; expected integers"),
        (np.zeros(3, dtype=int), r"has the shape \(3,\)"),
        (np.zeros((0, 2), dtype=int), r"has the shape \(0, 2\)"),
        (np.array([["a", "b"]] * 3), "expected integers"),
        (np.zeros((5, 2), dtype=int), r"has the shape \(5, 2\), and there are 4 items"),
        (np.array([[0], [1], [-1], [0]]), r"item 2 \(row 3\), level 0 is -1"),
        (np.array([[0], [2**63], [1], [0]], dtype=np.uint64), r"item 1 \(row 2\), level 0 is"),
    ],
)
def test_arrays_that_are_wrong(tmp_path, array, message):
    np.save(tmp_path / "codes.npy", array)
    with pytest.raises(DataError, match=message):
        import_vocabulary(tmp_path / "codes.npy", IDS)


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "does not hold one plain tensor, and anything else could run code"),
        ({"codes": torch.zeros(4, 2, dtype=torch.int64)}, "holds a dict; expected one dense"),
        ([torch.zeros(4, 2, dtype=torch.int64)], "holds a list"),
        (torch.zeros(4, 2), "holds torch.float32; expected integers"),
        (torch.zeros(4, 2, dtype=torch.bool), "holds bool; expected integers"),
        (torch.zeros(4, 2, dtype=torch.int64).to_sparse(), "expected one dense tensor"),
        (torch.zeros(4, dtype=torch.int64), r"has the shape \(4,\)"),
    ],
)
def test_tensors_that_are_wrong(tmp_path, capsys, content, message):
    torch.save(content, tmp_path / "codes.pt")
    with pytest.raises(DataError, match=message):
        import_vocabulary(tmp_path / "codes.pt", IDS)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_pickles_and_truncated_files(tmp_path, capsys):
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil()))
    torch.save(torch.zeros(400, 3, dtype=torch.int64), tmp_path / "cut.pt")
    np.save(tmp_path / "objects.npy", np.array([[Evil()]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "cut.npy", np.zeros((400, 3), dtype=int))
    pq.write_table(pa.table({"item_id": IDS, **COLUMNS}), tmp_path / "cut.parquet")
    for path in tmp_path.glob("cut.*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "text.json").write_bytes(b"\xff\xfe{}")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError, match=path.name) as refused:
            import_vocabulary(path)
        # torch advises to load what it refuses without the check; users are not told so.
        assert "weights_only" not in str(refused.value)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"code_0": [0, 1]}, "has no column 'item_id'"),
        ({"item_id": ["a", "a"], "code_0": [0, 1]}, "item_id 'a': in row 0 and again in row 1"),
        ({"item_id": ["a", None], "code_0": [0, 1]}, "item_id, row 1: is None"),
        ({"item_id": ["a", "b"], "title": ["x", "y"]}, "that may hold codes: none"),
        (
            {"item_id": ["a", "b"], "code_0": [0, 1], "sid_0": [1, 1]},
            r"may hold codes: \[\['code_0'\], \['sid_0'\]\]",
        ),
        ({"item_id": ["a", "b"], "code_0": [0, 1], "code_2": [1, 1]}, "may hold codes: none"),
        ({"item_id": ["a", "b"], "code_0": [0, None]}, r"'code_0', item 'b' \(row 2\) is null"),
        ({"item_id": ["a", "b"], "codes": [[0, 1], None]}, r"'codes', item 'b' \(row 2\) is null"),
        ({"item_id": [*"abc"], "codes": [[0, 1], [2], [1, 1]]}, r"'b' \(row 2\) has 1 codes"),
        ({"item_id": ["a", "b"], "codes": [[0, 1], [2, None]]}, r"item 'b' \(row 2\) is null"),
    ],
)
def test_parquet_that_is_wrong(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "sids.parquet")
    with pytest.raises(DataError, match=message):
        import_vocabulary(tmp_path / "sids.parquet")


def test_parquet_columns_that_do_not_fit(tmp_path):
    table = pa.table(
        {"item_id": ["a", "b"], "codes": [[0, 1], [1, 1]], "code_0": [0, 1], "t": ["x"] * 2}
    )
    pq.write_table(table, tmp_path / "s.parquet")
    with pytest.raises(DataError, match="has no column 'code_9'"):
        import_vocabulary(tmp_path / "s.parquet", columns=["code_9"])
    with pytest.raises(DataError, match="'t' holds string; expected integers"):
        import_vocabulary(tmp_path / "s.parquet", columns=["t"])
    with pytest.raises(ConfigError, match="mix lists and codes"):
        import_vocabulary(tmp_path / "s.parquet", columns=["codes", "code_0"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.json", {"collisions": "reassign"}, "'reassign'; imported SIDs have no quantizer"),
        ("x.json", {"codebook_sizes": [9, 9, 9]}, "codebook_sizes: are 3 levels, .* has 1"),
        ("x.json", {"codebook_sizes": [0]}, "level 0 is 0"),
        ("x.json", {"columns": ["a"]}, "columns: .* has none"),
        ("x.json", {"layout": "items"}, "layout: .* names its items"),
        ("x.npy", {"names": "ids"}, "names: .* has no keys"),
    ],
)
def test_options_that_do_not_suit_the_file(tmp_path, name, options, message):
    write_json(tmp_path / "x.json", {"0": [1]})
    np.save(tmp_path / "x.npy", CODES)
    with pytest.raises(ConfigError, match=message):
        import_vocabulary(tmp_path / name, **options)


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"no\.json: no such file"):
        import_vocabulary(tmp_path / "no.json")
    (tmp_path / "codes.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"unknown format; expected one of \.json, \.npy"):
        import_vocabulary(tmp_path / "codes.pkl")
