# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway's process, as the kernel sees it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import (
    process,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.findings import Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.process import Process
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_795_000_000.0
HOUR, DAY = 3600, 86400
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def test_a_process_with_and_without_a_connection_of_its_own():
    def connected():
        return process.look_at_process(os.getpid(), None).connected

    if connected():
        pytest.skip("this process has a connection already")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert connected() is False
        script = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); sys.stdin.read()"
        command = ["python3", "-c", script, str(server.getsockname()[1])]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as client:
            accepted, _address = server.accept()
            # Somebody came to us: that is no connection to a platform.
            assert connected() is False
            assert process.look_at_process(client.pid, None).connected is True
            accepted.close()
            client.stdin.close()


def test_memory_and_descriptors_of_a_process():
    mine = process.look_at_process(os.getpid(), None)
    assert mine.memory > 5 * 2**20
    with contextlib.ExitStack() as stack:
        for _each in range(50):
            stack.enter_context(open(os.devnull))
        assert process.look_at_process(os.getpid(), None).descriptors == mine.descriptors + 50
    assert process.look_at_process(os.getpid(), 2**40).memory > 2**39


def test_a_process_that_is_gone():
    assert process.look_at_process(2**22 + 1, None) == Process(-1, None, 0)


def test_memory_becomes_a_finding():
    assert process.memory_findings(4 * 2**30, Settings(), "default") == []
    (finding,) = process.memory_findings(5 * 2**30, Settings(), "default")
    assert "5.0 GiB" in finding.what


CONNECTED = {"state": "connected"}


@pytest.mark.parametrize(
    ("platforms", "connection", "expected"),
    [
        ({"discord": CONNECTED, "slack": CONNECTED}, False, ["discord", "slack"]),
        ({"discord": CONNECTED}, True, []),
        ({"discord": CONNECTED}, None, []),
        ({"discord": {"state": "retrying"}}, False, []),
        # These are called, and call nobody.
        ({"api_server": CONNECTED, "webhook": CONNECTED}, False, []),
    ],
)
def test_platforms_that_hear_nothing(platforms, connection, expected):
    assert process.deaf_platforms({"platforms": platforms}, Process(10, connection, 0)) == expected


@pytest.mark.parametrize(
    ("heartbeat", "expected"),
    [
        ({"pid": 7, "monotonic": 100.0}, 50.0),
        ({"pid": 8, "monotonic": 100.0}, 0.0),
        ({"pid": 7, "monotonic": 1e9}, 0.0),
        ({"pid": 7}, 0.0),
        (None, 0.0),
    ],
)
def test_an_event_loop_that_stands_still(heartbeat, expected):
    assert process.frozen_for(heartbeat, 7, 150.0) == expected


@given(JSON)
def test_the_event_loop_may_say_anything(value):
    assert process.frozen_for(value, 7, 150.0) >= 0
    assert process.frozen_for({"pid": 7, "monotonic": value}, 7, 150.0) >= 0
