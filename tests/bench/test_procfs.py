"""Cost of a process."""

from __future__ import annotations

import os

import pytest

from bench.procfs import KIB, Cost, cpu_seconds, growth_mib, memory_bytes, parse_cpu_seconds, parse_memory_bytes

MIB = KIB**2


def test_cpu_is_user_plus_system_time_whatever_the_command_is_called() -> None:
    line = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 999 999 20 0 4 0 1000 1 1"

    assert parse_cpu_seconds(line) == 300 / os.sysconf("SC_CLK_TCK")


def test_memory_is_read_in_bytes_and_zero_without_any() -> None:
    status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"

    assert parse_memory_bytes(status, "VmHWM") == 2 * MIB
    assert parse_memory_bytes(status, "VmRSS") == MIB
    assert parse_memory_bytes("Name:\tzombie\n", "VmRSS") == 0


def test_this_process_costs_something() -> None:
    cost = Cost(os.getpid())
    cost.sample_memory()

    assert cpu_seconds(os.getpid()) > 0
    assert 0 < cost.rss_bytes[0] <= memory_bytes(os.getpid(), "VmHWM")
    assert cost.peak_mib() > 1


def test_a_process_that_is_gone_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        cpu_seconds(2**22 + 1)  # above the kernel's largest pid


def test_flat_memory_has_no_growth_and_a_leak_has() -> None:
    assert growth_mib([100 * MIB] * 50) == 0.0
    assert growth_mib([number * MIB for number in range(100)]) == pytest.approx(44.5, abs=2)


def test_a_start_that_fills_up_is_not_growth() -> None:
    assert growth_mib([number * MIB for number in range(10)] + [10 * MIB] * 90) == 0.0


def test_few_samples_say_nothing() -> None:
    assert growth_mib([1, 2, 3]) == 0.0
