"""Drawing aerial scenes: shapes given in metres, painted at any resolution with the same bytes on every machine.

Only additions, multiplications, divisions, square roots and comparisons of IEEE numbers are used, element by element:
trigonometric functions and sums differ in their last bit between processors. Shapes are sampled at ``SAMPLES`` x
``SAMPLES`` points per pixel; colours are averaged over them, labels are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Vector = tuple[float, float]
Tone = tuple[float, float, float]

SAMPLES = 2
LATTICE = 64
"""Random values along one side of a noise lattice, which then repeats."""


class Dice:
    """Random numbers drawn from ``Generator.random`` alone, whose stream for PCG64 is fixed."""

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def uniform(self, low: float, high: float) -> float:
        """From ``low`` up to, not including, ``high``."""
        return low + (high - low) * float(self._generator.random())

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return float(self._generator.random()) < probability

    def integer(self, low: int, high: int) -> int:
        """From ``low`` to ``high``, both included."""
        return low + int(float(self._generator.random()) * (high - low + 1))

    def pick(self, choices: Sequence[Tone]) -> Tone:
        """One of ``choices``, all equally likely."""
        return choices[self.integer(0, len(choices) - 1)]

    def direction(self, turn: float) -> Vector:
        """A unit vector within ``turn`` of the x axis, 1 being a right angle, by the rational half-angle formula."""
        half = self.uniform(-turn, turn)
        return (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)

    def field(self, *shape: int) -> Floats:
        """An array of values between 0 and 1."""
        return self._generator.random(shape).astype(np.float32)


@dataclass
class Box:
    """A rectangle: centre, unit vector along its length, and half its length and width, in metres."""

    center: Vector
    along: Vector
    half_length: float
    half_width: float

    def point(self, u: float, v: float) -> Vector:
        """The point ``u`` metres along the box and ``v`` across it from its centre."""
        (x, y), (ax, ay) = self.center, self.along
        return x + u * ax - v * ay, y + u * ay + v * ax

    @property
    def radius(self) -> float:
        """Metres from the centre to a corner."""
        return math.sqrt(self.half_length * self.half_length + self.half_width * self.half_width)


@dataclass
class Canvas:
    """Labels, colours and shade at the sample points of a picture that spans ``view_height`` metres."""

    height: int
    width: int
    view_height: float
    x: Floats = field(init=False)
    y: Floats = field(init=False)
    labels: NDArray[np.uint8] = field(init=False)
    colors: Floats = field(init=False)
    shaded: Bools = field(init=False)

    def __post_init__(self) -> None:
        rows, columns = self.height * SAMPLES, self.width * SAMPLES
        self.step = self.view_height / rows
        self.x = ((np.arange(columns) + (0.5 - columns / 2)) * self.step).astype(np.float32)
        self.y = ((np.arange(rows) + (0.5 - rows / 2)) * self.step).astype(np.float32)
        self.labels = np.zeros((rows, columns), np.uint8)
        self.colors = np.zeros((rows, columns, 3), np.float32)
        self.shaded = np.zeros((rows, columns), np.bool_)

    def noise(self, dice: Dice, cell: float) -> Floats:
        """Smooth noise between 0 and 1 over the whole picture, with features of ``cell`` metres (value noise)."""
        lattice = dice.field(LATTICE, LATTICE)
        shift = dice.uniform(0, LATTICE), dice.uniform(0, LATTICE)
        rows = _interpolate(lattice, self.y / np.float32(cell) + np.float32(shift[1]))
        return np.ascontiguousarray(_interpolate(rows.T, self.x / np.float32(cell) + np.float32(shift[0])).T)

    def window(self, center: Vector, radius: float) -> tuple[slice, slice] | None:
        """Rows and columns within ``radius`` metres of ``center``; None where that lies outside the picture."""
        spans = []
        for position, axis in ((center[1], self.y), (center[0], self.x)):
            origin = float(axis[0])
            first = max(0, math.floor((position - radius - origin) / self.step))
            last = min(len(axis), math.ceil((position + radius - origin) / self.step) + 1)
            if first >= last:
                return None
            spans.append(slice(first, last))
        return spans[0], spans[1]

    def local(self, place: tuple[slice, slice], box: Box) -> tuple[Floats, Floats]:
        """Coordinates of the points of a window along and across ``box``, from its centre, in metres."""
        dx = self.x[place[1]][None, :] - np.float32(box.center[0])
        dy = self.y[place[0]][:, None] - np.float32(box.center[1])
        ax, ay = np.float32(box.along[0]), np.float32(box.along[1])
        return dx * ax + dy * ay, dy * ax - dx * ay

    def paint(self, where: Bools, label: int, color: Floats, place: tuple[slice, slice] | None = None) -> None:
        """Give the points ``where`` of a window (None: the whole picture) a label and colours (broadcast)."""
        rows, columns = place or (slice(None), slice(None))
        self.labels[rows, columns][where] = label
        view = self.colors[rows, columns]
        view[where] = np.broadcast_to(color, view.shape)[where]
        self.shaded[rows, columns][where] = False

    def cast_shadow(self, box: Box, shadow: Vector) -> None:
        """Shade the ground that ``box`` sweeps over when moved by ``shadow``."""
        length = math.sqrt(shadow[0] * shadow[0] + shadow[1] * shadow[1])
        place = self.window(box.center, box.radius + length)
        if place is None:
            return
        u, v = self.local(place, box)
        ax, ay = box.along
        ranges = []
        for position, speed, half in (
            (u, shadow[0] * ax + shadow[1] * ay, box.half_length),
            (v, shadow[1] * ax - shadow[0] * ay, box.half_width),
        ):
            safe = np.float32(speed if abs(speed) > 1e-3 else 1e-3)
            ends = (position - np.float32(half)) / safe, (position + np.float32(half)) / safe
            ranges.append((np.minimum(*ends), np.maximum(*ends)))
        enter = np.maximum(np.maximum(ranges[0][0], ranges[1][0]), np.float32(0))
        leave = np.minimum(np.minimum(ranges[0][1], ranges[1][1]), np.float32(1))
        self.shaded[place] |= enter <= leave

    def picture(self, light: Floats, grain: float, dice: Dice) -> NDArray[np.uint8]:
        """Pixels (height, width, 3): shade, light and sensor noise applied, samples averaged, rounded."""
        lit = self.colors * np.where(self.shaded, np.float32(0.5), np.float32(1))[..., None] * light
        total = np.zeros((self.height, self.width, 3), np.float32)
        for row in range(SAMPLES):
            for column in range(SAMPLES):
                total += lit[row::SAMPLES, column::SAMPLES]
        sensor = (dice.field(self.height, self.width, 3) - np.float32(0.5)) * np.float32(2 * grain)
        pixels = total / np.float32(SAMPLES * SAMPLES) + sensor
        return np.floor(np.clip(pixels, 0, 255) + np.float32(0.5)).astype(np.uint8)

    def mask(self, dice: Dice, wobble: float) -> NDArray[np.uint8]:
        """Labels (height, width), their borders displaced by up to ``wobble`` metres as a hurried annotator would."""
        rows = np.arange(self.height)[:, None] * SAMPLES + SAMPLES // 2
        columns = np.arange(self.width)[None, :] * SAMPLES + SAMPLES // 2
        offsets = []
        for _ in range(2):
            smooth = self.noise(dice, 5.0)[rows, columns] - np.float32(0.5)
            offsets.append(np.rint(smooth * np.float32(2 * wobble / self.step)).astype(np.intp))
        rows = np.clip(rows + offsets[0], 0, len(self.y) - 1)
        columns = np.clip(columns + offsets[1], 0, len(self.x) - 1)
        labels: NDArray[np.uint8] = self.labels[rows, columns]
        return labels


def _interpolate(lattice: Floats, position: Floats) -> Floats:
    """Rows of a repeating lattice at fractional positions, blended with the smoothstep polynomial."""
    base = np.floor(position)
    part = position - base
    weight: Floats = (part * part * (np.float32(3) - np.float32(2) * part))[:, None]
    index = base.astype(np.intp) % len(lattice)
    blended: Floats = lattice[index] * (np.float32(1) - weight) + lattice[(index + 1) % len(lattice)] * weight
    return blended
