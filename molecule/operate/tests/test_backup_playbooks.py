# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks backup, restore and drill, run from another machine."""

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
    looked = play("backup", {"backup_agent": "work"}, "--check")
    assert looked.rc == 0, looked.output
    assert f"{controller.box}  has" in looked.output
    assert archives(controller) == before

    made = play("backup", {"backup_agent": "work", "backup_fetch": str(tmp_path)})
    assert made.rc == 0, made.output
    path = archives(controller)[-1]
    assert path not in before
    assert f"{controller.box}  success  {path}" in made.output
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

    # A wait that fails ends the drill as well.
    told("DELETE", "")
    run = play("drill", {"drill_seconds": "soon"})
    assert run.rc != 0
    assert of_drills()[0] == "drill"
    assert of_drills()[-1] == "none"
    assert controller.shell("hermes-ops drill show") == "drill: none\n"
