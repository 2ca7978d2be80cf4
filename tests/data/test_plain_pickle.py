"""Pickles of plain data are read without running anything; everything else is refused."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.plain_pickle import PairColumns, read_plain_pickle
from genrec.errors import DataError

keys = st.integers() | st.text(max_size=4)
plain = st.recursive(
    st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


def written(place: Path, value: Any, protocol: int) -> Path:
    path = place / "file.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@settings(max_examples=60, deadline=None)
@given(value=plain, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_come_back(tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int):
    path = written(tmp_path_factory.mktemp("p"), value, protocol)
    assert read_plain_pickle(path) == value


def test_shared_and_repeated_objects_come_back(tmp_path: Path):
    word, part = "a" * 300, [1, 2]
    value = {"x": [word, word, part, part], "y": {1, 2, 3}, "z": frozenset({4}), "n": 2**80}
    found = read_plain_pickle(written(tmp_path, value, 5))
    assert found == value and found["x"][2] is found["x"][3]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_large_dict_as_columns(tmp_path: Path, protocol: int):
    rng = np.random.default_rng(protocol)
    many = {int(k): n for n, k in enumerate(rng.choice(10**11, 3_000, replace=False))}
    users = {f"user_{n}": n for n in range(2_500)}
    value = {"i": many, "u": users, "f": {"101": {7: 1}, "102": {}}}
    found = read_plain_pickle(written(tmp_path, value, protocol), mapping=PairColumns)
    for name in ("i", "u"):
        got_keys, got_values = found.parts[name].columns()
        assert dict(zip(got_keys.to_pylist(), got_values.tolist(), strict=True)) == value[name]
        assert len(found.parts[name]) == len(value[name])
    assert [len(part) for part in found.parts["f"].parts.values()] == [1, 0]


class Hostile:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.what = call, arguments

    def __reduce__(self) -> Any:
        return self.what


class State:
    path: str

    def __setstate__(self, state: Any) -> None:
        Path(state["path"]).touch()

    def __getstate__(self) -> Any:
        return self.__dict__


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("inside", ["alone", "value", "key"])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int, inside: str):
    proof = tmp_path / "it ran"
    attack: Any = Hostile(os.mkdir, str(proof))
    value = {"alone": attack, "value": {"i": {1: attack}}, "key": {(attack, 1): 1}}[inside]
    path = written(tmp_path, value, protocol)
    with pytest.raises(DataError, match="nothing of it was run"):
        read_plain_pickle(path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())  # the file does what it says
    assert proof.exists()


def test_an_object_with_state_is_not_made(tmp_path: Path):
    state = State()
    state.path = str(tmp_path / "it ran")
    with pytest.raises(DataError, match=r"file.pkl: holds the name of a class .* at byte"):
        read_plain_pickle(written(tmp_path, [1, state], 4))
    assert not (tmp_path / "it ran").exists()


def test_every_other_instruction_is_refused(tmp_path: Path):
    calls = [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(ios\nsystem\n.",
        b"\x80\x02\x82\x01.",
        b"P1\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x04}}b.",
        b"\x80\x05\x97.",
        b"\x80\x04]Q.",
    ]
    for program in calls:
        (tmp_path / "file.pkl").write_bytes(program)
        with pytest.raises(DataError, match="nothing of it was run"):
            read_plain_pickle(tmp_path / "file.pkl")


@pytest.mark.parametrize("value", [None, True, 1.5, b"bytes", np.zeros(3), {1: [None]}])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_other_types_are_refused(tmp_path: Path, value: Any, protocol: int):
    with pytest.raises(DataError, match=r"file\.pkl: holds .* at byte \d+"):
        read_plain_pickle(written(tmp_path, value, protocol))


def test_floats_where_they_are_due(tmp_path: Path):
    value = {30_000_000_001: [0.25, -1.5]}
    assert read_plain_pickle(written(tmp_path, value, 4), arrays=True) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_floats_of_every_protocol(tmp_path: Path, protocol: int):
    value = {"a": [0.25, -1e300, float("inf")], "b": [None, True, False, b"", b"ab"]}
    if protocol < 3:
        value.pop("b")  # bytes are the call of a function there
    assert read_plain_pickle(written(tmp_path, value, protocol), arrays=True) == value


def test_every_truncation_is_named(tmp_path: Path):
    path = written(tmp_path, {"u": {"user_1": 1}, "i": {3 * 10**10: 70_000}, "l": [1, 300]}, 4)
    whole = path.read_bytes()
    for end in range(1, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"file\.pkl"):
            read_plain_pickle(path)


@settings(max_examples=200, deadline=None)
@given(junk=st.binary(min_size=1, max_size=40))
def test_junk_never_ends_otherwise(tmp_path_factory: pytest.TempPathFactory, junk: bytes):
    path = tmp_path_factory.mktemp("p") / "file.pkl"
    path.write_bytes(b"\x80\x04" + junk)
    try:
        read_plain_pickle(path)
    except DataError as error:
        assert "file.pkl" in str(error)


def test_lengths_that_lie_cost_no_memory(tmp_path: Path):
    for program in (b"\x8d" + struct.pack("<Q", 2**62), b"\x8b" + struct.pack("<i", 2**31 - 1)):
        (tmp_path / "file.pkl").write_bytes(b"\x80\x04" + program + b"ab.")
        with pytest.raises(DataError, match="truncated"):
            read_plain_pickle(tmp_path / "file.pkl")


def test_missing_and_empty_files(tmp_path: Path):
    with pytest.raises(DataError, match="no such file"):
        read_plain_pickle(tmp_path / "file.pkl")
    (tmp_path / "file.pkl").touch()
    with pytest.raises(DataError, match="cannot be read"):
        read_plain_pickle(tmp_path / "file.pkl")


@pytest.mark.parametrize("value", [{1: 1, "a": 2}, {2**70: 1}, {1: 2**70}, {"\ud800": 1}])
def test_columns_of_other_keys_are_refused(tmp_path: Path, value: Any):
    found = read_plain_pickle(written(tmp_path, value, 4), mapping=PairColumns)
    assert len(found) == len(value)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            found.columns()


def test_one_strange_key_among_many_is_not_lost(tmp_path: Path):
    value = {n: n for n in range(70_000)} | {2**63 + 5: 1} | {n: n for n in range(70_000, 10**5)}
    found = read_plain_pickle(written(tmp_path, value, 4), mapping=PairColumns)
    assert len(found) == len(value)
    with pytest.raises(OverflowError):
        found.columns()


ONE = b"K\x01"
INSIDE = {  # what puts a container into a new one: `%s` is the inner one
    "tuple": b"%s\x85",
    "list": b"(%sl",
    "appended": b"]%sa",
    "dict": b"}K\x01%ss",
    "dict of marks": b"(K\x01%sd",
}


def nested(inside: str, times: int) -> bytes:
    before, after = INSIDE[inside].split(b"%s")
    return before * times + ONE + after * times


def test_a_key_nested_deep_ends_with_an_error(tmp_path: Path):
    # Hashing this tuple would end the interpreter, so another one is asked.
    path = tmp_path / "file.pkl"
    path.write_bytes(b"\x80\x04}" + nested("tuple", 3 << 20) + b"K\x02s.")
    code = (
        "import sys; from genrec.data.plain_pickle import read_plain_pickle\n"
        "from genrec.errors import DataError\n"
        "try: read_plain_pickle(sys.argv[1])\n"
        "except DataError as error: print(error)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "file.pkl: byte 105: containers are nested more than 100 deep" in ended.stdout


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize(
    "program",
    [
        b"}" + b"K\x01K\x02\x86" + b"K\x03s",
        b"}(" + b"K\x01\x85" + b"K\x03" + b"K\x04K\x05u",
        b"(" + b"K\x01\x85" + b"K\x03d",
        b"\x8f(K\x07" + b"K\x01\x85" + b"\x90",
        b"(K\x07" + b"K\x01\x85" + b"\x91",
        b"\x8f((K\x01\x91\x90",
    ],
)
def test_containers_are_no_keys(tmp_path: Path, program: bytes, arrays: bool):
    path = tmp_path / "file.pkl"
    path.write_bytes(b"\x80\x04" + program + b".")
    assert pickle.loads(path.read_bytes())  # Python takes it
    kinds = r"a (key|member) of type (tuple|frozenset); expected whole numbers or text"
    with pytest.raises(DataError, match=rf"file\.pkl: byte \d+: a (dict|set) has {kinds}"):
        read_plain_pickle(path, arrays=arrays)


def test_a_doubled_tuple_is_neither_hashed_nor_written_out(tmp_path: Path):
    doubled = b"K\x01\x85" + b"".join(b"\x94h%c\x86" % n for n in range(60))
    for program, message in (
        (b"}" + doubled + b"K\x02s.", "a key of type tuple"),
        (b"\x8f(" + doubled + b"\x90.", "a member of type tuple"),
        (doubled + doubled.replace(b"\x94", b"") + b"\x93.", r"\(\?\.\?\)"),
    ):
        (tmp_path / "file.pkl").write_bytes(b"\x80\x04" + program)
        with pytest.raises(DataError, match=message):
            read_plain_pickle(tmp_path / "file.pkl", arrays=True)


@pytest.mark.parametrize("inside", INSIDE)
def test_containers_are_nested_a_hundred_deep(tmp_path: Path, inside: str):
    path = tmp_path / "file.pkl"
    path.write_bytes(b"\x80\x04" + nested(inside, 100) + b".")
    assert read_plain_pickle(path) == pickle.loads(path.read_bytes())
    path.write_bytes(b"\x80\x04" + nested(inside, 101) + b".")
    with pytest.raises(DataError, match=r"byte \d+: containers are nested more than 100 deep"):
        read_plain_pickle(path)


@pytest.mark.parametrize(
    "program",
    [
        b"]\x94h\x00a.",  # a list in itself
        b"}\x94K\x01h\x00s.",
        b"]\x94]h\x00ah\x00K\x01a.",  # a list that grows inside another
        b"}\x94\x85h\x00K\x01K\x02s.",
        b"]\x94]\x94h\x00ah\x00h\x01a.",  # two lists in each other
    ],
)
def test_containers_do_not_grow_inside_others(tmp_path: Path, program: bytes):
    (tmp_path / "file.pkl").write_bytes(b"\x80\x04" + program)
    with pytest.raises(DataError, match="is added to that is inside another already, or in itself"):
        read_plain_pickle(tmp_path / "file.pkl")


def test_keys_that_are_not_read_again_are_not_kept(tmp_path: Path):
    path = written(tmp_path, {f"user_{n}": n for n in range(150_000)}, 4)
    tracemalloc.start()
    try:
        found = read_plain_pickle(path, mapping=PairColumns)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 150_000
    # A block of keys and their columns; every key and its place in a memory would be over 20 MB.
    assert peak < 15e6
