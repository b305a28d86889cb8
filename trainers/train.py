"""Train one trial alone, without Ray: ``python -m trainers.train config.yaml``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from omegaconf import OmegaConf

from trainers.checkpoint import CheckpointError
from trainers.config import TrialConfig
from trainers.datasets import DataError, open_dataset
from trainers.loop import TrainingError, train
from trainers.models import check_model
from trainers.settings import ConfigError


def main() -> int:
    """Parse, train, print one line an epoch; 2 on a mistake of the user's, 1 when training fails."""
    parser = argparse.ArgumentParser(prog="python -m trainers.train", description=__doc__)
    parser.add_argument("config", type=Path, help="TrialConfig as YAML, such as runs/<name>/trials/<id>/config.yaml")
    parser.add_argument("--folder", type=Path, default=Path("trial"), help="where checkpoints go (default: trial)")
    parser.add_argument("settings", nargs="*", help="settings to change, such as training.epochs=3")
    arguments = parser.parse_intermixed_args()
    try:
        config = read_config(arguments.config, arguments.settings)
        check_model(config.model)
        data = open_dataset(config.data)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for result in train(config, data, arguments.folder):
            print(
                f"epoch {result.epoch:>3}/{config.training.epochs}  mIoU {result.miou:.3f}  "
                f"train loss {result.train_loss:.3f}  val loss {result.val_loss:.3f}"
                f"  {result.images_per_s:.0f} images/s"
            )
    except (ConfigError, DataError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or arguments.folder} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Checkpoints: {arguments.folder}")
    return 0


def read_config(path: Path, settings: list[str]) -> TrialConfig:
    """The configuration in ``path`` with ``settings`` (dotted path=value) changed.

    Raises:
        ConfigError: no such file, not YAML, or not a trial's configuration.
    """
    if not path.is_file():
        raise ConfigError(f"There is no configuration file {path}.")
    return TrialConfig.load(path, OmegaConf.from_dotlist(settings))


if __name__ == "__main__":
    sys.exit(main())
