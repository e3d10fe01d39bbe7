# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to real Unix sockets."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import unix_sockets


@pytest.fixture
def server(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "it.sock"))
        server.listen(500)
        yield server


def connected(server):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server.getsockname())
    return connection


def test_a_connection_counts_from_when_it_is_accepted_until_it_is_closed(server):
    path = server.getsockname()
    assert unix_sockets.accepted(path) == 0
    caller = connected(server)
    # It waits in the socket.
    assert unix_sockets.accepted(path) == 0
    accepted, _name = server.accept()
    assert unix_sockets.accepted(path) == 1
    # The caller has gone, and is still being served.
    caller.close()
    assert unix_sockets.accepted(path) == 1
    accepted.close()
    assert unix_sockets.accepted(path) == 0


def test_many_do_not_fit_into_one_part_of_the_answer(server):
    with contextlib.ExitStack() as stack:
        for _each in range(300):
            stack.enter_context(connected(server))
            stack.enter_context(server.accept()[0])
        assert unix_sockets.accepted(server.getsockname()) == 300


def test_a_name_with_an_end_of_line_is_no_connection(server):
    path = server.getsockname()
    with socket.socket(socket.AF_UNIX) as other:
        # As a row of /proc/net/unix; the name of an abstract socket is any bytes.
        other.bind(f"\0x\n0000000000000000: 00000003 00000000 00000000 0001 03 123 {path}"[:100].encode())
        other.listen()
        assert unix_sockets.accepted(path) == 0


# In name spaces of its own, where the directory in the path is another one.
_SPOOF = """
import os, socket, sys
os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)
with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as caller:
    server.bind(sys.argv[1])
    server.listen()
    caller.connect(sys.argv[1])
    accepted = server.accept()
    print("accepted", flush=True)
    sys.stdin.read()
"""


def test_a_socket_of_that_name_in_somebody_s_name_space_is_another_one(tmp_path):
    path, own = str(tmp_path / "it.sock"), ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*own, "true"], check=False).returncode:
        pytest.skip("SKIPPED, NOT PROVED: a socket in another name space, because none can be made here")
    script = f'mount -t tmpfs none {tmp_path} && exec {sys.executable} -c "$0" {path}'
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        words, pipe = [*own, "sh", "-c", script, _SPOOF], subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe) as other:
            assert other.stdout.readline() == b"accepted\n"
            assert unix_sockets.accepted(path) == 0
            other.stdin.close()
    assert other.returncode == 0


def test_where_there_is_no_socket_there_is_no_connection(tmp_path):
    assert unix_sockets.accepted(str(tmp_path / "none.sock")) == 0


def test_a_kernel_that_cannot_say_it_is_an_error(monkeypatch):
    monkeypatch.setattr(unix_sockets, "_SOCK_DIAG_BY_FAMILY", 99)
    with pytest.raises(OSError, match="does not list"):
        unix_sockets.accepted(__file__)
