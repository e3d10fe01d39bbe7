# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent controls its user's manager: a false answer, or none, affects only that agent."""

from __future__ import annotations

import os
import time
from pathlib import Path

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import managers
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import systemd as supervise_systemd
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import systemd
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

UNIT = "hermes-gateway@work.service"


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Replaces systemctl by a script."""
    monkeypatch.setattr(Manager, "reachable", True)
    monkeypatch.setattr(systemd, "ASK_TIMEOUT", 1.0, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def does(script: str) -> Manager:
        (tmp_path / "systemctl").write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / "systemctl").chmod(0o755)
        return Manager("user", Account.current())

    return does


def test_a_state_is_what_it_was_said_to_be(systemctl):
    unit = systemctl("echo MainPID=12; echo ActiveState=active; echo SubState=running; echo NRestarts=3").units([UNIT])[
        UNIT
    ]
    assert (unit.running, unit.pid, unit.restarts, unit.unknown) == (True, 12, 3, "")


@pytest.mark.parametrize("value", ["x", "-1", "", "1" * 5000, "²", "1 2", "\x1b[2J", "0x1"])
def test_nonsense_is_no_number_and_no_word(systemctl, value):
    names = ("MainPID", "NRestarts", "ExecMainStatus", "ActiveEnterTimestampMonotonic")
    words = ("ActiveState", "SubState", "Result", "LoadState")
    said = "".join(f"printf '%s\\n' '{name}={value}';" for name in (*names, *words))
    unit = systemctl(said).units([UNIT])[UNIT]
    assert (unit.pid, unit.restarts, unit.status, unit.entered) == (0, 0, 0, 0.0)
    for word in (unit.active, unit.sub, unit.result, unit.load):
        assert word in (value, "nonsense")
        assert word.isprintable()
        assert len(word) < 256


@pytest.mark.parametrize(
    ("said", "memory"),
    [("4096", 4096), ("0", 0), ("[not set]", None), (str(2**64 - 1), None), ("1" * 5000, None), ("", None)],
)
def test_memory_that_is_not_measured_is_no_number(systemctl, said, memory):
    unit = systemctl(f"echo 'MemoryCurrent={said}'").units([UNIT])[UNIT]
    assert unit.memory == memory
    assert supervise_systemd.state_of(unit).memory == memory


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sleep 1000", "did not finish"),
        ("yes", "printed more than"),
        # A process outside of the group holds the pipe, so a signal to the group does not end it.
        ("setsid sleep 30 & disown; sleep 1000", "did not finish"),
        ("setsid sleep 30 & disown", "did not finish"),
    ],
)
def test_one_that_does_not_answer_is_a_finding_about_its_agent_alone(systemctl, script, why):
    hanging = systemctl(script)
    other = type("Answers", (Manager,), {"units": lambda self, names: {n: self._unit(n, {}) for n in names}})
    by_name = {"work": hanging, "play": other("user", Account("play", 1234567, 1234567, "/"))}
    agents = [described.agent(name) for name in by_name]
    began = time.monotonic()
    found = managers.units_of(agents, lambda agent: by_name[agent.name])
    assert time.monotonic() - began < 15
    assert why in found[UNIT].unknown
    assert not found[UNIT].running
    problem = supervise_systemd.explain_unit(found[UNIT])
    assert problem is not None
    assert problem.cause == "manager_silent"
    assert why in problem.what
    assert found["hermes-gateway@play.service"].unknown == ""


def test_of_the_systems_manager_it_is_an_error(systemctl, monkeypatch):
    monkeypatch.setattr(systemd, "COMMAND_TIMEOUT", 1.0)
    systemctl("sleep 1000")
    with pytest.raises(OpsError, match="did not finish"):
        managers.units_of([described.agent("work")], lambda _agent: Manager("system", Account.current()))


def test_a_journal_is_found_by_what_nobody_can_call_himself():
    """Fields with a leading underscore are journald's own (systemd.journal-fields(7))."""
    account = Account("work", 1234, 1234, "/")
    assert Manager("system", account).journal(UNIT) == [f"_SYSTEMD_UNIT={UNIT}"]
    assert Manager("user", account).journal(UNIT) == [f"_SYSTEMD_USER_UNIT={UNIT}", "_UID=1234"]


def test_the_kit_asks_for_no_journal_by_an_identifier():
    kit = Path(systemd.__file__).resolve().parents[1]
    asking = [path.name for path in kit.glob("**/*.py") if '"journalctl"' in path.read_text(encoding="utf-8")]
    assert {"journal.py", "canary.py", "dashboard.py", "bundle.py"} <= set(asking)
    assert [path.name for path in kit.glob("**/*.py") if "--identifier" in path.read_text(encoding="utf-8")] == []
