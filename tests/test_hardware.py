"""What the machine has: numbers that can be true."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sartor import hardware


def test_a_look_finds_a_machine(tmp_path: Path) -> None:
    machine = hardware.look(tmp_path)
    assert machine.processor
    assert machine.num_cores >= 1
    assert 0 < machine.free_memory_bytes <= machine.memory_bytes
    assert machine.memory_bytes > 2**27
    assert machine.free_disk_bytes > 0
    assert machine.flops == 0.0


def test_the_environment_is_prepared_and_what_is_set_stays() -> None:
    (name,) = hardware.ENVIRONMENT
    with hardware.environment_kept([name]):
        os.environ.pop(name, None)
        hardware.prepare_environment()
        made = os.environ[name]
        os.environ[name] = "7"
        hardware.prepare_environment()
        assert os.environ[name] == "7"
    assert made == hardware.ENVIRONMENT[name]


def test_speed_is_measured_over_several_products() -> None:
    def into(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
        torch.mm(left, right, out=out)

    products = (hardware.Product(64, 64, 64), hardware.Product(64, 64, 128))
    assert 1e6 < hardware.measure_flops("float32", 1, into, products=products) < 1e15
    assert 1e6 < hardware.measure_flops("bfloat16", 1, into, products=products[:1]) < 1e15


def test_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    assert hardware.memory_bytes() == hardware.look(tmp_path).memory_bytes


def test_peak_memory_holds_what_was_held() -> None:
    before = hardware.peak_bytes()
    assert before > 2**20
    block = bytearray(b"x") * (64 * 2**20)
    assert hardware.peak_bytes() >= max(before, len(block))


class FakeCuda:
    """A GPU of 80 GB, of which 3 are held: 2 by torch, of which tensors needed 1 and a half at most."""

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_device_properties(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(name=f"fake {index}", total_memory=80_000)

    def is_bf16_supported(self, *, including_emulation: bool) -> bool:
        return not including_emulation

    def mem_get_info(self) -> tuple[int, int]:
        return 77_000, 80_000

    def memory_reserved(self) -> int:
        return 2_000

    def max_memory_allocated(self) -> int:
        return 1_500


def test_a_gpu_trains_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = hardware.look(tmp_path)
    assert (looked.device, looked.device_memory_bytes) == ("cpu", 0)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=FakeCuda()))
    found = hardware.with_gpu(looked.model_copy(update={"has_bf16": False}))
    assert (found.device, found.device_name, found.device_memory_bytes) == ("cuda", "fake 0", 80_000)
    assert found.has_bf16
    assert hardware.peak_bytes() == 1_500 + 1_000


def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARTOR_THERE", "before")
    monkeypatch.delenv("SARTOR_NOT_THERE", raising=False)
    with pytest.raises(ValueError, match="wrong"), hardware.environment_kept(["SARTOR_THERE", "SARTOR_NOT_THERE"]):
        os.environ["SARTOR_THERE"] = os.environ["SARTOR_NOT_THERE"] = "meanwhile"
        raise ValueError("wrong")
    assert os.environ["SARTOR_THERE"] == "before"
    assert "SARTOR_NOT_THERE" not in os.environ
