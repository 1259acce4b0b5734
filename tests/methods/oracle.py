"""Every merge method once more: on whole tensors, in float64, straight from its formula, epsilons included.

Slow, plain, and written apart from the package. Only the draws of random masks come from it. What the dialect
leaves to rounding is decided here as the package documents it: vectors whose angle has a sine below 1e-5
count as parallel or opposite, directions whose sum is below 1e-6 of their weights cancel out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomerge.kernels import key_of
from evomerge.kernels.reference.random_masks import random_bits

SIN, SUM = 1e-5, 1e-6


@dataclass
class Answer:
    """What a merge should give; ``open_`` marks elements that rounding may decide either way."""

    value: Tensor
    open_: Tensor


class NoAnswerError(Exception):
    """The method refuses such inputs."""


def answer(name: str, base: Tensor | None, models: Sequence[Tensor], p: dict[str, Any]) -> Answer:
    """The merge of ``models`` (and ``base``), in float64."""
    b = None if base is None else base.double()
    found = METHODS[name](b, [x.double() for x in models], p)
    if isinstance(found, Answer):
        return found
    return Answer(found, torch.zeros_like(found, dtype=torch.bool))


def _norm(x: Tensor) -> float:
    return float(x.flatten().norm())


def linear(_: Tensor | None, x: list[Tensor], p: dict[str, Any]) -> Tensor:
    w = p["weight"]
    total = sum(a * v for a, v in zip(w, x, strict=True))
    return total / sum(w) if p.get("normalize", True) else total


def task_arithmetic(b: Tensor, x: list[Tensor], p: dict[str, Any]) -> Tensor:
    w = p["weight"]
    divisor = sum(w) if p.get("normalize", False) and abs(sum(w)) >= 1e-8 else 1
    return b + p.get("lambda", 1.0) * sum(a * (v - b) for a, v in zip(w, x, strict=True)) / divisor


def passthrough(_: Tensor | None, x: list[Tensor], p: dict[str, Any]) -> Tensor:
    return x[0] * p["scale"][0]


def slerp(b: Tensor, x: list[Tensor], p: dict[str, Any]) -> Tensor:
    t, (v,) = p["t"], x
    unit = [y / (_norm(y) if _norm(y) > 1e-8 else 1) for y in (b, v)]
    cos = float((unit[0] * unit[1]).sum())
    if abs(cos) > 0.9995:
        return (1 - t) * b + t * v
    angle = math.acos(cos)
    return (math.sin((1 - t) * angle) * b + math.sin(t * angle) * v) / math.sin(angle)


def _sine(a: Tensor, b: Tensor, cos: Tensor, dim: int) -> Tensor:
    """Of the angle between unit vectors, without the cancellation in 1 - cos^2."""
    apart = torch.where(cos < 0, a + b, a - b).norm(dim=dim, keepdim=True)
    return apart * torch.sqrt(torch.clamp(1 - apart * apart / 4, min=0))


def _nuslerp(t: float, a: Tensor, b: Tensor, dim: int) -> Tensor:
    unit = [y / y.norm(dim=dim, keepdim=True).clamp(min=1e-7) for y in (a, b)]
    is_unit = (unit[0].norm(dim=dim, keepdim=True) > 0.99) & (unit[1].norm(dim=dim, keepdim=True) > 0.99)
    cos = (unit[0] * unit[1]).sum(dim=dim, keepdim=True).clamp(-1, 1)
    sin = torch.where(is_unit, _sine(*unit, cos, dim), torch.sqrt(1 - cos * cos))
    angle = torch.atan2(sin, cos)
    safe = torch.where(sin < SIN, 1.0, sin)
    bent = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / safe
    return torch.where(sin < SIN, (1 - t) * a + t * b, bent)


def nuslerp(b: Tensor | None, x: list[Tensor], p: dict[str, Any]) -> Tensor:
    w = p["weight"]
    t = 0.5 if abs(sum(w)) < 1e-6 else w[1] / sum(w)
    v = [y - b for y in x] if b is not None else x
    shape = v[0].shape
    if p.get("nuslerp_flatten", True) or not shape:
        merged = _nuslerp(t, v[0].reshape(-1), v[1].reshape(-1), 0).reshape(shape)
    else:
        merged = _nuslerp(t, v[0], v[1], 0 if p.get("nuslerp_row_wise", False) else -1)
    return merged if b is None else b + merged


def multislerp(b: Tensor | None, x: list[Tensor], p: dict[str, Any]) -> Tensor:
    if len(x) == 1:  # as it is, whatever its weight
        return x[0]
    eps, w = p.get("eps", 1e-8), list(p["weight"])
    if p.get("normalize_weights", True):
        w = [v / sum(w) for v in w]
    origin = torch.zeros_like(x[0]) if b is None else b
    d = [y - origin for y in x]
    unit = [v / (_norm(v) + eps) if _norm(v) > 0 else v for v in d]
    mean = sum(a * u for a, u in zip(w, unit, strict=True))
    cancels = _norm(mean) < SUM * sum(abs(a) * _norm(u) for a, u in zip(w, unit, strict=True))
    if cancels and len(w) > 2:
        raise NoAnswerError
    if cancels or _norm(mean) < eps or _norm(mean) == 0:
        return origin + sum(a * v for a, v in zip(w, d, strict=True))
    mean = mean / _norm(mean)
    tangent = sum(a * (u - (u * mean).sum() * mean) for a, u in zip(w, unit, strict=True))
    angle = _norm(tangent) + eps
    turned = mean * math.cos(angle) + tangent * (math.sin(angle) / angle if angle else 1.0)
    return origin + turned * sum(a * _norm(v) for a, v in zip(w, d, strict=True))


def karcher(_: Tensor | None, x: list[Tensor], p: dict[str, Any]) -> Tensor:
    if len(x) == 1:
        return x[0]
    tol = p.get("tol", 1e-5)
    share = [w / sum(p["weight"]) for w in p["weight"]]
    used = [i for i, v in enumerate(x) if _norm(v) > tol]
    if not used:
        return torch.zeros_like(x[0])
    unit = {i: x[i] / _norm(x[i]) for i in used}
    alpha = {i: share[i] / sum(share[j] for j in used) for i in used}
    u = sum(alpha[i] * unit[i] for i in used)
    u = unit[used[0]] if _norm(u) < max(tol, SUM) else u / _norm(u)
    for _step in range(p.get("max_iter", 10)):
        tangent = torch.zeros_like(u)
        for i in used:
            cos = float((u * unit[i]).sum().clamp(-1, 1))
            away = unit[i] - cos * u
            sin = _norm(away)
            angle = math.atan2(sin, cos)
            if angle >= tol and sin > (0 if cos > 0 else SIN):
                tangent = tangent + alpha[i] * angle / sin * away
        step = _norm(tangent)
        if step < max(tol, 1e-12):
            break
        u = math.cos(step) * u + math.sin(step) / step * tangent
        u = u / _norm(u)
    return u * sum(a * _norm(v) for a, v in zip(share, x, strict=True))


def model_stock(b: Tensor, x: list[Tensor], p: dict[str, Any]) -> Tensor:
    shape = b.shape
    if not p.get("filter_wise", False) or len(shape) < 2:
        b, x = b.reshape(1, -1), [v.reshape(1, -1) for v in x]
    d, n = [v - b for v in x], len(x)
    cosines = []
    for i in range(n):
        for j in range(i):
            below = (d[i].norm(dim=-1) * d[j].norm(dim=-1)).clamp(min=1e-6)
            cosines.append(((d[i] * d[j]).sum(dim=-1) / below).clamp(-1, 1))
    cos = (sum(cosines) / len(cosines)).unsqueeze(-1)
    divisor = 1 + (n - 1) * cos
    pole = divisor.abs() < 1e-6
    t = torch.where(pole, 0.0, n * cos / torch.where(pole, 1.0, divisor))
    return (b + t * (sum(d) / n)).reshape(shape)


# --------------------------------------------------------------------------- masks


def _ranks(d: Tensor) -> Tensor:
    """0 for the largest magnitude; equal ones by index."""
    order = torch.argsort(-d.abs().flatten(), stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    return ranks.reshape(d.shape)


def _magnitude(d: Tensor, density: float, _: int, __: dict[str, Any]) -> Tensor:
    return _ranks(d) < (max(1, int(density * d.numel())) if density > 0 else 0)


def _outliers(d: Tensor, density: float, i: int, p: dict[str, Any]) -> Tensor:
    n = d.numel()
    kept, top = int(density * n), int(p["gamma"][i] * n)
    bottom = max(0, n - kept - top)
    return (_ranks(d) < n - bottom) & (_ranks(d) >= n - bottom - kept)


def _draws(d: Tensor, i: int, p: dict[str, Any]) -> Tensor:
    """Uniform in [0, 1)."""
    rows = d.reshape(1, -1) if d.dim() < 2 else d.reshape(-1, d.shape[-1])
    drawn = random_bits(key_of(p.get("seed", 0), key_of("t"), i), 0, *rows.shape, torch.device("cpu"))
    return ((drawn.double() + 2**31) / 2**32).reshape(d.shape)


def _random(d: Tensor, density: float, i: int, p: dict[str, Any]) -> Tensor:
    return _draws(d, i, p) < density


def _della(d: Tensor, density: float, i: int, p: dict[str, Any]) -> Tensor:
    rows = d.reshape(1, -1) if d.dim() < 2 else d.reshape(-1, d.shape[-1])
    columns = rows.shape[1]
    order = torch.argsort(rows.abs(), dim=1, stable=True)
    rank = torch.argsort(order, dim=1).double()
    share = rank / (columns - 1) if columns > 1 else torch.full_like(rank, 0.5)
    epsilon = p["epsilon"][i]
    return _draws(d, i, p) < (density - epsilon + 2 * epsilon * share).reshape(d.shape)


def _task(
    mask: Callable[..., Tensor], *, consensus: bool, normalize: bool, rescale: bool
) -> Callable[..., Answer]:
    def merged(b: Tensor, x: list[Tensor], p: dict[str, Any]) -> Answer:
        w, vectors = p["weight"], []
        for i, v in enumerate(x):
            d = (v - b).float().double()  # task vectors are float32: that is what is ranked
            density = p["density"][i]
            kept = d if density >= 1 else d * mask(d, density, i, p)
            before, after = float(d.abs().sum()), float(kept.abs().sum())
            if density < 1 and p.get("rescale", rescale) and before > 1e-7 and after > 1e-7:
                kept = kept * before / after
            vectors.append(w[i] * kept)
        open_ = torch.zeros_like(b, dtype=torch.bool)
        total, divisor = sum(vectors), sum(w) if abs(sum(w)) >= 1e-8 else 1
        if consensus:
            sizes = sum(v.abs() for v in vectors)
            open_ = (total.abs() < 1e-6 * sizes) & (total != 0)
            agree = [v.sign() == torch.where(total >= 0, 1, -1) for v in vectors]
            total = sum(v * m for v, m in zip(vectors, agree, strict=True))
            divisor = sum(a * m.double() for a, m in zip(w, agree, strict=True))
            divisor = torch.where(divisor == 0, 1.0, divisor)
        if p.get("normalize", normalize):
            total = total / divisor
        return Answer(b + p.get("lambda", 1.0) * total, open_)

    return merged


# --------------------------------------------------------------------------- selection


def sce(b: Tensor, x: list[Tensor], p: dict[str, Any]) -> Answer:
    d = torch.stack([(v - b).float().double() for v in x])
    open_ = torch.zeros_like(b, dtype=torch.bool)
    if p.get("select_topk", 1.0) < 1:
        variance = d.var(dim=0, unbiased=False)
        variance[(d == d[0]).all(dim=0)] = 0
        k = int(torch.count_nonzero(variance) * p["select_topk"])
        kept = (_ranks(variance) < k).reshape(b.shape)
        if 0 < k < variance.numel():
            cut = variance.flatten().sort(descending=True).values[k - 1]
            open_ = (variance - cut).abs() <= 1e-5 * cut
        d = d * kept
    squares = d.square().reshape(len(x), -1).mean(dim=1)
    q = squares / squares.sum() if squares.sum() >= 1e-6 else torch.ones_like(squares) / len(x)
    total = d.sum(dim=0)
    open_ = open_ | ((total.abs() < 1e-6 * d.abs().sum(dim=0)) & (total != 0))
    share = torch.stack([a * (v.sign() == torch.where(total >= 0, 1, -1)) for a, v in zip(q, d, strict=True)])
    return Answer(b + (share * d).sum(dim=0) / share.sum(dim=0).clamp(min=1e-6), open_)


def nearswap(b: Tensor, x: list[Tensor], p: dict[str, Any]) -> Tensor:
    share = (p["t"] / (b - x[0]).abs().clamp(min=1e-6)).clamp(0, 1)
    return share * x[0] + (1 - share) * b


def arcee_fusion(b: Tensor, x: list[Tensor], _: dict[str, Any]) -> Answer:
    d = x[0] - b
    rows = [v.reshape(1, -1) if v.dim() < 2 else v for v in (b, x[0])]
    q, other = (torch.softmax(v, dim=-1) + 1e-8 for v in rows)
    divergence = (other * torch.log(other / q)).sum(dim=-1, keepdim=True).abs()
    importance = (d.abs().reshape(rows[0].shape) * divergence).reshape(b.shape)
    ordered = importance.flatten().sort().values
    q1, median, q3 = (ordered[int(f * (len(ordered) - 1))] for f in (0.25, 0.5, 0.75))
    cut = median + 1.5 * (q3 - q1)
    # A divergence that is not far above float64's rounding of its terms says nothing about the row.
    noise = d.abs() * 1e-13
    open_ = (importance - cut).abs() <= 1e-5 * cut + noise + float(noise.max())
    exact = bool((importance == 0).all())
    return Answer(b + d * (importance >= cut), torch.zeros_like(open_) if exact else open_)


def ram(b: Tensor, x: list[Tensor], p: dict[str, Any]) -> Answer:
    epsilon = p.get("epsilon", 1e-5)
    d = torch.stack([(v - b).float().double() for v in x])
    active = d.abs() > epsilon
    count = active.sum(dim=0)
    factors = torch.ones(len(x), dtype=torch.float64)
    for i in range(len(x)):
        shared, unique = int((active[i] & (count > 1)).sum()), int((active[i] & (count == 1)).sum())
        below = max(unique, epsilon)
        rho = shared / below if below else (math.inf if shared else 0.0)
        factors[i] = 1 + p.get("r", 0.0) * min(rho, p.get("alpha", 0.0))
    change = torch.zeros_like(b)
    for i in range(len(x)):
        change += torch.where(count == 1, factors[i], 1.0) * d[i] * active[i]
    return Answer(b + change / count.clamp(min=1), (d.abs() - epsilon).abs().amin(dim=0) < 1e-6 * epsilon)


METHODS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "task_arithmetic": task_arithmetic,
    "passthrough": passthrough,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "model_stock": model_stock,
    "ties": _task(_magnitude, consensus=True, normalize=True, rescale=False),
    "breadcrumbs": _task(_outliers, consensus=False, normalize=False, rescale=False),
    "breadcrumbs_ties": _task(_outliers, consensus=True, normalize=False, rescale=False),
    "dare_linear": _task(_random, consensus=False, normalize=False, rescale=True),
    "dare_ties": _task(_random, consensus=True, normalize=False, rescale=True),
    "della": _task(_della, consensus=True, normalize=True, rescale=True),
    "della_linear": _task(_della, consensus=False, normalize=False, rescale=True),
    "sce": sce,
    "nearswap": nearswap,
    "arcee_fusion": arcee_fusion,
    "ram": ram,
    "ramplus_tl": ram,
}
