"""The digest of a tensor: the same on every path, in any chunks; another one for other bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evomerge.engine.fingerprint import fingerprint
from evomerge.engine.plan import TensorPlan
from evomerge.kernels import Digest
from evomerge.kernels.cpu import calls

MASK = (1 << 64) - 1
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool]


def random(n: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    bytes_ = torch.randint(0, 256, (n * dtype.itemsize,), generator=g, dtype=torch.uint8)
    return (bytes_ & 1).bool() if dtype is torch.bool else bytes_.view(dtype)


def digest_of(tensor: Tensor) -> tuple[int, int]:
    digest = Digest.on(torch.device("cpu"))
    digest.add(tensor, 0)
    first, second, spoiled = digest.state.tolist()
    assert spoiled == 0
    return first & MASK, second & MASK


def mix32(x: int) -> int:
    x = (x ^ x >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    x = (x ^ x >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ x >> 16


def mix64(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def by_hand(data: bytes) -> tuple[int, int]:
    first = second = 0
    for p in range(-(-len(data) // 8)):
        word = int.from_bytes(data[8 * p : 8 * p + 8], "little")
        block, place = divmod(p, 512)
        odd, offset = mix64(2 * block + 1) >> 32 | 1, mix64(2 * block + 2)
        key = mix32((place + 1) * 0x9E3779B9 & 0xFFFFFFFF) * odd + offset & MASK
        a, b, k, l = word & 0xFFFFFFFF, word >> 32, key & 0xFFFFFFFF, key >> 32  # noqa: E741
        first += (a ^ k) * (b ^ l)
        second += a * k + b * l
    return first & MASK, second & MASK


def test_numba_can_be_used_so_that_both_kinds_of_kernels_are_tested() -> None:
    assert calls.available()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_what_its_definition_says(dtype: torch.dtype, kernels: str) -> None:
    for n in (0, 1, 3, 8, 513, 5001):
        tensor = random(n, dtype)
        assert digest_of(tensor) == by_hand(tensor.view(torch.uint8).numpy().tobytes()), n


def test_it_never_changes_by_accident(kernels: str) -> None:
    tensor = torch.arange(10_000, dtype=torch.float32)
    assert digest_of(tensor) == (0xC106BE16B230143E, 0x15EF5E8C7F183800)
    digest = Digest.on(torch.device("cpu"))
    digest.add(tensor, 0)
    plan = TensorPlan("t", (10_000,), torch.float32, "linear", (), has_base=False)
    assert fingerprint([plan], [digest]) == "3ef4f1879f1a51ba8ee28fb73011ec32"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chunks_may_have_any_size_and_order(dtype: torch.dtype, kernels: str) -> None:
    tensor = random(7001, dtype)
    for step in (16, 48, 4096):
        digest = Digest.on(torch.device("cpu"))
        for first in reversed(range(0, tensor.numel(), step)):
            digest.add(tensor[first : first + step], first)
        first_sum, second_sum, _ = digest.state.tolist()
        assert (first_sum & MASK, second_sum & MASK) == digest_of(tensor), step


def test_memory_that_is_not_aligned_or_not_contiguous_has_the_same_digest(kernels: str) -> None:
    tensor = random(999, torch.bfloat16)
    room = torch.zeros(1000, dtype=torch.bfloat16)
    room[1:].copy_(tensor)
    assert digest_of(room[1:]) == digest_of(tensor)
    wide = torch.zeros(999, 2, dtype=torch.bfloat16)
    wide[:, 0].copy_(tensor)
    assert digest_of(wide[:, 0]) == digest_of(tensor)


def test_a_flipped_bit_a_swap_a_shift_and_a_moved_zero_change_both_sums() -> None:
    tensor = random(6000, torch.bfloat16)
    bits = tensor.view(torch.int16)
    original = digest_of(tensor)
    changed = []
    for at in (0, 1, 2, 3, 4, 2047, 2048, 5999):
        for bit in (0, 7, 14):
            other = bits.clone()
            other[at] ^= 1 << bit
            changed.append(other)
    for i, j in ((0, 1), (0, 2), (0, 4), (10, 2058), (3, 5999)):
        other = bits.clone()
        other[i], other[j] = bits[j].clone(), bits[i].clone()
        changed.append(other)
    changed.extend(bits.roll(by) for by in (1, 2, 4, 8, 2048))
    whole = bits[:4096].view(2, 2048)
    changed.append(torch.cat([whole[1], whole[0], bits[4096:]]))
    for found in map(digest_of, changed):
        assert found[0] != original[0]
        assert found[1] != original[1]
    zeros = [torch.zeros(6000, dtype=torch.int16) for _ in range(6000)]
    sums = {digest_of(z.index_fill_(0, torch.tensor([i]), 1)) for i, z in enumerate(zeros)}
    assert len(sums) == 6000
    assert len({s for s, _ in sums}) == len({s for _, s in sums}) == 6000


def test_names_dtypes_and_shapes_are_part_of_a_fingerprint() -> None:
    def plan(
        name: str = "t", shape: tuple[int, ...] = (8,), dtype: torch.dtype = torch.float32
    ) -> TensorPlan:
        return TensorPlan(name, shape, dtype, "linear", (), has_base=False)

    digest = Digest.on(torch.device("cpu"))
    prints = {
        fingerprint([p], [digest]) for p in (plan(), plan("u"), plan(shape=(2, 4)), plan(dtype=torch.float64))
    }
    assert len(prints) == 4
    both = fingerprint([plan("a"), plan("b", (4,))], [digest, digest])
    assert both == fingerprint([plan("b", (4,)), plan("a")], [digest, digest])
