"""Every registered quantizer, fitted once for all tests of a file."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.quantization import Quantizer
from tests.contracts.quantizers import CASES, build, clustered, type_of


@pytest.fixture(scope="module", params=CASES)
def case(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def name(case) -> str:
    return type_of(case)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return clustered()


@pytest.fixture(scope="module")
def fitted(case, x) -> Quantizer:
    return build(case).fit(x)
