#!/usr/bin/env python3
"""Draws docs/structure.svg from the imports: rooms on their floors, and an arrow where one needs another.

Floors are those of the import contracts. An arrow that follows from others is left out: who needs the engine needs the
decoders. `bin/draw_structure.py -` writes to the standard output.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Final

from source import Module, imports, modules

REPO: Final = Path(__file__).parents[1]
TITLES: Final = {"loraland": "loraland · the site", "inference": "inference · the torch side"}
WIDTH, HEIGHT, GAP, LANE, STOREY, TOP = 116, 46, 18, 26, 92, 58
UNTOLD: Final = ("management", "templatetags", "migrations")
STYLE: Final = """
  .paper { fill: #fbfaf6 } .house { fill: #f1eee6; stroke: #d8d2c4 }
  .room { fill: #ffffff; stroke: #8a7f6a; stroke-width: 1.2 } .way { fill: none; stroke: #8a7f6a; stroke-width: 1.3 }
  .head, .door { fill: #8a7f6a } text { fill: #2b2a27; font: 14px system-ui, sans-serif; text-anchor: middle }
  .small { font-size: 11px; fill: #6b665b } .title { font-size: 15px; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #17181b } .house { fill: #1f2125; stroke: #33363c }
    .room { fill: #2a2d33; stroke: #9a927f } .way { stroke: #9a927f } .head, .door { fill: #9a927f }
    text { fill: #ece9e1 } .small { fill: #aba697 }
  }
"""


@dataclass(eq=False)
class Place:
    """A room, or, without a name, where a long arrow passes a floor."""

    name: str = ""
    parts: tuple[str, ...] = ()
    is_door: bool = False
    below: list[Place] = field(default_factory=list)
    x: float = 0
    y: float = 0

    @property
    def width(self) -> int:
        return WIDTH if self.name else LANE


def main() -> None:
    drawing = draw(REPO)
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(drawing)
    else:
        (REPO / "docs" / "structure.svg").write_text(drawing, encoding="utf-8")


def draw(repo: Path) -> str:
    known = modules(repo)
    houses = {house: _storeys(house, known, floors) for house, floors in _floors(repo).items()}
    shapes: list[str] = []
    left, bottom = 16.0, max(map(_depth, houses.values()))
    for house, storeys in houses.items():
        width = max(_breadth(storey) for storey in storeys) + 2 * GAP
        _settle(storeys, left + width / 2)
        size = f'width="{width:.0f}" height="{_depth(storeys) - 16}"'
        shapes += [f'<rect class="house" x="{left:.0f}" y="16" {size} rx="14"/>']
        shapes += [_text(left + width / 2, 42, TITLES[house], "title"), *_shapes(storeys)]
        left += width + 2 * GAP
    total = left - GAP - 2
    words = "An arrow: needs, also for what comes below. A dot: what the site imports of the torch side."
    shapes.append(_text(total / 2, bottom + 28, words, "small"))
    body = "\n".join(shapes)
    size = f'viewBox="0 0 {total:.0f} {bottom + 46}" width="{total:.0f}" height="{bottom + 46}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>The rooms of both houses</title>\n'
        f'<style>{STYLE}</style>\n<rect class="paper" width="100%" height="100%" rx="10"/>\n{body}\n</svg>\n'
    )


def _floors(repo: Path) -> dict[str, list[list[str]]]:
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))
    layers = [contract for contract in project["tool"]["importlinter"]["contracts"] if contract["type"] == "layers"]
    return {
        contract["containers"][0]: [[room.strip() for room in floor.split("|")] for floor in contract["layers"]]
        for contract in layers
        if contract["containers"][0] in TITLES
    }


def _storeys(house: str, known: dict[str, Module], floors: list[list[str]]) -> list[list[Place]]:
    """The floors with their rooms, joined by arrows that go from one floor to the next."""
    needs = _needs(known)
    doors = {room for rooms in (needs[name] for name in needs if name.startswith("loraland")) for room in rooms}
    places = {
        f"{house}.{room}": Place(
            room, _parts(f"{house}.{room}", known), f"{house}.{room}" in doors and house != "loraland"
        )
        for floor in floors
        for room in floor
    }
    storeys = [[places[f"{house}.{room}"] for room in floor] for floor in floors]
    level = {name: number for number, floor in enumerate(floors) for name in (f"{house}.{room}" for room in floor)}
    inside = {name: {room for room in needs.get(name, ()) if level.get(room, -1) > level[name]} for name in places}
    for name, rooms in inside.items():
        for room in sorted(rooms - {far for near in rooms for far in _reached(near, inside)}):
            _join(places[name], places[room], storeys[level[name] + 1 : level[room]])
    return storeys


def _needs(known: dict[str, Module]) -> dict[str, set[str]]:
    needs: dict[str, set[str]] = {}
    for name, module in known.items():
        needs.setdefault(_room(name), set()).update(_room(other) for other in imports(module, known))
    return needs


def _reached(room: str, needs: dict[str, set[str]]) -> set[str]:
    return {far for near in needs[room] for far in {near, *_reached(near, needs)}}


def _room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _parts(room: str, known: dict[str, Module]) -> tuple[str, ...]:
    inside = (name.removeprefix(f"{room}.") for name in known if name.startswith(f"{room}.") and known[name].is_package)
    return tuple(sorted(name for name in inside if "." not in name and name not in UNTOLD))


def _join(upper: Place, lower: Place, between: Iterable[list[Place]]) -> None:
    for storey in between:
        lane = Place()
        storey.append(lane)
        upper.below.append(lane)
        upper = lane
    upper.below.append(lower)


def _breadth(storey: list[Place]) -> float:
    return sum(place.width for place in storey) + GAP * (len(storey) - 1)


def _depth(storeys: list[list[Place]]) -> int:
    return TOP + STOREY * (len(storeys) - 1) + HEIGHT + 20


def _settle(storeys: list[list[Place]], middle: float) -> None:
    """Give every place its spot. The order of a floor follows what its places are joined to: so few arrows cross."""
    above: dict[Place, list[Place]] = {}
    for storey in storeys:
        for place in storey:
            for lower in place.below:
                above.setdefault(lower, []).append(place)
    for _ in range(8):
        for number, storey in enumerate(storeys):
            _spread(storey, middle, TOP + STOREY * number, {place: above.get(place, []) for place in storey})
        for number, storey in reversed(list(enumerate(storeys))):
            _spread(storey, middle, TOP + STOREY * number, {place: place.below for place in storey})


def _spread(storey: list[Place], middle: float, y: float, joined: dict[Place, list[Place]]) -> None:
    spots = {place: sum(other.x for other in others) / len(others) for place, others in joined.items() if others}
    storey.sort(key=lambda place: spots.get(place, place.x))
    left = middle - _breadth(storey) / 2
    for place in storey:
        place.x, place.y = left + place.width / 2, y
        left += place.width + GAP


def _shapes(storeys: list[list[Place]]) -> list[str]:
    rooms = [place for storey in storeys for place in storey if place.name]
    ways = [_way([place, *lanes]) for place in rooms for lanes in _ways(place)]
    return [*ways, *(shape for place in rooms for shape in _box(place))]


def _ways(place: Place) -> list[list[Place]]:
    """Every way down from `place` to the next room, lanes included."""
    return [
        [lower] if lower.name else [lower, *way]
        for lower in place.below
        for way in (_ways(lower) if not lower.name else [[]])
    ]


def _way(places: list[Place]) -> str:
    points = [(places[0].x, places[0].y + HEIGHT)]
    for place in places[1:-1]:
        points += [(place.x, place.y), (place.x, place.y + HEIGHT)]
    points.append((places[-1].x, places[-1].y - 6))
    path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for (x, y), (to_x, to_y) in pairwise(points):
        path += f" C{x:.0f} {(y + to_y) / 2:.0f} {to_x:.0f} {(y + to_y) / 2:.0f} {to_x:.0f} {to_y:.0f}"
    x, y = points[-1]
    head = f'<path class="head" d="M{x - 4:.0f} {y - 1:.0f}h8l-4 7z"/>'
    return f'<path class="way" d="{path}"/>{head}'


def _box(place: Place) -> list[str]:
    x, y = place.x - WIDTH / 2, place.y
    shapes = [f'<rect class="room" x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>']
    shapes.append(_text(place.x, y + (21 if place.parts else 28), place.name))
    if place.parts:
        shapes.append(_text(place.x, y + 37, " · ".join(place.parts), "small"))
    if place.is_door:
        shapes.append(f'<circle class="door" cx="{x + 10:.0f}" cy="{y + 10:.0f}" r="3.5"/>')
    return shapes


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.0f}" y="{y:.0f}">{escape(words)}</text>'


if __name__ == "__main__":
    main()
