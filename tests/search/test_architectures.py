"""The latency table of a search: what is cached under which conditions, and which of two devices counts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from measured import GPU, add_rows, architectures_in, profile_of, row_of

from search import architectures, columns
from search.architectures import Measurement, forget, measured_devices, profile_cached, profile_now
from search.config import LatencyConfig
from search.ledger import TrialRecord, now
from search.luck import HOLDS, LUCK, assess
from search.run_folder import RunFolder
from trainers.config import TrialConfig
from trainers.profiling import ArchitectureProfile, ProfilingError
from trainers.settings import ConfigError

TRIAL = TrialConfig().replace({"model.size": "small", "model.base_channels": 4, "training.device": "cpu"})
LARGER = TRIAL.replace({"model.base_channels": 8})
NEW_COLUMNS = (columns.MEMORY_FORMAT, columns.COMPILED)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How often something was measured, and how; every measurement takes a millisecond more."""
    made: list[dict[str, Any]] = []

    def profile(model: Any, _: int, height: int, width: int, device: torch.device, **how: Any) -> ArchitectureProfile:
        made.append({"height": height, "width": width, "device": device.type} | how)
        trial = dataclasses.replace(TRIAL, model=model)
        return profile_of(trial, float(len(made)), device=device.type, height=height, width=width)

    monkeypatch.setattr(architectures, "profile_architecture", profile)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return made


def measurement(tmp_path: Path, trial: TrialConfig = TRIAL, **latency: Any) -> Measurement:
    return Measurement(trial.replace({"data.cache": str(tmp_path)}), 5, LatencyConfig(**latency), 2, 1)


def test_the_same_is_measured_once(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    first = profile_cached(measurement(tmp_path))
    assert profile_cached(measurement(tmp_path)) == first
    assert profile_cached(measurement(tmp_path, memory_format="contiguous")) == first  # what auto is with fp32
    assert len(calls) == 1
    assert calls[0]["train_batch"] == (16, 96, 128)
    assert calls[0]["train_threads"] == 1


@pytest.mark.parametrize("latency", [{"memory_format": "channels_last"}, {"compile": True}, {"precision": "bf16"}])
def test_how_a_model_is_served_is_part_of_what_was_measured(
    latency: dict[str, Any], tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    profile_cached(measurement(tmp_path))
    profile_cached(measurement(tmp_path, **latency))
    assert len(calls) == 2
    served = dataclasses.asdict(calls[1]["serving"])
    assert {name: served["compiled" if name == "compile" else name] for name in latency} == latency


def test_measuring_now_reads_no_cache_and_leaves_it(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    work = measurement(tmp_path)
    assert profile_cached(work)[0].latency_ms == 1.0
    assert profile_now(work).latency_ms == 2.0
    assert calls[1]["train_batch"] is None, "a second latency needs no training step"
    assert profile_cached(work)[0].latency_ms == 1.0


def test_what_is_in_doubt_is_forgotten_alone(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    work = measurement(tmp_path)
    for trial in (TRIAL, LARGER):
        profile_cached(measurement(tmp_path, trial))
    forget(measurement(tmp_path, TRIAL.replace({"training.batch_size": 4})))
    assert profile_cached(measurement(tmp_path, LARGER))[0].latency_ms == 2.0
    assert profile_cached(work)[0].latency_ms == 3.0
    assert len(calls) == 3


def test_a_model_that_cannot_be_compiled_is_a_mistake_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ProfilingError("torch.compile fails here: No working C++ compiler found.")

    monkeypatch.setattr(architectures, "profile_architecture", fail)
    with pytest.raises(ConfigError) as raised:
        profile_now(measurement(tmp_path, compile=True))
    assert str(raised.value) == (
        "latency.compile=true, but for unet (base channels 4, size small) torch.compile fails here: No working C++ "
        "compiler found. Install what it lacks (on a CPU a C++ compiler, g++) where latency is measured, or use "
        "latency.compile=false."
    )


@pytest.mark.parametrize(
    ("asked", "trains_on", "expected"),
    [
        ("auto", "auto", ["cuda", "cpu"]),
        ("auto", "cpu", ["cpu"]),
        ("cuda", "auto", ["cuda"]),
        ("cpu", "auto", ["cpu"]),
    ],
)
def test_beside_a_gpu_the_cpu_is_measured_too(
    asked: str, trains_on: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    work = measurement(tmp_path, TRIAL.replace({"training.device": trains_on}), device=asked)
    assert [device.type for device in measured_devices(work)] == expected


def test_both_devices_are_cached_and_only_the_first_trains(
    tmp_path: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: GPU)
    monkeypatch.setattr(architectures, "training_memory_mb", lambda *_: 2500.0)
    monkeypatch.setattr(architectures, "device_memory_mb", lambda _: 16000.0)
    work = measurement(tmp_path, TRIAL.replace({"training.device": "auto"}))
    gpu, cpu = profile_cached(work)
    assert [(call["device"], call["train_batch"] is not None) for call in calls] == [("cuda", True), ("cpu", False)]
    assert profile_cached(work) == [gpu, cpu]
    assert (gpu.device, cpu.device) == ("cuda", "cpu")
    assert (gpu.train_memory_mb, gpu.train_batch, gpu.device_memory_mb) == (2500, TRIAL.training.batch_size, 16000)
    assert cpu.train_memory_mb is None


def on_gpu(latency_ms: float, trial: TrialConfig = TRIAL, **values: Any) -> dict[str, Any]:
    return row_of(trial, latency_ms, device="cuda", device_name=GPU, **values)


def test_the_gpu_counts_and_trials_have_both(tmp_path: Path) -> None:
    add_rows(tmp_path, on_gpu(3.0), row_of(TRIAL, 40.0), row_of(LARGER, 80.0))
    table = architectures_in(tmp_path)
    assert [(row[columns.DEVICE], row[columns.LATENCY_MS]) for row in table.rows] == [("cuda", 3.0), ("cpu", 80.0)]
    row = table.row(TRIAL)
    assert row is not None
    trial = TrialRecord("t0000", "t0000", 0, {}, TRIAL, row, now()).row(columns.COMPLETED, None, now())
    latencies = (columns.LATENCY_MS, columns.LATENCY_GPU_MS, columns.LATENCY_CPU_MS)
    assert [trial[name] for name in latencies] == [3.0, 3.0, 40.0]


def test_the_noise_of_the_cpu_is_not_that_of_the_gpu() -> None:
    key = row_of(TRIAL, 1.0)[columns.ARCHITECTURE]
    front = [
        {
            columns.TRIAL_ID: name,
            columns.STATE: columns.COMPLETED,
            columns.ARCHITECTURE: key,
            columns.SIZE_MB: 5.0,
            columns.REPEATS: 1,
            columns.MIOU_STD: None,
            columns.MIOU: miou,
            columns.LATENCY_MS: latency_ms,
            columns.LATENCY_GPU_MS: latency_ms,
        }
        for name, miou, latency_ms in (("fast", 0.5, 3.0), ("good", 0.6, 3.3))
    ]
    calm, noisy = on_gpu(3.0), row_of(TRIAL, 40.0, latency_spread=0.5)
    assert assess(front, [], [calm, noisy], None)["fast"].verdict == HOLDS
    assert assess(front, [], [on_gpu(3.0, latency_spread=0.5), noisy], None)["fast"].verdict == LUCK


def test_a_run_from_before_goes_on(tmp_path: Path) -> None:
    add_rows(tmp_path, row_of(TRIAL, 5.0))
    (file,) = (tmp_path / "results" / "architectures").iterdir()
    pq.write_table(pq.read_table(file).drop_columns(NEW_COLUMNS), file)
    add_rows(tmp_path, row_of(LARGER, 7.0))

    old, new = RunFolder(tmp_path).read_architectures().to_pylist()
    assert {old[name] for name in NEW_COLUMNS} == {None}
    assert [new[name] for name in NEW_COLUMNS] == ["contiguous", False]
    assert [row[columns.LATENCY_MS] for row in architectures_in(tmp_path).rows] == [5.0, 7.0]
    assert json.loads(old[columns.ARCHITECTURE])["base_channels"] == 4


def test_latency_measured_beside_other_work_is_doubted(tmp_path: Path) -> None:
    add_rows(tmp_path, row_of(TrialConfig(), 5.0, others_busy=0.05))
    assert architectures_in(tmp_path).doubts() is None
    add_rows(tmp_path, row_of(TrialConfig().replace({"model.base_channels": 8}), 400.0, others_busy=0.5))
    assert architectures_in(tmp_path).doubts() == (
        "Warning: other processes kept up to 50% of the cores at work while latency was measured, so it may be many "
        "times too high. It is measured anew by the next search on an idle machine."
    )


def test_a_doubtful_figure_is_measured_anew_once_the_machine_is_idle(
    calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = measurement(tmp_path)
    made = vars(architectures)["profile_architecture"]
    monkeypatch.setattr(
        architectures,
        "profile_architecture",
        lambda *args, **how: dataclasses.replace(made(*args, **how), others_busy=0.5 if len(calls) == 1 else 0.0),
    )
    monkeypatch.setattr(architectures, "others_busy", lambda **_: 0.9)
    assert profile_cached(work) == profile_cached(work)
    assert len(calls) == 1, "still busy: another figure would be no better"
    monkeypatch.setattr(architectures, "others_busy", lambda **_: 0.1)
    assert profile_cached(work)[0].latency_ms == 2.0
    assert profile_cached(work)[0].latency_ms == 2.0
