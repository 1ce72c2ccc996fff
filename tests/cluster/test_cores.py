import os

from cluster.cores import usable_cores


def test_cores_are_those_that_the_process_may_run_on(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6})
    assert usable_cores() == 3


def test_where_the_system_does_not_say_all_cores_count(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert usable_cores() == 10
