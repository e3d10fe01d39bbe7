# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs that are being written: rotated without loss, bounded, shipped; and the dashboard, which has a log, too."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["ansible://operate-bookworm"]

HOME = "/var/lib/hermes/agents/default/.hermes"
AGENT = "hermes-default"
STATE = "/var/lib/logrotate/hermes-default.status"
CONFIG = "/etc/hermes-ops/logrotate-default.conf"
FORCED = f"logrotate --force --state {STATE} {CONFIG}"
DASHBOARD = "http://127.0.0.1:9119"
REMOTE = "/var/log/journal/remote"
DOCS = Path(__file__).resolve().parents[3] / "docs/logs.md"
AS_HERMES = "setpriv --reuid=hermes-default --regid=hermes-default --clear-groups"

# A bridge as the gateway starts it: it keeps one descriptor open, and writes numbered lines.
BRIDGE = """
import os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
number = 0
while not os.path.exists(sys.argv[1] + ".stop"):
    number += 1
    os.write(log, b"line %d\\n" % number)
os.write(log, b"the end %d\\n" % number)
"""
# Logs numbered logins to the dashboard, with Hermes' own code.
LOGINS = """
import os
from hermes_cli.dashboard_auth.audit import AuditEvent, audit_log
home, number = os.environ["HERMES_HOME"], 0
while not os.path.exists(home + "/logins.stop"):
    number += 1
    audit_log(AuditEvent.LOGIN_FAILURE, number=number)
with open(home + "/logins.stop", "w") as stream:
    stream.write(str(number))
"""


@contextmanager
def running(controller: Any, name: str, stop: str, *command: str) -> Iterator[None]:
    """Run *command* as the agent's user during the block; it ends when the file *stop* exists."""
    controller.shell(
        'unit=$1; rm -f "$2"; shift 2; exec systemd-run --quiet --collect --unit "$unit" --uid hermes-default '
        f'--gid hermes-default --property UMask=0077 --setenv HERMES_HOME={HOME} "$@"',
        name,
        stop,
        *command,
    )
    pid = controller.shell('systemctl show --property MainPID --value "$1"', name).strip()
    try:
        yield
    finally:
        # The command checks for that file before each line.
        controller.shell(f'{AS_HERMES} touch "$1"; timeout 60 tail --pid "$2" --follow /dev/null', stop, pid)


def generations(controller: Any, path: str) -> list[str]:
    """The contents of *path* and of its rotated files, oldest first."""
    script = r"""
for file in $(ls -1 "$1".*[0-9] "$1".*.gz 2>/dev/null | sort --version-sort --reverse; ls -1 "$1"); do
    printf '\0'
    case $file in *.gz) zcat "$file" ;; *) cat "$file" ;; esac
done
"""
    return controller.shell(script, path).split("\0")[1:]


def inode(controller: Any, path: str) -> str:
    return controller.shell('stat --format %i "$1"', path).strip()


def size(controller: Any, path: str) -> int:
    """In bytes; 0 when it is not there."""
    return int(controller.shell('stat --format %s "$1" 2>/dev/null || echo 0', path))


def test_a_writer_that_keeps_its_file_open_loses_no_more_than_the_window(controller, wait_until):
    log = f"{HOME}/platforms/whatsapp/bridge.log"
    controller.shell(f'{AS_HERMES} mkdir -p "${{1%/*}}"', log)
    rotations = 5
    with running(controller, "bridge", f"{log}.stop", "python3", "-c", BRIDGE, log):
        for _ in range(rotations):
            wait_until(lambda: size(controller, log), "something is written")
            controller.shell(FORCED)
    parts = generations(controller, log)
    assert len(parts) == rotations + 1
    numbers = [[int(number) for number in re.findall(r"^line (\d+)$", part, re.M)] for part in parts]
    # Lines may be missing between two files, but not within one; and no line appears twice.
    for earlier, later in zip(numbers, numbers[1:]):
        assert earlier[-1] < later[0]
    for part in numbers:
        assert part == list(range(part[0], part[-1] + 1))
    # The writer continued in the current file.
    assert re.search(rf"^the end {numbers[-1][-1]}$", parts[-1], re.M)
    listed = controller.shell('stat --format "%U:%G %a %n" "$1"*', log).splitlines()
    assert {line.rsplit(" ", 1)[0] for line in listed if not line.endswith(".stop")} == {f"{AGENT}:{AGENT} 600"}
    assert sum(line.endswith(".gz") for line in listed) == rotations
    controller.shell('rm "$1"*', log)


def test_a_writer_that_opens_its_file_each_time_loses_nothing(controller, wait_until):
    log = f"{HOME}/logs/dashboard-auth.log"
    python = "/opt/hermes/current/bin/python"
    rotations = 4
    with running(controller, "logins", f"{HOME}/logins.stop", python, "-c", LOGINS):
        for _ in range(rotations):
            wait_until(lambda: size(controller, log), "something is written")
            controller.shell(FORCED)
    parts = [part for part in generations(controller, log) if part]
    assert len(parts) >= rotations
    numbers = [json.loads(line)["number"] for part in parts for line in part.splitlines()]
    assert numbers == list(range(1, int(controller.read(f"{HOME}/logins.stop")) + 1))
    controller.shell('rm "$1"* "$2"', log, f"{HOME}/logins.stop")


def test_what_hermes_rotates_is_left_to_it(agent, controller, wait_until):
    def of_hermes() -> list[str]:
        listed = controller.shell(f"ls {HOME}/logs").split()
        return [name for name in listed if name.startswith(("agent.log", "errors.log", "gateway.log", "gui.log"))]

    before, inodes, pid = of_hermes(), [inode(controller, f"{HOME}/logs/{name}") for name in of_hermes()], agent().pid
    controller.shell(FORCED)
    token = secrets.token_hex(8)
    assert token in agent().reply(f"say {token}")
    # The same process continues with the same files.
    wait_until(lambda: token in agent().read("logs/agent.log"), "the turn stands in agent.log")
    assert agent().pid == pid
    assert before == of_hermes()
    assert inodes == [inode(controller, f"{HOME}/logs/{name}") for name in before]


def test_a_large_log_is_rotated_within_the_hour(controller):
    log = f"{HOME}/logs/mcp-stderr.log"
    # After this forced rotation logrotate has rotated the log today, so only its size matters.
    controller.shell(f'rm -f "$1"*; {AS_HERMES} sh -c "umask 077; echo begin >$1"; {FORCED}', log)
    controller.shell(f'{AS_HERMES} sh -c "yes small | head -c 1000000 >$1"; systemctl start hermes-logrotate', log)
    assert size(controller, log) == 1000000
    controller.shell(f'{AS_HERMES} sh -c "yes large | head -c 60000000 >$1"; systemctl start hermes-logrotate', log)
    assert size(controller, log) == 0
    # The rotated log is compressed, and no log is rotated twice.
    assert 0 < size(controller, f"{log}.1.gz") < 1000000
    controller.shell("systemctl start hermes-logrotate logrotate")
    assert controller.shell('ls "$1"*', log).split() == [log, f"{log}.1.gz", f"{log}.2.gz"]
    controller.shell('rm "$1"*', log)


def test_files_of_one_event_go_when_they_are_old(controller):
    names = [f"{HOME}/logs/subagent-timeout-{age}-x.log" for age in ("old", "new")]
    names += [f"{HOME}/sessions/request_dump_{age}_x.json" for age in ("old", "new")]
    controller.shell(
        f'{AS_HERMES} mkdir -p {HOME}/sessions; {AS_HERMES} touch "$@"; '
        'for file; do case $file in *old*) touch --date "16 days ago" "$file" ;; esac; done; '
        "systemctl start hermes-logrotate",
        *names,
    )
    assert controller.shell('ls "$@" 2>/dev/null || true', *names).split() == [name for name in names if "new" in name]
    controller.shell('rm -f "$@"', *names)


def test_both_timers_come_round(controller):
    timers = controller.shell("systemctl list-timers --no-legend --no-pager")
    assert "hermes-logrotate.timer" in timers
    assert "logrotate.timer" in timers.replace("hermes-logrotate.timer", "")
    # The host's own run has no sandbox, so it must not start anything as an agent.
    assert "/var/lib/hermes/" not in controller.shell("logrotate --debug /etc/logrotate.conf 2>&1")


def test_what_runs_as_an_agent_beside_logrotate_is_in_a_sandbox(controller):
    """gzip does so, and the agent could trace it."""
    drop_in = "/run/systemd/system/hermes-logrotate@default.service.d/look.conf"
    tries = {
        "bus": "test -S /run/dbus/system_bus_socket",
        "tmp": "touch /var/tmp/of-the-agent",
        "root": "sudo --non-interactive true",
        "home": f"test -w {HOME}",
        "network": "python3 -c 'import socket; socket.socket()'",
    }
    script = "; ".join(f"if {words} 2>/dev/null; then echo {name}; fi" for name, words in tries.items())
    controller.write("/run/look", f"#!/bin/sh\n{AS_HERMES} sh -c '{script.replace(chr(39), chr(34))}' >{HOME}/seen\n")
    controller.shell('mkdir -p "${1%/*}"', drop_in)
    controller.write(drop_in, "[Service]\nExecStartPre=/bin/sh /run/look\n")
    controller.shell("systemctl daemon-reload; systemctl start hermes-logrotate")
    try:
        assert controller.read(f"{HOME}/seen").split() == [b"tmp", b"home"]
        # It wrote into a private /var/tmp.
        assert controller.shell("ls /var/tmp/of-the-agent 2>/dev/null || true") == ""
    finally:
        controller.shell(f'rm -f "$1" /run/look {HOME}/seen; systemctl daemon-reload', drop_in)


def test_one_agent_keeps_the_rotation_neither_from_another_one_s_logs_nor_from_site_yml(controller):
    """With a log that is a hole, and with very many logs."""
    theirs, ours = "/var/lib/hermes/agents/work/.hermes/logs", f"{HOME}/logs/mcp-stderr.log"
    drop_in = "/run/systemd/system/hermes-logrotate@work.service.d/sooner.conf"
    controller.shell('mkdir -p "${1%/*}"', drop_in)
    controller.write(drop_in, "[Service]\nLimitCPU=2\n")
    controller.shell(
        'setpriv --reuid=hermes-work --regid=hermes-work --clear-groups sh -c "cd $1; truncate --size 1T update.log; '
        f'seq --format action-%.0f.log 80000 | xargs touch"; {AS_HERMES} sh -c "yes ours | head -c 60000000 >$2"; '
        "systemctl daemon-reload; ! systemctl start hermes-logrotate",
        theirs,
        ours,
    )
    try:
        assert size(controller, ours) == 0
        units = [f"hermes-logrotate{agent}.service" for agent in ("@default", "@work", "")]
        states = controller.shell('systemctl is-failed "$@" || true', *units).split()
        assert states == ["inactive", "failed", "failed"]
        # What could not be rotated is still whole.
        assert size(controller, f"{theirs}/update.log") == 2**40
        controller.converge({"logrotate_days": 15})
        assert b"rotate 15" in controller.read("/etc/hermes-ops/logrotate-work.conf")
    finally:
        controller.shell(
            'find "$1" -name "action-*.log" -delete; rm -f "$1"/update.log* "$2" "$3"*; systemctl daemon-reload; '
            "systemctl start hermes-logrotate",
            theirs,
            drop_in,
            ours,
        )


def test_the_journal_is_limited(controller):
    said = controller.shell("journalctl --boot --unit systemd-journald --output cat --grep 'System Journal'")
    assert "max 500.0M" in said.splitlines()[-1]


def test_what_would_be_rotated_twice_is_refused(controller):
    before = controller.read(CONFIG)
    run = controller.run({"logrotate_paths": [f"{HOME}/logs/mcp-std*.log"]})
    assert run.rc != 0
    assert f"{HOME}/logs/mcp-std*.log: is rotated already, as {HOME}/logs/mcp-stderr.log" in run.text
    assert controller.read(CONFIG) == before


# The dashboard


def status_of(controller: Any, path: str) -> str:
    ask = 'curl --silent --output /dev/null --write-out "%{http_code}" "$1" || true'
    return controller.shell(ask, DASHBOARD + path)


def test_the_dashboard_answers_on_loopback_only(controller):
    assert json.loads(controller.shell(f"curl --silent --fail {DASHBOARD}/api/status"))["version"] == "0.19.0"
    page = controller.shell(f"curl --silent --fail {DASHBOARD}/")
    (script,) = re.findall(r'src="(/assets/\S+\.js)"', page)
    assert status_of(controller, script) == "200"
    # Without the page's token the API answers nothing.
    assert status_of(controller, "/api/config") == "401"
    listening = controller.shell("ss --listening --tcp --numeric --no-header 'sport = :9119'")
    assert [line.split()[3] for line in listening.splitlines()] == ["127.0.0.1:9119"]


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_the_dashboard_comes_back(controller, wait_until, signal):
    """TERM is its clean stop; it comes back after that, too."""

    def show(name: str) -> str:
        return controller.shell(f"systemctl show --property {name} --value hermes-dashboard").strip()

    def answers() -> bool:
        return status_of(controller, "/api/status") == "200"

    wait_until(answers, "the dashboard answers")
    pid = show("MainPID")
    controller.shell(f"kill -{signal} {pid}")
    wait_until(lambda: show("MainPID") not in ("0", pid) and answers(), "it is back")
    assert show("Result") == "success"


def test_the_dashboard_is_not_there_while_the_gateway_is_stopped(controller, wait_until):
    """A gateway is stopped when an update or a restore needs the home alone."""
    controller.shell("systemctl stop hermes-gateway@default")
    assert controller.shell("systemctl is-active hermes-dashboard || true").strip() == "inactive"
    controller.shell("systemctl start hermes-gateway@default")
    wait_until(lambda: status_of(controller, "/api/status") == "200", "both are back")


# Off the host


@pytest.fixture
def receiver(controller) -> None:
    """The receiver of docs/logs.md, set up by the commands of that page."""
    if controller.shell("systemctl is-active stunnel@journal || true").strip() == "active":
        return
    blocks = re.findall(r"^```console\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)
    (block,) = [block for block in blocks if "apt install" in block]
    commands = re.sub(r"^\$ sudo journalctl .*\n", "", block, flags=re.M)
    commands = re.sub(r"^\$ sudo ", "", commands, flags=re.M).replace("apt install", "apt-get install --yes -qq")
    files = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    controller.shell("mkdir -p /etc/stunnel")
    for name in ("ca.pem", "receiver.pem", "receiver.key"):
        controller.write(f"/etc/stunnel/{name}", (files / name).read_bytes())
    controller.shell('DEBIAN_FRONTEND=noninteractive exec bash -ec "$1"', commands)


def received(controller: Any, *matches: str) -> list[str]:
    found = controller.shell(
        'journalctl --directory "$@" --output cat --no-pager --quiet 2>/dev/null || true', REMOTE, *matches
    )
    return found.splitlines()


def test_the_journal_arrives_whole_though_the_receiver_was_gone(agent, controller, receiver, wait_until):
    # Written before there was a receiver, in the order in which it was written.
    wait_until(lambda: received(controller, "SYSLOG_IDENTIFIER=hermes-gateway-default"), "what was said before arrives")
    controller.shell("systemctl stop systemd-journal-remote.socket systemd-journal-remote.service")
    token = secrets.token_hex(8)
    controller.shell('for n in $(seq 200); do echo "$1 $n"; done | systemd-cat --identifier audit-test', token)
    agent().reply(f"say {token}")
    # The upload was tried, and failed.
    restarts = "systemctl show --property NRestarts --value systemd-journal-upload"
    before = int(controller.shell(restarts))
    wait_until(lambda: int(controller.shell(restarts)) > before, "it tries again", 120)
    controller.shell("systemctl start systemd-journal-remote.socket")
    wait_until(lambda: f"{token} 200" in received(controller, "SYSLOG_IDENTIFIER=audit-test"), "the rest arrives", 120)
    lines = [line for line in received(controller, "SYSLOG_IDENTIFIER=audit-test") if line.startswith(token)]
    # Some may arrive twice; none is missing.
    assert set(lines) == {f"{token} {number}" for number in range(1, 201)}
    # The question to the agent is in agent.log, and so in the journal.
    wait_until(
        lambda: any(token in line for line in received(controller, "SYSLOG_IDENTIFIER=hermes-gateway-default")),
        "the turn arrives",
    )


def test_nobody_ships_without_a_certificate(controller, receiver):
    done = controller.shell(
        "printf '__REALTIME_TIMESTAMP=1763600000000000\\nMESSAGE=forged\\n\\n' | curl --silent --cacert "
        "/etc/stunnel/ca.pem --header 'Content-Type: application/vnd.fdo.journal' --data-binary @- "
        "--output /dev/null --write-out '%{http_code}' https://localhost:19532/upload || true"
    )
    assert done == "000"
    assert received(controller, "MESSAGE=forged") == []


def test_switched_off_nothing_is_left(controller):
    off = {"logrotate_enabled": False, "dashboard_enabled": False, "audit_enabled": False}
    controller.converge(off)
    left = controller.shell(
        "ls -d /etc/hermes-ops/logrotate* /var/lib/logrotate/hermes-* /etc/hermes-ops/audit "
        "/etc/systemd/*.conf.d/hermes* /etc/systemd/system/hermes-dashboard.service "
        "/etc/systemd/system/hermes-logrotate* /etc/systemd/system/systemd-journal-upload.service.d 2>/dev/null || true"
    )
    assert left == ""
    assert status_of(controller, "/api/status") == "000"
    assert controller.shell("systemctl is-active systemd-journal-upload || true").strip() == "inactive"
    controller.converge()
    assert status_of(controller, "/api/status") == "200"
