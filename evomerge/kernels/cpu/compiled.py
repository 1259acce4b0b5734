"""What numba compiles. Imported through ``calls``; see there.

Conventions: ``x`` are addresses of the inputs (base first), ``kind`` says whether elements are bfloat16 (0)
or float32 (1), ``n`` counts elements, ``row`` is the absolute first row. All arithmetic is float32 unless it
says so. Casts are spelled out, as numba widens mixed types on its own.

All of it is one file: numba keeps what it compiled on disk until the file of the function changes, and does
not see a change of what that function calls in another file.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_TILE, _GRAM_TILE = 2048, 512
_LANES = 16
_fast = {"nogil": True, "cache": True, "error_model": "numpy", "boundscheck": False}
_fused = {**_fast, "fastmath": {"contract"}}  # only where whole rows are summed in float64: no chunk can show
u8, u32, u64 = np.uint8, np.uint32, np.uint64
i32, i64, f32, f64 = np.int32, np.int64, np.float32, np.float64


def _cast(name, source, target, to):
    """Takes the bits of ``source`` (for pointers, an address) as ``target``, IR ``to``."""

    def typed(typingctx, x):
        def codegen(context, builder, signature, args):
            convert = builder.inttoptr if isinstance(to, ir.PointerType) else builder.bitcast
            return convert(args[0], to)

        return target(source), codegen

    typed.__name__ = name
    return intrinsic(typed)


_as_float = _cast("_as_float", types.uint32, types.float32, ir.FloatType())
_as_bits = _cast("_as_bits", types.float32, types.uint32, ir.IntType(32))
_as_double = _cast("_as_double", types.int64, types.float64, ir.DoubleType())
_as_long = _cast("_as_long", types.float64, types.int64, ir.IntType(64))
_half_pointer = _cast("_half_pointer", types.int64, types.CPointer(types.uint16), ir.IntType(16).as_pointer())
_byte_pointer = _cast("_byte_pointer", types.int64, types.CPointer(types.uint8), ir.IntType(8).as_pointer())
_word_pointer = _cast("_word_pointer", types.int64, types.CPointer(types.uint64), ir.IntType(64).as_pointer())
_float_pointer = _cast(
    "_float_pointer", types.int64, types.CPointer(types.float32), ir.FloatType().as_pointer()
)


def _lane_sums(builder, n, lanes, term):
    """IR that adds ``term(i)``, a vector of 16 float64, to those at ``lanes`` for i = 0, 16, ... n - 16.

    The vectors are spelled out: sixteen lanes on any machine, so the order of the sum is the same on all.
    LLVM makes none of a loop unless it may choose the order.
    """
    vector = ir.VectorType(ir.DoubleType(), _LANES)
    place = builder.inttoptr(lanes, vector.as_pointer())
    total = cgutils.alloca_once_value(builder, builder.load(place, align=8))
    with cgutils.for_range(builder, builder.udiv(n, n.type(_LANES))) as loop:
        i = builder.mul(loop.index, n.type(_LANES))
        builder.store(builder.fadd(builder.load(total), term(i)), total)
    builder.store(builder.load(total), place, align=8)


def _vector_at(builder, address, i, kind, bytes_):
    vector = ir.VectorType(kind, _LANES)
    place = builder.add(address, builder.mul(i, address.type(bytes_)))
    return builder.load(builder.inttoptr(place, vector.as_pointer()), align=bytes_)


@intrinsic
def _add_products(typingctx, a, b, n, lanes):
    def codegen(context, builder, signature, args):
        x, y, count, place = args

        def term(i):
            left = _vector_at(builder, x, i, ir.DoubleType(), 8)
            return builder.fmul(left, _vector_at(builder, y, i, ir.DoubleType(), 8))

        _lane_sums(builder, count, place, term)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def _add_floats(typingctx, a, n, lanes):
    def codegen(context, builder, signature, args):
        x, count, place = args

        def term(i):
            narrow = _vector_at(builder, x, i, ir.FloatType(), 4)
            return builder.fpext(narrow, ir.VectorType(ir.DoubleType(), _LANES))

        _lane_sums(builder, count, place, term)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


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
    """Rounds to the output's dtype (to nearest, ties to even); whether all are finite afterwards.

    Rounding keeps the order of magnitudes, so the largest one before it tells. NaN is rare and comes second:
    it would cost each element a comparison.
    """
    worst = u32(0)
    if kind == 0:
        half = carray(_half_pointer(address + 2 * start), n)
        for i in range(n):
            bits = _as_bits(values[i])
            magnitude = bits & u32(0x7FFFFFFF)
            worst = magnitude if magnitude > worst else worst
            half[i] = np.uint16((bits + u32(0x7FFF) + ((bits >> u32(16)) & u32(1))) >> u32(16))
        if worst > u32(0x7F800000):
            for i in range(n):
                if values[i] != values[i]:
                    half[i] = np.uint16(0x7FC0)
        return worst < u32(0x7F7F8000)
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


# --------------------------------------------------------------------------- digest

_LOW = u64(0xFFFFFFFF)


@njit(**_fast)
def _mix64(z):
    z = (z ^ (z >> u64(30))) * u64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> u64(27))) * u64(0x94D049BB133111EB)
    return z ^ (z >> u64(31))


@njit(**_fast)
def _digest_block(words, table, block, state):
    """Adds words that share a block of keys."""
    odd = (_mix64(u64(2) * block + u64(1)) >> u64(32)) | u64(1)
    offset = _mix64(u64(2) * block + u64(2))
    first, second = u64(0), u64(0)
    for i in range(words.size):
        word = words[i]
        key = (table[i] & _LOW) * odd + offset
        crossed = word ^ key
        first += (crossed & _LOW) * (crossed >> u64(32))
        second += (word & _LOW) * (key & _LOW) + (word >> u64(32)) * (key >> u64(32))
    state[0] += i64(first)  # wraps like uint64
    state[1] += i64(second)


@njit(**_fast)
def digest(address, size, word, table, state):
    """Adds ``size`` bytes, the first of them in ``word``, to the sums in ``state``."""
    whole = size // 8
    words = carray(_word_pointer(address), whole)
    at = 0
    while at < whole:
        place = (word + at) % table.size
        n = min(table.size - place, whole - at)
        block = u64((word + at) // table.size)
        _digest_block(words[at : at + n], table[place : place + n], block, state)
        at += n
    if size % 8:
        rest = carray(_byte_pointer(address + 8 * whole), size % 8)
        last = np.zeros(1, u64)
        for i in range(size % 8):
            last[0] |= u64(rest[i]) << u64(8 * i)
        place = (word + whole) % table.size
        _digest_block(last, table[place : place + 1], u64((word + whole) // table.size), state)


# --------------------------------------------------------------------------- span


@njit(**_fast)
def _multiply(address, kind, start, n, c, out):
    """Elements of c * x as float32 into ``out``."""
    if kind == 0:
        half = carray(_half_pointer(address + 2 * start), n)
        for i in range(n):
            out[i] = _as_float(u32(half[i]) << u32(16)) * c
    else:
        full = carray(_float_pointer(address + 4 * start), n)
        for i in range(n):
            out[i] = full[i] * c


@njit(**_fast)
def _multiply_add(address, kind, start, n, c, out):
    """Adds c * x to ``out``; product and sum are rounded apart."""
    if kind == 0:
        half = carray(_half_pointer(address + 2 * start), n)
        for i in range(n):
            out[i] = out[i] + _as_float(u32(half[i]) << u32(16)) * c
    else:
        full = carray(_float_pointer(address + 4 * start), n)
        for i in range(n):
            out[i] = out[i] + full[i] * c


@njit(**_fast)
def weighted_sum(x, kind, n, c, out, out_kind, state, word, table):
    """Sum over the inputs of c[m] * x[m]; inputs with c = 0 are not read.

    Where ``state`` is not empty, what was written is digested while it lies in the cache.
    """
    finite = True
    size_of = 2 if out_kind == 0 else 4
    total = np.empty(_TILE, f32)
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        first = True
        for m in range(x.size):
            if c[m] == 0:
                continue
            if first:
                _multiply(x[m], kind, start, size, c[m], total)
                first = False
            else:
                _multiply_add(x[m], kind, start, size, c[m], total)
        if first:
            for i in range(size):
                total[i] = f32(0)
        finite &= _store(out, out_kind, start, size, total)
        if state.size:
            digest(out + size_of * start, size_of * size, word + size_of * start // 8, table, state)
    return finite


@njit(**_fast)
def _dot(a, b, n, lanes):
    """Adds a * b to ``lanes`` in float64, element i to lane i mod 16: the same order whatever the tile."""
    whole = n - n % _LANES
    _add_products(i64(a.ctypes.data), i64(b.ctypes.data), i64(whole), i64(lanes.ctypes.data))
    for i in range(whole, n):
        lanes[i - whole] += a[i] * b[i]


@njit(**_fast)
def _add(a, n, lanes):
    """Adds float32 values to ``lanes`` in float64, in the order of ``_dot``."""
    whole = n - n % _LANES
    _add_floats(i64(a.ctypes.data), i64(whole), i64(lanes.ctypes.data))
    for i in range(whole, n):
        lanes[i - whole] += f64(a[i])


@njit(**_fast)
def _lane_sum(lanes):
    total = f64(0)
    for k in range(_LANES):
        total += lanes[k]
    return total


@njit(**_fast)
def _widen(values, n, out):
    for i in range(n):
        out[i] = f64(values[i])


@njit(**_fast)
def _widen_apart(values, n, base, out):
    for i in range(n):
        out[i] = f64(values[i]) - base[i]


@njit(**_fast)
def gram(x, kind, rows, columns, of_task_vectors, block, out):
    """Sums of products of all pairs i >= j of inputs (base and task vectors if so asked) per block of rows.

    ``out`` is (pairs, blocks), float64.
    """
    count = x.size
    wide = np.empty((count, _GRAM_TILE), f64)
    base = np.empty(_GRAM_TILE, f64)
    part = np.empty(_GRAM_TILE, f32)
    pairs = count * (count + 1) // 2
    lanes = np.empty((pairs, _LANES), f64)
    for b in range(out.shape[1]):
        lanes[:] = 0
        first = b * block * columns
        last = min((b + 1) * block, rows) * columns
        for start in range(first, last, _GRAM_TILE):
            size = min(_GRAM_TILE, last - start)
            for m in range(count):
                _load(x[m], kind, start, size, part)
                if m == 0:  # in an array of its own: LLVM makes vectors only of what cannot overlap
                    _widen(part, size, base)
                    wide[0, :] = base
                elif of_task_vectors:
                    _widen_apart(part, size, base, wide[m])
                else:
                    _widen(part, size, wide[m])
            p = 0
            for i in range(count):
                for j in range(i + 1):
                    _dot(wide[i], wide[j], size, lanes[p])
                    p += 1
        for p in range(pairs):
            out[p, b] = _lane_sum(lanes[p])


# --------------------------------------------------------------------------- ranks


_BINS, _FLUSH = 1 << 15, 1 << 23
"""Bins of magnitudes, and the elements after which the packed sums below are put apart: they hold 2^24."""


@njit(**_fast)
def _count(values, n, packed):
    """Adds float32 magnitudes to two histograms over their upper 15 bits, in turn: one waits less for itself.

    A bin of ``packed``, (2, bins), holds the count in its upper 24 bits and the sum of the lower 16 bits of
    the magnitudes in its lower 40.
    """
    even, odd = packed[0], packed[1]
    whole = n - n % 2
    for i in range(0, whole, 2):
        a = _as_bits(values[i]) & u32(0x7FFFFFFF)
        b = _as_bits(values[i + 1]) & u32(0x7FFFFFFF)
        even[a >> u32(16)] += i64(1 << 40) | i64(a & u32(0xFFFF))
        odd[b >> u32(16)] += i64(1 << 40) | i64(b & u32(0xFFFF))
    if whole < n:
        a = _as_bits(values[whole]) & u32(0x7FFFFFFF)
        even[a >> u32(16)] += i64(1 << 40) | i64(a & u32(0xFFFF))


@njit(**_fast)
def _flush(packed, counts, lows):
    """Moves packed sums to where they have room."""
    for half in range(2):
        for b in range(_BINS):
            counts[b] += packed[half, b] >> 40
            lows[b] += packed[half, b] & i64((1 << 40) - 1)
            packed[half, b] = 0


@njit(**_fast)
def magnitude_histograms(x, kind, n, counts, lows):
    """Histograms of |x[d] - base|; ``counts`` and ``lows`` are (task vectors, bins), int64, added to."""
    base, part = np.empty(_TILE, f32), np.empty(_TILE, f32)
    packed = np.zeros((2, _BINS), i64)
    for d in range(x.size - 1):
        for start in range(0, n, _TILE):
            size = min(_TILE, n - start)
            _load(x[0], kind, start, size, base)
            _load(x[d + 1], kind, start, size, part)
            _subtract(part, base, size)
            _count(part, size, packed)
            if (start + _TILE) % _FLUSH == 0:
                _flush(packed, counts[d], lows[d])
        _flush(packed, counts[d], lows[d])


@njit(**_fast)
def value_histogram(values, counts, lows):
    """Histogram of float32 magnitudes."""
    packed = np.zeros((2, _BINS), i64)
    for start in range(0, values.size, _FLUSH):
        size = min(_FLUSH, values.size - start)
        _count(values[start : start + size], size, packed)
        _flush(packed, counts, lows)


@njit(**_fast)
def _in_bin(values, n, bin_, flags, places):
    """Places of the elements whose magnitude lies in ``bin_``; how many there are."""
    low, high = u32(bin_) << u32(16), (u32(bin_) + u32(1)) << u32(16)
    whole = n - n % 8
    for i in range(n):
        bits = _as_bits(values[i]) & u32(0x7FFFFFFF)
        flags[i] = u8(1) if (bits >= low) & (bits < high) else u8(0)
    eights = flags.view(np.uint64)
    at = 0
    for k in range(whole // 8):  # most eights hold none
        if eights[k] != 0:
            for i in range(8 * k, 8 * k + 8):
                places[at] = i32(i)  # written in any case and kept if it counts
                at += i64(flags[i])
    for i in range(whole, n):
        places[at] = i32(i)
        at += i64(flags[i])
    return at


@njit(**_fast)
def _collect_values(values, n, bins, found_bits, found_index, filled, first, flags, places):
    for k in range(bins.size):
        at = filled[k]
        for j in range(_in_bin(values, n, bins[k], flags, places)):
            i = places[j]
            found_bits[k, at + j] = i32(_as_bits(values[i]) & u32(0x7FFFFFFF))
            found_index[k, at + j] = first + i
            filled[k] += 1


@njit(**_fast)
def collect_values(values, bins, found_bits, found_index, filled, first):
    """As ``collect``, from float32 values."""
    flags, places = np.empty(_TILE, u8), np.empty(_TILE + 1, i32)
    for start in range(0, values.size, _TILE):
        size = min(_TILE, values.size - start)
        part = values[start : start + size]
        _collect_values(part, size, bins, found_bits, found_index, filled, first + start, flags, places)


@njit(**_fast)
def collect(x, kind, n, model, bins, found_bits, found_index, filled, first):
    """Appends bits and index of the elements of task vector ``model`` whose bin is one of ``bins``.

    ``found_*`` are (bins, capacity + 1); ``filled`` counts; ``first`` is the index of the first element.
    """
    base, part = np.empty(_TILE, f32), np.empty(_TILE, f32)
    flags, places = np.empty(_TILE, u8), np.empty(_TILE + 1, i32)
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        _load(x[0], kind, start, size, base)
        _load(x[model + 1], kind, start, size, part)
        _subtract(part, base, size)
        _collect_values(part, size, bins, found_bits, found_index, filled, first + start, flags, places)


# --------------------------------------------------------------------------- random masks

_C1, _C2, _GOLDEN = 0x85EBCA6B, 0xC2B2AE35, 0x9E3779B9


@njit(**_fast)
def _mix(x):
    x = u32(u32(x ^ (x >> u32(16))) * u32(_C1))
    x = u32(u32(x ^ (x >> u32(13))) * u32(_C2))
    return u32(x ^ (x >> u32(16)))


@njit(**_fast)
def _draw(low, high, row, column, n, out):
    """Uniform bits of ``n`` elements of one row; see ``reference.random_masks``."""
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
        out[i] = i32(x)


_RANK_BINS, _RANK_SHIFT = 1024, 17
"""Bins of 1/64 of a power of two; 16 powers of two, and what is smaller shares the lowest bin."""
_RANK_ARRAYS, _BIN_ARRAYS = 2, 6
"""Scratch arrays for ranks: with one number for each column, and one for each bin."""
_RANK_SCANS = 1024
"""Reads of a row for single ranks, after which a sort is cheaper."""


@njit(**_fast)
def _below(bits, first, end, bound):
    """How many of a run of ``bits`` are less than ``bound``."""
    run = bits[first:end]
    n = i32(0)
    for j in range(run.size):
        n = i32(n + i32(run[j] < bound))
    return n


@njit(**_fast)
def _equal(bits, first, end, value):
    """How many of a run of ``bits`` are ``value``."""
    run = bits[first:end]
    n = i32(0)
    for j in range(run.size):
        n = i32(n + i32(run[j] == value))
    return n


@njit(**_fast)
def _keep_by_rank(d, columns, limits, drawn, work, bins, open_, keep):
    """``keep[i]`` = 1 where drawn[i] < limits[rank of |d[i]| in the row]; equal magnitudes rank by index.

    Ranks are not sorted for. A histogram bounds the rank of each element, and as the limits rise with the
    rank, the bounds decide nearly always. Where they do not, smaller elements are counted. ``work`` is
    (2, columns): bits; bin. ``open_`` is (columns,): whether undecided. ``bins`` is (6, bins): elements;
    limit of the first; of the last; and the element counted for last: its bits, index and rank.
    """
    bits, bin_of = work[0], work[1]
    count, first, last = bins[0], bins[1], bins[2]
    seen, seen_at, seen_rank = bins[3], bins[4], bins[5]
    top = i32(0)
    for i in range(columns):
        b = i32(_as_bits(d[i]) & u32(0x7FFFFFFF))
        bits[i] = b
        top = b if b > top else top
    offset = max((top >> i32(_RANK_SHIFT)) - i32(_RANK_BINS - 1), i32(0))
    high = (top >> i32(_RANK_SHIFT)) - offset
    for b in range(high + 1):
        count[b] = 0
        seen[b] = -1
    for i in range(columns):
        bin_of[i] = max((bits[i] >> i32(_RANK_SHIFT)) - offset, i32(0))
    for i in range(columns):
        count[u32(bin_of[i])] += i32(1)
    at = i32(0)
    for b in range(high + 1):
        if count[b] > 0:
            first[b] = limits[at]
            last[b] = limits[at + count[b] - 1]
            at += count[b]
    for i in range(columns):
        b = u32(bin_of[i])
        keep[i] = f32(drawn[i] < first[b])
        open_[i] = u8((drawn[i] >= first[b]) & (drawn[i] < last[b]))
    scans = 0
    for start in range(0, columns, 8):
        end = min(start + 8, columns)
        any_open = u8(0)
        for i in range(start, end):
            any_open |= open_[i]
        if any_open == 0:
            continue
        for i in range(start, end):
            if open_[i] == 0:
                continue
            b, value = u32(bin_of[i]), bits[i]
            if seen[b] == value:
                rank = i32(seen_rank[b] + _equal(bits, seen_at[b], i, value))
            else:
                rank = i32(_below(bits, 0, i, i32(value + 1)) + _below(bits, i, columns, value))
                scans += 1
            seen[b], seen_at[b], seen_rank[b] = value, i, rank
            keep[i] = f32(drawn[i] < limits[rank])
        if scans > _RANK_SCANS:
            _rank_widely(bits, columns, limits, drawn, keep)
            return


@njit(**_fast)
def _rank_widely(bits, columns, limits, drawn, keep):
    """As ``_keep_by_rank``, by sorting."""
    order = np.argsort(bits[:columns], kind="mergesort")
    for rank in range(columns):
        i = order[rank]
        keep[i] = f32(1) if drawn[i] < limits[rank] else f32(0)


@njit(**_fast)
def _pack(keep, n, packed):
    """The mask of a row as bits, eight to a byte."""
    whole = n - n % 8
    for i in range(0, whole, 8):
        byte = u32(0)
        for k in range(8):
            byte |= u32(keep[i + k] != 0) << u32(k)
        packed[i // 8] = u8(byte)
    if whole < n:
        byte = u32(0)
        for k in range(n - whole):
            byte |= u32(keep[whole + k] != 0) << u32(k)
        packed[whole // 8] = u8(byte)


@njit(**_fast)
def _unpack(packed, start, n, keep):
    """``n`` elements of a packed row from ``start`` on, a multiple of 8."""
    part = packed[start >> 3 :]
    for i in range(n):
        keep[i] = f32((u32(part[i >> 3]) >> u32(i & 7)) & u32(1))


# --------------------------------------------------------------------------- masked sum

FULL, EMPTY, TRIM, RANDOM, RANKED = 0, 1, 2, 3, 4


@njit(**_fast)
def _trim_exact(d, cutoff, n, first, keep):
    """``keep[i]`` = 1 or 0 for ``n`` elements from index ``first`` on.

    ``cutoff`` holds (last bits, last index, first bits, first index); first bits < 0: no lower end.
    """
    for i in range(n):
        bits = i64(_as_bits(d[i]) & u32(0x7FFFFFFF))
        index = first + i
        inside = bits > cutoff[0] or (bits == cutoff[0] and index <= cutoff[1])
        keep[i] = f32(1) if inside else f32(0)
    if cutoff[2] >= 0:
        for i in range(n):
            bits = i64(_as_bits(d[i]) & u32(0x7FFFFFFF))
            index = first + i
            above = bits > cutoff[2] or (bits == cutoff[2] and index <= cutoff[3])
            keep[i] = f32(0) if above else keep[i]


@njit(**_fast)
def _bound(bits, index, first, n):
    """The bits that an element of this run needs to be above a cutoff; -1 where its tie lies in the run."""
    if index >= first + n - 1:
        return bits
    return bits + 1 if index < first else i64(-1)


@njit(**_fast)
def _trim_fast(d, low, high, n, keep):
    """The mask of a trim whose ties do not lie in this run: no index matters."""
    for i in range(n):
        bits = _as_bits(d[i]) & u32(0x7FFFFFFF)
        keep[i] = f32(1) if (bits >= low) & (bits < high) else f32(0)


@njit(**_fast)
def _masked_row(d, base_index, mode, cutoff, keys, row, column, n, limits, ranked, drawn, keep):
    """The mask of one task vector for a run of one row; by rank it is known for the whole row."""
    if mode == TRIM:
        low = _bound(cutoff[0], cutoff[1], base_index, n)
        high = _bound(cutoff[2], cutoff[3], base_index, n) if cutoff[2] >= 0 else i64(0x80000000)
        if low >= 0 and high >= 0:
            _trim_fast(d, u32(low), u32(high), n, keep)
        else:
            _trim_exact(d, cutoff, n, base_index, keep)
    elif mode == RANDOM:
        _draw(keys[0], keys[1], row, column, n, drawn)
        limit = limits[0]
        for i in range(n):
            keep[i] = f32(1) if drawn[i] < limit else f32(0)
    else:
        for i in range(n):
            keep[i] = ranked[column + i]


@njit(**_fast)
def _rank_row(x, kind, d, at, row, columns, keys, limits, buffers, work, bins, open_, keep):
    """The mask of a whole row of task vector ``d`` by rank, for DELLA; the task vector stays in a buffer."""
    _load(x[0], kind, at, columns, buffers[0])
    _load(x[d + 1], kind, at, columns, buffers[1])
    _subtract(buffers[1], buffers[0], columns)
    drawn = work[_RANK_ARRAYS]
    _draw(keys[0], keys[1], row, 0, columns, drawn)
    _keep_by_rank(buffers[1], columns, limits, drawn, work, bins, open_, keep)


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
    cutoffs,
    keys,
    limits,
    packed,
    flags,
    divisor,
    scale,
    out,
    out_kind,
):
    """The generalised task arithmetic; see ``reference.masked_sum``.

    ``weights`` multiply task vectors, ``plain`` are divided by; ``flags`` = (consensus, normalize, scaled);
    ``limits`` is (task vectors, columns) for ranks, (task vectors, 1) otherwise; ``packed`` is (task vectors,
    rows, columns / 8), the masks by rank that ``random_l1`` has computed, or (task vectors, 0, 0).
    """
    count = x.size - 1
    consensus, normalize, scaled = flags[0], flags[1], flags[2]
    base, keep = np.empty(_TILE, f32), np.empty(_TILE, f32)
    values = np.empty((count, _TILE), f32)
    total, sum_, weight = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    any_ranked = False
    known = packed.shape[1] > 0
    for d in range(count):
        any_ranked |= (modes[d] == RANKED) & (not known)
    length = columns if any_ranked else 1
    ranked = np.empty((count, length), f32)
    buffers = np.empty((2, length), f32)
    work = np.empty((_RANK_ARRAYS + 1, length), i32)
    drawn = np.empty(_TILE, i32)
    bins = np.empty((_BIN_ARRAYS, _RANK_BINS if any_ranked else 1), i32)
    open_ = np.empty(length, u8)
    finite = True
    # Without random masks rows need not be told apart, and short rows are joined into long runs.
    by_row = False
    for d in range(count):
        by_row |= modes[d] >= RANDOM
    runs = rows if by_row else 1
    span = columns if by_row else rows * columns
    for run in range(runs):
        if any_ranked:
            for d in range(count):
                if modes[d] == RANKED:
                    _rank_row(
                        x,
                        kind,
                        d,
                        run * span,
                        row + run,
                        columns,
                        keys[d],
                        limits[d],
                        buffers,
                        work,
                        bins,
                        open_,
                        ranked[d],
                    )
        for start in range(0, span, _TILE):
            n = min(_TILE, span - start)
            at = run * span + start
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
                    if modes[d] == RANKED and known:
                        _unpack(packed[d, run], start, n, keep)
                    else:
                        _masked_row(
                            v,
                            index,
                            modes[d],
                            cutoffs[d],
                            keys[d],
                            row + run,
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
                        agree = f32(0) if signed <= 0 else signed  # NaN stays
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
def random_l1(x, kind, rows, columns, row, d, mode, keys, limits, block, before, after, packed):
    """L1 norms of a task vector before and after its random mask per block of rows; float64, (blocks,).

    A mask by rank is kept in ``packed``; (rows, columns / 8).
    """
    base, v, keep = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    length = columns if mode == RANKED else 1
    drawn = np.empty(_TILE, i32)
    ranked, buffers = np.empty(length, f32), np.empty((2, length), f32)
    work = np.empty((_RANK_ARRAYS + 1, length), i32)
    bins = np.empty((_BIN_ARRAYS, _RANK_BINS if mode == RANKED else 1), i32)
    open_ = np.empty(length, u8)
    cutoff = np.zeros(4, i64)
    lanes, kept = np.empty(_LANES, f64), np.empty(_LANES, f64)
    for b in range(before.size):
        lanes[:] = 0
        kept[:] = 0
        for run in range(b * block, min((b + 1) * block, rows)):
            if mode == RANKED:
                _rank_row(
                    x,
                    kind,
                    d,
                    run * columns,
                    row + run,
                    columns,
                    keys,
                    limits,
                    buffers,
                    work,
                    bins,
                    open_,
                    ranked,
                )
                _pack(ranked, columns, packed[run])
                size = buffers[1]
                for i in range(columns):
                    size[i] = abs(size[i])
                _add(size, columns, lanes)
                for i in range(columns):
                    size[i] = size[i] * ranked[i]
                _add(size, columns, kept)
                continue
            for start in range(0, columns, _TILE):
                n = min(_TILE, columns - start)
                _load(x[0], kind, run * columns + start, n, base)
                _load(x[d + 1], kind, run * columns + start, n, v)
                _subtract(v, base, n)
                for i in range(n):
                    v[i] = abs(v[i])
                _masked_row(v, 0, mode, cutoff, keys, row + run, start, n, limits, ranked, drawn, keep)
                _add(v, n, lanes)
                for i in range(n):
                    v[i] = v[i] * keep[i]
                _add(v, n, kept)
        before[b] = _lane_sum(lanes)
        after[b] = _lane_sum(kept)


# --------------------------------------------------------------------------- selection


@njit(**_fast)
def _load_task_vectors(x, kind, start, n, base, d):
    _load(x[0], kind, start, n, base)
    for k in range(x.size - 1):
        _load(x[k + 1], kind, start, n, d[k])
        _subtract(d[k], base, n)


@njit(**_fast)
def _variance(d, n, mean, out):
    """Population variance over the task vectors, element by element; zero where all are equal."""
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
        mean[i] = f32(0)
    for k in range(1, d.shape[0]):
        for i in range(n):
            mean[i] = f32(1) if d[k, i] != d[0, i] else mean[i]
    for i in range(n):
        out[i] = out[i] / count if mean[i] != 0 else f32(0)


@njit(**_fast)
def variance_histogram(x, kind, n, counts, lows):
    """Histogram of the variance over the task vectors; how many elements are not zero."""
    base, mean, variance = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    d = np.empty((x.size - 1, _TILE), f32)
    packed = np.zeros((2, _BINS), i64)
    nonzero = 0
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        _load_task_vectors(x, kind, start, size, base, d)
        _variance(d, size, mean, variance)
        _count(variance, size, packed)
        if (start + _TILE) % _FLUSH == 0:
            _flush(packed, counts, lows)
        for i in range(size):
            nonzero += i64(variance[i] != 0)
    _flush(packed, counts, lows)
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
    sure, square = np.empty(_TILE, f32), np.empty(_TILE, f32)
    flags, places = np.empty(_TILE, u8), np.empty(_TILE + 1, i32)
    above = u32(max(bin_, 0) + 1) << u32(16)
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
                    sure[i] = f32(1) if bits >= above else f32(0)
                for j in range(_in_bin(variance, n, bin_, flags, places)):
                    i = places[j]
                    found_bits[filled] = i32(_as_bits(variance[i]) & u32(0x7FFFFFFF))
                    found_index[filled] = first + start + i
                    for k in range(count):
                        found_d[k, filled] = d[k, i]
                    filled += 1
            else:
                for i in range(n):
                    sure[i] = f32(1)
            for k in range(count):
                for i in range(n):
                    square[i] = f32(d[k, i] * d[k, i]) * sure[i]
                _add(square, n, lanes[k])
        for k in range(count):
            squares[k, b] = _lane_sum(lanes[k])
    return filled


@njit(**_fast)
def sce_apply(x, kind, n, first, shares, cutoff, out, out_kind):
    """Base plus the consensus of the task vectors at positions above the cutoff, weighted by their shares."""
    count = x.size - 1
    base, mean, variance = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    d = np.empty((count, _TILE), f32)
    total, sum_, share = np.empty(_TILE, f32), np.empty(_TILE, f32), np.empty(_TILE, f32)
    keep = np.empty(_TILE, f32)
    finite = True
    for start in range(0, n, _TILE):
        size = min(_TILE, n - start)
        _load_task_vectors(x, kind, start, size, base, d)
        if cutoff[0] >= 0:
            _variance(d, size, mean, variance)
            _trim_exact(variance, cutoff, size, first + start, keep)
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
                agree = f32(0) if signed <= 0 else signed  # NaN stays
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


_MAGIC = 6755399441055744.0  # 1.5 * 2^52: a number added to it leaves its nearest integer in the lowest bits


@njit(**_fused)
def _exp(y):
    """exp(y) for y <= 0 to some 1e-15, from its Taylor series after powers of two are split off.

    Unlike the library's, LLVM makes it one of vectors. Below -700 the result is that of -700.
    """
    y = y if y > -700.0 else -700.0
    shifted = y * 1.4426950408889634 + _MAGIC
    n = shifted - _MAGIC
    r = (y - n * 0.6931471803691238) - n * 1.9082149292705877e-10
    p = 1.0 + r / 13.0
    p = 1.0 + r * p * (1.0 / 12.0)
    p = 1.0 + r * p * (1.0 / 11.0)
    p = 1.0 + r * p * (1.0 / 10.0)
    p = 1.0 + r * p * (1.0 / 9.0)
    p = 1.0 + r * p * (1.0 / 8.0)
    p = 1.0 + r * p * (1.0 / 7.0)
    p = 1.0 + r * p * (1.0 / 6.0)
    p = 1.0 + r * p * (1.0 / 5.0)
    p = 1.0 + r * p * (1.0 / 4.0)
    p = 1.0 + r * p * (1.0 / 3.0)
    p = 1.0 + r * p * (1.0 / 2.0)
    p = 1.0 + r * p
    return _as_double(_as_long(p) + (_as_long(shifted) << 52))


@njit(**_fused)
def _log(z):
    """log(z) for normal z > 0 to some 1e-15: twice the series of artanh of (m - 1) / (m + 1), m near 1."""
    bits = _as_long(z)
    exponent = _as_double((bits >> 52) | i64(0x4330000000000000)) - 4503599627371519.0
    m = _as_double((bits & i64(0x000FFFFFFFFFFFFF)) | i64(0x3FF0000000000000))
    high = m > 1.4142135623730951
    m = 0.5 * m if high else m
    exponent = exponent + 1.0 if high else exponent
    f = (m - 1.0) / (m + 1.0)
    g = f * f
    s = 1.0 / 21.0
    s = 1.0 / 19.0 + g * s
    s = 1.0 / 17.0 + g * s
    s = 1.0 / 15.0 + g * s
    s = 1.0 / 13.0 + g * s
    s = 1.0 / 11.0 + g * s
    s = 1.0 / 9.0 + g * s
    s = 1.0 / 7.0 + g * s
    s = 1.0 / 5.0 + g * s
    s = 1.0 / 3.0 + g * s
    s = 1.0 + g * s
    return exponent * 0.6931471805599453 + 2.0 * f * s


@njit(**_fast)
def _total(values, n):
    """Sum of float64 values, in the order of ``_dot``."""
    lanes = np.zeros(_LANES, f64)
    whole = n - n % _LANES
    for i in range(0, whole, _LANES):
        for k in range(_LANES):
            lanes[k] += values[i + k]
    for i in range(whole, n):
        lanes[i - whole] += values[i]
    return _lane_sum(lanes)


@njit(**_fused)
def _exponentials(values, columns, out):
    """exp(value - maximum) of a row; their sum."""
    top = values[0]
    for i in range(columns):
        top = values[i] if values[i] > top else top
    for i in range(columns):
        out[i] = _exp(f64(values[i]) - f64(top))
    return _total(out, columns)


@njit(**_fused)
def divergence(x, kind, rows, columns, out):
    """KL divergence of softmax(other) + 1e-8 from softmax(base) + 1e-8, row by row, float64; (rows,)."""
    values = np.empty(columns, f32)
    q, p = np.empty(columns, f64), np.empty(columns, f64)
    for row in range(rows):
        _load(x[0], kind, row * columns, columns, values)
        base_sum = _exponentials(values, columns, q)
        _load(x[1], kind, row * columns, columns, values)
        sum_ = _exponentials(values, columns, p)
        for i in range(columns):
            a = p[i] / sum_ + 1e-8
            b = q[i] / base_sum + 1e-8
            p[i] = a * _log(a / b)
        out[row] = _total(p, columns)


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
