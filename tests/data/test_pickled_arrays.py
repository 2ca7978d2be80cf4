"""Arrays in a pickle come back as numpy pickled them, and no pickle gets anything run."""

from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genrec.data import pickled_arrays
from genrec.data.pickled_arrays import PickledArray, places_read
from genrec.data.plain_pickle import read_plain_pickle
from genrec.errors import DataError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
TYPES = [
    f"{order}{code}"
    for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
    for order in "<>"
]


def written(place: Path, data: bytes) -> Path:
    path = place / "vectors.pkl"
    path.write_bytes(data)
    return path


def read(place: Path, data: bytes) -> Any:
    return read_plain_pickle(written(place, data), arrays=True)


arrays = st.sampled_from(TYPES).flatmap(
    lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
)


@settings(max_examples=80, deadline=None)
@given(
    array=arrays,
    protocol=st.sampled_from(PROTOCOLS),
    layout=st.sampled_from(["C", "F", "strided"]),
)
def test_an_array_comes_back(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, protocol: int, layout: str
):
    made = np.repeat(array, 2, axis=0)[::2] if layout == "strided" and array.ndim else array
    made = np.asarray(made, order="F") if layout == "F" else made
    found = read(tmp_path_factory.mktemp("p"), pickle.dumps({7: made}, protocol))[7].numbers
    assert found.shape == array.shape and found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_arrays_share_what_they_share(tmp_path: Path, protocol: int):
    rng = np.random.default_rng(protocol)
    value = {int(n): rng.normal(size=3).astype(np.float32) for n in rng.permutation(3_000)}
    value[-1] = value[0]
    found = read(tmp_path, pickle.dumps(value, protocol))
    assert list(found) == list(value) and found[-1] is found[0]
    for name, want in value.items():
        np.testing.assert_array_equal(found[name].numbers, want)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numbers_of_numpy(tmp_path: Path, protocol: int):
    value = {np.int64(3 * 10**10): [np.float32(0.5), np.float64(-2), np.uint8(7)]}
    found = read(tmp_path, pickle.dumps(value, protocol))
    assert found == {3 * 10**10: [0.5, -2.0, 7]}
    assert {type(key) for key in found} == {int}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_names_of_the_first_numpy(tmp_path: Path, protocol: int):
    data = pickle.dumps({1: np.arange(4, dtype=np.float32)}, protocol)
    older = data.replace(b"numpy._core.", b"numpy.core.")
    if protocol >= 4:  # the length of the text, and of the frame
        module = b"numpy.core.numeric" if protocol == 5 else b"numpy.core.multiarray"
        older = older.replace(bytes([len(module) + 1]) + module, bytes([len(module)]) + module)
        older = older[:3] + (len(older) - 11).to_bytes(8, "little") + older[11:]
    assert older != data
    assert [row.tolist() for row in pickle.loads(older).values()] == [[0, 1, 2, 3]]
    np.testing.assert_array_equal(read(tmp_path, older)[1].numbers, np.arange(4))


def test_what_is_not_read_again_is_not_kept(tmp_path: Path):
    few, many = (
        places_read_of(tmp_path, {n: np.full(2, n, np.float32) for n in range(count)})
        for count in (3, 900)
    )
    assert few == many and len(few) < 8
    same = np.zeros(2)
    assert len(places_read_of(tmp_path, dict.fromkeys(range(900), same))) > 0


def places_read_of(place: Path, value: Any) -> set[int]:
    import mmap

    path = written(place, pickle.dumps(value, 4))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return places_read(data)


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("function", [os.mkdir, os.system, builtins.eval, builtins.exec, np.load])
def test_no_other_function_runs(tmp_path: Path, protocol: int, function: Any):
    proof = tmp_path / "it ran"
    text = {
        os.mkdir: str(proof),
        os.system: f"mkdir '{proof}'",
        np.load: str(tmp_path / "inner.npy"),
    }.get(function, f"__import__('os').mkdir({str(proof)!r})")
    inner = np.empty(1, dtype=object)
    inner[0] = Call(os.mkdir, str(proof))
    np.save(tmp_path / "inner.npy", inner, allow_pickle=True)
    arguments = (text, None, True) if function is np.load else (text,)
    data = pickle.dumps({1: Call(function, *arguments)}, protocol)
    with pytest.raises(DataError, match=r"name of a class or function \(.*nothing of it was run"):
        read(tmp_path, data)
    assert not proof.exists()
    pickle.loads(data)
    assert proof.exists()  # the file does what it says


RECONSTRUCT = np.zeros(1).__reduce__()[0]
FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]
SCALAR = np.float64(1).__reduce__()[0]
KIND = np.dtype("<f4")


class Array:
    """Pickled as an array with the state given."""

    def __init__(self, *state: Any, arguments: Any = (np.ndarray, (0,), b"b")) -> None:
        self.state, self.arguments = state, arguments

    def __reduce__(self) -> Any:
        return RECONSTRUCT, self.arguments, self.state


class Kind:
    """Pickled as a type with the state given."""

    def __init__(self, code: Any, *state: Any) -> None:
        self.code, self.state = code, state

    def __reduce__(self) -> Any:
        return np.dtype, (self.code, False, True), self.state


GOOD = (3, "<", None, None, None, -1, -1, 0)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([{}], dtype=object), "an array of the type 'O8'"),
        (np.array(["a"]), "an array of the type 'U1'"),
        (np.array([b"a"]), "an array of the type 'S1'"),
        (np.array([True]), "an array of the type 'b1'"),
        (np.array([1j]), "an array of the type 'c16'"),
        (np.array([1], dtype=np.longdouble), "an array of the type 'f16'"),
        (np.array([1], dtype="M8[s]"), "an array of the type 'M8'"),
        (np.array([(1,)], dtype=[("a", "f4")]), "an array of the type 'V4'"),
        (np.ma.masked_array([1.0], [True]), r"name of a class or function \(numpy\.ma"),
        (Array(1, (2,), KIND, False, b"abcd"), r"the shape \(2,\) with 4 bytes of f4"),
        (Array(1, (2**62, 2**62), KIND, False, b"abcd"), "the shape .* with 4 bytes"),
        (Array(1, (2**80, 0), KIND, False, b""), "an array of no shape"),
        (Array(1, (1,) * 65, KIND, False, b"abcd"), "an array of no shape"),
        (Array(1, (-1,), KIND, False, b"abcd"), "an array of no shape"),
        (Array(1, (1.0,), KIND, False, b"abcd"), "an array of no shape"),
        (Array(1, [1], KIND, False, b"abcd"), "an array of no shape"),
        (Array(1, (1,), KIND, False, [1.5]), "without its type or its bytes"),
        (Array(1, (1,), "f4", False, b"abcd"), "without its type or its bytes"),
        (Array(1, (1,), np.ndarray, False, b"abcd"), "without its type or its bytes"),
        (Array(2, (1,), KIND, False, b"abcd"), "the state of an array"),
        (Array(1, (1,), KIND, False), "the state of an array"),
        (Array(1, (1,), KIND, "C", b"abcd"), "the state of an array"),
        (Array(arguments=(np.ndarray, (9,), b"b")), "_reconstruct with arguments"),
        (Array(arguments=(np.dtype, (0,), b"b")), "_reconstruct with arguments"),
        (Array(arguments=(np.ndarray, (0,), b"O")), "_reconstruct with arguments"),
        (Call(np.ndarray, (5,)), r"numpy\.ndarray with arguments"),
        (Call(np.dtype, "f4"), r"numpy\.dtype with arguments"),
        (Call(np.dtype, "float32", False, True), "an array of the type 'float32'"),
        (Kind("f4", 4, *GOOD[1:]), "the state of an array"),
        (Kind("f4", 3, "=", *GOOD[2:]), "the state of an array"),
        (Kind("f4", 3, "|", *GOOD[2:]), "the state of an array"),
        (Kind("f4", 3, "<", None, ("a",), {"a": (KIND, 0)}, -1, -1, 0), "the state of an array"),
        (Kind("f4", 3, "<", (KIND, (2,)), None, None, -1, -1, 0), "the state of an array"),
        (Kind("f4"), "the state of an array"),
        (Call(SCALAR, KIND, b"abcdef"), r"the shape \(\) with 6 bytes"),
        (Call(SCALAR, KIND), "scalar with arguments"),
        (Call(FROM_BUFFER, b"abcd", KIND, (3,), "C"), r"the shape \(3,\) with 4 bytes"),
        (Call(FROM_BUFFER, b"abcd", KIND, (1,), "K"), "_frombuffer with arguments"),
        (Call(FROM_BUFFER, [1.5], KIND, (1,), "C"), "without its type or its bytes"),
    ],
)
def test_what_numpy_does_not_write_is_refused(
    tmp_path: Path, value: Any, message: str, protocol: int
):
    data = pickle.dumps({1: value}, protocol)
    with pytest.raises(DataError, match=rf"vectors\.pkl: holds .*{message}.* at byte \d+"):
        read(tmp_path, data)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cnumpy\ndtype\n(Vf4\nI00\nI01\ntR(tb.", "the state of an array"),
        (b"c_codecs\nencode\n(V\\u0141\nVlatin1\ntR.", "bytes that are none"),
        (b"c_codecs\nencode\n(Vabc\nVrot13\ntR.", "_codecs.encode with arguments"),
        (b"c_codecs\nencode\n(I1\nI2\ntR.", "_codecs.encode with arguments"),
        (b"c_codecs\ndecode\n.", r"\(_codecs.decode\)"),
        (b"cnumpy\ndtype\nI1\nR.", "a call of a function"),
        (b"(dI1\nI2\nb.", "an instance of a class"),
        (b"(lI1\n(tR.", "a call of a function"),
        (b"\x80\x04\x8c\x05numpyK\x01\x93.", r"\(numpy.1\)"),
        (b"\x80\x05cnumpy\nndarray\n)\x81.", "an instance of a class"),
        (b"\x80\x05\x97.", "instruction 0x97"),
        (b"(cnumpy\nndarray\no.", "an instance of a class"),
        (b"(inumpy\nndarray\n.", "an instance of a class"),
        (b"P1\n.", "a persistent reference"),
        (b"\x80\x02\x82\x01.", "a registered extension"),
    ],
)
def test_programs_that_no_pickler_writes(tmp_path: Path, program: bytes, message: str):
    with pytest.raises(DataError, match=rf"{message}.*nothing of it was run"):
        read(tmp_path, program)


def test_a_type_without_its_state_makes_no_array(tmp_path: Path):
    program = pickle.dumps({1: np.arange(2, dtype=np.float32)}, 2)
    start = program.index(b"(K\x03X\x01\x00\x00\x00<")
    end = program.index(b"b", start)
    with pytest.raises(DataError, match="without its type or its bytes"):
        read(tmp_path, program[:start] + program[end + 1 :])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_are_refused_where_none_are_due(tmp_path: Path, protocol: int):
    path = written(tmp_path, pickle.dumps({1: np.zeros(2)}, protocol))
    with pytest.raises(DataError, match=r"holds (the name of a class or function|bytes) at byte"):
        read_plain_pickle(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_truncation_is_named(tmp_path: Path, protocol: int):
    data = pickle.dumps({n: np.arange(3, dtype=np.float32) for n in (1, 300)}, protocol)
    for end in range(1, len(data)):
        with pytest.raises(DataError, match=r"vectors\.pkl"):
            read(tmp_path, data[:end])


@settings(max_examples=200, deadline=None)
@given(protocol=st.sampled_from(PROTOCOLS), at=st.integers(0, 400), put=st.binary(max_size=3))
def test_no_change_of_bytes_ends_otherwise(
    tmp_path_factory: pytest.TempPathFactory, protocol: int, at: int, put: bytes
):
    data = pickle.dumps({n: np.arange(3, dtype=np.float32) for n in (1, 300)}, protocol)
    changed = data[:at] + put + data[at + len(put) :]
    try:
        read(tmp_path_factory.mktemp("p"), changed)
    except DataError as error:
        assert "vectors.pkl" in str(error)


def test_only_its_own_records_are_called():
    with pytest.raises(pickled_arrays.NotNumbers, match="a call of a function"):
        pickled_arrays.called(os.getcwd, ())
    with pytest.raises(pickled_arrays.NotNumbers, match="an instance of a class"):
        pickled_arrays.built({}, {"a": 1})
    assert PickledArray().numbers is None
