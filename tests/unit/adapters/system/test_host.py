"""The host's readings, of made-up /proc and control groups and of the real ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from contree.adapters.system.host import LinuxHost

MIB = 1024**2
MEMINFO = f"MemTotal: 999 kB\nMemAvailable:    {1000 * 1024} kB\n"
V1_NONE = "9223372036854771712\n"


def a_host(root: Path, membership: str, files: Mapping[str, object]) -> LinuxHost:
    """A machine with 1,000 MiB available; `files` are below the control groups' mount."""
    given = {f"cgroup/{path}": content for path, content in files.items()}
    given |= {"proc/meminfo": MEMINFO, "proc/self/cgroup": membership}
    for path, content in given.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(content))
    return LinuxHost(proc=root / "proc", cgroups=root / "cgroup")


def memory_v2(limit: object, used_mib: int, reclaimable_mib: int = 0) -> dict[str, object]:
    return {
        "memory.max": limit,
        "memory.current": used_mib * MIB,
        "memory.stat": f"anon 1\ninactive_file {reclaimable_mib * MIB}\n",
    }


def at(group: str, files: Mapping[str, object]) -> dict[str, object]:
    return {f"{group}/{name}": content for name, content in files.items()}


def test_without_limits_the_machine_s_memory_counts(tmp_path: Path) -> None:
    host = a_host(tmp_path, "0::/a\n", at("a", memory_v2("max\n", 5)))
    assert host.memory_available_bytes() == 1000 * MIB


@pytest.mark.parametrize("tight", ["a", "a/b"])
def test_the_tightest_limit_on_the_way_up_counts_less_what_is_used_for_good(
    tmp_path: Path, tight: str
) -> None:
    files = at("a", memory_v2("max\n", 5)) | at("a/b", memory_v2(2000 * MIB, 5))
    files |= at(tight, memory_v2(300 * MIB, 250, reclaimable_mib=40))
    assert a_host(tmp_path, "0::/a/b\n", files).memory_available_bytes() == 90 * MIB


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    host = a_host(tmp_path, "0::/a\n", at("a", memory_v2(10 * MIB, 20)))
    assert host.memory_available_bytes() == 0


def test_in_a_container_the_mount_is_our_group(tmp_path: Path) -> None:
    host = a_host(tmp_path, "0::/host/only\n", memory_v2(100 * MIB, 40))
    assert host.memory_available_bytes() == 60 * MIB


def test_version_1_limits_count_as_well(tmp_path: Path) -> None:
    files = {
        "memory/x/memory.limit_in_bytes": 200 * MIB,
        "memory/x/memory.usage_in_bytes": 150 * MIB,
        "memory/x/memory.stat": f"inactive_file 7\ntotal_inactive_file {30 * MIB}\n",
        "memory/memory.limit_in_bytes": V1_NONE,
        "memory/memory.usage_in_bytes": 5,
        "cpu/x/cpu.cfs_quota_us": 50_000,
        "cpu/x/cpu.cfs_period_us": 100_000,
    }
    host = a_host(tmp_path, "4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n", files)
    assert host.memory_available_bytes() == 80 * MIB
    assert host.cores() == 0.5


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000\n", 1.5), ("max 100000\n", None)])
def test_a_quota_bounds_the_cores(tmp_path: Path, quota: str, cores: float | None) -> None:
    host = a_host(tmp_path, "0::/a\n", {"a/cpu.max": quota})
    usable = len(os.sched_getaffinity(0))
    assert host.cores() == (usable if cores is None else min(cores, usable))


def test_the_real_machine_has_something() -> None:
    host = LinuxHost()
    assert 0 < host.cores() <= (os.cpu_count() or 1)
    assert host.memory_available_bytes() > MIB
