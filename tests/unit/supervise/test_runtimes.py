# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents of users: what their units say, what they get in memory, and what is said of them.

That systemd, podman and Hermes do what the units say is in molecule/runtimes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from typing import ClassVar

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import runtime_keys
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtimes import Runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes as places
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.runtimes import User
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import (
    editions,
    runtime_files,
    runtime_units,
    runtimes,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.runtime_host import Host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

SECRET = "0123456789abcdef0123456789abcdef"
ADA = User("ada@example.com", 7)


def declared(**more):
    agent = {
        "config": {"model": {"provider": "custom", "default": "stub"}},
        "secrets": {"MODEL_API_KEY": "sk-of-the-model"},
        "limits": {"memory": "1G", "cpu": "50%", "tasks": 99},
        "drain": 7,
        **more.pop("agent", {}),
    }
    return Runtimes(image="localhost/hermes-agent:1", secret=SECRET, agent=agent, **more)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A directory in place of /run/hermes-runtimes."""
    for name in ("RUN", "SHARED", "USERS", "SOCKETS", "STARTING", "FAILED", "WEBHOOKS"):
        path = getattr(places, name).replace("/run/hermes-runtimes", f"{tmp_path}/run")
        monkeypatch.setattr(places, name, path)
    monkeypatch.setattr(runtime_files, "PROXY_SECRETS", f"{tmp_path}/run/proxy/secrets.json")
    monkeypatch.setattr(runtime_files, "_WRITTEN", f"{tmp_path}/run/written")
    monkeypatch.setattr(runtime_files.grp, "getgrnam", lambda name: type("Group", (), {"gr_gid": os.getgid()}))
    runtime_files.make_places()
    return tmp_path / "run"


@pytest.fixture
def host(run, tmp_path):
    return Host(declared(), str(tmp_path / "data"), str(tmp_path / "data/ops"))


# --- units -----------------------------------------------------------------------------------------------------


def texts(**more):
    rendered = runtime_units.render(declared(**more), declared(**more).edition, "/data", "/data/ops")
    return {os.path.basename(path): text for path, text in rendered.items()}


def test_nothing_is_left_to_be_filled_in():
    for name, text in texts(plugins={"notes": "/srv/notes"}).items():
        bare = re.sub(r"\$\$?\{\w+\}", "", text)
        shell = re.sub(r"\{ .*? \}", "", bare, flags=re.S)
        assert not re.search(r"[{}]", shell), name


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd-analyze")
def test_systemd_understands_them(tmp_path):
    stand_in = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
    for name, text in {**texts(), "hermes-walls.service": stand_in}.items():
        text = re.sub(
            r"(ExecStart\w*|ExecStop\w*)=(-?)(/usr/bin/podman|/usr/local/bin/hermes-ops)", r"\1=\2/bin/true", text
        )
        (tmp_path / name).write_text(text, encoding="utf-8")
    one = [str(tmp_path / name.replace("@.", "@x.")) for name in texts()]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *one],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    ours = [line for line in done.stderr.splitlines() if "hermes" in line]
    assert ours == []


def test_limits_are_those_of_the_unit_in_whose_cgroup_the_container_is():
    agent = texts()["hermes-user-agent@.service"]
    assert {"MemoryMax=1G", "CPUQuota=50%", "TasksMax=99", "Delegate=yes"} <= set(agent.splitlines())
    assert "--cgroups=split" in agent


def test_a_container_has_no_rights_and_no_names_of_others():
    agent = texts()["hermes-user-agent@.service"].replace("\\\n", "")
    (start,) = re.findall(r"^ExecStart=(.*)$", agent, re.M)
    assert {"--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--pull=never"} <= set(start.split())
    assert "privileged" not in start
    volumes = re.findall(r"--volume=(\S+)", start)
    assert volumes[0] == "/data/users/%i:/opt/data"
    assert all(volume.endswith(":ro") for volume in volumes[1:])


def test_secrets_are_in_no_unit():
    for text in texts().values():
        assert SECRET not in text
        assert "sk-of-the-model" not in text


def test_an_agent_has_its_drain_time_before_it_is_killed():
    agent = texts()["hermes-user-agent@.service"]
    patience = int(re.search(r"stop --ignore --time=(\d+)", agent)[1])
    assert 7 < patience < int(re.search(r"TimeoutStopSec=(\d+)", agent)[1])


MOST = 2 * len(os.sched_getaffinity(0))


def turn_of(user, tmp_path):
    """The process that waits for the turn of a user's agent to start."""
    agent = texts()["hermes-user-agent@.service"].replace("\\\n", "")
    (script,) = re.findall(r"^ExecStartPre=/bin/sh -c '(mkdir .*)'$", agent, re.M)
    script = script.replace("$$", "$").replace("/run/hermes-runtimes", str(tmp_path)).replace("%i", user)
    return subprocess.Popen(["/bin/sh", "-c", script])


def test_those_who_fail_leave_turns_to_the_others(tmp_path):
    (tmp_path / "starting").mkdir()
    (tmp_path / "failed").mkdir()
    failing = [f"failing-{number}" for number in range(MOST)]
    for user in failing:
        (tmp_path / "failed" / user).touch()
    waiting = [turn_of(user, tmp_path) for user in failing]
    try:
        deadline = time.monotonic() + 30
        while len(list((tmp_path / "starting").iterdir())) < MOST // 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        assert len(list((tmp_path / "starting").iterdir())) == MOST // 2
        # However long they wait, another one has a turn at once.
        assert turn_of("other", tmp_path).wait(30) == 0
        started = sorted((tmp_path / "starting").glob("failing-*"))
        (tmp_path / "starting/other").unlink()
        started[0].unlink()
        deadline = time.monotonic() + 30
        while sum(each.poll() == 0 for each in waiting) <= MOST // 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sum(each.poll() == 0 for each in waiting) == MOST // 2 + 1
    finally:
        for each in waiting:
            each.kill()
            each.wait()


def test_no_more_are_started_at_once_than_the_processors_can(tmp_path):
    (tmp_path / "starting").mkdir()
    # What is left of one that was killed counts for no longer than a start can last.
    (tmp_path / "starting/left").touch()
    os.utime(tmp_path / "starting/left", (time.time() - 61,) * 2)
    waiting = [turn_of(f"agent-{each}", tmp_path) for each in range(MOST + 2)]
    try:
        for rest in (2, 1, 0):
            deadline = time.monotonic() + 30
            while sum(each.poll() is None for each in waiting) > rest and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.3)
            assert [each.poll() for each in waiting].count(0) == MOST + 2 - rest
            started = sorted((tmp_path / "starting").glob("agent-*"))
            assert len(started) == MOST
            # That one is healthy.
            started[0].unlink()
    finally:
        for each in waiting:
            each.kill()
            each.wait()


# --- what the units read ---------------------------------------------------------------------------------------


def test_what_all_share_holds_no_secret_and_nothing_that_only_a_host_uses(host, run):
    edition = host.settings.edition
    editions.write_files(edition)
    assert os.listdir(run / "shared" / edition.id) == ["agent.json"]
    entry = json.loads((run / "shared" / edition.id / "agent.json").read_text(encoding="utf-8"))
    assert set(entry) == {"name", "config", "drain"}


def contents(directory):
    return {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}


def test_only_root_finds_secrets_and_any_user_in_a_container_reads_them(host, run):
    edition = host.settings.edition
    editions.write_files(edition)
    runtime_files.write_variables(host, ADA)
    user, secrets = run / "users" / ADA.id, run / "users" / ADA.id / "secrets" / edition.id
    shared = run / "shared" / edition.id
    paths = (run / "shared", shared, shared / "agent.json", run / "users", user, user / "address", secrets)
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o700, 0o755, 0o444, 0o700, 0o700, 0o600, 0o555]
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o444}
    assert contents(secrets) == {
        "MODEL_API_KEY": "sk-of-the-model",
        "API_SERVER_KEY": runtime_keys.api_key_of(SECRET, ADA.id),
    }


def test_a_secret_that_is_no_longer_declared_is_in_no_later_edition(host, run):
    runtime_files.write_variables(host, ADA)
    other = dataclasses.replace(host.settings, agent={"secrets": {"OTHER_API_KEY": "sk-other-sk-other"}})
    runtime_files.write_variables(dataclasses.replace(host, settings=other), ADA)
    secrets = run / "users" / ADA.id / "secrets" / other.edition.id
    assert set(contents(secrets)) == {"OTHER_API_KEY", "API_SERVER_KEY"}


def test_the_variables_of_a_user_follow_from_the_number(host, run):
    runtime_files.write_variables(host, ADA)
    text = (run / "users" / ADA.id / "address").read_text(encoding="utf-8")
    assert dict(line.split("=") for line in text.splitlines()) == {
        "HOST": "10.210.0.9",
        "ADDRESS": "10.210.0.9:8642",
        "MAC": "02:68:0a:d2:00:09",
        "NUMBER": "700007",
        "IDLE": "600",
    }


def test_the_proxy_knows_where_an_agent_takes_webhooks_while_it_does(host, run):
    place = run / "webhooks" / ADA.id
    takes = dataclasses.replace(host, settings=declared(agent={"webhooks": [{"name": "push", "prompt": "x"}]}))
    runtime_files.write_variables(takes, ADA)
    assert place.read_text(encoding="utf-8") == "10.210.0.9:8644"
    # The proxy reads it, and nobody lists the users.
    assert (place.stat().st_mode & 0o777, place.parent.stat().st_mode & 0o777) == (0o644, 0o711)
    runtime_files.write_variables(host, ADA)
    assert not place.exists()


def test_what_is_in_memory_is_known_to_be_what_is_declared(host, run, tmp_path, monkeypatch):
    (tmp_path / "data/ops/runtimes").mkdir(parents=True)
    host.users.enrol([ADA.name], 100)
    assert not runtime_files.is_written(host)
    runtime_files.write(host, print)
    assert runtime_files.is_written(host)
    other = dataclasses.replace(host, settings=declared(idle=60))
    assert not runtime_files.is_written(other)
    # A run that ends in the midst of it.
    monkeypatch.setattr(runtime_files, "_write_proxy_secrets", lambda settings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runtime_files.write(other, print)
    assert not runtime_files.is_written(other)


def test_one_user_whose_record_is_damaged_keeps_nobody_from_having_theirs(host, run, tmp_path):
    (tmp_path / "data/ops/runtimes").mkdir(parents=True)
    ada, bob = host.users.enrol(["ada", "bob"], 100)
    (tmp_path / f"data/ops/runtimes/{ada.id}.json").write_text("{", encoding="utf-8")
    said = []
    runtime_files.write(host, said.append)
    assert (run / "users" / bob.id / "address").exists()
    assert len(said) == 1
    assert ada.id in said[0]


# --- volumes ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_a_volume_is_its_user_s_alone_also_after_a_kill(host, tmp_path):
    (tmp_path / "data/users").mkdir(parents=True)
    tmp_path.joinpath("data/users").chmod(0o711)
    path = tmp_path / "data/users" / ADA.id
    # As a run leaves it that is killed in between.
    path.mkdir(mode=0o700)
    runtime_files.make_directory(host, ADA)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (700_007, 700_007, 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_a_volume_of_another_number_is_not_taken_over(host, tmp_path):
    path = tmp_path / "data/users" / ADA.id
    path.mkdir(parents=True)
    os.chown(path, 654_321, 654_321)
    with pytest.raises(OpsError, match=r"belongs to user id 654321.*first_uid"):
        runtime_files.make_directory(host, ADA)


# --- what is said of them --------------------------------------------------------------------------------------


class Units:
    """A systemd whose units are in the states that a test says."""

    def __init__(self, **states):
        self.states = states

    def units(self, names):
        manager = Manager("system", Account.current())
        found = {}
        for name in names:
            kind = "socket" if name.endswith(".socket") else "agent"
            active = self.states.get(kind, "inactive")
            found[name] = dataclasses.replace(manager._unit(name, {}), active=active)
        return found


@pytest.mark.parametrize(
    ("units", "failed", "state"),
    [
        ({"socket": "active", "agent": "active"}, None, "running"),
        ({"socket": "active", "agent": "activating"}, None, "starting"),
        ({"socket": "active"}, None, "asleep"),
        ({"socket": "active", "agent": "failed"}, "exit-code 78", "failed"),
        ({}, None, "failed"),
        ({"off": True}, None, "off"),
        ({"off": True}, "exit-code 78", "off"),
    ],
)
def test_the_state_is_what_the_next_call_meets(host, run, monkeypatch, units, failed, state):
    user = dataclasses.replace(ADA, off=units.pop("off", False))
    monkeypatch.setattr(Host, "manager", Units(**units))
    if failed:
        (run / "failed" / ADA.id).write_text(f"{failed}\n", encoding="utf-8")
    (found,) = runtimes.report(host, [user])
    assert found["state"] == state
    assert found["url"] == "http://127.0.0.1:8640/u/ada%40example.com/"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exit-code 78", "its description or a secret is wrong"),
        ("exit-code 125", "podman could not start its container"),
        ("exit-code 3", "it ended with status 3"),
        ("timeout TERM", "it was not healthy in time"),
        ("timeout ", "too many others were being started all the time"),
        ("exit-code ", "it did not end well"),
        ("signal KILL", "it ended with status KILL"),
        ("\x1b[2J", "it did not end well"),
        ("", "it did not end well"),
    ],
)
def test_why_it_could_not_be_started_is_said_in_words(run, text, reason):
    (run / "failed" / ADA.id).write_text(text, encoding="utf-8")
    assert runtimes.reason_of(ADA) == reason


# --- until it is healthy ---------------------------------------------------------------------------------------


@pytest.fixture
def agent(host, monkeypatch):
    """A server in place of an agent's, which says what a test wants."""

    class Handler(http.server.BaseHTTPRequestHandler):
        answers: ClassVar[list[int]] = []

        def do_GET(self):
            self.send_response(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            self.end_headers()

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setattr(Host, "address_of", lambda self, user: "127.0.0.1")
    # There is no bridge here.
    monkeypatch.setattr(runtimes, "pinning", lambda network: [["true"]])
    api = dataclasses.replace(host.settings.supervised.api, port=server.server_port)
    one = dataclasses.replace(host.settings.supervised, api=api)
    monkeypatch.setitem(vars(host.settings), "supervised", one)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Handler
    server.shutdown()
    server.server_close()


def test_an_agent_that_answers_is_healthy_and_has_not_failed(host, run, agent):
    agent.answers = [503, 404, 200]
    (run / "failed" / ADA.id).write_text("timeout TERM\n", encoding="utf-8")
    runtimes.await_health(host, ADA, os.getpid())
    assert runtimes.reason_of(ADA) is None


@pytest.mark.parametrize("answers", [[200, 503, 503, 200], [200, 503]], ids=["later", "never"])
def test_its_webhooks_are_awaited_for_a_while(host, run, agent, monkeypatch, answers):
    monkeypatch.setattr(runtimes, "_WEBHOOK_SECONDS", 60.0 if answers[-1] == 200 else 0.3)
    one = host.settings.supervised
    takes = dataclasses.replace(one, webhook=dataclasses.replace(one.webhook, enabled=True, port=one.api.port))
    monkeypatch.setitem(vars(host.settings), "supervised", takes)
    agent.answers = answers
    runtimes.await_health(host, ADA, os.getpid())
    assert agent.answers == answers[-1:]


def test_one_that_has_ended_is_not_awaited(host, run, agent):
    agent.answers = [503]
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(OpsError, match="ended before it was healthy"):
        runtimes.await_health(host, ADA, process.pid)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 ", b"HTTP/1.1 500 200", b"\x00" * 4096, b"SSH-2.0-200 "])
def test_whatever_a_server_says_only_200_is_healthy(said):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _address = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        assert not runtimes._answers(socket.AF_INET, server.getsockname(), 5.0)
        thread.join()


def test_one_that_says_each_byte_just_in_time_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _address = server.accept()
            with connection, contextlib.suppress(OSError):
                for byte in b"HTTP/1.1 200 OK":
                    time.sleep(0.4)
                    connection.sendall(bytes([byte]))

        thread = threading.Thread(target=answer)
        thread.start()
        began = time.monotonic()
        assert not runtimes._answers(socket.AF_INET, server.getsockname(), 1.0)
        assert time.monotonic() - began < 3
        thread.join()
