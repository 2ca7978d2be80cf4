"""The arithmetic of a light head on a few rows, compiled by numba into vector instructions.

Sums may be reordered by the compiler. NaN passes through everything.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from genrec.decoding.kernel_parts import SUMS, exp

_f32 = np.float32


@njit(fastmath=SUMS)
def affine(x, rows, weight, bias, out):
    """``x[:rows] @ weight + bias``; four rows share what is read of the weight."""
    inner, n = weight.shape
    r, whole = 0, inner // 4 * 4
    while r + 4 <= rows:
        o0, o1, o2, o3 = out[r], out[r + 1], out[r + 2], out[r + 3]
        for j in range(n):
            o0[j] = bias[j]
            o1[j] = bias[j]
            o2[j] = bias[j]
            o3[j] = bias[j]
        for k in range(0, whole, 4):
            a0, a1, a2, a3 = x[r, k], x[r, k + 1], x[r, k + 2], x[r, k + 3]
            b0, b1, b2, b3 = x[r + 1, k], x[r + 1, k + 1], x[r + 1, k + 2], x[r + 1, k + 3]
            c0, c1, c2, c3 = x[r + 2, k], x[r + 2, k + 1], x[r + 2, k + 2], x[r + 2, k + 3]
            d0, d1, d2, d3 = x[r + 3, k], x[r + 3, k + 1], x[r + 3, k + 2], x[r + 3, k + 3]
            for j in range(n):
                w0, w1, w2, w3 = weight[k, j], weight[k + 1, j], weight[k + 2, j], weight[k + 3, j]
                o0[j] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
                o1[j] += b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
                o2[j] += c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
                o3[j] += d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3
        for k in range(whole, inner):
            a0, b0, c0, d0 = x[r, k], x[r + 1, k], x[r + 2, k], x[r + 3, k]
            for j in range(n):
                w0 = weight[k, j]
                o0[j] += a0 * w0
                o1[j] += b0 * w0
                o2[j] += c0 * w0
                o3[j] += d0 * w0
        r += 4
    for s in range(r, rows):
        o0 = out[s]
        for j in range(n):
            o0[j] = bias[j]
        for k in range(inner):
            a0 = x[s, k]
            for j in range(n):
                o0[j] += a0 * weight[k, j]


@njit(fastmath=SUMS, error_model="numpy")  # a check of the division would keep it from vectors
def gelu(x):
    """``x * Phi(x)`` in place; erf by Abramowitz and Stegun's 7.1.26, which is within 1.5e-7."""
    for i in range(len(x)):
        y = x[i]
        z = abs(y) * _f32(0.70710678)
        t = _f32(1.0) / (_f32(1.0) + _f32(0.3275911) * z)
        p = _f32(1.061405429)
        p = p * t + _f32(-1.453152027)
        p = p * t + _f32(1.421413741)
        p = p * t + _f32(-0.284496736)
        p = p * t + _f32(0.254829592)
        tail = _f32(0.5) * abs(y) * p * t * exp(-z * z)
        x[i] = (y if y > _f32(0.0) else _f32(0.0)) - tail


@njit(fastmath=SUMS, error_model="numpy")
def standardize(x, eps, out):
    """A row less its mean, by its standard deviation."""
    n = len(x)
    total = _f32(0.0)
    for i in range(n):
        total += x[i]
    mean = total / _f32(n)
    square = _f32(0.0)
    for i in range(n):
        square += (x[i] - mean) * (x[i] - mean)
    scale = _f32(1.0) / np.sqrt(square / _f32(n) + eps)
    for i in range(n):
        out[i] = (x[i] - mean) * scale


@njit(fastmath=SUMS)
def add(first, second, out):
    """The sum of two rows."""
    for i in range(len(out)):
        out[i] = first[i] + second[i]


@njit(fastmath=SUMS)
def dot(x, y):
    """The dot product of two rows."""
    total = _f32(0.0)
    for i in range(len(x)):
        total += x[i] * y[i]
    return total
