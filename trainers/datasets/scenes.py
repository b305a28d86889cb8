"""Built-in aerial scenes: the eight classes of FloodNet, drawn from a seed in seconds, without a download.

Made hard where aerial photographs are hard. Asphalt and muddy water share colour and texture, so width, course and
surroundings tell them apart. Vehicles are a few pixels on roads. Pools resemble clear ponds and blue roofs. Flat roofs
are as grey as roads, buildings cast shadows, label borders are slightly off. Validation pictures are from other
flights: other light, season, altitude and heading. ``tests/benchmarks/scene_factors.py`` measures that augmentation,
class weights, context and resolution each matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.config import DataConfig
from trainers.datasets.canvas import Box, Canvas, Dice, Floats, Tone, Vector
from trainers.datasets.floodnet import CLASSES
from trainers.datasets.samples import Listing, apply_split

GENERATOR_VERSION = 1
"""To be raised whenever the same seed gives other bytes."""

TRAIN_SCENES, VAL_SCENES = 240, 60
BACKGROUND, BUILDING, ROAD, WATER, TREE, VEHICLE, POOL, GRASS = range(8)
WORLD = 160.0
"""Half the side in metres of the square that objects are placed in; views are about 96 m high."""

EVERYWHERE = (slice(None), slice(None))

FLAT_AREAS: tuple[tuple[int, int, Tone], ...] = (
    (WATER, GRASS, (58, 84, 44)),
    (BACKGROUND, BACKGROUND, (168, 152, 112)),
    (ROAD, BACKGROUND, (190, 188, 182)),
)
"""Lake behind reeds, fallow field behind a dry verge, paved lot behind a kerb: label, label of the rim, its colour."""

ROOFS: tuple[Tone, ...] = (
    (150, 84, 68),
    (128, 96, 80),
    (118, 116, 114),
    (98, 100, 104),
    (164, 160, 154),
    (74, 124, 168),
)
CARS: tuple[Tone, ...] = ((226, 226, 222), (44, 46, 50), (168, 44, 40), (150, 154, 158), (50, 76, 132), (206, 186, 150))


@dataclass(frozen=True, kw_only=True)
class FlightRanges:
    """What the flights of one split are drawn from; pairs are lowest and highest value."""

    flights: int
    turn: float
    """Largest angle of the roads to the picture's horizontal axis, in right angles."""
    altitude: tuple[float, float]
    """Height above ground, 1 showing 96 m from top to bottom."""
    brightness: tuple[float, float]
    warmth: tuple[float, float]
    """Relative gain of red, and loss of blue."""
    dryness: tuple[float, float]
    """Season, from 0 (all green) to 1 (straw)."""
    shadows: tuple[Vector, ...]
    """Directions that shadows fall in, x to the right and y down, before a stretch of 0.9 to 1.6 metres per metre."""


TRAINING = FlightRanges(
    flights=6,
    turn=0.15,
    altitude=(0.9, 1.1),
    brightness=(0.92, 1.08),
    warmth=(-0.04, 0.06),
    dryness=(0.0, 0.5),
    shadows=((0.8, 0.5), (0.9, 0.2)),
)
VALIDATION = FlightRanges(
    flights=10,
    turn=1.0,
    altitude=(0.75, 1.35),
    brightness=(0.8, 1.2),
    warmth=(-0.08, 0.08),
    dryness=(0.1, 0.8),
    shadows=((-0.7, -0.6), (-0.2, -0.9)),
)


@dataclass(frozen=True)
class Flight:
    """What the pictures of one flight share. ``shadow`` is metres of shadow per metre of height."""

    shadow: Vector
    light: Tone
    dryness: float
    altitude: float

    @classmethod
    def draw(cls, ranges: FlightRanges, dice: Dice) -> Flight:
        """One flight of a split."""
        fall = ranges.shadows[dice.integer(0, len(ranges.shadows) - 1)]
        stretch = dice.uniform(0.9, 1.6)
        brightness, warmth = dice.uniform(*ranges.brightness), dice.uniform(*ranges.warmth)
        light = (brightness * (1 + warmth), brightness, brightness * (1 - warmth))
        shadow = (fall[0] * stretch, fall[1] * stretch)
        return cls(shadow, light, dice.uniform(*ranges.dryness), dice.uniform(*ranges.altitude))


@dataclass(frozen=True)
class Scene:
    """One picture, named by its seed, split and number."""

    seed: int
    split: str
    number: int

    @property
    def name(self) -> str:
        """Split and number."""
        return f"{self.split}/{self.number:03d}"

    def fingerprint(self) -> str:
        """Generator version, seed and name decide the bytes."""
        return f"scene {GENERATOR_VERSION} {self.seed} {self.name}"

    def load(self, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str | None]:
        """Draw image and mask; a higher resolution shows more detail of the same scene."""
        part, ranges = (0, TRAINING) if self.split == "train" else (1, VALIDATION)
        flight = Flight.draw(ranges, Dice(self.seed, part, self.number % ranges.flights))
        return *_Painter(flight, ranges, Dice(self.seed, part, self.number, 1), height, width).draw(), None


def list_scenes(config: DataConfig) -> Listing:
    """Training and validation scenes; ``data.split_seed`` is the seed of the pictures."""
    train = tuple(Scene(config.split_seed, "train", number) for number in range(TRAIN_SCENES))
    val = tuple(Scene(config.split_seed, "val", number) for number in range(VAL_SCENES))
    return apply_split(Listing(train, val, CLASSES), config, "validation: scenes of other flights")


class _Painter:
    """Draws one scene from the ground up; every step draws its random numbers whether or not it is in view."""

    def __init__(self, flight: Flight, ranges: FlightRanges, dice: Dice, height: int, width: int) -> None:
        self.flight, self.dice = flight, dice
        view_height = 96.0 * flight.altitude * min(1.0, height / width * 4 / 3)
        self.canvas = Canvas(height, width, view_height)
        self.heading = dice.direction(ranges.turn)
        self.fine = self.canvas.noise(dice, 0.9) - np.float32(0.5)
        self.coarse = self.canvas.noise(dice, 3.5) - np.float32(0.5)

    def draw(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and mask."""
        self._ground()
        self._water()
        self._flat_area()
        roads = self._roads()
        self._houses(roads)
        self._vehicles(roads)
        self._trees()
        # The mask first: sensor noise takes as many random numbers as there are pixels.
        mask = self.canvas.mask(self.dice, 0.5)
        return self.canvas.picture(np.array(self.flight.light, np.float32), 5.0, self.dice), mask

    def _textured(self, tone: Tone, fine: float, coarse: float) -> Floats:
        """A colour over the whole picture, varied by the two common textures."""
        grey = self.fine * np.float32(fine) + self.coarse * np.float32(coarse)
        return np.array(tone, np.float32) + grey[..., None]

    def _ground(self) -> None:
        """Grass from lush to dry, with patches of bare soil."""
        canvas, dice, dry = self.canvas, self.dice, self.flight.dryness
        lush, straw = (84.0, 112.0, 58.0), (142.0, 134.0, 84.0)
        patch = canvas.noise(dice, 22.0)
        mix = np.clip((patch - np.float32(0.5)) * np.float32(0.9) + np.float32(0.6 * dry), 0, 1)[..., None]
        grass = self._textured(lush, 26, 22) * (1 - mix) + self._textured(straw, 26, 22) * mix
        canvas.paint(np.ones_like(canvas.shaded), GRASS, grass)
        bare = canvas.noise(dice, 17.0) + self.coarse * np.float32(0.15) > np.float32(0.80)
        canvas.paint(bare, BACKGROUND, self._textured((146, 128, 100), 22, 26))

    def _muddy(self) -> Tone:
        """A colour that asphalt and silty water share."""
        grey, brown = self.dice.uniform(92, 128), self.dice.uniform(-2, 12)
        return grey + brown, grey + brown / 2, grey - brown

    def _clear(self) -> Tone:
        """A blue that pools and clear ponds share."""
        depth = self.dice.uniform(0.8, 1.15)
        return 74 * depth, 142 * depth, 162 * depth

    def _water(self) -> None:
        """A muddy river in some scenes, and clear ponds of the colour of pools."""
        canvas, dice = self.canvas, self.dice
        center, along = (dice.uniform(-60, 60), dice.uniform(-45, 45)), dice.direction(1.0)
        half, tone = dice.uniform(5, 10), self._muddy()
        wander = (canvas.noise(dice, 48.0) - np.float32(0.5)) * np.float32(24)
        if dice.chance(0.4):
            _, across = canvas.local(EVERYWHERE, Box(center, along, 1, 1))
            canvas.paint(abs(across + wander) < np.float32(half), WATER, self._textured(tone, 10, 8))
        for _ in range(2):
            spot = Box((dice.uniform(-80, 80), dice.uniform(-60, 60)), dice.direction(1.0), 1, 1)
            radius, long = dice.uniform(5, 10), dice.uniform(1.0, 1.8)
            u, v = canvas.local(EVERYWHERE, spot)
            u = u / np.float32(long)
            clear = self._clear()
            reach = np.float32(radius) + wander * np.float32(0.2)
            canvas.paint(u * u + v * v < reach * reach, WATER, self._textured(clear, 10, 8))

    def _flat_area(self) -> None:
        """A lake, a field or a paved lot: alike inside, told apart by what lines their border, far from the middle."""
        canvas, dice = self.canvas, self.dice
        center = dice.uniform(-55, 55), dice.uniform(-40, 40)
        box = Box(center, self.heading, dice.uniform(24, 44), dice.uniform(20, 36))
        label, rim_label, rim_tone = FLAT_AREAS[dice.integer(0, len(FLAT_AREAS) - 1)]
        tone, present = self._muddy(), dice.chance(0.8)
        wander = (canvas.noise(dice, 18.0) - np.float32(0.5)) * np.float32(10)
        if not present:
            return
        u, v = canvas.local(EVERYWHERE, box)
        inside = np.minimum(np.float32(box.half_length) - abs(u), np.float32(box.half_width) - abs(v)) + wander
        canvas.paint(inside > np.float32(-1.6), rim_label, self._textured(rim_tone, 16, 10))
        canvas.paint(inside > 0, label, self._textured(tone, 10, 8))

    def _roads(self) -> list[Box]:
        """Parallel roads along the heading, often one across, with lane marks that only high resolutions show."""
        dice, (hx, hy) = self.dice, self.heading
        asphalt, offset, distance = self._muddy(), dice.uniform(-30, 30), dice.uniform(70, 110)
        half = dice.uniform(3.2, 4.4)
        roads = [Box((-hy * shift, hx * shift), (hx, hy), WORLD, half) for shift in (offset, offset + distance)]
        cross = dice.uniform(-60, 60)
        side = Box((hx * cross, hy * cross), (-hy, hx), WORLD, half * 0.8)
        if dice.chance(0.6):
            roads.append(side)
        surface = self._textured(asphalt, 10, 8)
        for road in roads:
            u, v = self.canvas.local(EVERYWHERE, road)
            self.canvas.paint(abs(v) < np.float32(road.half_width), ROAD, surface)
            dash = (u / 6 - np.floor(u / 6) < np.float32(0.5)) & (abs(v) < np.float32(0.14))
            self.canvas.paint(dash, ROAD, np.array((214, 212, 204), np.float32))
        return roads

    def _houses(self, roads: list[Box]) -> None:
        """Rows of houses on both sides of the roads, where there is grass."""
        dice = self.dice
        for road in roads:
            for side in (-1, 1):
                position = -WORLD + dice.uniform(0, 20)
                while position < WORLD:
                    half_length, half_width = dice.uniform(4.5, 9), dice.uniform(3.5, 6)
                    back = road.half_width + dice.uniform(4, 10) + half_width
                    house = Box(road.point(position, side * back), road.along, half_length, half_width)
                    self._property(house, side, built=dice.chance(0.85))
                    position += 2 * half_length + dice.uniform(4, 14)

    def _property(self, house: Box, side: int, built: bool) -> None:
        """A house, perhaps with a drive to the road and a pool behind; nothing unless ``built``."""
        dice, half_length, half_width = self.dice, house.half_length, house.half_width
        tone, height, gabled = dice.pick(ROOFS), dice.uniform(3, 8), dice.chance(0.6)
        has_pool, has_drive = dice.chance(0.16), dice.chance(0.5)
        behind = house.point(dice.uniform(-5, 5), side * (half_width + dice.uniform(4, 6)))
        pool, blue = Box(behind, house.along, dice.uniform(2.6, 4.2), dice.uniform(1.6, 2.4)), self._clear()
        corners = [house.point(u, v) for u in (-half_length, half_length) for v in (-half_width, half_width)]
        if not built or not all(self._stands_on(corner, GRASS) for corner in corners):
            return
        if has_drive:
            drive = Box(house.point(half_length + 2.5, -side * 4), house.along, 2.0, half_width + 6)
            self._fill(drive, BACKGROUND, (140, 138, 132), over=(GRASS,))
        if has_pool and self._stands_on(pool.center, GRASS):
            deck = Box(pool.center, pool.along, pool.half_length + 0.9, pool.half_width + 0.9)
            self._fill(deck, BACKGROUND, (176, 170, 158), over=(GRASS, BACKGROUND))
            self._fill(pool, POOL, blue, over=(BACKGROUND,))
        self.canvas.cast_shadow(house, self._shadow(height))
        self._roof(house, tone, gabled)

    def _roof(self, house: Box, tone: Tone, gabled: bool) -> None:
        """A flat roof, or two halves along the ridge of which one faces the sun."""
        sx, sy = self.flight.shadow
        slope = 0.18 * (sx * house.along[1] - sy * house.along[0]) if gabled else 0.0
        for side in (-1, 1):
            shade = 1 + side * slope
            lit = (tone[0] * shade, tone[1] * shade, tone[2] * shade)
            half = Box(
                house.point(0, side * house.half_width / 2), house.along, house.half_length, house.half_width / 2
            )
            self._fill(half, BUILDING, lit, over=range(8))

    def _shadow(self, height: float) -> Vector:
        return self.flight.shadow[0] * height, self.flight.shadow[1] * height

    def _stands_on(self, point: Vector, *labels: int) -> bool:
        """Whether the ground at ``point`` has one of ``labels``; taken for granted outside the view."""
        place = self.canvas.window(point, 0)
        return place is None or bool(np.isin(self.canvas.labels[place].ravel()[0], labels))

    def _fill(self, box: Box, label: int, tone: Tone, over: Sequence[int]) -> None:
        """Paint a box of one slightly grainy colour where the ground has one of the labels ``over``."""
        place = self.canvas.window(box.center, box.radius)
        if place is None:
            return
        u, v = self.canvas.local(place, box)
        inside = (abs(u) <= np.float32(box.half_length)) & (abs(v) <= np.float32(box.half_width))
        inside &= np.isin(self.canvas.labels[place], over)
        color = np.array(tone, np.float32) + (self.fine[place] * np.float32(12))[..., None]
        self.canvas.paint(inside, label, color, place)

    def _vehicles(self, roads: list[Box]) -> None:
        """A few cars, in lane; only where the road is seen."""
        dice = self.dice
        for road in roads:
            for _ in range(7):
                position, lane = dice.uniform(-WORLD, WORLD), 1 if dice.chance(0.5) else -1
                tone, length = dice.pick(CARS), dice.uniform(1.9, 2.6)
                car = Box(road.point(position, lane * road.half_width * 0.5), road.along, length, 0.95)
                if not self._stands_on(car.center, ROAD):
                    continue
                self.canvas.cast_shadow(car, self._shadow(1.4))
                self._fill(car, VEHICLE, tone, over=(ROAD,))
                glass = Box(car.point(lane * length * 0.35, 0), road.along, 0.35, 0.8)
                self._fill(glass, VEHICLE, (40, 48, 56), over=(VEHICLE,))

    def _trees(self) -> None:
        """Clumps of one to twelve crowns."""
        dice = self.dice
        for _ in range(70):
            clump = dice.uniform(-WORLD, WORLD), dice.uniform(-WORLD, WORLD)
            spread = dice.uniform(3, 14)
            for _ in range(dice.integer(1, 12)):
                center = clump[0] + dice.uniform(-spread, spread), clump[1] + dice.uniform(-spread, spread)
                self._tree(center, dice.uniform(1.7, 4.2), dice.uniform(0.85, 1.15))

    def _tree(self, center: Vector, radius: float, vigour: float) -> None:
        """A ragged crown, lit from the sun's side, and its shadow; it may hang over a road or a roof."""
        canvas, (sx, sy) = self.canvas, self.flight.shadow
        place = canvas.window(center, 3.0 * radius)
        if place is None or not self._stands_on(center, GRASS, TREE):
            return
        crown = Box(center, (1.0, 0.0), radius, radius)
        u, v = canvas.local(place, crown)
        du, dv = u - np.float32(sx * radius), v - np.float32(sy * radius)
        canvas.shaded[place] |= (du * du + dv * dv < np.float32(radius * radius)) & (canvas.labels[place] != TREE)
        ragged = np.float32(radius) * (1 + self.coarse[place] * np.float32(0.5))
        lit = -(u * np.float32(sx) + v * np.float32(sy)) / np.float32(radius * math.sqrt(sx * sx + sy * sy))
        grain = self.fine[place] * np.float32(34) + lit * np.float32(16)
        dry = self.flight.dryness
        tone = np.array([vigour * part for part in (50 + 26 * dry, 78 + 6 * dry, 42 + 4 * dry)], np.float32)
        color = (tone + grain[..., None]).astype(np.float32)
        canvas.paint(u * u + v * v < ragged * ragged, TREE, color, place)
