# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module dlm_policy, against a server that speaks the protocol of Data Lifecycle Manager."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.modules import dlm_policy
from botocore.exceptions import ClientError

ROLE = "arn:aws:iam::123456789012:role/hermes-atlas-snapshots"


def converge(*, check: bool = False, **changes: Any) -> dict[str, Any]:
    given = {
        "name": "hermes-atlas",
        "state": "present",
        "region": "eu-central-1",
        "description": "Daily snapshots of the data volume",
        "execution_role_arn": ROLE,
        "target_tags": {"hermes:host": "atlas"},
        "time": "04:00",
        "keep": 7,
    }
    return dlm_policy.converge({**given, **changes}, check=check)


def test_a_policy_is_made_and_then_left_alone(world):
    made = converge()
    assert made["changed"]
    (policy,) = world.server.snapshots.policies.values()
    assert policy["PolicyId"] == made["policy_id"]
    (schedule,) = policy["PolicyDetails"]["Schedules"]
    assert schedule["CreateRule"]["Times"] == ["04:00"]
    assert schedule["RetainRule"] == {"Count": 7}
    assert schedule["CopyTags"] is True
    assert policy["PolicyDetails"]["TargetTags"] == [{"Key": "hermes:host", "Value": "atlas"}]
    world.server.calls.clear()
    again = converge()
    assert (again["changed"], again["policy_id"]) == (False, made["policy_id"])
    assert world.server.calls == ["GetLifecyclePolicies", "GetLifecyclePolicy"]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"keep": 14}, '"Count": 14'),
        ({"time": "05:30"}, '"05:30"'),
        ({"target_tags": {"other": "tag"}}, '"Key": "other"'),
        ({"execution_role_arn": f"{ROLE}2"}, f"{ROLE}2"),
    ],
)
def test_what_differs_is_shown_and_put_right(world, changes, shown):
    converge()
    world.server.calls.clear()
    planned = converge(check=True, **changes)
    assert planned["changed"]
    assert shown in planned["diff"]["after"]
    assert world.server.changes == []
    assert converge(**changes)["changed"]
    assert world.server.changes == ["UpdateLifecyclePolicy"]
    assert not converge(**changes)["changed"]


def test_a_policy_that_somebody_disabled_is_enabled(world):
    made = converge()
    world.server.snapshots.policies[made["policy_id"]]["State"] = "DISABLED"
    assert '"State": "DISABLED"' in converge()["diff"]["before"]
    assert world.server.snapshots.policies[made["policy_id"]]["State"] == "ENABLED"


def test_a_policy_of_somebody_else_is_never_touched(world):
    world.server.snapshots.policies["policy-0"] = {"PolicyId": "policy-0", "Tags": {"Name": "theirs"}}
    converge()
    converge(state="absent")
    assert list(world.server.snapshots.policies) == ["policy-0"]
    assert not converge(state="absent")["changed"]


def test_check_mode_makes_nothing(world):
    assert converge(check=True)["changed"]
    assert world.server.snapshots.policies == {}


def test_two_of_one_name_are_refused(world):
    converge()
    world.server.snapshots.policies["policy-x"] = {"PolicyId": "policy-x", "Tags": {"Name": "hermes-atlas"}}
    with pytest.raises(OpsError, match=r"two policies have this name: .*policy-x\. Fix: delete one"):
        converge()


def test_a_time_that_yaml_took_for_a_number_is_refused_with_the_fix(world):
    with pytest.raises(OpsError, match=r"240: is no time of day\. Fix: write it like \"04:00\", in quotes"):
        converge(time="240")
    assert world.server.calls == []


@pytest.mark.parametrize("wrong", [{"description": "Ü"}, {"keep": 0}, {"keep": 1001}])
def test_what_aws_would_not_take_is_refused_before_any_call(world, wrong):
    with pytest.raises(OpsError, match=rf"hermes-atlas: {next(iter(wrong))}: AWS does not take it"):
        converge(**wrong)
    assert world.server.calls == []


def test_a_role_that_is_as_new_as_the_host_is_waited_for(world, clients, monkeypatch):
    left, real = [2], clients["dlm"].create_lifecycle_policy

    def create(**parameters):
        if left[0]:
            left[0] -= 1
            error = {"Code": "InvalidRequestException", "Message": "the role cannot be assumed"}
            raise ClientError({"Error": error}, "CreateLifecyclePolicy")
        return real(**parameters)

    monkeypatch.setattr(clients["dlm"], "create_lifecycle_policy", create)
    assert converge()["policy_id"]
    assert len(world.server.snapshots.policies) == 1


def test_the_server_refuses_what_the_real_one_does(world, clients):
    """Or the tests above prove nothing."""
    with pytest.raises(clients["dlm"].exceptions.InvalidRequestException, match="Description does not match"):
        clients["dlm"].update_lifecycle_policy(PolicyId=converge()["policy_id"], Description="Ü")
    with pytest.raises(clients["dlm"].exceptions.ResourceNotFoundException):
        clients["dlm"].get_lifecycle_policy(PolicyId="policy-none")
