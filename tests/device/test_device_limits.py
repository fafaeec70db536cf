"""What containers, units, affinity and schedulers withhold; memory and scheduling of processes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from agent.core.ports import BoardReadings, ProcessMemory, SchedulerCounters
from agent.device import cgroup, cpu, cpufreq, load, memory, osinfo, scheduler
from agent.device.board import this_board
from agent.device.host import Host
from agent.device.root import SysRoot
from agent.errors import DeviceError

V2 = {"sys/fs/cgroup/cgroup.controllers": "cpu memory cpuset\n", "proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n2:cpuset:/docker/x\n0::/\n"}


def test_tightest_limit_of_all_parents_wins_v2(tree: Any) -> None:
    root = tree(V2 | {"sys/fs/cgroup/a/memory.max": "1000\n", "sys/fs/cgroup/a/b/memory.max": "max\n"})
    assert cgroup.read_memory_limit(root) == (1000, "cgroup v2 /a memory.max")


def test_no_limit_v2(tree: Any) -> None:
    assert cgroup.read_memory_limit(tree(V2 | {"sys/fs/cgroup/a/b/memory.max": "max\n"})) is None


def test_container_sees_its_own_group_at_the_mount_v1(tree: Any) -> None:
    root = tree(V1 | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n"})
    assert cgroup.read_memory_limit(root) == (536870912, "cgroup v1 /memory memory.limit_in_bytes")


def test_unlimited_of_v1_is_no_number(tree: Any) -> None:
    root = tree(V1 | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert cgroup.read_memory_limit(root) is None


def test_nested_limit_v1(tree: Any) -> None:
    base = "sys/fs/cgroup/memory"
    files = {f"{base}/docker/memory.limit_in_bytes": "300", f"{base}/docker/x/memory.limit_in_bytes": "400"}
    assert cgroup.read_memory_limit(tree(V1 | files)) == (300, "cgroup v1 /memory/docker memory.limit_in_bytes")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "300000 100000\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "nonsense\n"}, None),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_cpu_quota(tree: Any, files: dict[str, str], cores: float | None) -> None:
    assert cgroup.read_cpu_quota_cores(tree(files)) == cores


def test_cpu_set_and_affinity_both_bind(tree: Any) -> None:
    root = tree(V2 | {"sys/fs/cgroup/a/b/cpuset.cpus.effective": "1-3\n"})
    assert cpu.usable_cpus(root, (0, 1, 2, 3), (0, 1, 2)) == (1, 2)
    assert cpu.usable_cpus(root, (0, 1, 2, 3), None) == (1, 2, 3)


@pytest.mark.parametrize(("text", "cpus"), [("0", (0,)), ("0,3-5", (0, 3, 4, 5)), ("", ()), (" 1 , 2\n", (1, 2))])
def test_cpu_list(text: str, cpus: tuple[int, ...]) -> None:
    assert cgroup.parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["0-99999999999", "3-1", "a", "-1", "1-2-3"])
def test_garbled_cpu_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"range of CPUs|invalid literal"):
        cgroup.parse_cpu_list(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (V2, True),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu io\n", "proc/self/cgroup": "0::/\n"}, False),
        ({"sys/fs/cgroup/unified/cgroup.controllers": "\n", "proc/self/cgroup": "4:memory:/\n0::/\n"}, True),
        ({}, None),
    ],
)
def test_memory_controller(tree: Any, files: dict[str, str], expected: bool | None) -> None:
    assert cgroup.memory_controller_on(tree(files)) is expected


def test_memory_needs_memtotal(tree: Any) -> None:
    with pytest.raises(DeviceError, match="how much memory"):
        memory.read_memory(tree({"proc/meminfo": "MemFree: 1 kB\n"}), 4096)


def test_process_memory(tree: Any) -> None:
    status = "Name:\tx\nVmHWM:\t     300 kB\nVmRSS:\t     200 kB\nRssAnon:\t     150 kB\nRssFile:\t      50 kB\n"
    root = tree({"proc/7/status": status, "proc/8/status": "Name:\tzombie\nState:\tZ\n"})
    expected = ProcessMemory(rss_bytes=204800, peak_bytes=307200, anonymous_bytes=153600, file_bytes=51200)
    assert memory.read_process_memory(root, 7) == expected
    assert memory.read_process_memory(root, 8) is None
    assert memory.read_process_memory(root, 9) is None


def test_scheduler_counters_are_summed_over_threads(tree: Any) -> None:
    root = tree(
        {
            "proc/7/task/7/schedstat": "1000000000 500000000 10\n",
            "proc/7/task/7/status": "voluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t3\n",
            "proc/7/task/8/schedstat": "500000000 0 2\n",
            "proc/7/task/8/status": "nonvoluntary_ctxt_switches:\t4\n",
            "proc/9/task/9/status": "nonvoluntary_ctxt_switches:\t4\n",
        }
    )
    assert scheduler.read_counters(root, 7) == SchedulerCounters(run_s=1.5, wait_s=0.5, involuntary_switches=7)
    assert scheduler.read_counters(root, 9) is None
    assert scheduler.read_counters(root, 10) is None


def test_steal_is_a_share_of_time_between_readings(tree: Any) -> None:
    root = tree({"proc/stat": "cpu  10 0 10 70 0 0 0 10 5 0\n", "proc/loadavg": "1.50 1 1 1/1 1\n"})
    before = load.read_ticks(root)
    assert before == load.CpuTicks(total=100, steal=10)
    assert load.steal_ratio(before, load.CpuTicks(total=200, steal=35)) == 0.25
    assert load.steal_ratio(None, before) is None
    assert load.steal_ratio(before, before) is None
    assert load.read_load_1min(root) == 1.5


def test_steal_needs_a_kernel_that_counts_it(tree: Any) -> None:
    assert load.read_ticks(tree({"proc/stat": "cpu 1 2 3 4\n"})) is None


def test_clock_is_the_mean_over_usable_cores(tree: Any) -> None:
    files = {}
    for number, cpus, hertz in ((0, "0 1 2 3", 1000), (4, "4 5", 2000)):
        base = f"sys/devices/system/cpu/cpufreq/policy{number}"
        files |= {f"{base}/related_cpus": cpus, f"{base}/scaling_cur_freq": str(hertz), f"{base}/scaling_governor": "g"}
    policies = cpufreq.find_policies(root := tree(files))
    assert cpufreq.read_clock(root, policies, (3, 4, 5)).clock_hz == pytest.approx(5e6 / 3)
    assert cpufreq.read_clock(root, policies, ()).clock_hz is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": ""}, "podman"),
        ({"run/systemd/container": "systemd-nspawn"}, "systemd-nspawn"),
        ({"proc/1/cgroup": "4:memory:/kubepods/burstable/pod1\n"}, "kubernetes"),
    ],
)
def test_container(tree: Any, files: dict[str, str], expected: str | None) -> None:
    assert osinfo.read_container(tree(files)) == expected


def test_os_release_with_quotes_and_nonsense(tree: Any) -> None:
    root = tree({"etc/os-release": '# c\nNAME=\'A B\'\nBAD="open\nPRETTY_NAME="Debian 12"\n'})
    assert osinfo.read_os(root, Host()).name == "Debian 12"


def test_processors_of_different_kinds_share_only_common_features() -> None:
    text = "processor: 0\nFeatures: fp asimd crc32\n\nprocessor: 1\nFeatures: fp asimd\n\nHardware: X\nprocessor_x: 1\n"
    cores = cpu.parse_cpuinfo(text)
    assert set(cores) == {0, 1}
    assert cpu.features_of(cores[0]) == ("fp", "asimd", "crc32")


def test_no_processor_is_an_error(tree: Any) -> None:
    with pytest.raises(DeviceError, match="no processor"):
        cpu.read_online(tree({}))


def test_a_live_process_is_read_and_reset() -> None:
    board = this_board()
    code = "import sys\nx = bytearray(40_000_000)\ndel x\nprint('ready', flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        before = board.process_memory(child.pid)
        assert before is not None and before.peak_bytes - before.rss_bytes > 20_000_000
        if board.reset_peak_memory(child.pid):
            after = board.process_memory(child.pid)
            assert after is not None and after.peak_bytes < before.peak_bytes - 20_000_000
        child.stdin.close()
    assert board.process_memory(child.pid) is None
    assert board.scheduler_counters(child.pid) is None


def test_this_machine_can_be_read() -> None:
    board = this_board()
    facts = board.facts()
    assert facts.cpu.usable == tuple(sorted(os.sched_getaffinity(0)))
    assert facts.memory.page_size_bytes == os.sysconf("SC_PAGE_SIZE")
    assert board.read_context().monotonic_s <= board.read_context().monotonic_s
    assert board.root.path == SysRoot().path
    assert board.boot_id() == board.boot_id() != ""


def test_port_is_implemented() -> None:
    readings: BoardReadings = this_board()  # checked by mypy as well as here
    assert all(callable(getattr(readings, name)) for name in dir(BoardReadings) if not name.startswith("_"))
