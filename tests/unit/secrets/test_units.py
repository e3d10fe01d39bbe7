# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units that fetch secrets, and what they wait for."""

from __future__ import annotations

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import jobs
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets import units
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

MANAGER = Manager("system", Account.current())


@pytest.fixture
def written(monkeypatch):
    """The texts of the job's units, by path."""
    texts = {}
    monkeypatch.setattr(jobs, "plan_active", lambda _plan, _manager, _unit, unit_files: texts.update(unit_files))
    return texts


def test_the_job_waits_for_the_data_and_the_unit_of_an_agent_for_its_record(written):
    units.plan_present(60, "/srv/ops", "/data", MANAGER)
    assert "\nRequiresMountsFor=/data\n" in written["/etc/systemd/system/hermes-secrets.service"]
    assert "\nRequiresMountsFor=/srv/ops\n" in units.render("/srv/ops")


@pytest.mark.parametrize("interval", [-1, 0, 9])
def test_too_short_an_interval_is_refused(written, interval):
    with pytest.raises(OpsError, match=r"less than 10 s|every is .* s"):
        units.plan_present(interval, "/srv/ops", "/data", MANAGER)
    assert not written
