"""What numba compiles. Imported through ``_native``; see there.

Conventions: ``x`` are addresses of the inputs (base first), ``kind`` says whether elements are bfloat16 (0)
or float32 (1), ``n`` counts elements, ``row`` is the absolute first row. All arithmetic is float32 unless it
says so. Casts are spelled out, as numba widens mixed types on its own.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

_TILE = 2048
_LANES = 8
_fast = {"nogil": True, "cache": True, "error_model": "numpy", "boundscheck": False}
u32, f32, f64, i64 = np.uint32, np.float32, np.float64, np.int64


@intrinsic
def _as_float(typingctx, x):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def _as_bits(typingctx, x):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def _half_pointer(typingctx, x):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.IntType(16).as_pointer())

    return types.CPointer(types.uint16)(types.int64), codegen


@intrinsic
def _float_pointer(typingctx, x):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), codegen


# --------------------------------------------------------------------------- reading and writing


@njit(**_fast)
def _load(address, kind, start, n, out):
    """Elements ``start`` to ``start + n`` as float32 into ``out``."""
    if kind == 0:
        half = carray(_half_pointer(address + 2 * start), n)
        for i in range(n):
            out[i] = _as_float(u32(half[i]) << u32(16))
    else:
        full = carray(_float_pointer(address + 4 * start), n)
        for i in range(n):
            out[i] = full[i]


@njit(**_fast)
def _store(address, kind, start, n, values):
    """Rounds to the output's dtype (to nearest, ties to even); whether all are finite afterwards."""
    worst = u32(0)
    if kind == 0:
        half = carray(_half_pointer(address + 2 * start), n)
        for i in range(n):
            bits = _as_bits(values[i])
            rounded = (bits + u32(0x7FFF) + ((bits >> u32(16)) & u32(1))) >> u32(16)
            is_nan = (bits & u32(0x7FFFFFFF)) > u32(0x7F800000)
            rounded = u32(0x7FC0) if is_nan else rounded
            half[i] = np.uint16(rounded)
            magnitude = rounded & u32(0x7FFF)
            worst = magnitude if magnitude > worst else worst
        return worst < u32(0x7F80)
    full = carray(_float_pointer(address + 4 * start), n)
    for i in range(n):
        full[i] = values[i]
        magnitude = _as_bits(values[i]) & u32(0x7FFFFFFF)
        worst = magnitude if magnitude > worst else worst
    return worst < u32(0x7F800000)


@njit(**_fast)
def _subtract(a, b, n):
    for i in range(n):
        a[i] = a[i] - b[i]


# --------------------------------------------------------------------------- span


@njit(**_fast)
def weighted_sum(x, kind, n, c, out, out_kind):
    """Sum over the inputs of c[m] * x[m]; inputs with c = 0 are not read."""
    finite = True
    total, part = np.empty(_TILE, f32), np.empty(_TILE, f32)
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        first = True
        for m in range(x.size):
            if c[m] == 0:
                continue
            _load(x[m], kind, start, size, part)
            if first:
                for i in range(size):
                    total[i] = part[i] * c[m]
                first = False
            else:
                for i in range(size):
                    total[i] = total[i] + part[i] * c[m]
        if first:
            for i in range(size):
                total[i] = f32(0)
        finite &= _store(out, out_kind, start, size, total)
    return finite


@njit(**_fast)
def _dot(a, b, n, lanes):
    """Adds a * b to ``lanes`` in float64, element i to lane i mod 8: the same order whatever the tile."""
    whole = n - n % _LANES
    for i in range(0, whole, _LANES):
        for k in range(_LANES):
            lanes[k] += a[i + k] * b[i + k]
    for i in range(whole, n):
        lanes[i - whole] += a[i] * b[i]


@njit(**_fast)
def _lane_sum(lanes):
    total = f64(0)
    for k in range(_LANES):
        total += lanes[k]
    return total


@njit(**_fast)
def gram(x, kind, rows, columns, of_task_vectors, block, out):
    """Sums of products of all pairs i >= j of inputs (base and task vectors if so asked) per block of rows.

    ``out`` is (pairs, blocks), float64.
    """
    count = x.size
    wide = np.empty((count, _TILE), f64)
    part = np.empty(_TILE, f32)
    pairs = count * (count + 1) // 2
    lanes = np.empty((pairs, _LANES), f64)
    for b in range(out.shape[1]):
        lanes[:] = 0
        first = b * block * columns
        last = min((b + 1) * block, rows) * columns
        for start in range(first, last, _TILE):
            size = min(_TILE, last - start)
            for m in range(count):
                _load(x[m], kind, start, size, part)
                for i in range(size):
                    wide[m, i] = part[i]
                if m > 0 and of_task_vectors:
                    for i in range(size):
                        wide[m, i] -= wide[0, i]
            p = 0
            for i in range(count):
                for j in range(i + 1):
                    _dot(wide[i], wide[j], size, lanes[p])
                    p += 1
        for p in range(pairs):
            out[p, b] = _lane_sum(lanes[p])


# --------------------------------------------------------------------------- ranks


@njit(**_fast)
def _count(values, n, counts, lows):
    """Adds float32 magnitudes to a histogram over their upper 15 bits, and their lower 16 to its sums."""
    for i in range(n):
        bits = _as_bits(values[i]) & u32(0x7FFFFFFF)
        bin_ = bits >> u32(16)
        counts[bin_] += 1
        lows[bin_] += i64(bits & u32(0xFFFF))


@njit(**_fast)
def magnitude_histograms(x, kind, n, counts, lows):
    """Histograms of |x[d] - base|; ``counts`` and ``lows`` are (task vectors, bins), int64, added to."""
    base, part = np.empty(_TILE, f32), np.empty(_TILE, f32)
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        _load(x[0], kind, start, size, base)
        for d in range(x.size - 1):
            _load(x[d + 1], kind, start, size, part)
            _subtract(part, base, size)
            _count(part, size, counts[d], lows[d])


@njit(**_fast)
def value_histogram(values, counts, lows):
    """Histogram of float32 magnitudes."""
    _count(values, values.size, counts, lows)


@njit(**_fast)
def _collect_values(values, n, bins, found_bits, found_index, filled, first):
    for k in range(bins.size):
        wanted, at = u32(bins[k]), filled[k]
        for i in range(n):
            bits = _as_bits(values[i]) & u32(0x7FFFFFFF)
            # Written in any case and kept if it counts: there is no branch to predict.
            found_bits[k, at] = np.int32(bits)
            found_index[k, at] = first + i
            at += i64(bits >> u32(16) == wanted)
        filled[k] = at


@njit(**_fast)
def collect_values(values, bins, found_bits, found_index, filled, first):
    """As ``collect``, from float32 values."""
    _collect_values(values, values.size, bins, found_bits, found_index, filled, first)


@njit(**_fast)
def collect(x, kind, n, model, bins, found_bits, found_index, filled, first):
    """Appends bits and index of the elements of task vector ``model`` whose bin is one of ``bins``.

    ``found_*`` are (bins, capacity + 1); ``filled`` counts; ``first`` is the index of the first element.
    """
    base, part = np.empty(_TILE, f32), np.empty(_TILE, f32)
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        _load(x[0], kind, start, size, base)
        _load(x[model + 1], kind, start, size, part)
        _subtract(part, base, size)
        _collect_values(part, size, bins, found_bits, found_index, filled, first + start)


# --------------------------------------------------------------------------- random masks

_C1, _C2, _GOLDEN = 0x85EBCA6B, 0xC2B2AE35, 0x9E3779B9


@njit(**_fast)
def _mix(x):
    x = u32(u32(x ^ (x >> u32(16))) * u32(_C1))
    x = u32(u32(x ^ (x >> u32(13))) * u32(_C2))
    return u32(x ^ (x >> u32(16)))


@njit(**_fast)
def _draw(low, high, row, column, n, out):
    """Uniform bits of ``n`` elements of one row; see ``_random.random_bits``."""
    first = _mix(u32(u32(u32(row & i64(0xFFFFFFFF)) * u32(_GOLDEN)) + low))
    second = _mix(u32(first ^ u32(row >> i64(32)) ^ high))
    for i in range(n):
        x = u32(u32(u32(column + i) * u32(_GOLDEN)) + first)
        x ^= x >> u32(16)
        x = u32(x * u32(_C1))
        x ^= second
        x ^= x >> u32(13)
        x = u32(x * u32(_C2))
        x ^= x >> u32(16)
        out[i] = np.int32(x)


_RANK_BINS = 2048


@njit(**_fast)
def _keep_by_rank(d, columns, limits, drawn, bins, keep):
    """``keep[i]`` = 1 where drawn[i] < limits[rank of |d[i]| in the row]; equal magnitudes rank by index.

    Ranks are not sorted for. A histogram of the upper bits (of the largest 16 powers of two; what is smaller
    shares the lowest bin) bounds the rank of each element, and as the limits rise with the rank, the bounds
    decide nearly always. Where they do not, the rank is the number of elements before: in a bin of equal
    values those seen so far, else they are counted. Short rows get fewer bins, as all are visited each row.
    ``bins`` is (5, bins): elements; all bits or-ed; place of the first; limit of the first; of the last.
    """
    top = u32(0)
    for i in range(columns):
        bits = _as_bits(d[i]) & u32(0x7FFFFFFF)
        top = bits if bits > top else top
    shift, size_of_bins = (np.int32(16), _RANK_BINS) if columns > 2048 else (np.int32(18), _RANK_BINS // 4)
    offset = max((np.int32(top) >> shift) - np.int32(size_of_bins - 1), np.int32(0))
    high = (np.int32(top) >> shift) - offset
    lower = np.int32((1 << shift) - 1)
    count, union, place, first, last = bins[0], bins[1], bins[2], bins[3], bins[4]
    for b in range(high + 1):
        count[b] = 0
        union[b] = 0
    for i in range(columns):
        bits = np.int32(_as_bits(d[i]) & u32(0x7FFFFFFF))
        b = max((bits >> shift) - offset, np.int32(0))
        count[b] += np.int32(1)
        union[b] |= bits
    at = 0
    for b in range(high + 1):
        size = count[b]
        if size > 0:
            first[b] = limits[at]
            last[b] = limits[at + size - 1]
        place[b] = at
        count[b] = 0
        at += size
    for i in range(columns):
        bits = np.int32(_as_bits(d[i]) & u32(0x7FFFFFFF))
        b = max((bits >> shift) - offset, np.int32(0))
        value = drawn[i]
        keep[i] = f32(1) if value < first[b] else f32(0)
        if (value >= first[b]) & (value < last[b]):
            alike = union[b] & lower == 0 if b > 0 else union[b] == 0
            floor = (b + offset) << shift if b > 0 else 0
            before = i64(count[b]) if alike else _before(d, columns, i64(floor), i64(bits), i)
            keep[i] = f32(1) if value < limits[place[b] + before] else f32(0)
        count[b] += np.int32(1)


@njit(**_fast)
def _before(d, columns, floor, bits, index):
    """Elements with magnitudes from ``floor`` on that rank before the element with ``bits`` at ``index``."""
    count = i64(0)
    for j in range(columns):
        other = i64(_as_bits(d[j]) & u32(0x7FFFFFFF))
        count += i64(other >= floor and (other < bits or (other == bits and j < index)))
    return count


# --------------------------------------------------------------------------- masked sum

FULL, EMPTY, TRIM, RANDOM, RANKED = 0, 1, 2, 3, 4


@njit(**_fast)
def _trim_exact(d, cut, n, first, keep):
    """``keep[i]`` = 1 or 0 for ``n`` elements from index ``first`` on.

    ``cut`` holds (last bits, last index, first bits, first index); first bits < 0: no lower end.
    """
    for i in range(n):
        bits = i64(_as_bits(d[i]) & u32(0x7FFFFFFF))
        index = first + i
        inside = bits > cut[0] or (bits == cut[0] and index <= cut[1])
        keep[i] = f32(1) if inside else f32(0)
    if cut[2] >= 0:
        for i in range(n):
            bits = i64(_as_bits(d[i]) & u32(0x7FFFFFFF))
            index = first + i
            above = bits > cut[2] or (bits == cut[2] and index <= cut[3])
            keep[i] = f32(0) if above else keep[i]


@njit(**_fast)
def _trim_fast(d, threshold, n, keep):
    """The mask of a trim whose ties do not lie in this run: one comparison."""
    for i in range(n):
        keep[i] = f32(1) if (_as_bits(d[i]) & u32(0x7FFFFFFF)) >= threshold else f32(0)


@njit(**_fast)
def _masked_row(d, base_index, mode, cut, keys, row, column, n, limits, ranked, drawn, keep):
    """The mask of one task vector for a run of one row; by rank it is known for the whole row."""
    if mode == TRIM and cut[2] < 0 and (cut[1] < base_index or cut[1] >= base_index + n - 1):
        above = cut[0] if cut[1] >= base_index + n - 1 else cut[0] + 1
        _trim_fast(d, u32(above), n, keep)
        return
    if mode == TRIM:
        _trim_exact(d, cut, n, base_index, keep)
    elif mode == RANDOM:
        _draw(keys[0], keys[1], row, column, n, drawn)
        limit = limits[0]
        for i in range(n):
            keep[i] = f32(1) if drawn[i] < limit else f32(0)
    else:
        for i in range(n):
            keep[i] = ranked[column + i]


@njit(**_fast)
def _rank_row(x, kind, d, at, row, columns, keys, limits, buffers, drawn, bins, keep):
    """The mask of a whole row of task vector ``d`` by rank, for DELLA."""
    _load(x[0], kind, at, columns, buffers[0])
    _load(x[d + 1], kind, at, columns, buffers[1])
    _subtract(buffers[1], buffers[0], columns)
    _draw(keys[0], keys[1], row, 0, columns, drawn)
    _keep_by_rank(buffers[1], columns, limits, drawn, bins, keep)


@njit(**_fast)
def masked_sum(
    x,
    kind,
    rows,
    columns,
    row,
    weights,
    plain,
    modes,
    cuts,
    keys,
    limits,
    flags,
    divisor,
    scale,
    out,
    out_kind,
):
    """The generalised task arithmetic; see ``_masked.MaskedSum``.

    ``weights`` multiply task vectors, ``plain`` are divided by; ``flags`` = (consensus, normalize, scaled);
    ``limits`` is (task vectors, columns) for ranks, (task vectors, 1) otherwise.
    """
    count = x.size - 1
    consensus, normalize, scaled = flags[0], flags[1], flags[2]
    base, keep = np.empty(_TILE, f32), np.empty(_TILE, f32)
    values = np.empty((count, _TILE), f32)
    total, sum_, weight = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    any_ranked = False
    for d in range(count):
        any_ranked |= modes[d] == RANKED
    length = columns if any_ranked else 1
    ranked = np.empty((count, length), f32)
    buffers = np.empty((2, length), f32)
    drawn = np.empty(max(length, _TILE), np.int32)
    bins = np.empty((5, _RANK_BINS if any_ranked else 1), np.int32)
    finite = True
    # Without random masks rows need not be told apart, and short rows are joined into long runs.
    by_row = False
    for d in range(count):
        by_row |= modes[d] >= RANDOM
    lines = rows if by_row else 1
    span = columns if by_row else rows * columns
    for line in range(lines):
        if any_ranked:
            for d in range(count):
                if modes[d] == RANKED:
                    _rank_row(
                        x,
                        kind,
                        d,
                        line * span,
                        row + line,
                        columns,
                        keys[d],
                        limits[d],
                        buffers,
                        drawn,
                        bins,
                        ranked[d],
                    )
        for start in range(0, span, _TILE):
            n = min(_TILE, span - start)
            at = line * span + start
            index = row * columns + at
            _load(x[0], kind, at, n, base)
            used = 0
            for d in range(count):
                if modes[d] == EMPTY or plain[d] == 0:
                    continue
                v = values[used]
                _load(x[d + 1], kind, at, n, v)
                _subtract(v, base, n)
                if modes[d] != FULL:
                    _masked_row(
                        v,
                        index,
                        modes[d],
                        cuts[d],
                        keys[d],
                        row + line,
                        start,
                        n,
                        limits[d],
                        ranked[d],
                        drawn,
                        keep,
                    )
                    for i in range(n):
                        v[i] = (v[i] * weights[d]) * keep[i]
                else:
                    for i in range(n):
                        v[i] = v[i] * weights[d]
                used += 1
            if used == 0:
                finite &= _store(out, out_kind, at, n, base)
                continue
            for i in range(n):
                total[i] = values[0, i]
            for k in range(1, used):
                for i in range(n):
                    total[i] = total[i] + values[k, i]
            if consensus:
                for i in range(n):
                    sum_[i] = f32(0)
                    weight[i] = f32(0)
                k = 0
                for d in range(count):
                    if modes[d] == EMPTY or plain[d] == 0:
                        continue
                    w = plain[d]
                    v = values[k]
                    for i in range(n):
                        signed = v[i] if total[i] >= 0 else -v[i]
                        agree = signed if signed > 0 else f32(0)
                        weight[i] = weight[i] + (w if signed > 0 else f32(0))
                        sum_[i] = sum_[i] + agree
                    k += 1
                if normalize:
                    for i in range(n):
                        w = weight[i] if weight[i] != 0 else f32(1)
                        total[i] = (sum_[i] if total[i] >= 0 else -sum_[i]) / w
                else:
                    for i in range(n):
                        total[i] = sum_[i] if total[i] >= 0 else -sum_[i]
            elif normalize:
                for i in range(n):
                    total[i] = total[i] / divisor
            if scaled:
                for i in range(n):
                    total[i] = total[i] * scale
            for i in range(n):
                total[i] = base[i] + total[i]
            finite &= _store(out, out_kind, at, n, total)
    return finite


@njit(**_fast)
def random_l1(x, kind, rows, columns, row, d, mode, keys, limits, block, before, after):
    """L1 norms of a task vector before and after its random mask per block of rows; float64, (blocks,)."""
    base, v, keep = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    length = columns if mode == RANKED else 1
    drawn = np.empty(max(length, _TILE), np.int32)
    ranked, buffers = np.empty(length, f32), np.empty((2, length), f32)
    bins = np.empty((5, _RANK_BINS if mode == RANKED else 1), np.int32)
    cut = np.zeros(4, i64)
    lanes, kept = np.empty(_LANES, f64), np.empty(_LANES, f64)
    for b in range(before.size):
        lanes[:] = 0
        kept[:] = 0
        for line in range(b * block, min((b + 1) * block, rows)):
            if mode == RANKED:
                _rank_row(
                    x,
                    kind,
                    d,
                    line * columns,
                    row + line,
                    columns,
                    keys,
                    limits,
                    buffers,
                    drawn,
                    bins,
                    ranked,
                )
            for start in range(0, columns, _TILE):
                n = min(_TILE, columns - start)
                _load(x[0], kind, line * columns + start, n, base)
                _load(x[d + 1], kind, line * columns + start, n, v)
                _subtract(v, base, n)
                for i in range(n):
                    v[i] = abs(v[i])
                _masked_row(v, 0, mode, cut, keys, row + line, start, n, limits, ranked, drawn, keep)
                _add_lanes(v, keep, n, lanes, kept)
        before[b] = _lane_sum(lanes)
        after[b] = _lane_sum(kept)


@njit(**_fast)
def _add_lanes(v, keep, n, lanes, kept):
    whole = n - n % _LANES
    for i in range(0, whole, _LANES):
        for k in range(_LANES):
            lanes[k] += f64(v[i + k])
            kept[k] += f64(v[i + k] * keep[i + k])
    for i in range(whole, n):
        lanes[i - whole] += f64(v[i])
        kept[i - whole] += f64(v[i] * keep[i])


# --------------------------------------------------------------------------- selection


@njit(**_fast)
def _load_task_vectors(x, kind, start, n, base, d):
    _load(x[0], kind, start, n, base)
    for k in range(x.size - 1):
        _load(x[k + 1], kind, start, n, d[k])
        _subtract(d[k], base, n)


@njit(**_fast)
def _variance(d, n, mean, out):
    """Population variance over the task vectors, element by element."""
    count = f32(d.shape[0])
    for i in range(n):
        mean[i] = d[0, i]
    for k in range(1, d.shape[0]):
        for i in range(n):
            mean[i] = mean[i] + d[k, i]
    for i in range(n):
        mean[i] = mean[i] / count
        out[i] = f32(0)
    for k in range(d.shape[0]):
        for i in range(n):
            apart = d[k, i] - mean[i]
            out[i] = out[i] + apart * apart
    for i in range(n):
        out[i] = out[i] / count


@njit(**_fast)
def variance_histogram(x, kind, n, counts, lows):
    """Histogram of the variance over the task vectors; how many elements are not zero."""
    base, mean, variance = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    d = np.empty((x.size - 1, _TILE), f32)
    nonzero = 0
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        _load_task_vectors(x, kind, start, size, base, d)
        _variance(d, size, mean, variance)
        _count(variance, size, counts, lows)
        for i in range(size):
            nonzero += i64(variance[i] != 0)
    return nonzero


@njit(**_fast)
def sce_reduce(x, kind, rows, columns, bin_, block, squares, found_bits, found_index, found_d, first):
    """Squares of the elements whose variance lies above ``bin_``, and the elements in it.

    ``squares`` is (task vectors, blocks), float64; ``found_*`` have room for all elements and one more.
    Returns the number found. With ``bin_`` < 0 all elements count.
    """
    count = x.size - 1
    base, mean, variance = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    d = np.empty((count, _TILE), f32)
    sure = np.empty(_TILE, f32)
    lanes = np.empty((count, _LANES), f64)
    filled = 0
    for b in range(squares.shape[1]):
        lanes[:] = 0
        begin, end = b * block * columns, min((b + 1) * block, rows) * columns
        for start in range(begin, end, _TILE):
            n = min(_TILE, end - start)
            _load_task_vectors(x, kind, start, n, base, d)
            if bin_ >= 0:
                _variance(d, n, mean, variance)
                for i in range(n):
                    bits = _as_bits(variance[i]) & u32(0x7FFFFFFF)
                    place = i64(bits >> u32(16))
                    sure[i] = f32(1) if place > bin_ else f32(0)
                    found_bits[filled] = np.int32(bits)
                    found_index[filled] = first + start + i
                    for k in range(count):
                        found_d[k, filled] = d[k, i]
                    filled += i64(place == bin_)
            else:
                for i in range(n):
                    sure[i] = f32(1)
            for k in range(count):
                for i in range(n):
                    lanes[k, i % _LANES] += f64(f32(d[k, i] * d[k, i]) * sure[i])
        for k in range(count):
            squares[k, b] = _lane_sum(lanes[k])
    return filled


@njit(**_fast)
def sce_apply(x, kind, n, first, shares, cut, out, out_kind):
    """Base plus the consensus of the task vectors at positions above the cut, weighted by their shares."""
    count = x.size - 1
    base, mean, variance = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    d = np.empty((count, _TILE), f32)
    total, sum_, share = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    keep = np.empty(_TILE, f32)
    finite = True
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        _load_task_vectors(x, kind, start, size, base, d)
        if cut[0] >= 0:
            _variance(d, size, mean, variance)
            _trim_exact(variance, cut, size, first + start, keep)
            for k in range(count):
                for i in range(size):
                    d[k, i] = d[k, i] * keep[i]
        for i in range(size):
            total[i] = d[0, i]
            sum_[i] = f32(0)
            share[i] = f32(0)
        for k in range(1, count):
            for i in range(size):
                total[i] = total[i] + d[k, i]
        for k in range(count):
            w = shares[k]
            for i in range(size):
                signed = d[k, i] if total[i] >= 0 else -d[k, i]
                agree = signed if signed > 0 else f32(0)
                share[i] = share[i] + (w if signed > 0 else f32(0))
                sum_[i] = sum_[i] + agree * w
        for i in range(size):
            below = share[i] if share[i] > f32(1e-6) else f32(1e-6)
            total[i] = base[i] + (sum_[i] if total[i] >= 0 else -sum_[i]) / below
        finite &= _store(out, out_kind, start, size, total)
    return finite


@njit(**_fast)
def ram_counts(x, kind, n, epsilon, counts):
    """Adds to (task vectors, 2): active elements that are shared, and that are unique."""
    count = x.size - 1
    base, d = np.empty(_TILE, f32), np.empty((count, _TILE), f32)
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        _load_task_vectors(x, kind, start, size, base, d)
        for i in range(size):
            active = 0
            for k in range(count):
                active += i64(abs(d[k, i]) > epsilon)
            for k in range(count):
                mine = i64(abs(d[k, i]) > epsilon)
                counts[k, 0] += mine * i64(active > 1)
                counts[k, 1] += mine * i64(active == 1)


@njit(**_fast)
def ram_apply(x, kind, n, epsilon, factors, amplified, out, out_kind):
    """Base plus the mean of the active changes; unique ones times their model's factor."""
    count = x.size - 1
    base, d = np.empty(_TILE, f32), np.empty((count, _TILE), f32)
    active, sum_ = np.empty(_TILE, f32), np.empty(_TILE, f32)
    finite = True
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        _load_task_vectors(x, kind, start, size, base, d)
        for i in range(size):
            active[i] = f32(0)
            sum_[i] = f32(0)
        for k in range(count):
            for i in range(size):
                active[i] = active[i] + (f32(1) if abs(d[k, i]) > epsilon else f32(0))
        for k in range(count):
            for i in range(size):
                part = d[k, i] * (f32(1) if abs(d[k, i]) > epsilon else f32(0))
                scaled = part * factors[k] if amplified else part
                sum_[i] = sum_[i] + (scaled if active[i] == 1 else part)
        for i in range(size):
            below = active[i] if active[i] > 1 else f32(1)
            sum_[i] = base[i] + sum_[i] / below
        finite &= _store(out, out_kind, start, size, sum_)
    return finite


@njit(**_fast)
def nearswap(x, kind, n, t, out, out_kind):
    """Towards the other model by min(1, t / distance)."""
    base, other = np.empty(_TILE, f32), np.empty(_TILE, f32)
    finite = True
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        _load(x[0], kind, start, size, base)
        _load(x[1], kind, start, size, other)
        for i in range(size):
            distance = abs(base[i] - other[i])
            distance = distance if distance > f32(1e-6) else f32(1e-6)
            share = t / distance
            share = share if share < 1 else f32(1)
            base[i] = f32(share * other[i]) + f32(f32(f32(1) - share) * base[i])
        finite &= _store(out, out_kind, start, size, base)
    return finite


@njit(**_fast)
def importance(x, kind, rows, columns, divergence, out):
    """|task vector| times the divergence of its row, float32, to ``out``; (rows * columns,)."""
    base, d = np.empty(_TILE, f32), np.empty(_TILE, f32)
    for row in range(rows):
        factor = abs(divergence[row])
        for start in range(0, columns, _TILE):
            size = min(_TILE, columns - start)
            at = row * columns + start
            _load(x[0], kind, at, size, base)
            _load(x[1], kind, at, size, d)
            _subtract(d, base, size)
            for i in range(size):
                out[at + i] = abs(d[i]) * factor


@njit(**_fast)
def fusion(x, kind, rows, columns, divergence, threshold, out, out_kind):
    """The base, with the task vector added where its importance reaches the threshold."""
    base, d = np.empty(_TILE, f32), np.empty(_TILE, f32)
    finite = True
    for row in range(rows):
        factor = abs(divergence[row])
        for start in range(0, columns, _TILE):
            size = min(_TILE, columns - start)
            at = row * columns + start
            _load(x[0], kind, at, size, base)
            _load(x[1], kind, at, size, d)
            _subtract(d, base, size)
            for i in range(size):
                keep = f32(1) if abs(d[i]) * factor >= threshold else f32(0)
                base[i] = base[i] + d[i] * keep
            finite &= _store(out, out_kind, at, size, base)
    return finite
