"""Every architecture in every format passes its own check.

``python -m pytest -m slow tests/trainers/test_exporting_all.py --timeout 1800 -s`` prints a table of what is free
and of the largest difference of logits, relative to the largest logit.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from exporting_samples import configuration, made_up_data, untrained

from trainers.choices import ARCHITECTURE_FIELDS, BACKBONES, CONVOLUTIONS, SMP_DECODERS, UNET_SIZES
from trainers.exporting.description import FILES, read_description
from trainers.exporting.export import export_model

REPORTED = ("resnet18", "vgg11_bn", "mobilenet_v3_small")
ARCHITECTURES: dict[str, dict[str, Any]] = (
    {f"unet-{size}": {"size": size, "base_channels": 8} for size in UNET_SIZES}
    | {f"unet-{kind}": {"convolution": kind, "base_channels": 8} for kind in CONVOLUTIONS if kind != "standard"}
    | {"unet-attention": {"attention": True, "base_channels": 8}}
    | {"resunet": {"architecture": "resunet", "base_channels": 8}}
    | {
        f"{architecture}-{backbone}": {"architecture": architecture, "backbone": backbone, "decoder_channels": 32}
        for architecture in ("fcn", "pspnet")
        for backbone in (*REPORTED, "vgg16_block4")
    }
    | {
        f"deeplab-{backbone}-{'aspp' if aspp else 'plain'}": {
            "architecture": "deeplab",
            "backbone": backbone,
            "aspp": aspp,
            "decoder_channels": 32,
        }
        for backbone in BACKBONES
        for aspp in ((True, False) if backbone in REPORTED else (True,))
    }
    | {
        f"deeplab-{backbone}-skip-separable": {
            "architecture": "deeplab",
            "backbone": backbone,
            "skip": True,
            "separable": True,
            "output_stride": 8,
            "decoder_channels": 32,
        }
        for backbone in REPORTED
    }
)
SMP = {
    f"smp.{decoder}": {
        "architecture": f"smp.{decoder}",
        "backbone": {"DPT": "tu-vit_tiny_patch16_224", "Segformer": "mit_b0"}.get(decoder, "resnet18"),
    }
    for decoder in SMP_DECODERS
}


def test_the_table_has_every_architecture() -> None:
    named = {values.get("architecture", "unet") for values in ARCHITECTURES.values()}
    assert named == set(ARCHITECTURE_FIELDS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", [*ARCHITECTURES, *SMP])
def test_an_architecture_passes_its_check(name: str, kind: str, tmp_path: Path) -> None:
    if name in SMP and find_spec("segmentation_models_pytorch") is None:
        pytest.skip("segmentation_models_pytorch is not installed")
    height, width = (128, 192) if name in SMP else (64, 96)
    config = configuration(height, width, **(ARCHITECTURES | SMP)[name])
    folder = tmp_path / "export"
    folder.mkdir()
    exported = export_model(untrained(config, tmp_path), made_up_data(height, width), folder, kind)
    assert read_description(folder) == exported.description
    shape = exported.description.input
    print(
        f"\n| {name} | {kind} | {shape.describe()} | {exported.check.relative_difference:.0e} | {shape.reason or ''} |"
    )
    assert shape.any_batch
    assert shape.any_size
