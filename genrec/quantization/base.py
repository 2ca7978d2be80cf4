"""What every quantizer is: fit, encode, decode, save, load; and the registry of quantizers.

A new quantizer is one file in this package: a subclass of `Quantizer` under `@register("name")`.
The contract tests then pick it up by themselves.
"""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from genrec.artefacts import atomic_folder, check_folder, read_json, write_json
from genrec.errors import ArtefactError, ConfigError, DataError, expected_one_of
from genrec.quantization.vectors import Vectors, block_rows
from genrec.registry import registrar

KIND = "quantizer"
MAX_CODES = 65_536

Q = TypeVar("Q", bound="Quantizer")
C = TypeVar("C", bound="type[Quantizer]")
# Inside the class, `type` is the quantizer's registered name.
_Class = type[Q]

QUANTIZERS: dict[str, type[Quantizer]] = {}


class Quantizer(ABC):
    """Vectors [n, d] -> codes [n, L], one integer below `codebook_sizes[l]` per level.

    Constructor arguments are keyword options kept under their own names; together with `type` they
    are `config`, and `make_quantizer(**config)` builds an equal unfitted quantizer.
    """

    type: ClassVar[str]
    # Names of the arrays `fit` can learn from beside the vectors, e.g. "collaborative".
    side_inputs: ClassVar[frozenset[str]] = frozenset()
    # Options that say where to compute, not what: they are not saved.
    runtime_options: ClassVar[frozenset[str]] = frozenset({"device"})

    width: int | None = None
    report: dict[str, Any]

    @property
    @abstractmethod
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self._seed

    @seed.setter
    def seed(self, value: int) -> None:
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or value < 0:
            raise ConfigError(f"seed: is {value!r}; expected an integer of 0 or more")
        self._seed = int(value)

    @property
    def num_levels(self) -> int:
        """Number of codes of one item."""
        return len(self.codebook_sizes)

    @property
    def levels_per_facet(self) -> int | None:
        """Levels that code one subspace together; `None` where all levels code the whole vector."""
        return None

    @property
    def learns_from(self) -> frozenset[str]:
        """The side inputs that `fit` needs with these options."""
        return frozenset()

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` has run or a fitted quantizer was loaded."""
        return self.width is not None

    @property
    def config(self) -> dict[str, Any]:
        """The options as a JSON-able dictionary, with `type`."""
        options = {name: getattr(self, name) for name in option_names(type(self))}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
        return {
            "type": self.type,
            **{k: v for k, v in plain.items() if k not in self.runtime_options},
        }

    def fit(
        self: Q,
        vectors: Any,
        *,
        rows: np.ndarray | None = None,
        side_vectors: Mapping[str, Any] | None = None,
        progress: bool = False,
    ) -> Q:
        """Learn the codebooks; the same vectors and seed give the same codebooks.

        Args:
            vectors: numpy or torch [n, d]; memory-mapped ones are not read into memory.
            rows: numbers int64 of the rows to learn from; all by default.
            side_vectors: further arrays with the same rows that some quantizers learn from; the
                keys a quantizer knows are its `side_inputs`.
            progress: show a progress bar.

        Raises:
            DataError: if the vectors are empty, hold NaN or infinity, or are fewer than the codes
                of one level.
            ConfigError: if the quantizer does not know one of the side inputs, or with these
                options needs one that is missing or ignores one that is given.
        """
        matrix = Vectors(vectors, rows=rows)
        if len(matrix) == 0:
            raise DataError("vectors: are empty; expected at least one item to fit on")
        largest = max(self.codebook_sizes)
        if len(matrix) < largest:
            raise DataError(
                f"vectors: have {len(matrix)} rows, but a level has {largest} codes; use a "
                f"codebook size of at most {len(matrix)} or fit on more items"
            )
        matrix.check()
        side = self._side(side_vectors or {}, matrix)
        self.report = {}
        self._fit(matrix, side, progress)
        self.width = matrix.shape[1]
        return self

    def encode(self, vectors: Any, *, batch_size: int | None = None) -> np.ndarray:
        """Codes int32 [n, L] of vectors [n, d]; a row's codes do not depend on the batch.

        Vectors on disk (`numpy.load(..., mmap_mode="r")`) are read batch by batch.

        Args:
            vectors: numpy or torch [n, d].
            batch_size: rows at a time; 16 MiB of them by default.

        Raises:
            DataError: if the vectors have another width or hold NaN or infinity.
            ConfigError: if the quantizer is not fitted.
        """
        matrix = Vectors(vectors, width=self._fitted_width())
        if batch_size is None:
            batch_size = matrix.block_rows
        if batch_size < 1:
            raise ConfigError(f"batch_size: is {batch_size}; expected at least 1")
        codes = np.empty((len(matrix), self.num_levels), dtype=np.int32)
        with torch.no_grad():
            for start in range(0, len(matrix), batch_size):
                block = matrix.block(start, min(start + batch_size, len(matrix)))
                codes[start : start + len(block)] = self._encode(block).cpu().numpy()
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Vectors float32 [n, d] that the codes [n, L] stand for.

        Raises:
            DataError: if a code is not below its level's codebook size, naming its row and level.
            ConfigError: if the quantizer is not fitted.
        """
        width = self._fitted_width()
        array = self._checked_codes(codes, self.num_levels)
        out = np.empty((len(array), width), dtype=np.float32)
        with torch.no_grad():
            rows = block_rows(width)
            for start in range(0, len(array), rows):
                block = torch.from_numpy(array[start : start + rows])
                out[start : start + len(block)] = self._decode(block).cpu().numpy()
        return out

    def level_distances(self, vectors: Any, prefix_codes: Any) -> np.ndarray:
        """Squared distances float32 [n, K_l] to every code of level l, given the codes before it.

        The distance is measured in the quantizer's own space; l is the number of columns of
        `prefix_codes` [n, l].

        Raises:
            DataError: as `encode` and `decode`, or if the two have different numbers of rows.
            ConfigError: if the quantizer is not fitted.
        """
        matrix = Vectors(vectors, width=self._fitted_width())
        prefix = np.asarray(prefix_codes)
        if prefix.ndim != 2 or prefix.shape[1] >= self.num_levels:
            raise DataError(
                f"prefix_codes: have shape {prefix.shape}; expected [n, l] with l below "
                f"{self.num_levels}"
            )
        prefix = self._checked_codes(prefix, prefix.shape[1], name="prefix_codes")
        if len(prefix) != len(matrix):
            raise DataError(
                f"prefix_codes: have {len(prefix)} rows for {len(matrix)} vectors; "
                "expected one row per vector"
            )
        size = self.codebook_sizes[prefix.shape[1]]
        out = np.empty((len(matrix), size), dtype=np.float32)
        rows = max(1, 2**22 // max(size, matrix.shape[1]))
        with torch.no_grad():
            for start in range(0, len(matrix), rows):
                block = matrix.block(start, min(start + rows, len(matrix)))
                part = torch.from_numpy(prefix[start : start + rows])
                out[start : start + len(block)] = self._level_distances(block, part).cpu().numpy()
        return out

    @abstractmethod
    def codebooks(self) -> list[np.ndarray]:
        """One float32 array [K_l, d_l] per level."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` and `quantizer.safetensors`; the folder is whole or absent.

        Raises:
            ArtefactError: if the folder cannot be written.
            ConfigError: if the quantizer is not fitted.
        """
        content = {"config": self.config, "width": self._fitted_width(), "report": self.report}
        state = {name: np.ascontiguousarray(array) for name, array in self._state().items()}
        with atomic_folder(folder, kind=KIND) as temporary:
            write_json(temporary / "config.json", content)
            try:
                save_file(state, str(temporary / "quantizer.safetensors"))
            except SafetensorError as error:
                raise ArtefactError(
                    f"{folder}: writing the codebooks failed ({error}); nothing was kept; free "
                    "some space or choose another folder"
                ) from error

    @classmethod
    def from_pretrained(cls: _Class[Q], folder: str | os.PathLike[str]) -> Q:
        """Load what `save_pretrained` wrote.

        Raises:
            ArtefactError: if the folder is missing, truncated, edited, or holds another type.
        """
        quantizer = load_quantizer(folder)
        if not isinstance(quantizer, cls):
            raise ArtefactError(
                f"{folder}: holds a quantizer of type {quantizer.type!r}; expected "
                f"{getattr(cls, 'type', cls.__name__)!r}; load it with load_quantizer"
            )
        return quantizer

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self.config.items() if k != "type")
        return f"{type(self).__name__}({options})"

    @abstractmethod
    def _fit(self, vectors: Vectors, side: dict[str, Vectors], progress: bool) -> None:
        """Learn from checked vectors, at least as many as the largest level has codes."""

    @abstractmethod
    def _encode(self, x: Tensor) -> Tensor:
        """Codes [n, L] of a checked float32 block [n, d]."""

    @abstractmethod
    def _decode(self, codes: Tensor) -> Tensor:
        """Vectors [n, d] of checked int64 codes [n, L]."""

    @abstractmethod
    def _level_distances(self, x: Tensor, prefix: Tensor) -> Tensor:
        """Squared distances [n, K_l] of a checked block, given checked codes [n, l]."""

    @abstractmethod
    def _state(self) -> dict[str, np.ndarray]:
        """What `fit` learned, as named arrays."""

    @abstractmethod
    def _load_state(self, state: dict[str, np.ndarray], width: int) -> None:
        """Take over what `_state` gave; a KeyError or ValueError says that it does not fit."""

    def _fitted_width(self) -> int:
        if self.width is None:
            raise ConfigError(
                f"{type(self).__name__}: is not fitted yet; call fit(vectors) first, or load a "
                "fitted one with load_quantizer(folder)"
            )
        return self.width

    def _side(self, side_vectors: Mapping[str, Any], matrix: Vectors) -> dict[str, Vectors]:
        side = {}
        for name, array in side_vectors.items():
            if name not in self.side_inputs:
                known = ", ".join(sorted(self.side_inputs)) or "none"
                raise ConfigError(
                    f"side_vectors: {type(self).__name__} does not know {name!r}; it knows {known}"
                )
            side[name] = Vectors(array, name=f"side_vectors[{name!r}]", rows=matrix.rows)
            have, expected = len(side[name].source), len(matrix.source)
            if have != expected:
                raise DataError(
                    f"side_vectors[{name!r}]: have {have} rows for {expected} vectors; "
                    "expected one row per vector"
                )
            side[name].check()
        for name in self.learns_from - side.keys():
            raise ConfigError(
                f"side_vectors: {self!r} learns from {name!r} vectors, which are missing; give "
                f"side_vectors={{{name!r}: ...}}, one row per vector"
            )
        for name in side.keys() - self.learns_from:
            raise ConfigError(
                f"side_vectors: {self!r} makes no use of {name!r} vectors; give a weight to the "
                "term that does, or leave them out"
            )
        return side

    def _checked_codes(self, codes: Any, levels: int, *, name: str = "codes") -> np.ndarray:
        array = np.asarray(codes)
        if array.dtype.kind not in "iu" and array.size:
            raise DataError(f"{name}: have dtype {array.dtype}; expected integers")
        if array.ndim != 2 or array.shape[1] != levels:
            raise DataError(f"{name}: have shape {array.shape}; expected [n, {levels}]")
        sizes = np.asarray(self.codebook_sizes[:levels])
        wrong = (array < 0) | (array >= sizes)
        if wrong.any():
            row, level = np.argwhere(wrong)[0]
            raise DataError(
                f"{name}: row {row}, level {level} is {array[row, level]}; expected 0 to "
                f"{sizes[level] - 1}"
            )
        return array.astype(np.int64)


def register(name: str) -> Callable[[C], C]:
    """Class decorator: make a quantizer known to `make_quantizer` under `name`.

    Raises:
        ConfigError: where it is used, if another class has the name.
    """

    def add(cls: C) -> C:
        cls.type = name
        return registrar(QUANTIZERS)(name)(cls)

    return add


def option_names(cls: type[Quantizer]) -> list[str]:
    """Names of the keyword options of a quantizer class."""
    return list(inspect.signature(cls).parameters)


def make_quantizer(type: str, **options: Any) -> Quantizer:
    """Build an unfitted quantizer from its registered name and options.

    Raises:
        ConfigError: if the name or an option is unknown (with the closest known one), or an option
            has an impossible value.
    """
    if type not in QUANTIZERS:
        raise ConfigError(
            f"quantizer type {type!r} is unknown; {expected_one_of(type, sorted(QUANTIZERS))}"
        )
    names = option_names(QUANTIZERS[type])
    for key in options:
        if key not in names:
            raise ConfigError(
                f"quantizer {type!r} has no option {key!r}; {expected_one_of(key, names)}"
            )
    return QUANTIZERS[type](**options)


def load_quantizer(folder: str | os.PathLike[str]) -> Quantizer:
    """Load a quantizer of any type from the folder that `save_pretrained` wrote.

    Raises:
        ArtefactError: if the folder is missing, truncated, edited, or from another version.
    """
    path = check_folder(folder, kind=KIND)
    content = read_json(path / "config.json")
    try:
        quantizer = make_quantizer(**content["config"])
        state = load_file(str(path / "quantizer.safetensors"))
        quantizer._load_state(state, int(content["width"]))
        quantizer.width = int(content["width"])
        quantizer.report = dict(content["report"])
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ArtefactError(
            f"{path}: does not hold a quantizer that this version can read ({error}); "
            "fit it again, or use the version of genrec that wrote it"
        ) from error
    return quantizer


def check_codebook_sizes(sizes: Any) -> tuple[int, ...]:
    """Codebook sizes of the levels as a tuple.

    Raises:
        ConfigError: if there is no level, or a size is not an integer from 1 to 65,536.
    """
    if isinstance(sizes, (str, int)) or not isinstance(sizes, Iterable):
        raise ConfigError(
            f"codebook_sizes: is {sizes!r}; expected one size per level, e.g. [256, 256, 256]"
        )
    sizes = tuple(sizes)
    if not sizes:
        raise ConfigError("codebook_sizes: is empty; expected one size per level")
    for level, size in enumerate(sizes):
        whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
        if not whole or not 1 <= size <= MAX_CODES:
            raise ConfigError(
                f"codebook_sizes: level {level} is {size!r}; expected an integer from 1 to "
                f"{MAX_CODES}"
            )
    return tuple(int(size) for size in sizes)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> Any:
    """`value` if it is one of `choices`, else a ConfigError that names the closest one."""
    choices = list(choices)
    if value not in choices:
        raise ConfigError(f"{name}: {value!r} is unknown; {expected_one_of(value, choices)}")
    return value


def check_device(name: str) -> str:
    """`name` if it is a device of this machine, else a ConfigError."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device: {name!r} cannot be used here ({reason}); use 'cpu', or a device of this "
            "machine such as 'cuda'"
        ) from error
    return name


def check_number(name: str, value: Any, *, low: float, high: float = float("inf")) -> Any:
    """`value` if it is a number from `low` to `high`, else a ConfigError."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        upper = f" to {high:g}" if high != float("inf") else " or more"
        raise ConfigError(f"{name}: is {value!r}; expected a number of {low:g}{upper}")
    return value
