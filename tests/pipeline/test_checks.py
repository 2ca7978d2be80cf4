from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from genrec.embedding import EMBEDDERS
from genrec.errors import ConfigError
from genrec.pipeline.checks import check_keys, check_part, check_types, expand_variables, read_yaml
from genrec.pipeline.settings import SplitConfig, choose_device, names


def test_the_nearest_key_is_suggested():
    check_keys("here", ["epochs"], ["epochs", "seed"])
    with pytest.raises(ConfigError, match=r"here: unknown key 'epocs'; did you mean 'epochs'\?"):
        check_keys("here", ["epocs"], ["epochs", "seed"])
    with pytest.raises(ConfigError, match=r"unknown key 7; expected one of epochs"):
        check_keys("here", [7], ["epochs"])


def takes(
    count: int,
    rate: float = 0.1,
    name: str | None = None,
    sizes: list[int] | None = None,
    kind: Literal["a", "b"] = "a",
    flag: bool = False,
    part: dict[str, Any] | None = None,
    parts: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Something with types."""


@pytest.mark.parametrize(
    "options",
    [
        {"count": 3, "rate": 1, "name": None, "sizes": [1, 2], "kind": "b", "flag": True},
        {"part": {"a": [1]}, "parts": {"a": {}}, "unknown": object()},
    ],
)
def test_values_of_the_declared_types_pass(options):
    check_types("here", options, takes)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("count", "3", "int"),
        ("count", 3.0, "int"),
        ("count", True, "int"),
        ("rate", "fast", "float"),
        ("name", ["a"], "str"),
        ("sizes", 3, "a list of int, such as [8, 8]"),
        ("sizes", [1, "2"], "a list of int, such as [8, 8]"),
        ("kind", "c", "a or b"),
        ("flag", 1, "bool"),
        ("part", [], "dict[str, Any]"),
        ("parts", {"a": 1}, "dict[str, dict[str, Any]]"),
    ],
)
def test_a_value_of_another_type_is_named(key, value, expected):
    with pytest.raises(ConfigError) as raised:
        check_types("here", {key: value}, takes)
    assert f"here: {key}={value!r}; expected {expected}" in str(raised.value)


def test_parts_are_checked_by_their_own_class_and_within_each_other():
    assert check_part("embedder", EMBEDDERS, {"type": "lexical", "dim": 3}) == (
        "lexical",
        {"dim": 3},
    )
    with pytest.raises(ConfigError, match="embedder: needs a `type`"):
        check_part("embedder", EMBEDDERS, {"dim": 3})
    with pytest.raises(ConfigError, match="embedder 'lexical': dim='3'; expected int"):
        check_part("embedder", EMBEDDERS, {"type": "lexical", "dim": "3"})
    nested = {"type": "fused", "parts": [{"type": "lexical", "template": ["title"]}]}
    with pytest.raises(ConfigError, match=r"embedder 'lexical': template=\['title'\]"):
        check_part("embedder", EMBEDDERS, nested)


def test_variables_are_expanded_inside_lists_and_mappings(monkeypatch):
    monkeypatch.setenv("SHOP", "/data/shop")
    value = {"path": "${SHOP}/a", "parts": [{"path": "${SHOP}"}], "n": 3, "plain": "$SHOP"}
    assert expand_variables(value, where="here") == {
        "path": "/data/shop/a",
        "parts": [{"path": "/data/shop"}],
        "n": 3,
        "plain": "$SHOP",
    }
    with pytest.raises(ConfigError, match=r"here: the environment variable NOPE is not set"):
        expand_variables(["${NOPE}"], where="here")


def test_yaml_numbers_and_dates_mean_what_people_write(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("rate: 1e-3\nother: 2.5E+4\ndate: 2014-03-01\nid: 1e\nn: 12\nflag: true\n")
    assert read_yaml(path) == {
        "rate": 0.001, "other": 25000.0, "date": "2014-03-01", "id": "1e", "n": 12, "flag": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a: [", "not valid YAML"), ("- a", "expected keys and values"), ("", "found NoneType")],
)
def test_what_is_no_mapping_is_refused(tmp_path, text, expected):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        read_yaml(path)
    with pytest.raises(ConfigError, match=r"b.yaml: cannot be read \(No such file"):
        read_yaml(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", ["a"]),
        ("a, b", ["a", "b"]),
        ("[a,'b', \"c\"]", ["a", "b", "c"]),
        ("[007, 1e5, null]", ["007", "1e5", "null"]),
        ([7, "b"], ["7", "b"]),
        ("", []),
        ("[]", []),
    ],
)
def test_lists_of_names(value, expected):
    assert names(value) == expected


TEMPORAL = {"type": "temporal", "validation_from": "2014-03-01", "test_from": "2014-04-01"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"order": "random"}, "order='random'; expected one of file, shuffled-day"),
        ({"type": "random"}, "type='random'; expected one of leave-one-out, temporal"),
        ({"type": "temporal", "test_from": 3}, "type='temporal' needs validation_from"),
        ({"validation_from": 3}, "type='leave-one-out' does not take validation_from"),
        ({"order": "shuffled-day", "seed": -1}, "seed=-1; expected 0 or more"),
        (TEMPORAL | {"test_from": "soon"}, "split: test_from: 'soon' is no moment"),
        (TEMPORAL | {"test_from": 10**15}, "test_from: 1000000000000000 is no moment: as Unix"),
        (TEMPORAL | {"validation_from": "9" * 30}, "validation_from: 9{30} is no moment"),
        (TEMPORAL | {"validation_from": "2014-05-01"}, r"validation_from .2014-05-01. must be be"),
        (TEMPORAL | {"validation_from": "2014-04-01"}, r"must be before test_from .2014-04-01."),
    ],
)
def test_splits_that_make_no_sense(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        SplitConfig(**settings)


def test_the_device_that_is_chosen(monkeypatch):
    for found in (None, torch.device("cuda", 1)):
        monkeypatch.setattr("torch.accelerator.current_accelerator", lambda found=found, **_: found)
        assert choose_device("auto") == (found or torch.device("cpu"))
        assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device: 'abacus' cannot be used here"):
        choose_device("abacus")
