"""MHQ: a learned orthogonal projection, then residual quantization in each of M subspaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from genrec.errors import ConfigError
from genrec.quantization.base import (
    MAX_CODES,
    Quantizer,
    check_choice,
    check_device,
    check_number,
    register,
)
from genrec.quantization.kmeans import residual_kmeans
from genrec.quantization.nearest import ResidualSearch, residual_distances
from genrec.quantization.residual_vq import ResidualVQ
from genrec.quantization.training import one_thread
from genrec.quantization.vectors import Vectors

ORTHOGONALITIES = ("hard", "penalty", "none")


@register("mhq")
class MHQ(Quantizer):
    """Multi-faceted hierarchical quantization: M subspaces with L residual levels each.

    The vectors are projected by a learned W_P and split into M disjoint subspaces (facets); each
    is coded by L levels of residual quantization. An item has M * L codes in facet-major order:
    column m * L + l is level l of subspace m, so that a column depends only on the columns before
    it in its own subspace. L = 1 is product quantization with a learned rotation (OPQ), M = 1 is
    residual quantization.

    W_P starts from the principal axes, dealt out so that the subspaces have equal products of
    variances, and the codebooks from k-means. Then, pass by pass, codebooks follow moving averages
    of what chose them, codes that nothing chose in a pass are revived from live residuals, and W_P
    lowers L_rec + balance * L_bal, where x~ = W_P x and

        L_rec = mean ||x~ - (zhat_1, ..., zhat_M)||^2,
        L_bal = mean over m of |E_m - mean E|, with E_m = batch mean of ||z_m||^2.

    The vectors are centred and brought to mean squared norm 1 first, so that the weights mean the
    same for all vectors. A few Lloyd iterations at the end leave no code unused. The method leaves
    weights and optimiser open; those here are choices of this implementation. Fitting runs on one
    thread, so that the codebooks do not depend on the number of cores.

    Args:
        num_subspaces: M.
        levels: L, residual levels of each subspace.
        codebook_size: number of codes K of each level of each subspace.
        dim: width D of the projected vectors, a multiple of M: the leading principal axes; by
            default the width of the vectors, filled up with zeros to a multiple of M.
        modalities: numbers of columns of the modalities that were concatenated into the vectors,
            in order, e.g. [384, 512] for text and image. Each is scaled to an equal share of the
            energy (summed variance) before W_P, or the one with the largest numbers would decide
            the codes alone. By default the columns stay as they are.
        orthogonality: of W_P. L_rec is measured after the projection, so that W_P = 0 is its
            trivial optimum. "hard" keeps W_P orthonormal: the update is the orthonormal matrix
            that brings x~ nearest to its codes (Procrustes), which lowers the error of the
            vectors themselves also where `dim` drops directions; "penalty" adds
            `orthogonality_weight` * ||W_P W_P^T - I||_F^2 to a loss minimised by gradient; "none"
            adds nothing, a control that collapses.
        orthogonality_weight: of the penalty.
        balance: weight of L_bal. It evens out what the subspaces carry; vectors that are whitened
            have little to even out. The principal axes are a saddle point of it, which "hard"
            leaves slowly: more `epochs` or a larger weight help where it matters. Whether it did
            anything stands in `report["energies"]`: on 384 standardized numbers of text and 8
            subspaces, .01 changes nothing that can be seen and 3 evens out most.
        epochs: passes over the sample.
        batch_size: rows per step.
        decay: of the moving averages.
        learning_rate: of W_P with "penalty" and "none" (Adam).
        refine: Lloyd iterations on the final subspaces.
        samples_per_code: at most this many rows per code are trained on.
        seed: of the sample, the starting centroids and the batches.
        device: where to compute.

    References: Huang et al., "Asymmetric generative recommendation via multi-expert projection
    and multi-faceted hierarchical quantization", arXiv 2605.14512; Ge et al., "Optimized product
    quantization", TPAMI 2014 (axes dealt out by their variances, Procrustes).
    """

    def __init__(
        self,
        num_subspaces: int = 8,
        levels: int = 3,
        codebook_size: int = 256,
        *,
        dim: int | None = None,
        modalities: Sequence[int] | None = None,
        orthogonality: str = "hard",
        orthogonality_weight: float = 1.0,
        balance: float = 0.01,
        epochs: int = 30,
        batch_size: int = 4096,
        decay: float = 0.9,
        learning_rate: float = 1e-3,
        refine: int = 10,
        samples_per_code: int = 256,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.num_subspaces = check_number("num_subspaces", num_subspaces, low=1)
        self.levels = check_number("levels", levels, low=1)
        self.codebook_size = check_number("codebook_size", codebook_size, low=1, high=MAX_CODES)
        self.dim = dim if dim is None else check_number("dim", dim, low=num_subspaces)
        if dim is not None and dim % num_subspaces:
            raise ConfigError(
                f"dim: is {dim}; expected a multiple of num_subspaces, {num_subspaces}, e.g. "
                f"{dim - dim % num_subspaces}"
            )
        self.modalities = (
            None
            if modalities is None
            else tuple(check_number("modalities", width, low=1) for width in modalities)
        )
        self.orthogonality = check_choice("orthogonality", orthogonality, ORTHOGONALITIES)
        self.orthogonality_weight = check_number(
            "orthogonality_weight", orthogonality_weight, low=0
        )
        self.balance = check_number("balance", balance, low=0)
        self.epochs = check_number("epochs", epochs, low=0)
        self.batch_size = check_number("batch_size", batch_size, low=1)
        self.decay = check_number("decay", decay, low=0, high=1)
        if decay == 1:
            raise ConfigError("decay: is 1; expected less, or the codebooks never move")
        self.learning_rate = check_number("learning_rate", learning_rate, low=0)
        self.refine = check_number("refine", refine, low=0)
        self.samples_per_code = check_number("samples_per_code", samples_per_code, low=1)
        self.seed = seed
        self.device = check_device(device)
        self.report = {}
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each column, M * L of them."""
        return (self.codebook_size,) * (self.num_subspaces * self.levels)

    @property
    def levels_per_facet(self) -> int:
        """L: the columns of one subspace follow one another."""
        return self.levels

    def codebooks(self) -> list[np.ndarray]:
        """One float32 array [K, D / M] per column, in the projected space."""
        self._fitted_width()
        books = self._arrays["codebooks"]
        return [book.copy() for book in books.reshape(-1, *books.shape[2:])]

    def _fit(self, vectors: Vectors, side: dict[str, Vectors], progress: bool) -> None:
        width = vectors.shape[1]
        if self.modalities is not None and sum(self.modalities) != width:
            raise ConfigError(
                f"modalities: {list(self.modalities)} are {sum(self.modalities)} columns, the "
                f"vectors have {width}; give the number of columns of each modality"
            )
        rng = np.random.default_rng(self.seed)
        x = vectors.sample(self.samples_per_code * self.codebook_size, rng).double()
        with one_thread():
            mean = x.mean(dim=0)
            x -= mean
            gain = self._gains(x.square().mean(dim=0))
            x *= gain
            size = float(x.square().sum(dim=1).mean().sqrt()) or 1.0
            y = (x / size).float().to(self.device)
            del x
            weight = self._start(y)
            weight, codebooks = self._train(y, weight, rng, progress)
        projection = weight.double().cpu()
        stacked = torch.stack([torch.stack(books) for books in codebooks]).double().cpu() * size
        self._use(
            {
                "mean": mean.numpy(),
                "forward": (gain[:, None] * projection).numpy(),
                "backward": (torch.linalg.pinv(projection) / gain).numpy(),
                "codebooks": stacked.float().numpy(),
            }
        )

    def _gains(self, variance: Tensor) -> Tensor:
        """Factor of each column [d] that gives each modality an equal share of the energy."""
        gain = torch.ones_like(variance)
        if self.modalities is None:
            return gain
        share = variance.sum() / len(self.modalities)
        for stop, width in zip(accumulate(self.modalities), self.modalities, strict=True):
            energy = variance[stop - width : stop].sum()
            if energy > 0:
                gain[stop - width : stop] = (share / energy).sqrt()
        return gain

    def _start(self, y: Tensor) -> Tensor:
        """W_P transposed [d, D]: principal axes, each in the subspace it suits."""
        width = y.shape[1]
        inner = self.dim or width + -width % self.num_subspaces
        variance, axes = torch.linalg.eigh((y.T.double() @ y.double()) / len(y))
        variance, axes = variance.flip(0)[:inner], axes.flip(1)[:, :inner]
        weight = y.new_zeros(width, inner)
        places = deal(variance.cpu().numpy(), self.num_subspaces, inner // self.num_subspaces)
        weight[:, torch.from_numpy(places).to(y.device)] = axes.float()
        return weight

    def _train(
        self, y: Tensor, weight: Tensor, rng: np.random.Generator, progress: bool
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """The projection [d, D] and the codebooks, by subspace and level, after training."""
        sizes = (self.codebook_size,) * self.levels
        facets = []
        for part in self._parts(y @ weight):
            books, codes = residual_kmeans(part, sizes, rng=rng)
            facet = ResidualVQ(sizes, part.shape[1], decay=self.decay).to(y.device)
            for level, book in enumerate(books):
                counts = torch.bincount(codes[:, level], minlength=len(book))
                facet.set_codebook(level, book, counts)
            facets.append(facet)
        free = weight.clone().requires_grad_(self.orthogonality != "hard")
        optimizer = torch.optim.Adam([free], lr=self.learning_rate)
        bar = tqdm(range(self.epochs), desc="mhq", unit="pass", disable=None if progress else True)
        for _ in bar:
            cross, missed = torch.zeros_like(weight), 0.0
            for rows in torch.from_numpy(rng.permutation(len(y))).split(self.batch_size):
                batch = y[rows.to(y.device)]
                z = batch @ free
                coded = self._coded(facets, z)
                loss = (z - coded).square().sum(dim=1).mean()
                missed += float(loss.detach()) * len(batch)
                if self.orthogonality == "hard":
                    cross += batch.T @ self._target(z, coded)
                else:
                    optimizer.zero_grad(set_to_none=True)
                    (loss + self._regularisation(free, z)).backward()
                    optimizer.step()
            if self.orthogonality == "hard":
                free.data = polar(cross)
            for facet in facets:
                facet.revive(rng)
            bar.set_postfix(reconstruction=f"{missed / len(y):.4f}")
        weight = free.detach()
        z = y @ weight
        codebooks, missed = [], 0.0
        for part, facet in zip(self._parts(z), facets, strict=True):
            start = [facet.codebook(level).detach() for level in range(self.levels)]
            books, codes = residual_kmeans(part, sizes, rng=rng, iterations=self.refine, init=start)
            chosen = sum(book[codes[:, level]] for level, book in enumerate(books))
            missed += float((part - chosen).square().sum(dim=1).mean())
            codebooks.append(books)
        energies = self._energies(z)
        values = torch.linalg.svdvals(weight)
        self.report |= {
            "reconstruction": round(missed, 6),
            "energies": [round(float(energy), 6) for energy in energies],
            "singular_values": [round(float(values[at]), 6) for at in (0, -1)],
        }
        return weight, codebooks

    def _parts(self, z: Tensor) -> Iterator[Tensor]:
        yield from z.split(z.shape[1] // self.num_subspaces, dim=1)

    def _energies(self, z: Tensor) -> Tensor:
        """E_m [M]: mean squared norm in each subspace."""
        return z.square().mean(dim=0).unflatten(0, (self.num_subspaces, -1)).sum(dim=1)

    @torch.no_grad()
    def _coded(self, facets: Sequence[ResidualVQ], z: Tensor) -> Tensor:
        """The codes' vectors [B, D] of a batch, whose codebooks follow it."""
        parts = zip(facets, self._parts(z), strict=True)
        return torch.cat([facet(part, 0.0)[0] for facet, part in parts], dim=1)

    def _target(self, z: Tensor, coded: Tensor) -> Tensor:
        """What an orthonormal W_P should bring the vectors to [B, D].

        It maximises the inner product of x~ with the target. L_bal enters by its gradient, a
        multiple of z_m that shrinks subspaces with more energy than the mean; within 5% of the
        mean the sign fades out, so that W_P comes to rest.
        """
        if not self.balance:
            return coded
        energies = self._energies(z)
        mean = energies.mean()
        sign = ((energies - mean) / (0.05 * mean).clamp(min=1e-12)).clamp(-1, 1)
        pull = self.balance * (sign - sign.mean()) / self.num_subspaces
        pull = pull.clamp(-0.5, 0.5)  # more would turn a subspace away from its codes
        return coded - pull.repeat_interleave(z.shape[1] // self.num_subspaces) * z

    def _regularisation(self, weight: Tensor, z: Tensor) -> Tensor:
        energies = self._energies(z)
        loss = self.balance * (energies - energies.mean()).abs().mean()
        if self.orthogonality == "penalty":
            gram = weight.T @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.T
            eye = torch.eye(len(gram), device=gram.device)
            loss = loss + self.orthogonality_weight * (gram - eye).square().sum()
        return loss

    def _use(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        tensors = {key: torch.from_numpy(value).to(self.device) for key, value in arrays.items()}
        self._mean, self._forward = tensors["mean"], tensors["forward"]
        self._backward = tensors["backward"]
        self._books = [list(books) for books in tensors["codebooks"]]
        self._searches = [ResidualSearch(books) for books in self._books]

    def _projected(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._parts((x.to(self.device).double() - self._mean) @ self._forward))

    def _encode(self, x: Tensor) -> Tensor:
        parts = zip(self._searches, self._projected(x), strict=True)
        return torch.cat([search.codes(part) for search, part in parts], dim=1)

    def _decode(self, codes: Tensor) -> Tensor:
        columns = codes.to(self.device).unflatten(1, (self.num_subspaces, self.levels))
        parts = []
        for facet, books in enumerate(self._books):
            chosen = [book[columns[:, facet, level]] for level, book in enumerate(books)]
            parts.append(torch.stack(chosen).sum(dim=0))
        return torch.cat(parts, dim=1).double() @ self._backward + self._mean

    def _level_distances(self, x: Tensor, prefix: Tensor) -> Tensor:
        facet = prefix.shape[1] // self.levels
        own = prefix[:, facet * self.levels :].to(self.device)
        return residual_distances(self._projected(x)[facet], own, self._books[facet])

    def _state(self) -> dict[str, np.ndarray]:
        return self._arrays

    def _load_state(self, state: dict[str, np.ndarray], width: int) -> None:
        inner = self.dim or width + -width % self.num_subspaces
        parts = (self.num_subspaces, self.levels, self.codebook_size, inner // self.num_subspaces)
        shapes = {
            "mean": (width,),
            "forward": (width, inner),
            "backward": (inner, width),
            "codebooks": parts,
        }
        for name, shape in shapes.items():
            if state[name].shape != shape:
                raise ValueError(f"{name} has shape {state[name].shape}, not {shape}")
        self._use({name: state[name] for name in shapes})


def deal(variances: np.ndarray, subspaces: int, width: int) -> np.ndarray:
    """Column of each principal axis, so that the subspaces have even products of variances.

    The axes come in descending order of variance; each goes to the subspace with the smallest
    product so far that has a column free.

    Args:
        variances: [d], descending; at most `subspaces * width`.
        subspaces: number of subspaces.
        width: columns of each.

    Returns:
        int64 [d], distinct columns; those of a subspace are next to each other.
    """
    largest = max(float(variances.max(initial=0.0)), 1e-30)
    # Relative to the largest all logarithms are negative: fewer axes would look like more.
    logs = np.log(np.maximum(variances / largest, 1e-12)) - np.log(1e-12)
    products, filled = np.zeros(subspaces), np.zeros(subspaces, dtype=np.int64)
    places = np.empty(len(variances), dtype=np.int64)
    for axis, log in enumerate(logs):
        subspace = int(np.argmin(np.where(filled < width, products, np.inf)))
        places[axis] = subspace * width + filled[subspace]
        products[subspace] += log
        filled[subspace] += 1
    return places


def polar(matrix: Tensor) -> Tensor:
    """The orthonormal matrix nearest to `matrix` [d, D]: its rows or columns are orthonormal."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right
