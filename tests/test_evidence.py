import os
import time

import pytest

from gswa.backends.evidence import KERNEL, LOOKS, Evidence, Sample, kill_counters, parse_counter, parse_kilobytes, pressure, read_sample

MEMINFO = "MemTotal:       24673720 kB\nMemFree:        20121344 kB\nMemAvailable:   23012344 kB\nHugePages_Total:       0\n"
OOM_CONTROL_V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
MEMORY_EVENTS_V2 = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"


@pytest.mark.parametrize(("text", "count"), [(OOM_CONTROL_V1, 3), (MEMORY_EVENTS_V2, 1), ("nr_free_pages 1\noom_kill 0\n", 0), ("", None)])
def test_the_kernels_counters_are_read_in_all_their_forms(text, count):
    assert parse_counter(text) == count


def test_memory_is_read_in_gigabytes():
    assert parse_kilobytes(MEMINFO)["MemTotal"] == pytest.approx(23.53, abs=0.01)


@pytest.mark.parametrize(
    ("sample", "oom"),
    [
        (Sample(resident=1, available=20, total=24), False),
        (Sample(resident=23, available=0.5, total=24), True),
        (Sample(resident=0.4, available=0.5, total=24), False),  # another program took it all
        (Sample(resident=7.5, available=20, total=24, limit=8, used=7.8), True),
        (Sample(resident=1.0, available=20, total=24, limit=8, used=7.8), False),
    ],
)
def test_only_a_child_that_stands_at_the_limit_itself_is_evidence(sample, oom):
    assert bool(pressure(sample)) is oom


def test_without_evidence_a_kill_is_a_kill():
    evidence = Evidence(os.getpid())
    evidence.sample()
    assert evidence.of_oom() == ""
    assert evidence.peak_gb > 0


GROUP = "/sys/fs/cgroup/gswa/memory.events"


def seen(monkeypatch, *samples: tuple[Sample, dict[str, int]]) -> Evidence:
    """The evidence of these samples, the counters of the last one being those at the child's end."""
    looks = iter(samples[:-1])
    at = [samples[0]]
    monkeypatch.setattr("gswa.backends.evidence.read_sample", lambda _: at[0][0])
    monkeypatch.setattr("gswa.backends.evidence.kill_counters", lambda: at[0][1])
    at[0] = next(looks)
    evidence = Evidence(1)
    for at[0] in looks:
        evidence.sample()
    at[0] = samples[-1]
    return evidence


SMALL, LARGE = Sample(resident=0.5, available=20, total=24), Sample(resident=3, available=20, total=24)
FULL = Sample(resident=0.5, available=2, total=24)


@pytest.mark.parametrize(
    ("sample", "place", "oom"),
    [
        (SMALL, str(KERNEL), False),  # of another program, in a group of its own
        (LARGE, str(KERNEL), True),
        (FULL, str(KERNEL), True),
        (SMALL, GROUP, True),
    ],
)
def test_a_kill_that_the_kernel_counted_elsewhere_is_no_evidence(monkeypatch, sample, place, oom):
    evidence = seen(monkeypatch, (sample, {place: 3}), (sample, {place: 4}))
    assert ("out-of-memory kills rose" in evidence.of_oom()) is oom


def test_only_the_last_seconds_are_evidence(monkeypatch):
    tight = Sample(resident=23, available=0.3, total=24)
    long_ago = [(tight, {GROUP: 0}), *[(SMALL, {GROUP: 1})] * LOOKS, (SMALL, {GROUP: 1})]
    assert seen(monkeypatch, *long_ago).of_oom() == ""
    assert seen(monkeypatch, (SMALL, {GROUP: 1}), (tight, {GROUP: 1}), (SMALL, {GROUP: 1})).of_oom()


def test_the_counters_are_read_where_this_machine_has_them():
    assert all(count >= 0 for count in kill_counters().values())
    assert not KERNEL.exists() or str(KERNEL) in kill_counters()


def test_a_child_that_is_gone_has_no_memory():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    time.sleep(0.01)
    assert read_sample(pid).resident == 0
