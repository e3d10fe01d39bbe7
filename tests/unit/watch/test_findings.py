# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a figure becomes a finding."""

from __future__ import annotations

import functools
import os
import time

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Health, Problem
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.systemd import state_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Unit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import (
    findings,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.findings import Settings

NOW = 1_795_000_000.0
HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    "values",
    [{"memory": "4 GB"}, {"memory": "-1"}, {"disk_percent": 101}, {"restarts": -1}, {"reply_seconds": 0}],
)
def test_thresholds_that_make_no_sense_are_refused(values):
    with pytest.raises(OpsError):
        Settings(**values)


def unit(active="active", sub="running", age=1000.0, restarts=0):
    entered = time.clock_gettime(time.CLOCK_MONOTONIC) - age
    pid = os.getpid() if active == "active" else 0
    unit = Unit("hermes-gateway@default.service", "loaded", active, sub, True, pid, restarts, "", 0, entered, False)
    return state_of(unit)


PROBLEM = Problem("no_answer", "the api server does not answer", "see the log")
HOPELESS = Problem("port_in_use", "port 1 is taken", "stop it", True)


@pytest.mark.parametrize(
    ("problem", "state", "excuse", "failure"),
    [
        (PROBLEM, unit, None, True),
        (PROBLEM, functools.partial(unit, "failed", "failed"), None, True),
        (PROBLEM, functools.partial(unit, "activating", "auto-restart"), None, True),
        # Starting or stopping. (The unit is made when the test runs, because its age counts.)
        (PROBLEM, functools.partial(unit, "activating", "start"), None, False),
        (PROBLEM, functools.partial(unit, "deactivating", "stop-sigterm"), None, False),
        (PROBLEM, functools.partial(unit, age=20.0), None, False),
        (HOPELESS, functools.partial(unit, age=20.0), None, True),
        (HOPELESS, functools.partial(unit, "failed", "failed"), "an update is running", False),
    ],
)
def test_an_agent_that_is_not_healthy(problem, state, excuse, failure):
    (finding,) = findings.health_findings(Health("default", [problem]), state(), excuse)
    assert finding.failure is failure
    assert finding.agent == "default"
    assert finding.fix == problem.fix
    assert (excuse or "") in finding.what
