"""How close is a trial to its bare loop? Images per second with everything that a trial does, over those without.

``python tests/benchmarks/training_step.py [--space backbones] [--device cpu|cuda] [--height 96 --width 128] ...``
prints one JSON line for each architecture of the space. A trial's epochs have it all: reading, augmentation, transfer,
training, metrics, validation, checkpoints. The bare loop has the same forward, backward and optimizer steps, and the
forward passes of validation, in the same precision, on one batch that lies on the device already. The two take turns,
epoch by epoch, and ``trial_over_bare`` is the median of the turns' ratios of images per second, 1 being the limit.
Training has one thread on a CPU, as trials of a search have, and the other core is free for what is made ahead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import in_turns, spread

from spaces import Assignment, Space, shipped_spaces
from trainers.batches import count_batches
from trainers.config import TrialConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.loop import Trial, compute_logits, resolve_device, train, training_shape
from trainers.profiling import device_name


def architectures(space: Space, wanted: TrialConfig) -> Iterator[tuple[Assignment, TrialConfig]]:
    """What tells each architecture of the space from the others, and a trial of it."""
    base = wanted.replace(space.fixed)
    for point in space.enumerate("model.") or space.baselines:
        model = {path: value for path, value in point.items() if path.startswith("model.")}
        yield model, base.replace(model)


class Bare:
    """The model's own work in an epoch of a trial, and nothing else."""

    def __init__(self, config: TrialConfig, data: SegmentationData, *, compiled: bool = False) -> None:
        """``compiled``: by ``torch.compile``, in the first epoch."""
        self._trial = Trial(config, data)
        if compiled:
            self._trial.model.compile(dynamic=False)
        batch, height, width = training_shape(config)
        self.precision, self._steps = self._trial.precision, count_batches(len(data.train), batch)
        self._train = self._batch(batch, height, width)
        self._val = self._batch(batch, config.data.height, config.data.width)
        self._val_steps = -(-len(data.val) // batch)

    def epoch(self) -> None:
        """Its steps of training, then its forward passes of validation."""
        trial, (images, target) = self._trial, self._train
        trial.model.train()
        for _ in range(self._steps):
            loss = trial.loss(compute_logits(trial.model, images, trial.device, self.precision), target)
            trial.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            trial.optimizer.step()
        trial.model.eval()
        with torch.inference_mode():
            for _ in range(self._val_steps):
                trial.compute_logits(self._val[0])
        if trial.device.type == "cuda":
            torch.cuda.synchronize()

    def _batch(self, images: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        pixels = torch.randint(0, 256, (images, height, width, 3), dtype=torch.uint8, device=self._trial.device)
        truth = torch.randint(0, self._trial.data.num_classes, (images, height, width), device=self._trial.device)
        return pixels.permute(0, 3, 1, 2), truth


def compare(config: TrialConfig, turns: int) -> dict[str, Any]:
    """A trial and its bare loop, epoch by epoch in turns."""
    data = open_dataset(config.data)
    bare = Bare(config, data)
    exact = config.replace({"training.precision": bare.precision, "training.epochs": turns + 1})
    with tempfile.TemporaryDirectory() as folder:
        epochs = train(exact, data, Path(folder))
        pairs = in_turns(lambda: next(epochs), bare.epoch, turns)
    return {
        "precision": bare.precision,
        "images_per_s": round(len(data.train) / statistics.median(trial_s for trial_s, _ in pairs), 1),
    } | spread("trial_over_bare", (bare_s / trial_s for trial_s, bare_s in pairs), 3)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which trials."""
    parser.add_argument("--space", default="backbones", choices=sorted(shipped_spaces()), metavar="NAME")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, default=None, help="of the data set; default: all")


def base_trial(given: argparse.Namespace) -> TrialConfig:
    """What all trials have in common."""
    settings = {"data.height": given.height, "data.width": given.width, "data.max_images": given.images}
    return TrialConfig().replace(settings | {"training.batch_size": given.batch, "training.device": given.device})


def wanted(benchmark: str, given: argparse.Namespace) -> Iterator[tuple[dict[str, Any], TrialConfig]]:
    """A trial of each architecture of the space, with what its lines begin with."""
    space = Space.from_dict(given.space, shipped_spaces()[given.space])
    about = {"benchmark": benchmark, "device": device_name(resolve_device(given.device))}
    about |= {"height": given.height, "width": given.width, "batch": given.batch}
    for model, config in architectures(space, base_trial(given)):
        yield about | model, config


def main() -> None:
    """Measure each architecture and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for about, config in wanted("training_step", given):
        print(json.dumps(about | compare(config, given.turns)), flush=True)


if __name__ == "__main__":
    main()
