# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs that stay small: what logrotate and the journal are told, and that Hermes bounds the rest as declared."""

from __future__ import annotations

import dataclasses
import grp
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.converge import desired
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import tidy as command_tidy
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import events, logs
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Published
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import units
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import services
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import Plan
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager, Unit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import info

HERMES = [path for path in os.environ.get("TEST_HERMES_VENVS", "").split(":") if path]
HOMES = [
    logs.Home(name, f"/data/agents/{name}/.hermes", f"hermes-{name}", f"hermes-{name}") for name in ("default", "work")
]
SETTINGS = logs.Settings(days=14, max_size="50M", paths=(), journal_max_use="500M", journal_days=0)
# Hermes rotates them itself (0.18.2 and 0.19.0 hermes_logging.py, gateway/run.py).
ROTATED_BY_HERMES = ("agent", "errors", "gateway", "gui", "tool_calls")


def patterns():
    """Every path that logrotate is told of."""
    return [path for home in HOMES for paths, _ in sections(logs.render_config(SETTINGS, home)) for path in paths]


def sections(text):
    """What logrotate reads: (paths, directives) of each section."""
    text = re.sub(r"^#.*\n", "", text, flags=re.M)
    found = re.findall(r"([^{}]*)\{([^{}]*)\}", text)
    return [(paths.split(), [line.strip() for line in body.strip().splitlines()]) for paths, body in found]


def test_what_hermes_rotates_itself_is_not_rotated_twice():
    told = patterns()
    own = [Path(home.path, "logs", f"{name}.log") for home in HOMES for name in ROTATED_BY_HERMES]
    assert told
    assert [(path, pattern) for path in own for pattern in told if path.match(pattern)] == []


def test_every_log_of_every_agent_by_absolute_path_once():
    told = patterns()
    assert len(told) == len(set(told)) == len(HOMES) * (len(logs.KEPT_OPEN) + len(logs.OPENED_ANEW))
    assert all(pattern.startswith("/data/agents/") for pattern in told)
    assert "/data/agents/work/.hermes/platforms/whatsapp/bridge.log" in told


def test_without_an_agent_there_is_nothing_to_rotate():
    """The last one has left: systemctl refuses to start nothing."""
    assert logs.rotations(SETTINGS, []) == []
    assert "\nExecStart=/usr/bin/true\n" in logs.render_service(SETTINGS, [])


def test_the_page_names_what_is_rotated():
    page = (Path(__file__).resolve().parents[3] / "docs/logs.md").read_text()
    named = set(re.findall(r"`([^` ]+)`", page))
    expanded = {f"logs/gateway-{word}.log" for word in ("start", "stop", "restart")}
    written_once = ["/".join(event) for event in events.EVENTS]
    assert {*logs.KEPT_OPEN, *logs.OPENED_ANEW, *written_once} - named - expanded == set()


def test_truncated_is_only_what_cannot_be_opened_again():
    settings = dataclasses.replace(SETTINGS, days=30, max_size="1M")
    home = logs.Home("default", "/data/.hermes", "hermes", "agents")
    (kept_open, truncated), (opened_anew, renamed) = sections(logs.render_config(settings, home))
    assert "/data/.hermes/logs/mcp-stderr.log" in kept_open
    assert "/data/.hermes/logs/dashboard-auth.log" in opened_anew
    assert "copytruncate" in truncated
    assert "copytruncate" not in renamed
    for directives in (truncated, renamed):
        assert {"daily", "rotate 30", "maxage 30", "maxsize 1M", "compress", "missingok", "notifempty"} <= set(
            directives
        )
        assert "su hermes agents" in directives


def test_each_agent_s_logs_are_rotated_as_its_user_by_a_unit_that_sees_no_other_s():
    for home, rotation in zip(HOMES, logs.rotations(SETTINGS, HOMES)):
        found = sections(rotation.config)
        assert {directive for _paths, ds in found for directive in ds if directive.startswith("su ")} == {
            f"su {home.user} {home.group}"
        }
        assert all(path.startswith(f"{home.path}/") for paths, _directives in found for path in paths)
        assert (rotation.name, rotation.opened) == (home.name, (home.path,))


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
def test_a_log_of_one_s_own_is_rotated_as_the_user_of_its_directory(tmp_path):
    (tmp_path / "bridge").mkdir()
    nobody = Account.named("nobody")
    os.chown(tmp_path / "bridge", nobody.uid, nobody.gid)
    paths = (f"{tmp_path}/bridge/*.log", f"{tmp_path}/bridge/later/a.log", "/nowhere/b.log")
    found = {each.name: each for each in logs.rotations(dataclasses.replace(SETTINGS, paths=paths), [])}
    assert {name: each.opened for name, each in found.items()} == {
        f"uid.{nobody.uid}": paths[:2],
        "uid.0": paths[2:],
    }
    for rotation in found.values():
        ((told, directives),) = sections(rotation.config)
        assert tuple(told) == rotation.opened
        assert f"su {'root' if rotation.name == 'uid.0' else 'nobody'} " in " ".join(directives)
        # Nobody knows how those are written.
        assert "copytruncate" in directives


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (("/data/agents/work/.hermes/logs/mcp-stderr.log",), "mcp-stderr.log"),
        (("/data/agents/work/.hermes/logs/mcp-*.log",), "mcp-stderr.log"),
        (("/data/agents/*/.hermes/logs/action-9.log",), "action-*.log"),
        (("/srv/a.log", "/srv/*.log"), "/srv/a.log"),
        (("/srv/a.log", "/srv/a.log"), "/srv/a.log"),
    ],
)
def test_a_log_that_is_rotated_already_is_refused(paths, named):
    with pytest.raises(OpsError, match="is rotated already, as ") as refused:
        logs.rotations(dataclasses.replace(SETTINGS, paths=paths), HOMES)
    assert named in refused.value.what
    assert refused.value.where == paths[-1]


def test_logs_of_one_s_own_beside_those_that_are_rotated_already():
    paths = ("/data/agents/work/.hermes/bridges/*.log", "/srv/*.log", "/srv/a", "/srv/a/*")
    (*_agents, own) = logs.rotations(dataclasses.replace(SETTINGS, paths=paths), HOMES)
    assert own.opened == paths


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"days": 0}, "days"),
        ({"journal_days": -1}, "journal_days"),
        ({"max_size": "50MB"}, "max_size"),
        ({"max_size": "0"}, "max_size"),
        ({"journal_max_use": "half"}, "journal_max_use"),
        ({"paths": ("~/bridge.log",)}, "paths"),
        ({"paths": ("logs/bridge.log",)}, "paths"),
        ({"paths": ("/var/log/../../etc/passwd",)}, "paths"),
        ({"paths": ("/var/log/a.log { su root root } /x",)}, "paths"),
        ({"paths": ("/var/log/a.log\ninclude /x",)}, "paths"),
    ],
)
def test_what_logrotate_or_systemd_would_not_understand_is_refused(changed, where):
    with pytest.raises(OpsError) as refused:
        dataclasses.replace(SETTINGS, **changed)
    assert refused.value.where == where
    assert refused.value.fix


def test_the_journal_is_limited():
    assert "SystemMaxUse=500M\n" in logs.render_journald(SETTINGS)
    assert "MaxRetentionSec" not in logs.render_journald(SETTINGS)
    assert "MaxRetentionSec=30day\n" in logs.render_journald(dataclasses.replace(SETTINGS, journal_days=30))


# What is started as an agent's user

# Directives of a gateway's sandbox that the unit of logrotate does not have -> why.
NOT_FOR_LOGROTATE = {
    "CapabilityBoundingSet": "root needs some; what runs as an agent has none, and gets none (NoNewPrivileges)",
    "AmbientCapabilities": "none is the default",
    "RemoveIPC": "for units with a user of their own",
    "UMask": "logrotate gives each file the mode of the log",
}
# Those that say something else here -> why it lets nobody do more.
STRICTER_FOR_LOGROTATE = {
    "RestrictAddressFamilies": "it talks to nobody",
    "IPAddressDeny": "it talks to nobody",
}


def test_what_logrotate_starts_as_an_agent_can_do_no_more_than_the_agent():
    """gzip, which the agent can trace, change and reach through."""
    said = dict(logs.CONFINEMENT)
    gateway = {name: value for name, value in units.SANDBOX.items() if name not in NOT_FOR_LOGROTATE}
    assert gateway.keys() <= said.keys()
    assert {name for name, value in gateway.items() if said[name] != value} == set(STRICTER_FOR_LOGROTATE)
    assert set(said["RestrictAddressFamilies"].split()) < set(gateway["RestrictAddressFamilies"].split())
    assert said["IPAddressDeny"] == "any"
    assert {"MemoryMax", "TasksMax"} <= said.keys()
    for rotation in logs.rotations(dataclasses.replace(SETTINGS, paths=("/srv/a.log",)), HOMES):
        unit = logs.render_unit(rotation)
        assert all(f"\n{name}={value}\n" in unit for name, value in said.items())


def test_the_hosts_own_run_of_logrotate_knows_no_agent():
    """It is not in our sandbox."""
    assert not logs.CONFIG.startswith("/etc/logrotate.d/")


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
@pytest.mark.parametrize(("mode", "refused"), [(0o755, False), (0o775, False), (0o757, True), (0o1777, True)])
def test_root_rotates_nothing_among_names_of_others(tmp_path, mode, refused):
    directory = tmp_path / "bridge"
    directory.mkdir()
    directory.chmod(mode)
    settings = dataclasses.replace(SETTINGS, paths=(f"{directory}/*.log",))
    if refused:
        with pytest.raises(OpsError, match="put links for root to follow"):
            logs.rotations(settings, HOMES)
    else:
        assert logs.rotations(settings, HOMES)[-1].name == "uid.0"
    # The group that may write is an agent's.
    os.chown(directory, 0, 65534)
    home = logs.Home("work", "/data/agents/work/.hermes", "nobody", grp.getgrgid(65534).gr_name)
    if mode & 0o022:
        with pytest.raises(OpsError, match="put links for root to follow"):
            logs.rotations(settings, [home])


def test_a_rotation_ends_with_its_agents_gateway():
    """While that is stopped for a copy or a restore, nothing that is the agent's may write into its home."""
    for rotation in logs.rotations(dataclasses.replace(SETTINGS, paths=("/nowhere/b.log",)), HOMES):
        part_of = re.findall("^PartOf=(.*)$", logs.render_unit(rotation), re.M)
        assert part_of == ([] if rotation.name == "uid.0" else [f"hermes-gateway@{rotation.name}.service"])


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
def test_the_unit_opens_no_directory_that_an_agent_could_exchange(tmp_path):
    home = tmp_path / "agents/work/.hermes"
    home.parent.mkdir(parents=True)
    home.symlink_to("/etc")
    os.chown(home.parent, 65534, 65534)
    (rotation,) = logs.rotations(SETTINGS, [logs.Home("work", str(home), "hermes", "hermes")])
    opened = re.findall(r"^(?:BindPaths|ReadWritePaths)=-(.*)$", logs.render_unit(rotation), re.M)
    assert opened[1:] == [str(home.parent)] * 2


def test_a_home_that_moved_is_opened_and_rotated_as_its_new_user(tmp_path):
    before = logs.Home("work", str(tmp_path / "a"), "hermes", "agents")
    after = logs.Home("work", str(tmp_path / "b"), "hermes-work", "hermes-work")
    (old,), (new,) = (logs.rotations(SETTINGS, [home]) for home in (before, after))
    assert logs.moved_config(old.config, before, after) == new.config
    assert logs.moved_unit(logs.render_unit(old), before, after) == logs.render_unit(new)


def test_all_rotations_are_started_at_once_and_each_has_an_end():
    wanted = logs.rotations(SETTINGS, HOMES)
    started = "/usr/bin/systemctl start hermes-logrotate@default.service hermes-logrotate@work.service"
    assert f"\nExecStart={started}\n" in logs.render_service(SETTINGS, [each.name for each in wanted])
    assert {"LimitFSIZE", "LimitCPU", "TimeoutStartSec", "LogRateLimitBurst"} <= dict(logs.LIMITS).keys()
    for rotation in wanted:
        unit = logs.render_unit(rotation)
        assert all(f"\n{name}={value}\n" in unit for name, value in logs.LIMITS)


def write_events(home: Path) -> None:
    for name, days in (
        ("logs/subagent-timeout-a-20260101_000000.log", 16),
        ("logs/subagent-timeout-b-20260101_000000.log", 1),
        ("sessions/request_dump_x_20260101.json", 16),
        ("sessions/session.jsonl", 16),
        ("logs/agent.log.3", 16),
        ("workspace/logs/subagent-timeout-mine.log", 16),
    ):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (time.time(), time.time() - days * 86400))


def tidy(monkeypatch, *homes: Path) -> int:
    agents = [Published(home.name, Account.current().name, str(home), None) for home in homes]
    monkeypatch.setattr(command_tidy, "published", lambda: agents)
    monkeypatch.setattr(logs, "CONFIG", str(homes[0].parent / "logrotate-{}.conf"))
    for home in homes:
        Path(logs.CONFIG.format(home.name)).touch()
    return cli.call(["tidy", "--days", "14"])


def test_files_of_one_event_are_removed_by_age(tmp_path, monkeypatch):
    home = tmp_path / "home"
    write_events(home)
    assert tidy(monkeypatch, home) == 0
    assert sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()) == [
        "logs/agent.log.3",
        "logs/subagent-timeout-b-20260101_000000.log",
        "sessions/session.jsonl",
        "workspace/logs/subagent-timeout-mine.log",
    ]


def test_where_logs_are_not_rotated_none_are_removed(tmp_path, monkeypatch):
    home = tmp_path / "home"
    write_events(home)
    before = sorted(home.rglob("*"))
    monkeypatch.setattr(logs, "rotated", lambda name: False)
    assert tidy(monkeypatch, home) == 0
    assert sorted(home.rglob("*")) == before


def test_through_no_link_and_one_agent_keeps_no_other_from_it(tmp_path, monkeypatch, capsys):
    for name in ("elsewhere", "last"):
        write_events(tmp_path / name)
    for name in ("gone", "linked"):
        (tmp_path / name).mkdir()
    (tmp_path / "linked/logs").symlink_to(tmp_path / "elsewhere/logs")
    (tmp_path / "gone").rmdir()
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    assert tidy(monkeypatch, *(tmp_path / name for name in ("gone", "linked", "last"))) == 1
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before
    assert len(list((tmp_path / "last/logs").iterdir())) == 2
    assert capsys.readouterr().out.startswith(f"gone: {tmp_path}/gone: ")


class Systemctl:
    """Units with a state, and what was asked of them."""

    def __init__(self):
        self.asked: list[str] = []
        self.states: dict[str, dict[str, str]] = {}

    def call(self, *arguments):
        if arguments[0] == "show":
            blocks = ["\n".join(f"{k}={v}" for k, v in self.states.get(name, {}).items()) for name in arguments[3:]]
            return Completed(arguments, 0, "\n\n".join(blocks), "")
        self.asked.append(" ".join(arguments))
        for name in arguments[1:]:
            state = self.states.setdefault(name, {})
            if arguments[0] == "enable":
                state["UnitFileState"] = "enabled"
            elif arguments[0] in ("start", "restart"):
                entered = str(int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6))
                state.update(ActiveState="active", ActiveEnterTimestampMonotonic=entered)
            elif arguments[0] == "disable":
                state.update(ActiveState="inactive", UnitFileState="disabled")
        return Completed(arguments, 0, "", "")


@pytest.fixture
def systemctl(monkeypatch):
    told = Systemctl()
    monkeypatch.setattr(Manager, "call", lambda _manager, *words, **_options: told.call(*words))
    monkeypatch.setattr(Manager, "reachable", True)
    return told


MANAGER = Manager("system", Account.current())


@pytest.fixture
def host(tmp_path, monkeypatch, systemctl):
    """A host whose files lie in tmp_path, where a journal runs and logrotate accepts everything."""
    for name in ("CONFIG", "STATE", "UNIT", "JOURNALD", "SERVICE", "TIMER"):
        monkeypatch.setattr(logs, name, str(tmp_path) + getattr(logs, name))
    monkeypatch.setattr(logs, "check_config", lambda text, where: None)
    systemctl.call("start", "systemd-journald.service")
    systemctl.asked.clear()
    return systemctl


def converge(settings=SETTINGS, homes=HOMES):
    plan = logs.plan_logs(settings, homes, MANAGER)
    plan.apply()
    return plan


def test_check_then_apply_then_nothing(host):
    assert logs.plan_logs(SETTINGS, HOMES, MANAGER).changed
    assert host.asked == []
    assert not logs.present()
    converge()
    assert host.asked == [
        "enable --no-reload hermes-logrotate.timer",
        "daemon-reload",
        "reset-failed hermes-logrotate.timer",
        "start hermes-logrotate.timer",
        "restart systemd-journald.service",
    ]
    assert info.FEATURES["logrotate"].present()
    host.asked.clear()
    assert not converge().changed
    assert host.asked == []


def test_the_journal_is_restarted_only_for_its_own_file(host):
    converge()
    host.asked.clear()
    converge(dataclasses.replace(SETTINGS, max_size="1M"))
    assert host.asked == []
    converge(dataclasses.replace(SETTINGS, journal_max_use="1G"))
    assert host.asked == ["restart systemd-journald.service"]


def test_a_run_that_was_killed_before_the_restart_is_finished_by_the_next(host):
    converge()
    host.asked.clear()
    plan = logs.plan_logs(dataclasses.replace(SETTINGS, journal_max_use="1G"), HOMES, MANAGER)
    plan.actions[0]()
    assert converge(dataclasses.replace(SETTINGS, journal_max_use="1G")).changed
    assert host.asked == ["restart systemd-journald.service"]


def of_rotations(name: str) -> list[str]:
    return [path.format(name) for path in (logs.CONFIG, logs.UNIT, logs.STATE) if os.path.exists(path.format(name))]


def test_of_an_agent_that_left_no_rotation_is_left(host):
    converge()
    # As its first run leaves it.
    state = Path(logs.STATE.format("work"))
    state.parent.mkdir(parents=True)
    state.write_text("x")
    host.states["hermes-logrotate@work.service"] = {"ActiveState": "activating"}
    host.asked.clear()
    assert converge(homes=HOMES[:1]).changed
    assert of_rotations("work") == []
    assert len(of_rotations("default")) == 2
    # Also one that hangs.
    assert host.asked[0] == "disable --now hermes-logrotate@work.service"
    assert "hermes-logrotate@work" not in Path(logs.SERVICE).read_text()
    assert not converge(homes=HOMES[:1]).changed


def test_a_run_that_was_killed_while_an_agent_left_is_finished_by_the_next(host):
    converge()
    for last in ("CONFIG", "STATE"):
        Path(logs.UNIT.format("work")).unlink(missing_ok=True)
        Path(logs.CONFIG.format("work")).unlink(missing_ok=True)
        rest = Path(getattr(logs, last).format("work"))
        rest.parent.mkdir(parents=True, exist_ok=True)
        rest.write_text("x")
        assert converge(homes=HOMES[:1]).changed
        assert of_rotations("work") == []


def test_what_logrotate_refuses_never_lands(host, monkeypatch):
    """Not the texts of others either: all are checked before."""
    converge()
    before = [Path(logs.CONFIG.format(home.name)).read_text() for home in HOMES]

    def refuse(text, where):
        if where == logs.CONFIG.format("work"):
            raise OpsError("logrotate refuses it")

    monkeypatch.setattr(logs, "check_config", refuse)
    with pytest.raises(OpsError):
        converge(dataclasses.replace(SETTINGS, max_size="1M"))
    assert [Path(logs.CONFIG.format(home.name)).read_text() for home in HOMES] == before


def test_switched_off_nothing_is_left(host, tmp_path):
    converge()
    host.asked.clear()
    plan = logs.plan_no_logs(MANAGER)
    assert plan.changed
    plan.apply()
    assert host.asked[0] == "disable --now hermes-logrotate.timer"
    assert "daemon-reload" in host.asked
    assert host.asked[-1] == "restart systemd-journald.service"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not logs.present()
    assert not logs.plan_no_logs(MANAGER).changed


@pytest.fixture
def logrotate(tmp_path, monkeypatch):
    """A logrotate that says what the real one (3.21) does of such a file, and notes what it was shown."""

    def answer(words: str, status: int = 0):
        program = tmp_path / "bin/logrotate"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nfor last; do :; done\ncat "$last" >{tmp_path}/shown\n{words}\nexit {status}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return answer


def test_logrotate_is_asked_about_the_very_text_of_files_that_are_nowhere(logrotate, tmp_path):
    logrotate("echo 'warning: logrotate in debug mode does nothing' >&2")
    logs.check_config("# /a comment\n/etc/passwd\n{\n    the text\n}\n", "c")
    comment, path, *rest = (tmp_path / "shown").read_text().splitlines()
    assert (comment, rest) == ("# /a comment", ["{", "    the text", "}"])
    # Not below a directory of root's: logrotate looks for it as the agent's user.
    assert path == "/nonexistent/etc/passwd"


@pytest.mark.parametrize("status", [0, 1])
def test_the_error_is_logrotates_own(logrotate, status):
    logrotate("echo \"warning: in debug mode\nerror: c:3 unknown unit 'Q'\nerror: skipping\" >&2", status)
    with pytest.raises(OpsError, match="refuses it: c:3 unknown unit 'Q'"):
        logs.check_config("maxsize 5Q\n", "c")


def test_a_host_without_logrotate_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OpsError, match="cannot be run"):
        logs.check_config("", "c")


# services, which the dashboard and the audit use as well


def unit(name="x.service", age=100.0, **over):
    entered = time.clock_gettime(time.CLOCK_MONOTONIC) - age
    values = {"load": "loaded", "active": "active", "sub": "running", "enabled": True, "pid": 1, "restarts": 0}
    return Unit(name=name, result="success", status=0, entered=entered, stale=False, **{**values, **over})


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: whose rights a file is rotated with; needs root")
def test_a_link_of_an_agent_s_leads_to_no_other_rights_than_its_own(tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    (theirs / "own").symlink_to(ours)
    (tmp_path / "link").symlink_to("theirs")
    os.chown(theirs, 65534, 65534)
    for path in ("theirs/own/*.log", "link/own/x.log", "theirs/none/x.log", "theirs/x.log"):
        assert logs.owner_of_directory(str(tmp_path / path), ()).pw_name == "nobody"
    (tmp_path / "root-s").symlink_to(ours)
    (tmp_path / "loop").symlink_to("loop")
    for path in ("ours/x.log", "root-s/x.log", "root-s/none/x.log", "loop/x.log"):
        assert logs.owner_of_directory(str(tmp_path / path), ()).pw_name == "root"


@pytest.mark.parametrize(
    ("age", "written", "older"),
    [(100, 50, True), (100, 150, False), (100, -50, False)],
    ids=["written since", "written before", "the clock was set back"],
)
def test_a_unit_is_older_than_what_was_written_since(tmp_path, age, written, older):
    path = tmp_path / "file"
    path.write_text("x")
    os.utime(path, (0, time.time() - written))
    assert unit(age=age).is_older_than(str(path)) is older


def test_what_was_written_while_a_unit_started_was_perhaps_not_read(tmp_path):
    """Secrets that change at the moment when a gateway restarts by itself."""
    path, now = tmp_path / "file", time.clock_gettime(time.CLOCK_MONOTONIC)
    path.write_text("x")
    os.utime(path, (0, time.time() - 101))
    assert unit(age=100, began=now - 102).is_older_than(str(path))
    assert not unit(age=100, began=now - 100.5).is_older_than(str(path))


def test_a_unit_is_not_older_than_what_is_not_there(tmp_path):
    assert not unit().is_older_than(str(tmp_path / "none"))


def test_a_unit_that_waits_for_its_next_start_is_left_to_systemd(systemctl, tmp_path):
    systemctl.states["x.service"] = {"ActiveState": "activating", "UnitFileState": "enabled"}
    plan = Plan()
    services.plan_active(plan, MANAGER, "x.service")
    assert not plan.changed


def test_a_timer_is_not_restarted_for_what_only_its_service_reads(systemctl, tmp_path):
    timer, service = str(tmp_path / "x.timer"), str(tmp_path / "x.service")
    plans = []
    for texts in (("t", "s"), ("t", "s2"), ("t2", "s2")):
        services.plan_active(plan := Plan(), MANAGER, "x.timer", unit_files=dict(zip((timer, service), texts)))
        plan.apply()
        plans.append([difference.what for difference in plan.differences])
    assert plans[1:] == [[service], [timer, "x.timer restart"]]
    assert systemctl.asked.count("daemon-reload") == 3


def test_files_of_others_in_a_drop_in_directory_stay(systemctl, tmp_path):
    directory = tmp_path / "x.service.d"
    directory.mkdir()
    for name in ("ours.conf", "theirs.conf"):
        (directory / name).write_text("x")
    plan = Plan()
    services.plan_gone(plan, MANAGER, "x.service", [str(directory / "ours.conf")])
    plan.apply()
    assert os.listdir(directory) == ["theirs.conf"]
    services.plan_files_gone(plan := Plan(), [str(directory / "theirs.conf")])
    plan.apply()
    assert not directory.exists()


# The real Hermes

PRUNE = """
import json, os, pathlib, time
from cron import jobs
from gateway.run import GatewayRunner
from hermes_state import SessionDB

home = pathlib.Path(os.environ["HERMES_HOME"])
db = SessionDB(home / "state.db")
for name, days, ended in (("old", 91, True), ("goes-on", 91, False), ("new", 89, True)):
    db.create_session(name, "cli")
    db.append_message(name, "user", "hello")
    if ended:
        db.end_session(name, "done")
    db._conn.execute("UPDATE sessions SET started_at = ? WHERE id = ?", (time.time() - days * 86400, name))
    db._conn.commit()
db.close()
GatewayRunner()
db = SessionDB(home / "state.db")
kept = sorted(row["id"] for row in db._conn.execute("SELECT id FROM sessions"))
output = home / "cron/output/job"
output.mkdir(parents=True)
for second in range(60):
    (output / f"2026-01-01_00-00-{second:02}.md").write_text("x")
jobs.save_job_output("job", "the newest")
print(json.dumps([kept, sorted(path.name for path in output.iterdir())]))
"""


HANDLERS = """
import pathlib
import hermes_logging

for mode in ("gateway", "gui"):
    hermes_logging.setup_logging(mode=mode)
print(*(pathlib.Path(handler.baseFilename).stem for handler in hermes_logging.rotating_file_handlers()))
"""


def hermes(venv, home, script):
    """The last line that *script* prints when Hermes' own Python runs it."""
    if venv == "none":
        pytest.skip("no real Hermes: set TEST_HERMES_VENVS to virtual environments that have it")
    done = subprocess.run(
        [f"{venv}/bin/python", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"HERMES_HOME": str(home), "HOME": str(home), "PATH": "/usr/bin:/bin"},
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("venv", HERMES or ["none"])
def test_hermes_still_rotates_what_is_left_to_it(tmp_path, venv):
    # tool_calls.log is opened for a turn only.
    assert {*hermes(venv, tmp_path, HANDLERS).split(), "tool_calls"} == set(ROTATED_BY_HERMES)


@pytest.mark.parametrize("venv", HERMES or ["none"])
@pytest.mark.parametrize("declared", [{}, {"sessions": {"auto_prune": False}, "cron": {"output_retention": 7}}])
def test_hermes_prunes_as_declared(tmp_path, venv, declared):
    agent = {"name": "default", "config": declared}
    resolved = declaration.resolve([agent], host="box", data_dir=str(tmp_path), managed_root="/m")["default"]
    config = desired(resolved.description, resolved.agent).config
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.declared))
    kept, outputs = json.loads(hermes(venv, tmp_path, PRUNE))
    assert kept == (["goes-on", "new", "old"] if declared else ["goes-on", "new"])
    assert len(outputs) == (7 if declared else 50)
    # The oldest went.
    assert "2026-01-01_00-00-59.md" in outputs
