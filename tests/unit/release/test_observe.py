# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which releases are in use is seen from all processes, and those of an agent say what it likes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tracemalloc

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import observe

# Maps a file ten thousand times, far below so many directories that each line of /proc/PID/maps has 25 kB.
MANY = """
import mmap, os, sys, time
os.chdir(sys.argv[1])
for _each in range(100):
    os.mkdir("d" * 250)
    os.chdir("d" * 250)
with open("file", "w+b") as stream:
    stream.write(bytes(4096))
    stream.flush()
    held = [mmap.mmap(stream.fileno(), 4096) for _each in range(10_000)]
print("ready", flush=True)
time.sleep(60)
"""
WAITS = "print('ready', flush=True); import time; time.sleep(60)"


@pytest.fixture
def start():
    """Start a program that prints a line once it is ready, and end it after the test."""
    with contextlib.ExitStack() as stack:

        def started(*command: str) -> int:
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout.readline()
            return process.pid

        yield started


@pytest.fixture
def root(tmp_path):
    for name in ("0.18.2-aaaaaaaa", "0.19.0-bbbbbbbb"):
        (tmp_path / "releases" / name / "bin").mkdir(parents=True)
    return tmp_path


def test_a_release_is_in_use_while_one_of_its_programs_runs(root, start):
    program = root / "releases/0.19.0-bbbbbbbb/bin/python"
    program.symlink_to(sys.executable)
    assert observe.used_by_processes(str(root)) == []
    start(str(program), "-c", WAITS)
    assert observe.used_by_processes(str(root)) == ["0.19.0-bbbbbbbb"]


def test_a_process_with_an_endless_list_of_mappings_takes_no_memory(root, start, tmp_path):
    pid = start(sys.executable, "-c", MANY, str(tmp_path))
    program = root / "releases/0.19.0-bbbbbbbb/bin/python"
    program.symlink_to(sys.executable)
    start(str(program), "-c", WAITS)
    tracemalloc.start()
    try:
        assert observe.used_by_processes(str(root)) == ["0.19.0-bbbbbbbb"]
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()
    # It is as long as it should be.
    with open(f"/proc/{pid}/maps", "rb") as stream:
        assert sum(map(len, stream)) > 200 * 2**20


def test_names_that_no_release_has_are_not_collected(root, start):
    start(sys.executable, "-c", WAITS, *(f"{root}/releases/{number}/" for number in range(1000)))
    assert observe.used_by_processes(str(root)) == []


def test_a_user_with_very_many_processes_hides_no_other_user_s(root, start, monkeypatch):
    program = root / "releases/0.19.0-bbbbbbbb/bin/python"
    program.symlink_to(sys.executable)
    pid = start(str(program), "-c", WAITS)
    # All others are of one user, whose time is over with the first of them.
    monkeypatch.setattr(observe, "_user_of", lambda each: int(int(each) == pid))
    monkeypatch.setattr(observe, "_SECONDS", 1e-9)
    assert observe.used_by_processes(str(root)) == ["0.19.0-bbbbbbbb"]


def test_whose_a_process_is_does_not_depend_on_its_directory():
    assert observe._user_of(str(os.getpid())) == os.getuid()
    assert observe._user_of("0") == -1
