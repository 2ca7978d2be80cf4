from __future__ import annotations

from types import ModuleType

import pytest

from tests.scripts.pages import load


@pytest.fixture(scope="module")
def results() -> ModuleType:
    for beside in ("results_against", "results_curves"):  # which the script finds beside itself
        load(beside)
    return load("results")


@pytest.fixture(scope="module")
def results_table() -> ModuleType:
    load("results_picture")  # which the script finds beside itself
    return load("results_table")
