from __future__ import annotations

from types import ModuleType

import pytest

from tests.scripts.pages import load


@pytest.fixture(scope="module")
def results() -> ModuleType:
    for beside in (
        "results_checks",
        "results_against",
        "results_curves",
        "results_rows",
    ):  # which the script finds beside itself
        load(beside)
    return load("results")


@pytest.fixture(scope="module")
def results_picture() -> ModuleType:
    return load("results_picture")


@pytest.fixture(scope="module")
def results_table(results_picture: ModuleType) -> ModuleType:  # which the script finds beside it
    return load("results_table")
