"""What the layout of the repository must not break."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_checkout_does_not_shadow_hugging_face_tokenizers():
    code = "import tokenizers, transformers; print(tokenizers.__file__); tokenizers.Tokenizer"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    place = Path(found.stdout.strip())
    assert "site-packages" in place.parts
    assert not place.is_relative_to(ROOT / "genrec")


def test_imports_go_down_only():
    command = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run(
        [str(command), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
