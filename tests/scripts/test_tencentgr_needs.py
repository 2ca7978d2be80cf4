from __future__ import annotations

import importlib.util
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

from genrec.data.sources import prepare_generated

SCRIPT = Path(__file__).parents[2] / "scripts" / "tencentgr_needs.py"


@pytest.fixture(scope="module")
def needs():
    spec = importlib.util.spec_from_file_location("tencentgr_needs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bytes_kept_for_the_backward_pass_are_those_of_the_inputs_of_products(needs):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.second(self.first(x).relu())

    # The input and what relu gives, which both relu and the second product read.
    assert needs.kept_bytes(Two(), {"x": torch.randn(7, 6)}) == 7 * (6 + 5) * 4


def test_a_folder_is_told_by_event_item_and_user(needs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "shop"
    prepare_generated(str(folder), num_items=120, num_users=60)
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    dataset = needs.Dataset.load(folder)
    own = (len(dataset.histories), dataset.histories.num_events, len(dataset.catalog))
    monkeypatch.setattr(needs, "SIZES", {"own": own, "ten times": tuple(10 * n for n in own)})
    needs.data(Namespace(folder=str(folder)))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"60 users, {own[1]:,} events, 120 items: ")
    assert said[1] == f"TencentGR-own: {held / 1e9:.1f} GB"
    assert len(said) == 3
