"""What the machine has: numbers that can be true."""

from __future__ import annotations

from pathlib import Path

from sartor import hardware


def test_a_look_finds_a_machine(tmp_path: Path) -> None:
    machine = hardware.look(tmp_path)
    assert machine.processor
    assert machine.num_cores >= 1
    assert 0 < machine.free_memory_bytes <= machine.memory_bytes
    assert machine.memory_bytes > 2**27
    assert machine.free_disk_bytes > 0
    assert machine.flops == 0.0


def test_speed_is_measured_over_several_products() -> None:
    products = (hardware.Product(64, 64, 64), hardware.Product(64, 64, 128))
    assert 1e6 < hardware.measure_flops("float32", 1, products=products) < 1e15
    assert 1e6 < hardware.measure_flops("bfloat16", 1, products=products[:1]) < 1e15


def test_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    assert hardware.memory_bytes() == hardware.look(tmp_path).memory_bytes


def test_peak_memory_holds_what_was_held() -> None:
    before = hardware.peak_bytes()
    assert before > 2**20
    block = bytearray(b"x") * (64 * 2**20)
    assert hardware.peak_bytes() >= max(before, len(block))
