from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from genrec.training.tensor_files import Blocks, add_tensors, write_tensors

TENSORS = {
    "b.flags": torch.tensor([True, False, True]),
    "a.half": torch.randn(3, 5).bfloat16(),
    "c": torch.randn(7, 3),
    "d.none": torch.empty(0, 4),
    "e.number": torch.tensor(4.0),
    "f.long": torch.arange(5),
    "g.small": torch.arange(6, dtype=torch.int32).view(2, 3),
}


def same(path, expected):
    found = load_file(path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)


def test_tensors_come_back_whatever_their_types_and_blocks(tmp_path):
    path = tmp_path / "one.safetensors"
    blocks = {name: Blocks.of(value) for name, value in TENSORS.items()}
    blocks["c"] = Blocks(torch.float32, (7, 3), iter(TENSORS["c"].T.contiguous().T.split(2)))
    write_tensors(path, blocks)
    same(path, TENSORS)


def test_added_tensors_stand_beside_those_before(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    table = torch.randn(11, 4)
    more = {"table": Blocks(table.dtype, (11, 4), table.split(3)), "z": Blocks.of(table[:1])}
    add_tensors(path, more)
    same(path, {**TENSORS, "table": table, "z": table[:1]})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert [one.name for one in tmp_path.iterdir()] == ["model.safetensors"]


def test_blocks_that_do_not_make_up_the_shape_leave_the_file_alone(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    with pytest.raises(ValueError, match=r"table: its blocks do not make up \(3, 4\)"):
        add_tensors(path, {"table": Blocks(torch.float32, (3, 4), [torch.ones(2, 4)])})
    same(path, TENSORS)
