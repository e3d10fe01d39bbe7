# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs of hermes-ops as timers: units, settings, and the module timer."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import jobs, settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import systemd
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError, Refused
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.modules import timer as timer_module

HEARTBEAT = jobs.JOBS["heartbeat"]
SECRET = "https://ping.example/0d338dcc"
SETTINGS = {"ping_url": SECRET, "period": 120}
DATA = "/var/lib/hermes"
EVERY = jobs.Schedule(every=120, calendar=None, randomized_delay=0, timeout=110)
NIGHTLY = jobs.Schedule(every=None, calendar="*-*-* 03:00:00", randomized_delay=600, timeout=3600)


class Systemctl:
    """Plays systemctl: records calls, and the resulting state of the one timer."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.enabled = self.active = False

    def call(self, *arguments):
        if arguments[0] != "show":
            self.calls.append(arguments)
        verb = arguments[0]
        self.enabled = {"enable": True, "disable": False}.get(verb, self.enabled)
        self.active = {"start": True, "restart": True, "disable": False}.get(verb, self.active)
        shown = f"ActiveState={'active' if self.active else 'inactive'}\n"
        shown += f"UnitFileState={'enabled' if self.enabled else 'disabled'}\nLoadState=loaded\n"
        # The same state for each unit.
        return Completed(arguments, 0, "\n".join([shown] * len(arguments[3:])), "")


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    told = Systemctl()
    monkeypatch.setattr(systemd.Manager, "call", lambda _manager, *words, **_options: told.call(*words))
    monkeypatch.setattr(systemd.Manager, "reachable", True)
    for directory in ("system", "etc"):
        (tmp_path / directory).mkdir()
    monkeypatch.setattr(jobs, "UNIT_DIRECTORY", str(tmp_path / "system"))
    monkeypatch.setattr(jobs, "STAMP_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(settings, "DIRECTORY", str(tmp_path / "etc"))
    return told


def converge(schedule=EVERY, values=SETTINGS):
    plan = jobs.plan_present(HEARTBEAT, schedule, values, DATA)
    plan.apply()
    return plan


def test_check_then_apply_then_nothing(systemctl, tmp_path):
    plan = jobs.plan_present(HEARTBEAT, EVERY, SETTINGS, DATA)
    assert plan.changed
    assert os.listdir(tmp_path / "etc") == os.listdir(tmp_path / "system") == []
    plan.apply()
    assert [call for call in systemctl.calls if call[0] != "reset-failed"] == [
        ("enable", "--no-reload", HEARTBEAT.timer),
        ("daemon-reload",),
        ("start", HEARTBEAT.timer),
    ]
    again = converge()
    assert not again.changed
    assert not again.actions


def test_the_settings_are_roots_alone_and_in_no_diff(systemctl, tmp_path):
    plan = converge()
    path = tmp_path / "etc/heartbeat.json"
    assert json.loads(path.read_text()) == SETTINGS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    changed = jobs.plan_present(HEARTBEAT, EVERY, {**SETTINGS, "ping_url": "https://ping.example/another"}, DATA)
    for shown in (plan.diff("x"), changed.diff("x")):
        assert "ping.example" not in str(shown)
    assert [difference.what for difference in changed.differences] == [str(path)]
    path.chmod(0o644)
    converge()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_changed_time_restarts_the_timer_changed_settings_do_not(systemctl):
    converge()
    systemctl.calls.clear()
    converge(values={**SETTINGS, "period": 60})
    assert systemctl.calls == []
    converge(jobs.Schedule(every=300, calendar=None, randomized_delay=0, timeout=60))
    # Each reads all units otherwise.
    assert systemctl.calls[:2] == [("reenable", "--no-reload", HEARTBEAT.timer), ("daemon-reload",)]
    assert systemctl.calls[-1] == ("restart", HEARTBEAT.timer)


def test_a_job_that_failed_is_not_listed_as_failed_once_it_is_gone(systemctl):
    converge()
    systemctl.calls.clear()
    jobs.plan_absent(HEARTBEAT).apply()
    after = systemctl.calls[systemctl.calls.index(("daemon-reload",)) + 1 :]
    assert after == [("reset-failed", HEARTBEAT.timer), ("reset-failed", HEARTBEAT.service)]


@pytest.mark.parametrize("job", jobs.JOBS.values(), ids=jobs.JOBS)
def test_a_run_that_was_refused_has_not_failed(job, monkeypatch, capsys):
    """Of an update by hand and the timer's, one is refused: that left its unit failed until somebody reset it."""
    monkeypatch.setattr(cli, "call", lambda _argv: (_ for _ in ()).throw(Refused("another update is running")))
    status = cli.main(["update"])
    assert status == 3
    assert "another update is running" in capsys.readouterr().err
    assert f"\nSuccessExitStatus={status}\n" in jobs.render_service(job, EVERY, DATA)
    # A unit by hand is read by its caller, after systemd has forgotten the status of one that succeeded.
    assert "SuccessExitStatus" not in dict(job.directives)


def test_a_timer_that_somebody_stopped_runs_again(systemctl):
    converge()
    systemctl.active = systemctl.enabled = False
    converge()
    assert systemctl.active
    assert systemctl.enabled


def test_absent_leaves_nothing_and_ends_no_run(systemctl, tmp_path):
    assert not jobs.plan_absent(HEARTBEAT).changed
    converge()
    assert jobs.present() == ["heartbeat"]
    systemctl.calls.clear()
    plan = jobs.plan_absent(HEARTBEAT)
    assert "ping.example" not in str(plan.diff("x"))
    plan.apply()
    assert os.listdir(tmp_path / "etc") == os.listdir(tmp_path / "system") == []
    assert jobs.present() == []
    assert systemctl.calls[0] == ("disable", "--now", HEARTBEAT.timer)
    assert {call[0] for call in systemctl.calls if HEARTBEAT.service in call} == {"reset-failed"}
    assert not jobs.plan_absent(HEARTBEAT).changed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "the heartbeat has no receiver"),
        ({"ping_url": SECRET, "perod": 60}, "did you mean period"),
        ({"ping_url": 7}, "ping_url is not of type str"),
        ({"ping_url": "ftp://ping.example/0d338dcc"}, "ping_url is not a ping URL"),
    ],
)
def test_wrong_settings_change_nothing(systemctl, tmp_path, values, message):
    with pytest.raises(OpsError, match=message) as caught:
        jobs.plan_present(HEARTBEAT, EVERY, values, DATA)
    assert "0d338dcc" not in str(caught.value)
    assert os.listdir(tmp_path / "etc") == os.listdir(tmp_path / "system") == systemctl.calls == []


@pytest.mark.parametrize(
    "schedule",
    [
        jobs.Schedule(every=None, calendar=None, randomized_delay=0, timeout=60),
        jobs.Schedule(every=60, calendar="daily", randomized_delay=0, timeout=60),
        jobs.Schedule(every=0, calendar=None, randomized_delay=0, timeout=60),
        jobs.Schedule(every=60, calendar=None, randomized_delay=-1, timeout=60),
        jobs.Schedule(every=60, calendar=None, randomized_delay=0, timeout=0),
        jobs.Schedule(every=None, calendar="daily\nOnBootSec=1", randomized_delay=0, timeout=60),
        jobs.Schedule(every=None, calendar="%n", randomized_delay=0, timeout=60),
    ],
)
def test_what_is_no_time_is_refused(schedule):
    with pytest.raises(OpsError):
        schedule.check()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not on this machine")
def test_systemd_is_asked_about_the_calendar():
    NIGHTLY.check()
    with pytest.raises(OpsError, match="does not understand the calendar event"):
        jobs.Schedule(every=None, calendar="*-*-* 25:00:00", randomized_delay=0, timeout=60).check()


def test_hosts_have_their_own_place_within_the_period():
    first = [dict(EVERY.directives(f"machine {number}"))["OnActiveSec"] for number in range(200)]
    assert {30 <= int(seconds) < 120 for seconds in first} == {True}
    assert len(set(first)) > 60
    assert EVERY.directives("one") == EVERY.directives("one")


def test_a_calendar_timer_catches_up():
    assert NIGHTLY.directives("any") == [
        ("OnCalendar", "*-*-* 03:00:00"),
        ("RandomizedDelaySec", "600"),
        ("Persistent", "true"),
    ]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not on this machine")
@pytest.mark.parametrize("job", jobs.JOBS.values(), ids=jobs.JOBS)
@pytest.mark.parametrize("schedule", [EVERY, NIGHTLY], ids=["every", "calendar"])
def test_systemd_accepts_the_units(tmp_path, job, schedule):
    service, timer = tmp_path / job.service, tmp_path / job.timer
    service.write_text(jobs.render_service(job, schedule, DATA).replace(jobs.COMMAND, "/bin/true"))
    timer.write_text(jobs.render_timer(job, schedule, "machine"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(service), str(timer)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if job.name in line], done.stderr


@pytest.mark.parametrize("job", jobs.JOBS.values(), ids=jobs.JOBS)
def test_no_job_starts_without_the_data_volume_but_the_one_that_reports_it(job):
    required = f"\nRequiresMountsFor={DATA}\n" in jobs.render_service(job, EVERY, DATA)
    assert required == (job.name != "heartbeat")


def test_every_job_is_a_command_that_can_be_declared():
    # The module secrets schedules its own.
    choices = [name for name in jobs.JOBS if name != "secrets"]
    assert timer_module.ARGUMENTS["name"]["choices"] == choices
    assert yaml.safe_load(timer_module.DOCUMENTATION)["options"]["name"]["choices"] == choices
    for job in jobs.JOBS.values():
        assert job.arguments[0] in cli.commands()
        with pytest.raises(OpsError, match="no_such_key"):
            job.check({"no_such_key": 1})


@pytest.fixture
def run(systemctl, run_module):
    def call(**options):
        return run_module(timer_module, {"name": "heartbeat", "settings": SETTINGS, "every": 120, **options})

    return call


def test_the_module_says_what_it_does_and_no_secret(run):
    output = run()
    assert SECRET not in output
    # A number among the settings is not blotted out of everything else.
    assert "OnUnitActiveSec=120" in output
    assert json.loads(output)["changed"] is True
    assert json.loads(run())["changed"] is False
    assert json.loads(run(_ansible_check_mode=True, state="absent"))["changed"] is True
    assert json.loads(run())["changed"] is False
    assert json.loads(run(state="absent"))["changed"] is True


REPOSITORY = "rest:https://ada:hunter2@backup.example.org/hermes"


def test_the_end_of_the_last_copy_off_the_host_is_said(run, run_module):
    def backup(**options):
        schedule = {"every": None, "calendar": "*-*-* 02:00:00"}
        output = run(name="backup", **{**schedule, **options})
        assert "hunter2" not in output + "".join(run_module.warnings)
        return run_module.warnings

    away = {"restic_repository": REPOSITORY, "restic_password": "p"}
    assert backup(settings={}) == []
    assert backup(settings=away) == []
    assert backup(settings={**away, "restic_repository": "/mnt/other"}) == []
    assert backup(settings=away) == []
    for options in ({"settings": {}}, {"state": "absent"}):
        (warning,) = backup(_ansible_check_mode=True, **options)
        assert "are no longer copied off the host" in warning
    assert len(backup(settings={})) == 1
    assert backup(settings={}) == backup(state="absent") == []


def test_the_module_refuses_without_the_secret(run):
    output = json.loads(run(settings={"ping_url": SECRET + "?x=1"}))
    assert output["failed"]
    assert "0d338dcc" not in str(output)


def test_a_job_may_give_its_workers_a_view_of_their_own():
    """They need a mount namespace each (system/view.py). Without the right to one they would see all of /home."""
    assert not {"RestrictNamespaces", "SystemCallFilter", "CapabilityBoundingSet"} & {
        name for name, _ in jobs.HARDENING
    }


@pytest.mark.parametrize("job", jobs.JOBS.values(), ids=lambda job: job.name)
def test_a_crash_of_a_job_writes_no_secret_into_the_journal(job):
    assert "\nLimitCORE=1\n" in jobs.render_service(job, EVERY, DATA)
