"""What Triton's kernels have in common: reading a block, random masks, rounding, writing, the digest.

A program goes through blocks of one tensor in strides of the grid; it adds its sums to the digest once,
with atomic additions of integers, which give the same sum in any order. Kernels see tensors as flat, n
elements in the order of their rows. Triton before 3.3 has no tuples; then torch does the work.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "add_sums",
    "block_of",
    "draw",
    "float_at",
    "inputs_at",
    "key_table",
    "no_sums",
    "put",
    "rows_of",
    "run_of",
    "turns",
    "values_at",
]

if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
    raise ImportError("Triton is older than 3.3")


# --------------------------------------------------------------------------- reading


@triton.jit
def inputs_at(addresses, COUNT: tl.constexpr, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointers to the inputs."""
    pointers = ()
    for m in tl.static_range(COUNT):
        pointer = tl.load(addresses + m).to(tl.pointer_type(KIND))
        if ALIGNED:
            pointer = tl.multiple_of(pointer, 16)
        pointers = pointers + (pointer,)
    return pointers


@triton.jit
def values_at(pointer, offsets, inside):
    """Elements as float32; 0 past the end."""
    return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def float_at(coefficients, at):
    """Entry ``at`` of the coefficients as the float32 whose bits it holds."""
    return tl.load(coefficients + at).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def turns(blocks):
    """How many blocks this program goes through."""
    return tl.cdiv(blocks - tl.program_id(0), tl.num_programs(0))


@triton.jit
def block_of(turn):
    """The block that this program goes through in a turn."""
    return tl.program_id(0) + turn * tl.num_programs(0)


@triton.jit
def run_of(block, n, BLOCK: tl.constexpr, BIG: tl.constexpr):
    """Number of the block's first element, 64 bits only where they are needed; of all; which there are."""
    if BIG:
        start = block.to(tl.int64) * BLOCK
    else:
        start = block * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    return start, offsets, offsets < n


@triton.jit
def rows_of(start, columns, BLOCK: tl.constexpr, LONG: tl.constexpr):
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
    """Both streams of a row (int64, one or many); see ``reference.random_masks.random_bits``."""
    first = _mix(row.to(tl.uint32) * 0x9E3779B9 + low)
    return first, _mix(first ^ (row >> 32).to(tl.uint32) ^ high)


@triton.jit
def draw(coefficients, at, row, further, column, LONG: tl.constexpr):
    """Uniform int32 for the elements of a block; the key stands at ``at``."""
    low, high = tl.load(coefficients + at).to(tl.uint32), tl.load(coefficients + at + 1).to(tl.uint32)
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
def key_table(WORDS: tl.constexpr):
    """The table of the digest, see ``reference.digest.key_table``; (words,), uint32."""
    return _mix((tl.arange(0, WORDS) + 1).to(tl.uint32) * 0x9E3779B9)


@triton.jit
def _round(value, OUT: tl.constexpr):
    """A block in the dtype of the output (to nearest, ties to even), and its bits, as uint32."""
    if OUT == tl.bfloat16:  # spelled out: Triton's interpreter, which tests use, truncates
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
def put(
    value, place, start, n, block, keys, sums, OUT: tl.constexpr, BLOCK: tl.constexpr, WORDS: tl.constexpr
):
    """Rounds a block to ``OUT`` and writes it in the dtype of ``place``; ``sums`` with what it adds.

    ``sums`` are both sums of the digest, word by word, and the largest magnitude, element by element.
    """
    SHORT: tl.constexpr = BLOCK == 4 * WORDS  # elements of 16 bits
    offsets = start + tl.arange(0, BLOCK)
    inside = offsets < n
    rounded, bits = _round(tl.where(inside, value, 0.0), OUT)
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
def no_sums(BLOCK: tl.constexpr, WORDS: tl.constexpr):
    """The sums of no block; see ``put``."""
    return tl.zeros((WORDS,), tl.int64), tl.zeros((WORDS,), tl.int64), tl.zeros((BLOCK,), tl.int32)


@triton.jit
def add_sums(state, sums, OUT: tl.constexpr):
    """Adds the sums of a program to the digest."""
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
