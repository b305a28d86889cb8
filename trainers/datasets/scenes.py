"""Built-in aerial scenes: the eight classes of FloodNet, drawn from a seed in seconds, without a download.

Made hard where aerial photographs are hard. Asphalt and muddy water share colour and texture, so width, course and
surroundings tell them apart. Vehicles are a few pixels on roads. Pools resemble clear ponds and blue roofs. Flat roofs
are as grey as roads, buildings cast shadows, label borders are slightly off. Validation pictures are from other
flights: other light, season, altitude and heading. ``tests/benchmarks/scene_factors.py`` measures that augmentation,
class weights, context and resolution each matter.
"""

from __future__ import annotations

import math
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

ROOFS: tuple[Tone, ...] = (
    (150, 84, 68),
    (128, 96, 80),
    (118, 116, 114),
    (98, 100, 104),
    (164, 160, 154),
    (74, 124, 168),
)
CARS: tuple[Tone, ...] = ((226, 226, 222), (44, 46, 50), (168, 44, 40), (150, 154, 158), (50, 76, 132), (206, 186, 150))


@dataclass(frozen=True)
class FlightRanges:
    """What the flights of one split are drawn from."""

    flights: int
    turn: float
    altitude: tuple[float, float]
    brightness: tuple[float, float]
    warmth: tuple[float, float]
    dryness: tuple[float, float]
    sun: tuple[Vector, ...]


TRAINING = FlightRanges(6, 0.15, (0.9, 1.1), (0.92, 1.08), (-0.04, 0.06), (0.0, 0.5), ((0.8, 0.5), (0.9, 0.2)))
VALIDATION = FlightRanges(10, 1.0, (0.75, 1.35), (0.8, 1.2), (-0.08, 0.08), (0.1, 0.8), ((-0.7, -0.6), (-0.2, -0.9)))


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
        sun = ranges.sun[dice.integer(0, len(ranges.sun) - 1)]
        stretch = dice.uniform(0.9, 1.6)
        brightness, warmth = dice.uniform(*ranges.brightness), dice.uniform(*ranges.warmth)
        light = (brightness * (1 + warmth), brightness, brightness * (1 - warmth))
        shadow = (sun[0] * stretch, sun[1] * stretch)
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
        self._ground()
        self._water()
        self._flat_area()
        roads = self._roads()
        houses = self._houses(roads)
        self._vehicles(roads)
        self._trees()
        light = np.array(self.flight.light, np.float32)
        assert houses is not None
        return self.canvas.picture(light, 5.0, self.dice), self.canvas.mask(self.dice, 0.5)

    def _textured(self, tone: Tone, fine: float, coarse: float) -> Floats:
        """A colour over the whole picture, varied by the two common textures."""
        grey = self.fine * np.float32(fine) + self.coarse * np.float32(coarse)
        return np.array(tone, np.float32) + grey[..., None]

    def _ground(self) -> None:
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

    def _water(self) -> None:
        canvas, dice = self.canvas, self.dice
        clear = (66.0, 132.0, 150.0)
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
            reach = np.float32(radius) + wander * np.float32(0.2)
            canvas.paint(u * u + v * v < reach * reach, WATER, self._textured(clear, 10, 8))

    def _flat_area(self) -> None:
        """A lake, a fallow field or a paved lot: alike inside, told apart by what lines their border far away."""
        canvas, dice = self.canvas, self.dice
        box = Box(
            (dice.uniform(-55, 55), dice.uniform(-40, 40)), self.heading, dice.uniform(24, 44), dice.uniform(20, 36)
        )
        label, rim = ((WATER, (58.0, 84.0, 44.0)), (BACKGROUND, (168.0, 152.0, 112.0)), (ROAD, (190.0, 188.0, 182.0)))[
            dice.integer(0, 2)
        ]
        tone, present = self._muddy(), dice.chance(0.8)
        wander = (canvas.noise(dice, 18.0) - np.float32(0.5)) * np.float32(10)
        if not present:
            return
        u, v = canvas.local(EVERYWHERE, box)
        inside = np.minimum(np.float32(box.half_length) - abs(u), np.float32(box.half_width) - abs(v)) + wander
        canvas.paint(inside > np.float32(-1.6), GRASS if label == WATER else BACKGROUND, self._textured(rim, 16, 10))
        canvas.paint(inside > 0, label, self._textured(tone, 10, 8))

    def _roads(self) -> list[Box]:
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

    def _houses(self, roads: list[Box]) -> list[Box]:
        dice, houses = self.dice, []
        for road in roads:
            for side in (-1, 1):
                position = -WORLD + dice.uniform(0, 20)
                while position < WORLD:
                    half_length, half_width = dice.uniform(4.5, 9), dice.uniform(3.5, 6)
                    back = road.half_width + dice.uniform(4, 10) + half_width
                    house = Box(road.point(position, side * back), road.along, half_length, half_width)
                    keep = dice.chance(0.7)
                    drawn = self._house(house, side, keep)
                    houses += [house] if drawn else []
                    position += 2 * half_length + dice.uniform(4, 16)
        return houses

    def _is(self, point: Vector, *labels: int) -> bool:
        """Whether the ground at ``point`` has one of ``labels``; outside the view nothing is known, and it has."""
        place = self.canvas.window(point, 0)
        return place is None or bool(np.isin(self.canvas.labels[place].ravel()[0], labels))

    def _house(self, house: Box, side: int, keep: bool) -> bool:
        dice, canvas = self.dice, self.canvas
        tone, storeys = dice.pick(ROOFS), dice.uniform(3, 8)
        gabled, pool, drive = dice.chance(0.6), dice.chance(0.16), dice.chance(0.5)
        pool_box = Box(
            house.point(dice.uniform(-5, 5), side * (house.half_width + dice.uniform(4, 6))),
            house.along,
            dice.uniform(2.6, 4.2),
            dice.uniform(1.6, 2.4),
        )
        corners = [
            house.point(u, v)
            for u in (-house.half_length, house.half_length)
            for v in (-house.half_width, house.half_width)
        ]
        if not keep or not all(self._is(corner, GRASS) for corner in corners):
            return False
        if drive:
            self._fill(
                Box(house.point(house.half_length + 2.5, -side * 4), house.along, 2.0, house.half_width + 6),
                BACKGROUND,
                (140, 138, 132),
                (GRASS,),
            )
        if pool:
            self._pool(pool_box)
        shadow = (self.flight.shadow[0] * storeys, self.flight.shadow[1] * storeys)
        canvas.cast_shadow(house, shadow)
        place = canvas.window(house.center, house.radius)
        if place is None:
            return True
        u, v = canvas.local(place, house)
        inside = (abs(u) < np.float32(house.half_length)) & (abs(v) < np.float32(house.half_width))
        color = (
            self._textured(tone, 10, 6)[place]
            if False
            else np.array(tone, np.float32) + (self.fine[place] * np.float32(12))[..., None]
        )
        if gabled:
            slope = -self.flight.shadow[1] * house.along[0] + self.flight.shadow[0] * house.along[1]
            color = color * (1 + np.where(v > 0, np.float32(0.18 * slope), np.float32(-0.18 * slope)))[..., None]
        canvas.paint(inside, BUILDING, color, place)
        return True

    def _fill(self, box: Box, label: int, tone: Tone, over: tuple[int, ...]) -> None:
        place = self.canvas.window(box.center, box.radius)
        if place is None:
            return
        u, v = self.canvas.local(place, box)
        inside = (abs(u) < np.float32(box.half_length)) & (abs(v) < np.float32(box.half_width))
        inside &= np.isin(self.canvas.labels[place], over)
        color = np.array(tone, np.float32) + (self.fine[place] * np.float32(12))[..., None]
        self.canvas.paint(inside, label, color, place)

    def _pool(self, pool: Box) -> None:
        if not self._is(pool.center, GRASS):
            return
        deck = Box(pool.center, pool.along, pool.half_length + 0.9, pool.half_width + 0.9)
        self._fill(deck, BACKGROUND, (176, 170, 158), (GRASS, BACKGROUND))
        self._fill(pool, POOL, (84, 152, 172), (BACKGROUND,))

    def _vehicles(self, roads: list[Box]) -> None:
        dice = self.dice
        for road in roads:
            for _ in range(7):
                position, lane = dice.uniform(-WORLD, WORLD), 1 if dice.chance(0.5) else -1
                tone, length = dice.pick(CARS), dice.uniform(1.9, 2.6)
                car = Box(road.point(position, lane * road.half_width * 0.5), road.along, length, 0.95)
                if not self._is(car.center, ROAD):
                    continue
                self.canvas.cast_shadow(car, (self.flight.shadow[0] * 1.4, self.flight.shadow[1] * 1.4))
                self._fill(car, VEHICLE, tone, (ROAD,))
                glass = Box(car.point(lane * length * 0.35, 0), road.along, 0.35, 0.8)
                self._fill(glass, VEHICLE, (40, 48, 56), (VEHICLE,))

    def _trees(self) -> None:
        dice = self.dice
        for _ in range(70):
            clump = dice.uniform(-WORLD, WORLD), dice.uniform(-WORLD, WORLD)
            spread = dice.uniform(3, 14)
            for _ in range(dice.integer(1, 12)):
                center = clump[0] + dice.uniform(-spread, spread), clump[1] + dice.uniform(-spread, spread)
                self._tree(center, dice.uniform(1.7, 4.2), dice.uniform(0.85, 1.15))

    def _tree(self, center: Vector, radius: float, vigour: float) -> None:
        canvas, (sx, sy) = self.canvas, self.flight.shadow
        place = canvas.window(center, 3.0 * radius)
        if place is None or not self._is(center, GRASS, TREE):
            return
        crown = Box(center, (1.0, 0.0), radius, radius)
        u, v = canvas.local(place, crown)
        du, dv = u - np.float32(sx * radius), v - np.float32(sy * radius)
        canvas.shaded[place] |= (du * du + dv * dv < np.float32(radius * radius)) & (canvas.labels[place] != TREE)
        ragged = np.float32(radius) * (1 + self.coarse[place] * np.float32(0.5))
        lit = -(u * np.float32(sx) + v * np.float32(sy)) / np.float32(radius * math.sqrt(sx * sx + sy * sy))
        grain = self.fine[place] * np.float32(34) + lit * np.float32(16)
        dry = self.flight.dryness
        tone = np.array((50 + 26 * dry, 78 + 6 * dry, 42 + 4 * dry), np.float32) * np.float32(vigour)
        canvas.paint(u * u + v * v < ragged * ragged, TREE, tone + grain[..., None], place)
