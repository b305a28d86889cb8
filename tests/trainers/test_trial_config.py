"""TrialConfig: what it keeps, what it refuses, and the command that trains one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainers.config import TrialConfig
from trainers.settings import ConfigError
from trainers.train import main

ROOT = Path(__file__).parents[2]
CHANGES: dict[str, Any] = {
    "model.architecture": "deeplab",
    "model.aspp_rates": [2, 4],
    "data.crop": 32,
    "data.val_fraction": 0.25,
    "augmentation.policy": "strong",
    "loss.class_weights": "inverse_frequency",
    "optimizer.name": "sgd",
    "optimizer.lr": 3.3e-4,
    "schedule.milestones": [1, 2],
    "training.epochs": 3,
}
TINY = {
    "data.height": 32,
    "data.width": 32,
    "data.max_images": 8,
    "model.size": "small",
    "model.base_channels": 4,
    "training.epochs": 2,
    "training.batch_size": 4,
    "training.precision": "fp32",
    "training.device": "cpu",
}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    config = TrialConfig().replace(CHANGES)
    config.save(tmp_path / "config.yaml")
    assert TrialConfig.load(tmp_path / "config.yaml") == config
    assert TrialConfig.from_dict(config.to_dict()) == config
    assert TrialConfig.from_dict({}) == TrialConfig()


def test_replace_changes_what_it_names_and_nothing_else() -> None:
    base = TrialConfig()
    changed = base.replace(CHANGES)
    assert changed.optimizer.lr == 3.3e-4
    assert changed.model.aspp_rates == [2, 4]
    assert (changed.optimizer.momentum, changed.data.height) == (base.optimizer.momentum, base.data.height)
    assert base == TrialConfig()


def test_a_config_cannot_be_changed_in_place() -> None:
    config = TrialConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.optimizer.lr = 1.0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model = config.model  # type: ignore[misc]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model.architecture": "unett"}, r"model.architecture must be one of unet, resunet.*'unett'.*mean 'unet'\?"),
    ({"model.size": "big"}, "model.size must be one of original, medium, small; got 'big'"),
    ({"model.base_channels": 0}, "model.base_channels must be at least 1; got 0"),
    ({"model.backbone": "resnet19"}, r"model.backbone must be one of.*Did you mean 'resnet18'\?"),
    ({"model.aspp_rates": []}, r"model.aspp_rates must be a non-empty list.*got \[\]"),
    ({"model.aspp_rates": [6, 0]}, r"rates of at least 1; got \[6, 0\]"),
    ({"model.output_stride": 4}, "model.output_stride must be 8, 16 or 32; got 4"),
    ({"model.decoder_channels": 0}, "model.decoder_channels must be at least 1 or null; got 0"),
    ({"model.architecture": "smp.Unett"}, r"model.architecture must be one of.*Did you mean 'smp.Unet'\?"),
    ({"model.convolution": "depthwise"}, "model.convolution must be one of standard, separable, inverted_bottleneck;"),
    (
        {"model.architecture": "fcn", "model.backbone": "vgg16_block4", "model.output_stride": 32},
        "model.output_stride must be 8 or 16 for model.backbone=vgg16_block4, which ends there; got 32",
    ),
    ({"data.name": "camvit"}, r"data.name must be one of.*Did you mean 'camvid'\?"),
    ({"data.name": "folder"}, "data.root must be set for data=folder; got None"),
    ({"data.height": 15}, "data.height must be at least 16; got 15"),
    ({"data.width": 0}, "data.width must be at least 16; got 0"),
    ({"data.crop": 8}, "data.crop must be at least 16 or null; got 8"),
    ({"data.crop": 97}, r"data.crop must be at most the packed image size 96 x 128.*got 97"),
    ({"data.val_fraction": 1.0}, "data.val_fraction must be between 0 and 1, both excluded; got 1.0"),
    ({"data.max_images": 1}, "data.max_images must be at least 2 or null; got 1"),
    ({"data.on_error": "ignore"}, "data.on_error must be one of fail, skip; got 'ignore'"),
    ({"augmentation.policy": "heavy"}, "augmentation.policy must be one of none, light, strong, custom; got 'heavy'"),
    ({"augmentation.flips": 1.1}, "augmentation.flips must be a probability between 0 and 1; got 1.1"),
    ({"augmentation.scale": -0.1}, "augmentation.scale must be between 0 and 3; got -0.1"),
    ({"augmentation.color": 1.5}, "augmentation.color must be between 0 and 1; got 1.5"),
    ({"augmentation.dropout": 1.0}, "augmentation.dropout must be between 0 and 0.9; got 1.0"),
    ({"loss.name": "mse"}, "loss.name must be one of cross_entropy.*got 'mse'"),
    ({"loss.class_weights": "inverse"}, "loss.class_weights must be one of none, inverse_frequency, .*; got 'inverse'"),
    ({"loss.focal_gamma": -1.0}, "loss.focal_gamma must be between 0 and 10; got -1.0"),
    ({"loss.weight_exponent": 0.0}, "loss.weight_exponent must be above 0 and at most 2; got 0.0"),
    ({"loss.effective_beta": 1.0}, "loss.effective_beta must be at least 0 and below 1; got 1.0"),
    ({"loss.terms.dice": -1.0}, "loss.terms.dice must be at least 0 and finite; got -1.0"),
    ({"loss.terms.cross_entropy": 0.0}, "loss.terms must be given at least one factor above 0"),
    ({"optimizer.name": "adamm"}, r"optimizer.name must be one of.*Did you mean 'adam'\?"),
    ({"optimizer.lr": 0.0}, "optimizer.lr must be positive and finite; got 0.0"),
    ({"optimizer.lr": float("nan")}, "optimizer.lr must be positive and finite; got nan"),
    ({"optimizer.lr": float("inf")}, "optimizer.lr must be positive and finite; got inf"),
    ({"optimizer.momentum": 1.0}, r"optimizer.momentum must be in \[0, 1\); got 1.0"),
    ({"optimizer.weight_decay": -1e-4}, "optimizer.weight_decay must be at least 0; got -0.0001"),
    ({"schedule.name": "cosin"}, r"schedule.name must be one of.*Did you mean 'cosine'\?"),
    ({"schedule.milestones": [3, 3]}, r"schedule.milestones must be rising epochs of at least 1; got \[3, 3\]"),
    ({"schedule.milestones": [0, 3]}, r"of at least 1; got \[0, 3\]"),
    ({"schedule.gamma": 0.0}, r"schedule.gamma must be in \(0, 1\]; got 0.0"),
    ({"schedule.power": 0.0}, "schedule.power must be positive; got 0.0"),
    ({"schedule.decay": -1.0}, "schedule.decay must be at least 0; got -1.0"),
    ({"schedule.warmup_epochs": -1.0}, "schedule.warmup_epochs must be at least 0; got -1.0"),
    ({"training.epochs": 0}, "training.epochs must be at least 1; got 0"),
    ({"training.batch_size": 0}, "training.batch_size must be at least 1; got 0"),
    (
        {"training.batch_size": 1, "model.architecture": "deeplab"},
        "training.batch_size must be at least 2 for.*deeplab",
    ),
    (
        {"training.batch_size": 1, "model.architecture": "smp.FPN"},
        r"training.batch_size must be at least 2 for model.architecture=smp\.FPN",
    ),
    ({"training.seed": -1}, r"training.seed must be in \[0, 2\^31\); got -1"),
    ({"training.precision": "fp16"}, "training.precision must be one of auto, fp32, bf16; got 'fp16'"),
    ({"training.device": "gpu"}, "training.device must be one of auto, cpu, cuda; got 'gpu'"),
    ({"training.epochs": "many"}, "'many'.*Integer"),
    ({"training.epochs": 1.5}, "'1.5'.*Integer"),
    ({"optimizer.lr": [1e-3]}, r"optimizer.lr: Value '\[0.001\]'.*Float"),
    ({"optimizer.lr": None}, "optimizer.lr: Incompatible value 'None'"),
    ({"optimizer.rate": 1e-3}, "no setting 'optimizer.rate'"),
    ({"optimisers.lr": 1e-3}, r"no setting 'optimisers.lr'"),
    ({"optimizer.lr.max": 1e-3}, r"no setting 'optimizer.lr.max'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[str(changes) for changes, _ in REFUSED])
def test_a_bad_value_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        TrialConfig().replace(changes)


def test_identity_has_what_the_architecture_reads_and_no_more() -> None:
    base = TrialConfig()
    expected = {"architecture": "unet", "size": "original", "base_channels": 64}
    assert base.model.identity() == expected | {"convolution": "standard", "attention": False}
    assert base.replace({"model.backbone": "vgg11_bn"}).model.identity() == base.model.identity()
    deeplab = base.replace({"model.architecture": "deeplab"})
    same = deeplab.replace({"model.weights": "imagenet", "model.size": "small"})
    assert deeplab.model.identity() == same.model.identity()
    assert deeplab.model.identity() != deeplab.replace({"model.aspp_rates": [2]}).model.identity()
    assert deeplab.replace({"model.decoder_channels": 256}).model.identity() == deeplab.model.identity()
    plain = deeplab.replace({"model.aspp": False})
    assert plain.model.identity() != deeplab.model.identity()
    assert plain.model.identity() == plain.replace({"model.aspp_rates": [2]}).model.identity()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epochs: [", "cannot be read as settings"),
        ("- 1\n- 2\n", "cannot be read as settings"),
        ("only words", "no setting 'only words'"),
        ("training: {epoch: 3}", r"^There is no setting 'training.epoch'. Did you mean training.epochs\?$"),
        ("training: {epochs: soon}", "^training.epochs: Value 'soon' of type 'str' could not be converted to Integer$"),
        ("training: 3", "TrainingConfig. value: 3$"),
        ("data: {root: '${oc.env:HOME}'}", "must hold plain values; got '\\$\\{oc.env:HOME}'"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrialConfig.load(tmp_path / "config.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as settings"):
        TrialConfig.load(tmp_path / "config.yaml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the configuration of a tiny trial in it."""
    TrialConfig().replace(TINY).save(tmp_path / "config.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_trains_one_trial(folder: Path) -> None:
    line = [sys.executable, "-m", "trainers.train", str(folder / "config.yaml"), "--folder", str(folder / "trial")]
    done = subprocess.run([*line, "training.epochs=3"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[:9] for line in done.stdout.splitlines()[:3]] == [f"epoch   {epoch}" for epoch in (1, 2, 3)]
    assert {path.name for path in (folder / "trial").iterdir()} == {"best.pt", "last.pt"}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["absent.yaml"], "There is no configuration file absent.yaml.", 2),
        (["config.yaml", "training.epochs=0"], "training.epochs must be at least 1; got 0", 2),
        (["config.yaml", "training.epoch=1"], "Did you mean training.epochs?", 2),
        (["config.yaml", "--folder", "config.yaml/t"], "config.yaml/t cannot be written: Not a directory.", 2),
        (["config.yaml", "data.name=folder", "data.root=nowhere"], "nowhere", 2),
        (["config.yaml", "optimizer.name=sgd", "optimizer.lr=1e20"], "in epoch 1; a lower optimizer.lr may help.", 1),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    arguments: list[str], message: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    assert main() == code
    told = capsys.readouterr()
    assert message in told.err
    assert len(told.err.splitlines()) == 1
    assert "epoch" not in told.out
