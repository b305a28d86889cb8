"""Profiling: counts that agree with a built model and hand arithmetic; times that are times. No value of a clock."""

import functools
import os
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch import nn

from trainers import profiling
from trainers.choices import BACKBONES
from trainers.config import ModelConfig
from trainers.models import build_model
from trainers.profiling import (
    BUSY,
    ProfilingError,
    Serving,
    count_architecture,
    device_name,
    faster_precision,
    measure_latency,
    others_busy,
    profile_architecture,
    time_once,
    warm_up,
)

TINY = ModelConfig(size="small", base_channels=4)
ARCHITECTURES = [
    TINY,
    *(ModelConfig(architecture="deeplab", backbone=backbone, decoder_channels=32) for backbone in BACKBONES),
]


@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda config: f"{config.architecture}-{config.backbone}")
def test_counts_agree_with_a_built_model(config: ModelConfig) -> None:
    params, size_mb, macs = count_architecture(config, 5, 64, 96)
    model = build_model(config, 5)
    assert params == sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    assert size_mb == pytest.approx((4 * params + buffers) / 1e6)
    assert macs > 0


def test_macs_by_hand() -> None:
    """Small UNet, base 1 (widths 1, 2, 8), two classes, on 8 x 8 pixels: taps x in x out x positions of each layer."""
    convolutions = [(9, 3, 1, 64), (9, 1, 1, 64), (9, 1, 2, 16), (9, 2, 2, 16), (9, 2, 8, 4), (9, 8, 8, 4)]
    convolutions += [(4, 8, 2, 4), (9, 4, 2, 16), (9, 2, 2, 16)]  # up to 4 x 4: each input position gives 4 outputs
    convolutions += [(4, 2, 1, 16), (9, 2, 1, 64), (9, 1, 1, 64), (1, 1, 2, 64)]
    expected = sum(taps * inputs * outputs * positions for taps, inputs, outputs, positions in convolutions)
    assert count_architecture(ModelConfig(size="small", base_channels=1), 2, 8, 8)[2] == expected


def test_initial_weights_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("trainers.models.backbones.read_weights", refuse)
    plain = ModelConfig(architecture="deeplab", backbone="mobilenet_v3_small")
    trained = ModelConfig(architecture="deeplab", backbone="mobilenet_v3_small", weights="imagenet")
    assert count_architecture(trained, 5, 64, 64) == count_architecture(plain, 5, 64, 64)


def test_profile_says_what_was_measured_and_how() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    profile = profile_architecture(TINY, 5, 32, 48, "cpu", serving=Serving(), train_batch=(2, 32, 48), budget_s=0.2)
    assert torch.equal(torch.get_rng_state(), state)
    assert (profile.params, profile.size_mb, profile.macs) == count_architecture(TINY, 5, 32, 48)
    assert 0 < profile.latency_ms <= profile.latency_p95_ms
    assert profile.latency_spread >= 0
    assert (profile.device, profile.device_name) == ("cpu", device_name("cpu"))
    assert (profile.batch, profile.height, profile.width, profile.precision) == (1, 32, 48, "fp32")
    assert (profile.memory_format, profile.compiled) == ("contiguous", False)
    assert profile.torch_version == torch.__version__
    assert profile.train_precision in {"fp32", "bf16"}


def test_training_step_has_the_threads_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def record(*_: object) -> str:
        threads.append(torch.get_num_threads())
        return "fp32"

    monkeypatch.setattr(profiling, "faster_precision", record)
    before, profile = torch.get_num_threads(), functools.partial(profile_architecture, TINY, 5, 32, 32, "cpu")
    profile(serving=Serving(), train_batch=(2, 32, 32), train_threads=before + 1, budget_s=0)
    profile(serving=Serving(), train_batch=(2, 32, 32), budget_s=0)
    assert [*threads, torch.get_num_threads()] == [before + 1, before, before]
    assert profile(serving=Serving(), budget_s=0).train_precision is None
    assert len(threads) == 2


@pytest.mark.parametrize(
    ("precision", "memory_format", "channels_last"),
    [("fp32", "auto", False), ("bf16", "auto", True), ("fp32", "channels_last", True), ("bf16", "contiguous", False)],
)
def test_latency_is_measured_in_evaluation_mode_as_the_model_is_served(
    precision: str, memory_format: str, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = Serving(batch=2, precision=precision, memory_format=memory_format)
    model = build_model(TINY, 5)
    seen: list[tuple[torch.dtype, bool, bool, bool]] = []

    def record(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        layout = inputs[0].is_contiguous(memory_format=torch.channels_last)
        seen.append((output.dtype, layout, module.training, torch.is_inference_mode_enabled()))

    model.register_forward_hook(record)
    monkeypatch.setattr(profiling, "MIN_TIME_S", 0.0)
    times_ms = measure_latency(model, 32, 32, serving, budget_s=30)
    assert len(times_ms) == profiling.MIN_RUNS
    assert np.all(times_ms > 0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert set(seen) == {(dtype, channels_last, False, True)}
    assert serving.layout() == ("channels_last" if channels_last else "contiguous")


def test_latency_keeps_to_its_budget_with_one_run_in_any_case() -> None:
    assert len(measure_latency(build_model(TINY, 5), 32, 32, Serving(), budget_s=0)) == 1


COMPILED = Serving(compiled=True)


def small_model(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, 2, 1))


def test_every_model_of_a_family_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> object:
        compiled.append(f"model {len(compiled)}")
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    for width in range(1, 11):
        measure_latency(small_model(width), 8, 8, COMPILED, budget_s=0)
    assert len(compiled) == 10


def test_the_compilation_is_no_part_of_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def timed(run: object, _: torch.device) -> float:
        order.append("timed")
        assert callable(run)
        run()
        return 1.0

    monkeypatch.setattr(profiling, "compiled", lambda _: lambda _: order.append("forward"))
    monkeypatch.setattr(profiling, "time_once", timed)
    measure_latency(small_model(2), 8, 8, COMPILED, budget_s=0)
    assert order == ["forward", "timed", "forward"]


def test_a_model_that_cannot_be_compiled_is_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: object) -> object:
        raise RuntimeError("No working compiler\nin many words")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    with pytest.raises(ProfilingError, match=r"^torch.compile fails here: No working compiler\.$"):
        measure_latency(small_model(2), 8, 8, COMPILED, budget_s=0)


@pytest.mark.slow
def test_profile_of_a_compiled_model() -> None:
    profile = profile_architecture(TINY, 5, 32, 32, "cpu", serving=COMPILED)
    assert profile.compiled
    assert 0 < profile.latency_ms < 1000  # the compilation itself takes seconds


@pytest.mark.slow
def test_without_a_compiler_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nonexistent/g++"))
    with pytest.raises(ProfilingError, match=r"No working C\+\+ compiler found.*/nonexistent/g\+\+"):
        profile_architecture(TINY, 5, 32, 32, "cpu", serving=COMPILED)


def fake_clock(monkeypatch: pytest.MonkeyPatch, times_ms: list[float]) -> list[float]:
    """Let successive timings take ``times_ms``, and return the list of those still to come."""
    left = list(times_ms)
    monkeypatch.setattr(profiling, "time_once", lambda *_: left.pop(0))
    return left


def test_warm_up_ends_when_two_windows_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    left = fake_clock(monkeypatch, [90.0] * 5 + [40.0] * 5 + [20.0] * 5 + [20.1] * 5 + [20.0] * 5)
    warm_up(lambda: None, torch.device("cpu"), float("inf"))
    assert left == [20.0] * 5


@pytest.mark.parametrize(
    ("times_ms", "expected"),
    [
        ([9, 9, 10, 5] + [10, 5] * 3, "bf16"),  # fp32 and bf16 take turns
        ([99, 60, 10, 12] + [10, 12] * 3, "fp32"),  # the cold start of fp32 does not count
        ([10, 9.5] * 5, "fp32"),  # not by enough
        ([50, 90, 10, 5], "bf16"),  # clear at the first warm steps
        ([50, 90, 10, 12], "fp32"),
    ],
)
def test_precision_is_bf16_only_where_it_is_clearly_faster(
    times_ms: list[float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_clock(monkeypatch, times_ms)
    assert faster_precision(build_model(TINY, 5), (2, 32, 32), budget_s=60) == expected


def test_precision_leaves_the_model_as_it_was() -> None:
    model = build_model(TINY, 5).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    faster_precision(model, (2, 32, 32), budget_s=0)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_cpu_name_says_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert device_name("cpu").endswith(" (3 threads)")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert device_name(torch.device("cpu")).endswith(" (1 thread)")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_profile_on_a_gpu() -> None:
    serving = Serving(precision="bf16")
    profile = profile_architecture(TINY, 5, 64, 64, "cuda", serving=serving, train_batch=(2, 64, 64))
    assert profile.device_name == torch.cuda.get_device_name()
    assert 0 < profile.latency_ms <= profile.latency_p95_ms

    def busy() -> None:
        torch.cuda._sleep(10_000_000)  # type: ignore[no-untyped-call]

    assert time_once(busy, torch.device("cuda")) > 1  # the launch alone takes microseconds


def test_the_work_of_others_is_seen() -> None:
    spin = "while True: pass"
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", spin]))
            stack.callback(process.kill)
        assert others_busy(patience_s=0.1) > BUSY
