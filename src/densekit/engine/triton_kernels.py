"""Kernels of the fused dense block: each is one pass over the rows, and leaves its sums per tile to be added later.

Every matrix (P, c) comes as a pointer and a row stride, every vector as (c,). A batch norm is four vectors and eps,
from which each program computes scale and shift; without a variance, the first two already are scale and shift.
Arithmetic is in float32 for half types too; the moments of tiles are joined in float64. Row numbers fit into 32 bits,
offsets have 64. A program works on one tile of rows and columns; sums over the rows of a tile go to memory, one entry a
tile, and are added in a fixed order, without atomics: the same input gives the same bits.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (the language of the kernels is Triton's, which looks like Python)

import triton
import triton.language as tl


@triton.jit
def _tile(P, c, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Return the tile's number among those of the same columns, its rows and columns, and which values exist.

    Neighbouring programs take neighbouring columns, which are neighbours in memory as well.
    """
    blocks = tl.cdiv(c, COLS)
    tile = tl.program_id(0) // blocks
    rows = tile * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(0) % blocks * COLS + tl.arange(0, COLS)
    return tile, rows, cols, (rows < P)[:, None] & (cols < c)[None, :]


@triton.jit
def _at(matrix, stride, rows, cols):
    """Return pointers to the values of a tile."""
    return matrix + rows.to(tl.int64)[:, None] * stride + cols[None, :]


@triton.jit
def _load(matrix, stride, rows, cols, mask):
    """Return a tile in float32, zero outside the matrix."""
    return tl.load(_at(matrix, stride, rows, cols), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _row(vector, cols, c):
    """Return part of a vector as a row (1, COLS) in float32, zero outside the vector."""
    return tl.load(vector + cols, mask=cols < c, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _std(var, eps, cols, c):
    """Return what a batch norm divides by, as a row (1, COLS)."""
    return tl.sqrt_rn(_row(var, cols, c) + eps)


@triton.jit
def _scale_and_shift(gamma, beta, mean, var, eps, cols, c):
    """Return a batch norm as two rows (1, COLS), to the same bits in every kernel."""
    scale, shift = _row(gamma, cols, c), _row(beta, cols, c)
    if var is not None:
        scale = tl.div_rn(scale, _std(var, eps, cols, c))
        shift = tl.fma(-_row(mean, cols, c), scale, shift)
    return scale, shift


@triton.jit
def _terms(sums0, sums1, scale, std, count):
    """Return the terms of `batch_norm.moment_terms` from the sums of `drelu_sums`; all (1, COLS)."""
    return scale * sums0 / count, scale * sums1 / (std * std * count)


@triton.jit
def _affine(x, scale, shift):
    """Return ``x * scale + shift``, rounded once: the sign is the same wherever it is computed again."""
    return tl.fma(x, tl.broadcast_to(scale, x.shape), tl.broadcast_to(shift, x.shape))


@triton.jit
def _where_on(before_relu, value):
    """Return ``value`` where the ReLU is on, zero elsewhere; NaN is on, so that it passes."""
    return tl.where(before_relu <= 0, 0.0, value)


@triton.jit
def _store_moments(moments, tile, x, rows, cols, mask, P, c):
    """Store mean and variance of the columns of a tile to ``moments[tile]``, (2, c) in float64.

    Two passes, and the second corrects the first: Chan, Golub and LeVeque, 1983, equation 1.7. What it corrects is
    below float32's last digit where the mean is large, and matters when the means of tiles are compared.
    """
    count = tl.sum((rows < P).to(tl.float32), 0)
    mean = tl.sum(tl.where(mask, x, 0.0), 0) / count
    centred = tl.where(mask, x - mean[None, :], 0.0)
    rest = tl.sum(centred, 0) / count
    at = moments + tile.to(tl.int64) * 2 * c + cols
    tl.store(at, mean.to(tl.float64) + rest.to(tl.float64), mask=cols < c)
    tl.store(at + c, tl.sum(centred * centred, 0) / count - rest * rest, mask=cols < c)


@triton.jit
def _store_sums(sums, tile, first, second, cols, c):
    """Store two sums over the rows of a tile to ``sums[tile]``, (2, c)."""
    at = sums + tile.to(tl.int64) * 2 * c + cols
    tl.store(at, first, mask=cols < c)
    tl.store(at + c, second, mask=cols < c)


@triton.jit
def tile_moments(x, x_stride, out, out_stride, moments, P, c, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Measure ``x``, and copy it to ``out`` if there is one."""
    tile, rows, cols, mask = _tile(P, c, ROWS, COLS)
    values = _load(x, x_stride, rows, cols, mask)
    if out is not None:
        tl.store(_at(out, out_stride, rows, cols), values, mask=mask)
    _store_moments(moments, tile, values, rows, cols, mask, P, c)


@triton.jit
def join_moments(moments, joined, tiles, rows_each, P, c, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Join the moments (tiles, 2, c) of tiles of ``rows_each`` rows each by Chan's rule, ROWS tiles at a time."""
    group, numbers, cols, mask = _tile(tiles, c, ROWS, COLS)
    counts = tl.where(numbers < tiles, tl.minimum(P - numbers.to(tl.int64) * rows_each, rows_each), 0)
    shares = (counts.to(tl.float64) / tl.sum(counts, 0))[:, None]
    means = tl.load(_at(moments, 2 * c, numbers, cols), mask=mask, other=0.0)
    variances = tl.load(_at(moments + c, 2 * c, numbers, cols), mask=mask, other=0.0)
    mean = tl.sum(shares * means, 0)
    apart = tl.where(mask, means - mean[None, :], 0.0)
    at = joined + group.to(tl.int64) * 2 * c + cols
    tl.store(at, mean, mask=cols < c)
    tl.store(at + c, tl.sum(shares * (variances + apart * apart), 0), mask=cols < c)


@triton.jit
def bnrelu(
    x, x_stride, gamma, beta, mean, var, eps, out, out_stride, P, c, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    """Write ``relu(x * scale + shift)``."""
    _, rows, cols, mask = _tile(P, c, ROWS, COLS)
    scale, shift = _scale_and_shift(gamma, beta, mean, var, eps, cols, c)
    before = _affine(_load(x, x_stride, rows, cols, mask), scale, shift)
    tl.store(_at(out, out_stride, rows, cols), _where_on(before, before), mask=mask)


@triton.jit
def drelu_sums(
    gradient, gradient_stride, x, x_stride, gamma, beta, mean, var, eps, source, source_stride, out, out_stride, sums,
    P, c, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write D, or ``source + scale * D``; sum D and ``D (x - mean)``."""
    tile, rows, cols, mask = _tile(P, c, ROWS, COLS)
    scale, shift = _scale_and_shift(gamma, beta, mean, var, eps, cols, c)
    values = _load(x, x_stride, rows, cols, mask)
    d = _where_on(_affine(values, scale, shift), _load(gradient, gradient_stride, rows, cols, mask))
    _store_sums(sums, tile, tl.sum(d, 0), tl.sum(d * (values - _row(mean, cols, c)), 0), cols, c)
    if source is not None:
        d = d * scale + _load(source, source_stride, rows, cols, mask)
    tl.store(_at(out, out_stride, rows, cols), d, mask=mask)


@triton.jit
def bn_gradient(
    gradient, gradient_stride, x, x_stride, gamma, mean, var, eps, term0, term1, count, out, out_stride, P, c,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write ``scale * gradient - term0 - (x - mean) * term1``; where there is a variance, the terms come as sums."""
    _, rows, cols, mask = _tile(P, c, ROWS, COLS)
    scale = _row(gamma, cols, c)
    if var is not None:
        scale = tl.div_rn(scale, _std(var, eps, cols, c))
    part = _load(gradient, gradient_stride, rows, cols, mask) * scale
    if term0 is not None:
        first, second = _row(term0, cols, c), _row(term1, cols, c)
        if var is not None:
            first, second = _terms(first, second, scale, _std(var, eps, cols, c), count)
        part = part - first - (_load(x, x_stride, rows, cols, mask) - _row(mean, cols, c)) * second
    tl.store(_at(out, out_stride, rows, cols), part, mask=mask)


@triton.jit
def norm_gradient(
    sums, gamma, var, eps, dgamma, terms, terms_stride, count, c, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    """Write the gradient of a batch norm's gamma, from the sums (2, c) of `drelu_sums`; add to ``terms`` if given."""
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    one, mask = tl.zeros((1,), tl.int32), (cols < c)[None, :]
    first, second, std = _row(sums, cols, c), _row(sums + c, cols, c), _std(var, eps, cols, c)
    tl.store(_at(dgamma, c, one, cols), second / std, mask=mask)
    if terms is not None:
        first, second = _terms(first, second, tl.div_rn(_row(gamma, cols, c), std), std, count)
        at = _at(terms, terms_stride, one, cols)
        tl.store(at, tl.load(at, mask=mask) + first, mask=mask)
        tl.store(at + terms_stride, tl.load(at + terms_stride, mask=mask) + second, mask=mask)


@triton.jit
def bnrelu_avg_pool(
    x, x_stride, gamma, beta, mean, var, eps, out, out_stride, H, W, P, c, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    """Write 2x2 means of ``relu(x * scale + shift)``; rows are pixels of the result, P of them."""
    _, rows, cols, mask = _tile(P, c, ROWS, COLS)
    h, w = H // 2, W // 2
    first = (rows // (h * w) * H + rows // w % h * 2) * W + rows % w * 2  # the upper left one of its four pixels
    scale, shift = _scale_and_shift(gamma, beta, mean, var, eps, cols, c)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            before = _affine(_load(x, x_stride, first + i * W + j, cols, mask), scale, shift)
            total += _where_on(before, before)
    tl.store(_at(out, out_stride, rows, cols), total * 0.25, mask=mask)


@triton.jit
def bnrelu_avg_pool_backward(
    dpooled, x, x_stride, gamma, beta, mean, var, eps, out, sums, H, W, P, c,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write D of `bnrelu_avg_pool`, zero on an odd last line; sum D and ``D (x - mean)``."""
    tile, rows, cols, mask = _tile(P, c, ROWS, COLS)
    h, w = H // 2, W // 2
    i, j = rows // W % H // 2, rows % W // 2
    inside = mask & ((i < h) & (j < w))[:, None]
    d = _load(dpooled, c, (rows // (H * W) * h + i) * w + j, cols, inside) * 0.25
    values = _load(x, x_stride, rows, cols, mask)
    scale, shift = _scale_and_shift(gamma, beta, mean, var, eps, cols, c)
    d = _where_on(_affine(values, scale, shift), d)
    _store_sums(sums, tile, tl.sum(d, 0), tl.sum(d * (values - _row(mean, cols, c)), 0), cols, c)
    tl.store(_at(out, c, rows, cols), d, mask=mask)


@triton.jit
def bnrelu_conv1x1(
    x, x_stride, gamma, beta, mean, var, eps, weight, weight_stride, gamma2, beta2, mean2, var2, eps2, product, moments,
    P, c, m, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write ``relu(x * scale + shift) @ weight.T`` (P, m), and measure what was written if there are ``moments``.

    If there is a second norm, the product goes through it and another ReLU first.
    """
    tile, rows, cols, mask = _tile(P, m, ROWS, COLS)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, c, DEPTH):
        inner = start + tl.arange(0, DEPTH)
        values = _load(x, x_stride, rows, inner, (rows < P)[:, None] & (inner < c)[None, :])
        scale, shift = _scale_and_shift(gamma, beta, mean, var, eps, inner, c)
        before = _affine(values, scale, shift)
        known = (cols < m)[:, None] & (inner < c)[None, :]
        matrix = tl.load(_at(weight, weight_stride, cols, inner), mask=known, other=0.0)
        activated = _where_on(before, before).to(matrix.dtype)
        total = tl.dot(activated, tl.trans(matrix), total, input_precision=PRECISION)
    if gamma2 is not None:
        scale2, shift2 = _scale_and_shift(gamma2, beta2, mean2, var2, eps2, cols, m)
        before = _affine(total, scale2, shift2)
        total = _where_on(before, before)
    rounded = total.to(product.dtype.element_ty)
    tl.store(_at(product, m, rows, cols), rounded, mask=mask)
    if moments is not None:
        _store_moments(moments, tile, rounded.to(tl.float32), rows, cols, mask, P, m)


@triton.jit
def conv1x1_backward(
    dz, dz_stride, weight, weight_stride, x, x_stride, gamma, beta, mean, var, eps, source, source_stride, out,
    out_stride, dweight, sums, P, c, m, ROWS: tl.constexpr, COLS: tl.constexpr, STEP: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Differentiate `bnrelu_conv1x1`: each tile of rows has its part of ``dweight`` (tiles, m, c) and of the sums.

    Each step of rows of ``x`` and ``dz`` is read once for all results; ``dweight`` and ``out`` are written if given.
    """
    tile, _, cols, _ = _tile(P, c, ROWS, COLS)
    outputs = tl.arange(0, DEPTH)
    own = (outputs < m)[:, None] & (cols < c)[None, :]
    matrix = tl.load(_at(weight, weight_stride, outputs, cols), mask=own, other=0.0)
    scale, shift = _scale_and_shift(gamma, beta, mean, var, eps, cols, c)
    means = _row(mean, cols, c)
    transposed = tl.zeros((DEPTH, COLS), tl.float32)
    sum0, sum1 = tl.zeros((COLS,), tl.float32), tl.zeros((COLS,), tl.float32)
    for start in range(tile * ROWS, tl.minimum((tile + 1) * ROWS, P), STEP):
        rows = start + tl.arange(0, STEP)
        mask = (rows < P)[:, None] & (cols < c)[None, :]
        inner = (rows < P)[:, None] & (outputs < m)[None, :]
        gradient = tl.load(_at(dz, dz_stride, rows, outputs), mask=inner, other=0.0)
        values = _load(x, x_stride, rows, cols, mask)
        before = _affine(values, scale, shift)
        if dweight is not None:
            # past the last row the gradient is zero, but zero times what float16 cannot hold would be NaN
            activated = tl.where(mask, _where_on(before, before), 0.0).to(matrix.dtype)
            transposed = tl.dot(tl.trans(gradient), activated, transposed, input_precision=PRECISION)
        d = _where_on(before, tl.dot(gradient, matrix, input_precision=PRECISION))
        sum0 += tl.sum(d, 0)
        sum1 += tl.sum(d * (values - means), 0)
        if out is not None:
            onto = _load(source, source_stride, rows, cols, mask)
            tl.store(_at(out, out_stride, rows, cols), onto + d * scale, mask=mask)
    _store_sums(sums, tile, sum0, sum1, cols, c)
    if dweight is not None:
        parts = dweight + tile.to(tl.int64) * m * c
        tl.store(_at(parts, c, outputs, cols), transposed, mask=own)
