# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who listens where, against real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import network
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.worker import WorkerDied
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import info, process


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
        assert network.listeners({server.getsockname()[1]}) == {}


def test_a_listener_is_found_with_its_process(listening):
    assert network.listeners({listening, 1}) == {listening: {os.getpid()}}


NOBODY = 65534
# Listens, and has many open files.
HOARDER = """
import os, socket, sys
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
server = socket.create_server(("127.0.0.1", 0))
files = [os.dup(0) for each in range(int(sys.argv[1]))]
print(server.getsockname()[1], flush=True)
input()
"""


@pytest.fixture
def hoarder():
    """Starts a process with many open files that listens, as another user or as we; gives it and its port."""
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            command = [sys.executable, "-I", "-c", HOARDER, *map(str, arguments)]
            child = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(child.communicate, b"\n")
            return child.pid, int(child.stdout.readline())

        yield start


def looked_at(monkeypatch):
    """The processes whose descriptors are read from now on."""
    pids, look = [], network.sockets_of
    monkeypatch.setattr(network, "sockets_of", lambda pid, *arguments: pids.append(pid) or look(pid, *arguments))
    return pids


@pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes are root's to start")
def test_only_processes_of_whom_the_socket_is_are_looked_at(listening, hoarder, monkeypatch):
    stranger, port = hoarder(10, NOBODY)
    pids = looked_at(monkeypatch)
    assert network.listeners({listening}) == {listening: {os.getpid()}}
    assert stranger not in pids
    assert network.listeners({port}) == {port: {stranger}}


def test_of_a_process_with_more_descriptors_than_may_be_nothing_is_said(hoarder, monkeypatch):
    monkeypatch.setattr(network, "MOST_DESCRIPTORS", 500)
    few, port = hoarder(400)
    many, hidden = hoarder(600)
    assert network.listeners({port, hidden}) == {port: {few}, hidden: set()}
    assert process.sockets(few)[0] > 400
    assert process.sockets(many) == (-1, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes are root's to start")
def test_whoever_uses_up_the_time_hides_only_what_is_his(listening, hoarder, monkeypatch):
    strangers = [hoarder(10, NOBODY) for each in range(3)]
    tried, look = [], network.sockets_of

    def sockets_of(pid, seconds):
        """Of nobody there is always more to be read than there is time."""
        if pid in [stranger for stranger, port in strangers]:
            tried.append(pid)
            time.sleep(seconds)
            return None
        return look(pid, seconds)

    monkeypatch.setattr(network, "sockets_of", sockets_of)
    hidden = {port: set() for stranger, port in strangers}
    began = time.monotonic()
    assert network.listeners({listening, *hidden}) == {listening: {os.getpid()}, **hidden}
    assert len(tried) == 1
    assert time.monotonic() - began < 4


def test_a_table_of_sockets_that_takes_too_long_says_nothing_about_connections(monkeypatch):
    assert network.is_connected(os.getpid(), []) is False
    monkeypatch.setattr(network, "_SECONDS", 0.0)
    assert network.is_connected(os.getpid(), []) is None
    assert network.sockets_of(os.getpid(), 0.0) is None


def test_a_process_is_described_by_its_program():
    program = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            # Before the program runs, the kernel has no command line for it.
            child.stdout.readline()
            assert network.describe({child.pid}) == f"pid {child.pid} ({os.path.basename(sys.executable)})"
        finally:
            child.communicate(b"\n")
    assert network.describe(set()) == "a process that cannot be seen"


def test_of_a_giant_command_line_the_beginning_is_read():
    program = [sys.executable, "-c", "print(flush=True); input()", *["x" * 100_000] * 10]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            child.stdout.readline()
            assert sum(map(len, network.command_line(child.pid))) <= 4096
        finally:
            child.communicate(b"\n")


def test_a_program_s_name_moves_no_cursor(tmp_path):
    program = tmp_path / "\x1b[2Jevil"
    program.symlink_to("/bin/cat")
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            child.stdin.write(b"\n")
            child.stdin.flush()
            child.stdout.readline()
            assert "\\x1b[2Jevil" in network.describe({child.pid})
        finally:
            child.communicate()


@pytest.mark.parametrize(
    ("cgroup", "said"),
    [
        ("/system.slice/system-hermes.slice/hermes-gateway@coder.service", "the gateway of agent coder"),
        (
            "/user.slice/user-0.slice/user@0.service/app.slice/hermes-gateway@coder.service",
            "the gateway of agent coder, says user root",
        ),
    ],
)
def test_in_a_users_manager_it_is_the_user_who_says_whose_gateway_it_is(monkeypatch, cgroup, said):
    monkeypatch.setattr(network, "_cgroups", lambda _pid: f"0::{cgroup}\n")
    assert network.describe({7}) == f"pid 7 ({said})"


def test_whoever_accepts_a_connection_is_known():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert network.accepted_by(client, time.monotonic() + 0.1) is None
        with server.accept()[0]:
            assert network.accepted_by(client, time.monotonic() + 10) == os.getuid()


OTHERS = 1000


@pytest.fixture
def crowd(tmp_path, monkeypatch):
    """Lets tables of sockets be read instead of the kernel's, one row in a hundredth of a second; gives the clock."""
    clock = SimpleNamespace(now=0.0)

    def tick():
        clock.now += 0.01
        return clock.now

    def sleep(seconds):
        clock.now += seconds

    def opened(path, *arguments, **more):
        return open(str(path).replace("/proc/net", str(tmp_path)), *arguments, **more)

    def write(table, *rows):
        lines = [f"0: {local} {remote} {state} 0:0 0:0 0 {uid} 0 {inode}" for local, remote, state, uid, inode in rows]
        (tmp_path / table).write_text("\n".join(["head", *lines, ""]))

    monkeypatch.setattr(network, "time", SimpleNamespace(monotonic=tick, sleep=sleep))
    monkeypatch.setattr(network, "open", opened, raising=False)
    # As where the kernel answers no questions about a single socket.
    monkeypatch.setattr(network, "_ask_kernel", lambda *_question: None)
    clock.write = write
    return clock


def test_very_many_connections_hide_no_listener(crowd):
    connections = [("0100007F:0001", "0100007F:0002", "01", NOBODY, 1)] * OTHERS
    crowd.write("tcp", ("0100007F:0011", "00000000:0000", "0A", 4_000_000_000, 2), *connections)
    crowd.write("tcp6", (f"{'0' * 32}:0012", f"{'0' * 32}:0000", "0A", 4_000_000_000, 3), *connections)
    assert network.listeners({0x11, 0x12, 0x01}) == {0x11: set(), 0x12: set()}
    assert crowd.now < 1


def test_very_many_listeners_take_no_more_than_the_time_for_both_tables(crowd):
    for table in ("tcp", "tcp6"):
        crowd.write(table, *[("0100007F:0001", "00000000:0000", "0A", NOBODY, 1)] * OTHERS)
    assert network.listeners({2}) == {}
    assert crowd.now < 2.1


def test_very_many_connections_delay_no_request_beyond_its_deadline(crowd):
    for table in ("tcp", "tcp6"):
        crowd.write(table, *[("0100007F:0001", "0100007F:0002", "01", NOBODY, 1)] * OTHERS)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert network.accepted_by(client, 1.0) is None
    assert crowd.now < 1.1


def test_however_many_connections_there_are_no_table_is_read_for_one(monkeypatch):
    monkeypatch.setattr(network, "_rows", lambda *_arguments: iter(()))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert network.accepted_by(client, time.monotonic() + 0.1) is None
        with server.accept()[0]:
            assert network.accepted_by(client, time.monotonic() + 1) == os.getuid()


def test_of_a_connection_that_is_none_the_kernel_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = server.getsockname()
        assert network._ask_kernel(server.family, name, ("127.0.0.1", 1)) is None


def test_among_very_many_connections_one_is_found_as_long_as_there_is_time(crowd):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        names = [network._written(name, client.family) for name in (client.getpeername(), client.getsockname())]
        others = [("0100007F:0001", "0100007F:0002", "01", NOBODY, 1)] * OTHERS
        crowd.write("tcp", *others, (*names, "01", 7, 8))
        assert network.accepted_by(client, 15.0) == 7


@pytest.mark.parametrize(
    ("groups", "agent"),
    [
        ("0::/system.slice/system-hermes\\x2dgateway.slice/hermes-gateway@bridge.service\n", "bridge"),
        ("1:name=systemd:/system.slice/hermes-gateway@a-1_b.service/sub\n0::/\n", "a-1_b"),
        ("0::/user.slice/user-999.slice/user@999.service/app.slice/hermes-gateway@x.service\n", "x"),
        ("0::/system.slice/hermes-gateway.service\n", None),
        ("0::/system.slice/other-hermes-gateway@x.service\n", None),
        ("", None),
    ],
)
def test_a_gateway_is_known_by_its_unit(groups, agent, monkeypatch):
    monkeypatch.setattr(network, "_cgroups", lambda pid: groups)
    assert network.gateway_of(1) == agent


def declared(port):
    return described.agent(api={"enabled": True, "port": port})


def test_a_gateway_that_left_the_declaration_is_named(listening, monkeypatch):
    monkeypatch.setattr(network, "gateway_of", lambda pid: "bridge")
    (conflict,) = info.port_conflicts([declared(listening)], [])
    assert "(the gateway of agent bridge), no longer declared. Fix: declare bridge with state: absent" in conflict
    absent = replace(declared(1), name="bridge", state="absent")
    assert info.port_conflicts([declared(listening), absent], []) == []


def test_a_declared_port_that_somebody_else_holds_is_a_conflict(listening):
    agent = declared(listening)
    (conflict,) = info.port_conflicts([agent], [])
    assert f"agent default: api.port {listening} is taken by pid {os.getpid()}" in conflict
    assert "Fix: " in conflict
    assert info.port_conflicts([replace(agent, state="absent")], []) == []
    assert info.port_conflicts([replace(agent, api=replace(agent.api, enabled=False))], []) == []


def test_a_port_whose_listener_cannot_be_seen_is_its_user_s(listening, monkeypatch):
    monkeypatch.setattr(network, "_find", lambda *arguments: None)
    me = Account.current()
    (conflict,) = info.port_conflicts([declared(listening)], [])
    assert f"taken by a process of user {me.name} that cannot be seen. Fix: " in conflict
    other = replace(me, name="other", uid=me.uid + 1)
    assert len(info.port_conflicts([declared(listening)], [other])) == 1
    # One that an agent hides speaks against no other agent of the host.
    assert info.port_conflicts([declared(listening)], [other, me]) == []


def test_a_process_of_an_agent_beside_its_gateway_keeps_no_host_from_being_converged(listening):
    """In user scope, or with the door user_manager, an agent starts what it likes outside of its gateway's unit."""
    me = Account.current()
    its, anothers = replace(declared(1), name="work", user=me.name), declared(listening)
    assert info.port_conflicts([its, anothers], [me], {"work", "default"}) == []
    # It says nothing about a process of anybody else.
    other = replace(me, name="other", uid=me.uid + 1)
    assert len(info.port_conflicts([replace(its, user="other"), anothers], [other], {"work", "default"})) == 1


@pytest.mark.parametrize("remembered", [set(), {"work"}, {"default"}])
def test_a_hermes_that_is_to_be_adopted_has_to_be_stopped_first(listening, remembered):
    me = Account.current()
    its, new = replace(declared(1), name="work", user=me.name), replace(declared(listening), user="other")
    assert len(info.port_conflicts([its, new], [me], remembered)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes are root's to start")
def test_an_agent_that_hides_a_listener_and_stops_its_worker_ends_no_look(hoarder, monkeypatch):
    monkeypatch.setattr(network, "MOST_DESCRIPTORS", 500)
    asked = []

    def work(account, function, ports):
        asked.append((account.name, ports))
        raise WorkerDied("a look did not finish within 10 s")

    monkeypatch.setattr(network, "work", work)
    port = hoarder(600, NOBODY)[1]
    nobody, daemon = Account.named("nobody"), Account.named("daemon")
    assert info.port_conflicts([declared(port)], [daemon, nobody]) == []
    assert asked == [("nobody", [port])]


def test_a_user_without_a_name_is_named_by_its_number():
    assert network.describe(set(), {4_000_000_000}) == "a process of user 4000000000 that cannot be seen"


@pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes are root's to start")
def test_who_has_the_most_sockets_is_named_even_if_it_belongs_to_root_by_its_directory(monkeypatch):
    # Another user's process, with more sockets than ours. A change of user hides it as well.
    holds = "import os, socket, time; held = [socket.socket() for _each in range(900)]; "
    command = [sys.executable, "-c", f"{holds}os.setuid({NOBODY}); print(flush=True); time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            here = [str(os.getpid()), str(other.pid)]
            monkeypatch.setattr(network.os, "listdir", lambda _path: here)
            said = network.most_sockets()
        finally:
            other.kill()
    assert said == "nobody has the most sockets, 900"


def test_a_process_that_has_ended_has_no_socket(monkeypatch):
    monkeypatch.setattr(network.os, "listdir", lambda _path: ["999999999"])
    assert network.most_sockets() == "nobody has a socket that we see"
