"""The kernels again for GPUs, compiled by Triton: each input is read once, the output written once.

The one door to Triton; ``launch`` starts what is here. A kernel combines, rounds to the dtype of the output,
writes, looks for NaN and infinity and takes the digest, all in registers. Same arithmetic and order as the
compiled functions for CPUs: every operation is rounded on its own (``enable_fp_fusion=False``, ``div_rn``),
so the bits are the same. Only the L1 norms of random masks are added in another order, in float64.

A program goes through blocks of one tensor in strides of the grid; it adds its sums to the digest once,
with atomic additions of integers, which give the same sum in any order. What differs from call to call lies
in device memory as int64: ``addresses`` of the inputs and ``numbers`` of the candidate, so that one compiled
kernel serves all tensors and candidates. Kernels see tensors as flat, n elements in the order of their rows.

Where Triton is older than 3.3 (it has no tuples), or more than 16 inputs are merged, torch does the work.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["equal_counts", "masked_sum", "random_l1", "selected", "weighted_sum"]

if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
    raise ImportError("Triton is older than 3.3")

FULL, TRIM, RANDOM = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
NEARSWAP, FUSION, RAM = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


# --------------------------------------------------------------------------- reading


@triton.jit
def _inputs(addresses, COUNT: tl.constexpr, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointers to the inputs."""
    pointers = ()
    for m in tl.static_range(COUNT):
        pointer = tl.load(addresses + m).to(tl.pointer_type(KIND))
        if ALIGNED:
            pointer = tl.multiple_of(pointer, 16)
        pointers = pointers + (pointer,)
    return pointers


@triton.jit
def _values(pointer, offsets, inside):
    """Elements as float32; 0 past the end."""
    return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _float(numbers, at):
    """Entry ``at`` of the numbers as the float32 whose bits it holds."""
    return tl.load(numbers + at).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _turns(blocks):
    """How many blocks this program goes through."""
    return tl.cdiv(blocks - tl.program_id(0), tl.num_programs(0))


@triton.jit
def _block(turn):
    return tl.program_id(0) + turn * tl.num_programs(0)


@triton.jit
def _run(block, n, BLOCK: tl.constexpr, BIG: tl.constexpr):
    """Number of the block's first element, 64 bits only where they are needed; of all; which there are."""
    if BIG:
        start = block.to(tl.int64) * BLOCK
    else:
        start = block * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    return start, offsets, offsets < n


@triton.jit
def _lines(start, columns, BLOCK: tl.constexpr, LONG: tl.constexpr):
    """Row of the block's first element; rows from there and columns of all its elements.

    With ``LONG`` rows have a block's length at least: a block meets two of them at most.
    """
    row = start // columns
    column = (start - row * columns).to(tl.int32) + tl.arange(0, BLOCK)
    if LONG:
        further = (column >= columns).to(tl.int32)
    else:
        further = column // columns
    return row, further, column - further * columns


# --------------------------------------------------------------------------- random masks


@triton.jit
def _mix(x):
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def _streams(row, low, high):
    """Both streams of a row (int64, one or many); see ``_random.random_bits``."""
    first = _mix(row.to(tl.uint32) * 0x9E3779B9 + low)
    return first, _mix(first ^ (row >> 32).to(tl.uint32) ^ high)


@triton.jit
def _draw(numbers, at, row, further, column, LONG: tl.constexpr):
    """Uniform int32 for the elements of a block; the key stands at ``at``."""
    low, high = tl.load(numbers + at).to(tl.uint32), tl.load(numbers + at + 1).to(tl.uint32)
    if LONG:  # two rows at most, so each stream is mixed twice and not for each element
        first0, second0 = _streams(row.to(tl.int64), low, high)
        first1, second1 = _streams(row.to(tl.int64) + 1, low, high)
        first = tl.where(further == 0, first0, first1)
        second = tl.where(further == 0, second0, second1)
    else:
        first, second = _streams(row.to(tl.int64) + further, low, high)
    x = column.to(tl.uint32) * 0x9E3779B9 + first
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = x ^ second
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    x = x ^ (x >> 16)
    return x.to(tl.int32, bitcast=True)


# --------------------------------------------------------------------------- rounding, writing, digest


@triton.jit
def _mix64(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _key_table(WORDS: tl.constexpr):
    return _mix((tl.arange(0, WORDS) + 1).to(tl.uint32) * 0x9E3779B9)


@triton.jit
def _rounded(value, OUT: tl.constexpr):
    """A block in the dtype of the output (to nearest, ties to even), and its bits, as uint32."""
    if OUT == tl.bfloat16:  # spelled out: Triton's interpreter, which tests use, cuts off
        wide = value.to(tl.uint32, bitcast=True)
        bits = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16
        bits = tl.where((wide & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, bits)
        rounded = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    elif OUT == tl.float16:
        rounded = value.to(tl.float16)
        bits = rounded.to(tl.uint16, bitcast=True).to(tl.uint32)
    else:
        rounded = value
        bits = value.to(tl.uint32, bitcast=True)
    return rounded, bits


@triton.jit
def _halves(bits, BLOCK: tl.constexpr, SHORT: tl.constexpr):
    """Lower and upper halves of the 64-bit words that the elements make; (words,), uint32 each."""
    if SHORT:
        even, odd = tl.split(tl.reshape(bits, (BLOCK // 2, 2)))
        lower, upper = tl.split(tl.reshape(even | (odd << 16), (BLOCK // 4, 2)))
    else:
        lower, upper = tl.split(tl.reshape(bits, (BLOCK // 2, 2)))
    return lower, upper


@triton.jit
def _put(
    value, place, start, n, block, keys, sums, OUT: tl.constexpr, BLOCK: tl.constexpr, WORDS: tl.constexpr
):
    """Rounds a block to ``OUT`` and writes it in the dtype of ``place``; ``sums`` with what it adds.

    ``sums`` are both sums of the digest, word by word, and the largest magnitude, element by element.
    """
    SHORT: tl.constexpr = BLOCK == 4 * WORDS  # elements of 16 bits
    offsets = start + tl.arange(0, BLOCK)
    inside = offsets < n
    rounded, bits = _rounded(tl.where(inside, value, 0.0), OUT)
    tl.store(place + offsets, rounded.to(place.dtype.element_ty), mask=inside)
    first, second, largest = sums
    largest = tl.maximum(largest, (bits & (0x7FFF if SHORT else 0x7FFFFFFF)).to(tl.int32))
    a, b = _halves(bits, BLOCK, SHORT)
    number = block.to(tl.uint64) * 2
    odd = (_mix64(number + 1) >> 32).to(tl.uint32) | 1
    key = keys.to(tl.uint64) * odd.to(tl.uint64) + _mix64(number + 2)
    low, high = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    crossed = (a ^ low).to(tl.uint64) * (b ^ high).to(tl.uint64)
    counts = start + tl.arange(0, WORDS) * (BLOCK // WORDS) < n
    first += tl.where(counts, crossed, 0).to(tl.int64, bitcast=True)
    linear = a.to(tl.uint64) * low.to(tl.uint64) + b.to(tl.uint64) * high.to(tl.uint64)
    second += linear.to(tl.int64, bitcast=True)
    return first, second, largest


@triton.jit
def _no_sums(BLOCK: tl.constexpr, WORDS: tl.constexpr):
    return tl.zeros((WORDS,), tl.int64), tl.zeros((WORDS,), tl.int64), tl.zeros((BLOCK,), tl.int32)


@triton.jit
def _add_sums(state, sums, OUT: tl.constexpr):
    """Adds what a program found to the digest."""
    first, second, largest = sums
    if OUT == tl.bfloat16:
        infinity = 0x7F80
    elif OUT == tl.float16:
        infinity = 0x7C00
    else:
        infinity = 0x7F800000
    tl.atomic_add(state, tl.sum(first, axis=0), sem="relaxed")
    tl.atomic_add(state + 1, tl.sum(second, axis=0), sem="relaxed")
    if tl.max(largest, axis=0) >= infinity:
        tl.atomic_add(state + 2, tl.full((), 1, tl.int64), sem="relaxed")


# --------------------------------------------------------------------------- span


@triton.jit
def weighted_sum(
    addresses,
    numbers,
    place,
    state,
    lines,
    n,
    columns,
    COUNT: tl.constexpr,
    LINES: tl.constexpr,
    KIND: tl.constexpr,
    OUT: tl.constexpr,
    ALIGNED: tl.constexpr,
    BIG: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Sum of c[m] * x[m]; c are the numbers. With ``LINES`` 1 or 2, c is that of the row or column."""
    keys = _key_table(WORDS)
    sums = _no_sums(BLOCK, WORDS)
    x = _inputs(addresses, COUNT, KIND, ALIGNED)
    c = ()
    for m in tl.static_range(COUNT):
        c = c + ((_float(numbers, m) if LINES == 0 else 0),)
    blocks = tl.cdiv(n, BLOCK)
    for turn in range(_turns(blocks)):
        block = _block(turn)
        start, offsets, inside = _run(block, n, BLOCK, BIG)
        if LINES != 0:
            row, further, column = _lines(start, columns, BLOCK, LONG)
            if LINES == 1:
                line = row.to(tl.int64) + further
            else:
                line = column.to(tl.int64)
            total = tl.zeros((BLOCK,), tl.float32)
            for m in tl.static_range(COUNT):
                own = tl.load(lines + line * COUNT + m, mask=inside, other=0.0)
                total = total + _values(x[m], offsets, inside) * own
        else:
            total = _values(x[0], offsets, inside) * c[0]
            for m in tl.static_range(1, COUNT):
                total = total + _values(x[m], offsets, inside) * c[m]
        sums = _put(total, place, start, n, block, keys, sums, OUT, BLOCK, WORDS)
    _add_sums(state, sums, OUT)


# --------------------------------------------------------------------------- masked sum


@triton.jit
def _above(size, bits, equal, prefix, block):
    """Which elements rank above a cut: larger than ``bits``, or among the first ``equal`` of that size.

    ``prefix`` has how many elements of that size stand in all blocks before, for each block and the end.
    """
    before = tl.load(prefix + block)
    left = equal - before
    if (left > 0) & (left < tl.load(prefix + block + 1) - before):  # the cut lies in this block
        is_equal = size == bits
        rank = tl.cumsum(is_equal.to(tl.int32), 0)
        above = (size > bits) | (is_equal & (rank.to(tl.int64) <= left))
    else:
        above = size >= tl.where(left > 0, bits, bits + 1)
    return above


@triton.jit
def masked_sum(
    addresses,
    numbers,
    place,
    state,
    prefix,
    factors,
    n,
    columns,
    COUNT: tl.constexpr,
    MODE: tl.constexpr,
    CUTS: tl.constexpr,
    CONSENSUS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SCALED: tl.constexpr,
    KIND: tl.constexpr,
    OUT: tl.constexpr,
    ALIGNED: tl.constexpr,
    BIG: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK: tl.constexpr,
    WORDS: tl.constexpr,
):
    """The generalised task arithmetic over ``COUNT`` task vectors; see ``_masked.MaskedSum``.

    The base is the first input. Numbers: divisor and scale; then for each task vector its weight as float64,
    its weight as float32 to be divided by, and what its mask needs: the key's halves and the limit, or
    for each of ``CUTS`` bits and the number of equal elements above. ``factors`` (float64, one for each task
    vector) multiply the weights; ``prefix`` is (task vectors, cuts, blocks + 1); see ``_above``.
    """
    FIRST: tl.constexpr = 2
    WIDTH: tl.constexpr = 6
    keys = _key_table(WORDS)
    sums = _no_sums(BLOCK, WORDS)
    x = _inputs(addresses, COUNT + 1, KIND, ALIGNED)
    weights = ()
    for d in tl.static_range(COUNT):
        weight = tl.load(numbers + FIRST + d * WIDTH).to(tl.float64, bitcast=True) * tl.load(factors + d)
        weights = weights + (weight.to(tl.float32),)
    blocks = tl.cdiv(n, BLOCK)
    for turn in range(_turns(blocks)):
        block = _block(turn)
        start, offsets, inside = _run(block, n, BLOCK, BIG)
        base = _values(x[0], offsets, inside)
        if MODE == RANDOM:
            row, further, column = _lines(start, columns, BLOCK, LONG)
        values = ()
        for d in tl.static_range(COUNT):
            at = FIRST + d * WIDTH
            v = _values(x[d + 1], offsets, inside) - base
            weighted = v * weights[d]
            if MODE == TRIM:
                size = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
                ties = prefix + d * CUTS * (blocks + 1)
                bits, equal = tl.load(numbers + at + 2).to(tl.int32), tl.load(numbers + at + 3)
                keep = _above(size, bits, equal, ties, block)
                if CUTS == 2:
                    bits, equal = tl.load(numbers + at + 4).to(tl.int32), tl.load(numbers + at + 5)
                    keep = keep & (_above(size, bits, equal, ties + blocks + 1, block) == 0)
                weighted = weighted * keep.to(tl.float32)
            if MODE == RANDOM:
                drawn = _draw(numbers, at + 2, row, further, column, LONG)
                keep = drawn.to(tl.int64) < tl.load(numbers + at + 4)
                weighted = weighted * keep.to(tl.float32)
            values = values + (weighted,)
        total = values[0]
        for d in tl.static_range(1, COUNT):
            total = total + values[d]
        if CONSENSUS:
            positive = total >= 0
            agreed = tl.zeros((BLOCK,), tl.float32)
            shares = tl.zeros((BLOCK,), tl.float32)
            for d in tl.static_range(COUNT):
                signed = tl.where(positive, values[d], -values[d])
                agreed = agreed + tl.where(signed <= 0, 0.0, signed)  # NaN stays
                if NORMALIZE:
                    shares = shares + tl.where(signed > 0, _float(numbers, FIRST + d * WIDTH + 1), 0.0)
            total = tl.where(positive, agreed, -agreed)
            if NORMALIZE:
                total = tl.div_rn(total, tl.where(shares != 0, shares, 1.0))
        elif NORMALIZE:
            total = tl.div_rn(total, tl.zeros((BLOCK,), tl.float32) + _float(numbers, 0))
        if SCALED:
            total = total * _float(numbers, 1)
        sums = _put(base + total, place, start, n, block, keys, sums, OUT, BLOCK, WORDS)
    _add_sums(state, sums, OUT)


@triton.jit
def equal_counts(
    addresses,
    numbers,
    counts,
    n,
    CUTS: tl.constexpr,
    KIND: tl.constexpr,
    ALIGNED: tl.constexpr,
    BIG: tl.constexpr,
    BLOCK: tl.constexpr,
    COUNT: tl.constexpr,
):
    """How many elements of each block have exactly the size of a cut; (task vectors, cuts, 1 + blocks).

    What stands before the first block is 0, so that a running sum is the prefix that ``masked_sum`` wants.
    """
    WIDTH: tl.constexpr = 6
    x = _inputs(addresses, COUNT + 1, KIND, ALIGNED)
    blocks = tl.cdiv(n, BLOCK)
    for turn in range(_turns(blocks)):
        block = _block(turn)
        _, offsets, inside = _run(block, n, BLOCK, BIG)
        base = _values(x[0], offsets, inside)
        for d in tl.static_range(COUNT):
            v = _values(x[d + 1], offsets, inside) - base
            size = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
            for k in tl.static_range(CUTS):
                bits = tl.load(numbers + (2 + d * WIDTH + 2 + 2 * k)).to(tl.int32)
                found = tl.sum((inside & (size == bits)).to(tl.int32), axis=0)
                own = counts + (d * CUTS + k) * (blocks + 1)
                tl.store(own + block + 1, found)
                if block == 0:
                    tl.store(own, 0)


@triton.jit
def random_l1(
    addresses,
    numbers,
    sums,
    n,
    columns,
    KIND: tl.constexpr,
    ALIGNED: tl.constexpr,
    BIG: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
    COUNT: tl.constexpr,
):
    """L1 norms before and after random masks, float64, of ``SPAN`` blocks each; (spans, task vectors, 2)."""
    WIDTH: tl.constexpr = 6
    LANES: tl.constexpr = BLOCK // 8
    span = tl.program_id(0)
    x = _inputs(addresses, COUNT + 1, KIND, ALIGNED)
    for d in tl.static_range(COUNT):  # the base comes from the cache but for the first
        before, after = tl.zeros((LANES,), tl.float64), tl.zeros((LANES,), tl.float64)
        at = 2 + d * WIDTH
        limit = tl.load(numbers + at + 4)
        for turn in range(SPAN):
            block = span * SPAN + turn  # past the end nothing is inside
            start, offsets, inside = _run(block, n, BLOCK, BIG)
            size = tl.abs(_values(x[d + 1], offsets, inside) - _values(x[0], offsets, inside))
            row, further, column = _lines(start, columns, BLOCK, LONG)
            keep = _draw(numbers, at + 2, row, further, column, LONG).to(tl.int64) < limit
            wide = size.to(tl.float64)
            before += tl.sum(tl.reshape(wide, (LANES, 8)), axis=1)
            after += tl.sum(tl.reshape(tl.where(keep, wide, 0.0), (LANES, 8)), axis=1)
        tl.store(sums + (span * COUNT + d) * 2, tl.sum(before, axis=0))
        tl.store(sums + (span * COUNT + d) * 2 + 1, tl.sum(after, axis=0))


# --------------------------------------------------------------------------- selection


@triton.jit
def selected(
    addresses,
    numbers,
    place,
    state,
    divergence,
    n,
    columns,
    COUNT: tl.constexpr,
    HOW: tl.constexpr,
    KIND: tl.constexpr,
    OUT: tl.constexpr,
    ALIGNED: tl.constexpr,
    BIG: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Nearswap, arcee fusion and RAM; see ``_selected``. The number is t, the threshold or epsilon."""
    keys = _key_table(WORDS)
    sums = _no_sums(BLOCK, WORDS)
    x = _inputs(addresses, COUNT + 1, KIND, ALIGNED)
    limit = _float(numbers, 0)
    blocks = tl.cdiv(n, BLOCK)
    for turn in range(_turns(blocks)):
        block = _block(turn)
        start, offsets, inside = _run(block, n, BLOCK, BIG)
        base = _values(x[0], offsets, inside)
        if HOW == NEARSWAP:
            other = _values(x[1], offsets, inside)
            distance = tl.abs(base - other)
            distance = tl.where(distance > 1e-6, distance, 1e-6)
            share = tl.div_rn(tl.zeros((BLOCK,), tl.float32) + limit, distance)
            share = tl.where(share < 1, share, 1.0)
            value = share * other + (1.0 - share) * base
        elif HOW == FUSION:
            d = _values(x[1], offsets, inside) - base
            row, further, _ = _lines(start, columns, BLOCK, LONG)
            factor = tl.abs(tl.load(divergence + (row.to(tl.int64) + further), mask=inside, other=0.0))
            value = base + d * (tl.abs(d) * factor >= limit).to(tl.float32)
        else:
            count = tl.zeros((BLOCK,), tl.float32)
            total = tl.zeros((BLOCK,), tl.float32)
            for m in tl.static_range(COUNT):
                d = _values(x[m + 1], offsets, inside) - base
                active = (tl.abs(d) > limit).to(tl.float32)
                count = count + active
                total = total + d * active
            value = base + tl.div_rn(total, tl.where(count > 1, count, 1.0))
        sums = _put(value, place, start, n, block, keys, sums, OUT, BLOCK, WORDS)
    _add_sums(state, sums, OUT)
