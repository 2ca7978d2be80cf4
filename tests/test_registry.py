"""Parts are known once their file is there."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

import genrec.models.backbones
import genrec.models.heads
import genrec.models.item_encoders
import genrec.quantization
from genrec.errors import ConfigError
from genrec.registry import registrar

FILE = """
from parts_of_a_test import register

@register("{name}")
class {name}:
    pass
"""


def test_a_file_in_the_package_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "parts_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from genrec.registry import import_parts, registrar\n"
        "PARTS = {}\n"
        "register = registrar(PARTS)\n"
        "import_parts(__name__, __path__)\n"
    )
    for name in ("one", "other"):
        (package / f"{name}.py").write_text(FILE.format(name=name))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        import parts_of_a_test

        assert set(parts_of_a_test.PARTS) == {"one", "other"}
        assert parts_of_a_test.PARTS["one"].__name__ == "one"
    finally:
        for name in [name for name in sys.modules if name.startswith("parts_of_a_test")]:
            del sys.modules[name]


@pytest.mark.parametrize(
    "package",
    [
        genrec.models.backbones,
        genrec.models.heads,
        genrec.models.item_encoders,
        genrec.quantization,
    ],
    ids=lambda package: package.__name__,
)
def test_every_file_of_a_package_of_parts_was_imported(package: ModuleType) -> None:
    names = {
        f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)
    }
    assert names and names <= set(sys.modules)
    assert not [name for name in names if name.endswith("_kernel")]  # which would need an extra


def test_one_name_is_one_class() -> None:
    parts: dict[str, type] = {}
    register = registrar(parts)

    @register("a")
    class First:
        pass

    assert parts == {"a": First} and register("a")(First) is First
    with pytest.raises(ConfigError, match="First is called 'a' already; register it under another"):

        @register("a")
        class Second:
            pass

    assert parts == {"a": First}
