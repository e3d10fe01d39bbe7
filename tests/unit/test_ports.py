# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who listens where, against real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import info, ports


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def listening(request):
    host, family = request.param
    with socket.socket(family) as server:
        try:
            server.bind((host, 0))
        except OSError:
            pytest.skip(f"no {host} on this machine")
        server.listen()
        yield server.getsockname()[1]


def test_an_address_in_use_is_not_a_listener():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        assert ports.listeners({server.getsockname()[1]}) == {}


def test_a_listener_is_found_with_its_process(listening):
    assert ports.listeners({listening, 1}) == {listening: {os.getpid()}}


def test_a_process_is_described_by_its_program():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            assert ports.describe({child.pid}) == f"pid {child.pid} ({os.path.basename(sys.executable)})"
        finally:
            child.communicate(b"\n")
    assert ports.describe(set()) == "a process that cannot be seen"


def test_a_declared_port_that_somebody_else_holds_is_a_conflict(listening):
    server = {"enabled": True, "host": "127.0.0.1", "port": listening}
    profile = {
        "name": "default",
        "state": "present",
        "unit": "hermes-gateway@default.service",
        "api": server,
        "webhook": {"enabled": False},
    }
    (conflict,) = info.port_conflicts([profile], None)
    assert f"profile default: api.port {listening} is taken by pid {os.getpid()}" in conflict
    assert "Fix: " in conflict
    assert info.port_conflicts([{**profile, "state": "absent"}], None) == []
    assert info.port_conflicts([{**profile, "api": {**server, "enabled": False}}], None) == []
