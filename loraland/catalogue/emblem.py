"""The emblem of an adapter: a rosette drawn from its name and its digest, half pressed flower, half Ferris wheel.

The slug decides the species (petals, their shape, the ring, the heart), the digest only the variety within it
(turn, length, width, dots). So versions of one adapter look related, strangers do not, and equal weights under
an equal name always look the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

CENTRE: Final = 24
"""The drawing lies on a grid of 48 by 48."""

Petal = Callable[[float, float, float], str]
"""Path data of a petal that points up from the centre: inner radius, length, half width."""


def _leaf(r: float, n: float, w: float) -> str:
    return f"M0 {-r:g}Q{1.6 * w:g} {-r - n / 2:g} 0 {-r - n:g}Q{-1.6 * w:g} {-r - n / 2:g} 0 {-r:g}z"


def _drop(r: float, n: float, w: float) -> str:
    tip, turn = -r - n, -r - 0.62 * n
    return f"M0 {-r:g}C{1.3 * w:g} {turn:g} {w:g} {tip:g} 0 {tip:g}C{-w:g} {tip:g} {-1.3 * w:g} {turn:g} 0 {-r:g}z"


def _heart(r: float, n: float, w: float) -> str:
    dip, top = -r - 0.78 * n, -r - 1.14 * n
    return (
        f"M0 {-r:g}C{1.2 * w:g} {-r - 0.5 * n:g} {1.1 * w:g} {top:g} 0 {dip:g}"
        f"C{-1.1 * w:g} {top:g} {-1.2 * w:g} {-r - 0.5 * n:g} 0 {-r:g}z"
    )


def _diamond(r: float, n: float, w: float) -> str:
    return f"M0 {-r:g}L{w:g} {-r - 0.55 * n:g} 0 {-r - n:g} {-w:g} {-r - 0.55 * n:g}z"


def _tulip(r: float, n: float, w: float) -> str:
    return f"M0 {-r:g}L{w:g} {-r - n:g} 0 {-r - 0.72 * n:g} {-w:g} {-r - n:g}z"


def _ray(r: float, n: float, w: float) -> str:
    half, tip = 0.42 * w, -r - n + 0.42 * w
    return f"M{-half:g} {-r:g}V{tip:g}A{half:g} {half:g} 0 0 1 {half:g} {tip:g}V{-r:g}z"


def _gondola(r: float, n: float, w: float) -> str:
    ball, stalk = 0.72 * w, 0.2 * w
    low = -r - n + 2 * ball
    return (
        f"M{-stalk:g} {-r:g}V{low + 0.4:g}H{stalk:g}V{-r:g}z"
        f"M0 {low:g}A{ball:g} {ball:g} 0 0 1 0 {low - 2 * ball:g}A{ball:g} {ball:g} 0 0 1 0 {low:g}z"
    )


def _spear(r: float, n: float, w: float) -> str:
    neck, barb, tip = -r - 0.4 * n, -r - 0.5 * n, -r - n
    return f"M0 {-r:g}L{0.45 * w:g} {neck:g} {w:g} {barb:g} 0 {tip:g} {-w:g} {barb:g} {-0.45 * w:g} {neck:g}z"


def _fan(r: float, n: float, w: float) -> str:
    return f"M0 {-r:g}L{1.1 * w:g} {-r - 0.84 * n:g}Q0 {-r - 1.2 * n:g} {-1.1 * w:g} {-r - 0.84 * n:g}z"


def _blade(r: float, n: float, w: float) -> str:
    low, high, tip = -r - 0.25 * n, -r - 0.8 * n, -r - n
    return (
        f"M0 {-r:g}C{1.7 * w:g} {low:g} {1.2 * w:g} {high:g} {0.5 * w:g} {tip:g}"
        f"C{0.3 * w:g} {-r - 0.6 * n:g} {-0.3 * w:g} {low:g} 0 {-r:g}z"
    )


PETALS: Final[tuple[Petal, ...]] = (_leaf, _drop, _heart, _diamond, _tulip, _ray, _gondola, _spear, _fan, _blade)


@dataclass(frozen=True)
class Emblem:
    """What an emblem is made of. Lengths are in units of the 48 by 48 grid, `turn` in degrees."""

    petal: Petal
    count: int
    between: int
    ring: int
    heart: int
    turn: float
    length: float
    width: float
    dots: int


def emblem(slug: str, digest: str) -> Emblem:
    """The emblem of the weights `digest` under the name `slug`; an unknown digest (empty) has one too."""
    species = hashlib.sha256(f"species {slug}".encode()).digest()
    variety = hashlib.sha256(f"variety {digest or slug}".encode()).digest()
    count = 5 + species[1] % 8
    return Emblem(
        petal=PETALS[species[0] % len(PETALS)],
        count=count,
        between=species[2] % 4,
        ring=species[3] % 4,
        heart=species[4] % 5,
        turn=variety[0] / 256 * 360 / count,
        length=11.2 + variety[1] % 3 * 0.9,
        width=min(4.6, 30 / count) * (0.8 + variety[2] % 3 * 0.14),
        dots=variety[3] % 4,
    )


def draw(plan: Emblem) -> str:
    """The inside of an SVG of 48 by 48. Its colours come from the classes of base.css."""
    return "".join(["<circle class='emblem-disc' cx='24' cy='24' r='23'/>", *_parts(plan)])


def draw_plain() -> str:
    """The emblem of the base model: the disc, and nothing grown on it yet."""
    rings = "".join(f"<circle class='emblem-line' cx='24' cy='24' r='{radius}'/>" for radius in (8, 13.5, 19))
    heart = "<circle class='emblem-fill' cx='24' cy='24' r='3'/>"
    return f"<circle class='emblem-disc' cx='24' cy='24' r='23'/>{rings}{heart}"


def _parts(plan: Emblem) -> Iterator[str]:
    step = 360 / plan.count
    yield from _ring(plan)
    petal = plan.petal(6.2, plan.length, plan.width)
    yield from (_path(petal, plan.turn + step * index) for index in range(plan.count))
    yield from _between(plan, step)
    yield from _heart_of(plan.heart)


def _ring(plan: Emblem) -> Iterator[str]:
    if plan.ring == 1:
        yield "<circle class='emblem-line' cx='24' cy='24' r='21'/>"
    elif plan.ring == 2:
        yield from (_dot(21, index * 360 / 24, 0.85) for index in range(24))
    elif plan.ring == 3:
        yield "<circle class='emblem-line' cx='24' cy='24' r='13'/>"


def _between(plan: Emblem, step: float) -> Iterator[str]:
    """What stands between the petals; the digest's dots go out along the same lines."""
    angles = [plan.turn + step * (index + 0.5) for index in range(plan.count)]
    for angle in angles:
        if plan.between == 1:
            yield _path(_leaf(7.5, 6.5, 1.5), angle)
        elif plan.between == 2:
            yield _path("M-.5 -7.5V-15H.5V-7.5z", angle)
        elif plan.between == 3:
            yield _dot(10.5, angle, 1.1)
    for angle in angles[: plan.dots * 2]:
        yield _dot(17.6, angle, 1.1)


def _heart_of(kind: int) -> Iterator[str]:
    yield "<circle class='emblem-gap' cx='24' cy='24' r='6.6'/>"
    if kind in (0, 1, 2):
        yield f"<circle class='emblem-fill' cx='24' cy='24' r='{(5.2, 3.2, 5.2)[kind]}'/>"
    if kind in (1, 3):
        yield "<circle class='emblem-line' cx='24' cy='24' r='5.2'/>"
    if kind == 2:
        yield "<circle class='emblem-gap' cx='24' cy='24' r='2.2'/>"
    if kind == 4:
        yield from (_dot(3.6, index * 60, 1.3) for index in range(6))


def _path(data: str, angle: float) -> str:
    return f"<path class='emblem-fill' d='{data}' transform='translate({CENTRE} {CENTRE}) rotate({angle:.2f})'/>"


def _dot(radius: float, angle: float, size: float) -> str:
    place = f"translate({CENTRE} {CENTRE}) rotate({angle:.2f})"
    return f"<circle class='emblem-fill' cx='0' cy='{-radius:g}' r='{size:g}' transform='{place}'/>"
