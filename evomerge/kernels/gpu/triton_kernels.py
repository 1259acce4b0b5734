"""What Triton compiles; ``launch`` starts it.

A kernel combines, rounds to the dtype of the output, writes, looks for NaN and infinity and takes the digest,
all in registers. Same arithmetic and order as the compiled functions for CPUs: every operation is rounded on
its own (``enable_fp_fusion=False``, ``div_rn``), so the bits are the same. Only the L1 norms of random masks
are added in another order, in float64.

What differs from call to call is in device memory as int64: ``addresses`` of the inputs and ``coefficients``
of the candidate, so that one compiled kernel serves all tensors and candidates.
"""

from __future__ import annotations

import triton
import triton.language as tl

from evomerge.kernels.gpu.triton_blocks import (
    add_sums,
    block_of,
    draw,
    float_at,
    inputs_at,
    key_table,
    no_sums,
    put,
    rows_of,
    run_of,
    turns,
    values_at,
)

__all__ = ["equal_counts", "masked_sum", "random_l1", "selected", "weighted_sum"]

FULL, TRIM, RANDOM = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
NEARSWAP, FUSION, RAM = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


# --------------------------------------------------------------------------- span


@triton.jit
def weighted_sum(
    addresses,
    coefficients,
    place,
    state,
    vectors,
    n,
    columns,
    COUNT: tl.constexpr,
    VECTORS: tl.constexpr,
    KIND: tl.constexpr,
    OUT: tl.constexpr,
    ALIGNED: tl.constexpr,
    BIG: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Sum of c[m] * x[m]; c are the coefficients. With ``VECTORS`` 1 or 2, c is that of the row or column."""
    keys = key_table(WORDS)
    sums = no_sums(BLOCK, WORDS)
    x = inputs_at(addresses, COUNT, KIND, ALIGNED)
    c = ()
    for m in tl.static_range(COUNT):
        c = c + ((float_at(coefficients, m) if VECTORS == 0 else 0),)
    blocks = tl.cdiv(n, BLOCK)
    for turn in range(turns(blocks)):
        block = block_of(turn)
        start, offsets, inside = run_of(block, n, BLOCK, BIG)
        if VECTORS != 0:
            row, further, column = rows_of(start, columns, BLOCK, LONG)
            if VECTORS == 1:
                vector = row.to(tl.int64) + further
            else:
                vector = column.to(tl.int64)
            total = tl.zeros((BLOCK,), tl.float32)
            for m in tl.static_range(COUNT):
                own = tl.load(vectors + vector * COUNT + m, mask=inside, other=0.0)
                total = total + values_at(x[m], offsets, inside) * own
        else:
            total = values_at(x[0], offsets, inside) * c[0]
            for m in tl.static_range(1, COUNT):
                total = total + values_at(x[m], offsets, inside) * c[m]
        sums = put(total, place, start, n, block, keys, sums, OUT, BLOCK, WORDS)
    add_sums(state, sums, OUT)


# --------------------------------------------------------------------------- masked sum


@triton.jit
def _above(size, bits, equal, prefix, block):
    """Which elements rank above a cutoff: larger than ``bits``, or among the first ``equal`` of that size.

    ``prefix`` has how many elements of that size stand in all blocks before, for each block and the end.
    """
    before = tl.load(prefix + block)
    left = equal - before
    if (left > 0) & (left < tl.load(prefix + block + 1) - before):  # the cutoff lies in this block
        is_equal = size == bits
        rank = tl.cumsum(is_equal.to(tl.int32), 0)
        above = (size > bits) | (is_equal & (rank.to(tl.int64) <= left))
    else:
        above = size >= tl.where(left > 0, bits, bits + 1)
    return above


@triton.jit
def masked_sum(
    addresses,
    coefficients,
    place,
    state,
    prefix,
    factors,
    n,
    columns,
    COUNT: tl.constexpr,
    MODE: tl.constexpr,
    CUTOFFS: tl.constexpr,
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
    """The generalised task arithmetic over ``COUNT`` task vectors; see ``reference.masked_sum.MaskedSum``.

    The base is the first input. Coefficients: divisor and scale; then for each task vector its weight as
    float64, its weight as float32 to be divided by, and what its mask needs: the key's halves and the limit,
    or for each of ``CUTOFFS`` bits and the number of equal elements above. ``factors`` (float64, one for each
    task vector) multiply the weights; ``prefix`` is (task vectors, cutoffs, blocks + 1); see ``_above``.
    """
    FIRST: tl.constexpr = 2
    WIDTH: tl.constexpr = 6
    keys = key_table(WORDS)
    sums = no_sums(BLOCK, WORDS)
    x = inputs_at(addresses, COUNT + 1, KIND, ALIGNED)
    weights = ()
    for d in tl.static_range(COUNT):
        weight = tl.load(coefficients + FIRST + d * WIDTH).to(tl.float64, bitcast=True) * tl.load(factors + d)
        weights = weights + (weight.to(tl.float32),)
    blocks = tl.cdiv(n, BLOCK)
    for turn in range(turns(blocks)):
        block = block_of(turn)
        start, offsets, inside = run_of(block, n, BLOCK, BIG)
        base = values_at(x[0], offsets, inside)
        if MODE == RANDOM:
            row, further, column = rows_of(start, columns, BLOCK, LONG)
        values = ()
        for d in tl.static_range(COUNT):
            at = FIRST + d * WIDTH
            v = values_at(x[d + 1], offsets, inside) - base
            weighted = v * weights[d]
            if MODE == TRIM:
                size = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
                ties = prefix + d * CUTOFFS * (blocks + 1)
                bits, equal = tl.load(coefficients + at + 2).to(tl.int32), tl.load(coefficients + at + 3)
                keep = _above(size, bits, equal, ties, block)
                if CUTOFFS == 2:
                    bits, equal = tl.load(coefficients + at + 4).to(tl.int32), tl.load(coefficients + at + 5)
                    keep = keep & (_above(size, bits, equal, ties + blocks + 1, block) == 0)
                weighted = weighted * keep.to(tl.float32)
            if MODE == RANDOM:
                drawn = draw(coefficients, at + 2, row, further, column, LONG)
                keep = drawn.to(tl.int64) < tl.load(coefficients + at + 4)
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
                    shares = shares + tl.where(signed > 0, float_at(coefficients, FIRST + d * WIDTH + 1), 0.0)
            total = tl.where(positive, agreed, -agreed)
            if NORMALIZE:
                total = tl.div_rn(total, tl.where(shares != 0, shares, 1.0))
        elif NORMALIZE:
            total = tl.div_rn(total, tl.zeros((BLOCK,), tl.float32) + float_at(coefficients, 0))
        if SCALED:
            total = total * float_at(coefficients, 1)
        sums = put(base + total, place, start, n, block, keys, sums, OUT, BLOCK, WORDS)
    add_sums(state, sums, OUT)


@triton.jit
def equal_counts(
    addresses,
    coefficients,
    counts,
    n,
    CUTOFFS: tl.constexpr,
    KIND: tl.constexpr,
    ALIGNED: tl.constexpr,
    BIG: tl.constexpr,
    BLOCK: tl.constexpr,
    COUNT: tl.constexpr,
):
    """How many elements of each block have exactly the size of a cutoff; (task vectors, cutoffs, 1 + blocks).

    What stands before the first block is 0, so that a running sum is the prefix that ``masked_sum`` wants.
    """
    WIDTH: tl.constexpr = 6
    x = inputs_at(addresses, COUNT + 1, KIND, ALIGNED)
    blocks = tl.cdiv(n, BLOCK)
    for turn in range(turns(blocks)):
        block = block_of(turn)
        _, offsets, inside = run_of(block, n, BLOCK, BIG)
        base = values_at(x[0], offsets, inside)
        for d in tl.static_range(COUNT):
            v = values_at(x[d + 1], offsets, inside) - base
            size = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
            for k in tl.static_range(CUTOFFS):
                bits = tl.load(coefficients + (2 + d * WIDTH + 2 + 2 * k)).to(tl.int32)
                count = tl.sum((inside & (size == bits)).to(tl.int32), axis=0)
                own = counts + (d * CUTOFFS + k) * (blocks + 1)
                tl.store(own + block + 1, count)
                if block == 0:
                    tl.store(own, 0)


@triton.jit
def random_l1(
    addresses,
    coefficients,
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
    x = inputs_at(addresses, COUNT + 1, KIND, ALIGNED)
    for d in tl.static_range(COUNT):  # the base comes from the cache but for the first
        before, after = tl.zeros((LANES,), tl.float64), tl.zeros((LANES,), tl.float64)
        at = 2 + d * WIDTH
        limit = tl.load(coefficients + at + 4)
        for turn in range(SPAN):
            block = span * SPAN + turn  # past the end nothing is inside
            start, offsets, inside = run_of(block, n, BLOCK, BIG)
            size = tl.abs(values_at(x[d + 1], offsets, inside) - values_at(x[0], offsets, inside))
            row, further, column = rows_of(start, columns, BLOCK, LONG)
            keep = draw(coefficients, at + 2, row, further, column, LONG).to(tl.int64) < limit
            wide = size.to(tl.float64)
            before += tl.sum(tl.reshape(wide, (LANES, 8)), axis=1)
            after += tl.sum(tl.reshape(tl.where(keep, wide, 0.0), (LANES, 8)), axis=1)
        tl.store(sums + (span * COUNT + d) * 2, tl.sum(before, axis=0))
        tl.store(sums + (span * COUNT + d) * 2 + 1, tl.sum(after, axis=0))


# --------------------------------------------------------------------------- selection


@triton.jit
def selected(
    addresses,
    coefficients,
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
    """Nearswap, arcee fusion and RAM; see the reference. The number is t, the threshold or epsilon."""
    keys = key_table(WORDS)
    sums = no_sums(BLOCK, WORDS)
    x = inputs_at(addresses, COUNT + 1, KIND, ALIGNED)
    limit = float_at(coefficients, 0)
    blocks = tl.cdiv(n, BLOCK)
    for turn in range(turns(blocks)):
        block = block_of(turn)
        start, offsets, inside = run_of(block, n, BLOCK, BIG)
        base = values_at(x[0], offsets, inside)
        if HOW == NEARSWAP:
            other = values_at(x[1], offsets, inside)
            distance = tl.abs(base - other)
            distance = tl.where(distance > 1e-6, distance, 1e-6)
            share = tl.div_rn(tl.zeros((BLOCK,), tl.float32) + limit, distance)
            share = tl.where(share < 1, share, 1.0)
            value = share * other + (1.0 - share) * base
        elif HOW == FUSION:
            d = values_at(x[1], offsets, inside) - base
            row, further, _ = rows_of(start, columns, BLOCK, LONG)
            factor = tl.abs(tl.load(divergence + (row.to(tl.int64) + further), mask=inside, other=0.0))
            value = base + d * (tl.abs(d) * factor >= limit).to(tl.float32)
        else:
            count = tl.zeros((BLOCK,), tl.float32)
            total = tl.zeros((BLOCK,), tl.float32)
            for m in tl.static_range(COUNT):
                d = values_at(x[m + 1], offsets, inside) - base
                active = (tl.abs(d) > limit).to(tl.float32)
                count = count + active
                total = total + d * active
            value = base + tl.div_rn(total, tl.where(count > 1, count, 1.0))
        sums = put(value, place, start, n, block, keys, sums, OUT, BLOCK, WORDS)
    add_sums(state, sums, OUT)
