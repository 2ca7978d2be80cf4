"""What the tests of damaged files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genrec.data.sources import prepare
from genrec.errors import GenrecError


def refused(tmp_path: Path, source: Path, message: str, **options: Any) -> None:
    """The source is refused with this message, and nothing half-written remains."""
    with pytest.raises(GenrecError, match=message):
        prepare("tencentgr", tmp_path / "out", source, progress=False, **options)
    assert not (tmp_path / "out").exists()
