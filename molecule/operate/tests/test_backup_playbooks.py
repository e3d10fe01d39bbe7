# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks backup, backups, restore, recover and drill, run from another machine."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable
from typing import Any

import pytest

testinfra_hosts = ["ansible://operate-bookworm"]

# The host's check, as in group_vars.
CHECK = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def play(controller: Any) -> Callable[..., Any]:
    """A function that runs ``alwayson.hermes.<name>`` with variables and options of ansible-playbook."""

    def run(name: str, variables: dict[str, Any] | None = None, *options: str) -> Any:
        return controller.run(variables, *options, playbook=f"alwayson.hermes.{name}")

    return run


def archives(controller: Any) -> list[str]:
    found = json.loads(controller.shell("hermes-ops backups --agent work --json"))
    return [archive["path"] for archive in found["archives"]]


def test_a_backup_is_fetched_and_an_agent_that_knows_more_is_not_overwritten(controller, agent, play, tmp_path):
    work = agent("work", port=8643)
    before = archives(controller)
    looked = play("backup", {"backup_agent": "work", "backup_fetch": str(tmp_path)}, "--check")
    assert looked.rc == 0, looked.output
    assert looked.changed == 0
    assert "agent work: would write an archive to /var/lib/hermes/ops/backups, without .env" in looked.text
    assert "agent work: would write a snapshot to the restic repository" in looked.text
    assert f"to {tmp_path}/{controller.box}" in looked.text
    assert archives(controller) == before
    assert list(tmp_path.iterdir()) == []

    made = play("backup", {"backup_agent": "work", "backup_fetch": str(tmp_path)})
    assert made.rc == 0, made.output
    path = archives(controller)[-1]
    assert path not in before
    assert f"{controller.box}  success  {path}" in made.output
    listed = play("backups", {"backups_agent": "work"})
    assert listed.rc == 0, listed.output
    assert listed.changed == 0
    assert all(archive in listed.text for archive in [*before, path])
    # Also what is off the host, as restore_source takes it.
    assert "restic:" in listed.text
    (fetched,) = (tmp_path / controller.box).iterdir()
    assert stat.S_IMODE(fetched.stat().st_mode) == 0o600
    assert hashlib.sha256(fetched.read_bytes()).hexdigest() == controller.shell('sha256sum "$1"', path).split()[0]

    assert work.reply("a zebra came by") == "The model heard: a zebra came by"
    known = "hermes-ops memory --agent work zebra"
    assert "a zebra came by" in controller.shell(known)
    pid = work.pid
    for options in ((), ("--check",)):
        refused = play("restore", {"restore_source": path}, *options)
        assert refused.rc != 0
        assert "the home knows more than the backup" in refused.text
    upload = {"restore_upload": str(fetched), "restore_force": True}
    looked = play("restore", upload, "--check")
    assert looked.rc == 0, looked.output
    assert "would restore" in looked.text
    assert work.pid == pid

    done = play("restore", upload)
    assert done.rc == 0, done.output
    assert "agent work: restored; what was there is in" in done.text
    assert work.pid != pid
    assert "a zebra came by" not in controller.shell(known, check=False)
    assert work.reply("well?") == "The model heard: well?"
    # Nothing of it is left behind, here or on the host.
    assert controller.shell("ls -d /var/tmp/*.hermes-* /tmp/*.hermes-* 2>/dev/null || true") == ""


def test_what_the_retention_removes_is_named_before(controller, play):
    """The rule is restic's own; the name of each snapshot that goes is known before the backup."""

    def snapshots() -> set[str]:
        found = json.loads(controller.shell("hermes-ops backups --agent work --json"))["snapshots"]
        return {each["id"] for each in found if each["host"] == found[-1]["host"]}

    # The second one of a day replaces the first one, so all of this has to be on one day.
    seconds_left = 86400 - int(controller.shell("date +%H:%M:%S | awk -F: '{print $1 * 3600 + $2 * 60 + $3}'"))
    if seconds_left < 300:
        controller.shell(f"sleep {seconds_left}")
    assert play("backup", {"backup_agent": "work"}).rc == 0
    assert play("backup", {"backup_agent": "work"}).rc == 0
    before = snapshots()
    said = json.loads(controller.shell("hermes-ops backup --check --agent work --json"))
    assert play("backup", {"backup_agent": "work"}).rc == 0
    assert set(said["agents"]["work"]["forget"]) == before - snapshots() != set()


def test_the_last_working_configuration_is_put_back(controller, agent, play):
    work, config = agent("work", port=8643), "/var/lib/hermes/agents/work/.hermes/config.yaml"
    good, what = controller.read(config), {"restore_kept": True, "restore_agent": "work"}
    controller.write(config, good + b"\nmodel: [\n")
    looked = play("restore", what, "--check")
    assert looked.rc == 0, looked.output
    assert looked.changed == 0
    assert "agent work: would put back config.yaml; would restart it" in looked.text
    assert controller.read(config) != good
    done = play("restore", what)
    assert done.rc == 0, done.output
    assert "config.yaml is the last working copy again" in done.text
    assert controller.read(config) == good
    assert work.is_healthy()
    refused = play("restore", {**what, "restore_source": "latest"})
    assert "restore_kept takes no backup" in refused.text


def test_nothing_is_recovered_where_nothing_was_interrupted(controller, play):
    assert "Name the job: -e recover_job=update, restore or separate" in play("recover").text
    for job in ("update", "restore", "separate"):
        looked = play("recover", {"recover_job": job}, "--check")
        assert f"would run /usr/local/bin/hermes-ops {job} --recover" in looked.text
        run = play("recover", {"recover_job": job})
        assert (run.rc, run.changed) == (0, 0), run.output


def test_a_restore_is_about_one_host(controller, play):
    controller.limit = "all"
    refused = play("restore", {"restore_source": "/nowhere"})
    assert refused.rc != 0
    assert "Name the one host: --limit" in refused.text
    assert "/nowhere" not in refused.text


def test_a_drill_arrives_and_is_taken_back(controller, play):
    def told(method: str = "GET", path: str = "/pings") -> Any:
        script = 'curl --silent --fail --request "$1" "http://127.0.0.1:18090/control$2"'
        return json.loads(controller.shell(script, method, path))

    def of_drills() -> list[str]:
        """The pings of drills, and the one after each drill; the host's own heartbeats may come between."""
        drills = ["this is a drill" in ping["body"] for ping in told() if ping["uuid"] == CHECK]
        return ["drill" if drill else "none" for drill, before in zip(drills, [False, *drills]) if drill or before]

    told("DELETE", "")
    looked = play("drill", {"drill_seconds": 1}, "--check")
    assert looked.rc == 0, looked.output
    assert "would send failures instead of the heartbeat" in looked.text
    assert of_drills() == []

    run = play("drill", {"drill_seconds": 1})
    assert run.rc == 0, run.output
    assert "the alert arrives at once" in run.text
    assert of_drills()[0] == "drill"
    assert of_drills()[-1] == "none"

    # What cannot work is refused before.
    told("DELETE", "")
    run = play("drill", {"drill_seconds": "soon"})
    assert run.rc != 0
    assert "drill_seconds is soon, not a number of seconds" in run.text
    assert of_drills() == []
    assert controller.shell("hermes-ops drill show") == "drill: none\n"
