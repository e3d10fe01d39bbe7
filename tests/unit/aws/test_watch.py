# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Alarms about the instance, the Recycle Bin, and who may not delete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.aws.declared import Declared, keep_data
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from botocore.exceptions import ClientError

ROOT = Path(__file__).resolve().parents[3]
TOPIC = "arn:aws:sns:eu-central-1:123456789012:pager"
RECOVER = "arn:aws:automate:eu-central-1:ec2:recover"


def about(world):
    """The instances that alarms are about."""
    return {each["Dimensions"][0]["Value"] for each in world.alarms()}


# --- alarms ----------------------------------------------------------------------------------------------------


def test_alarms_are_made_once_and_move_with_the_host(world):
    world.also = {"alarm_topic": TOPIC}
    made = world.provision()
    found = {each["AlarmName"]: each for each in world.alarms()}
    system, status = found["hermes-atlas-system"], found["hermes-atlas-status"]
    assert (system["MetricName"], system["AlarmActions"]) == ("StatusCheckFailed_System", [RECOVER, TOPIC])
    assert (status["MetricName"], status["AlarmActions"]) == ("StatusCheckFailed", [TOPIC])
    # Only the topic is told that it is over.
    assert system["OKActions"] == status["OKActions"] == [TOPIC]
    assert about(world) == {made["instance_id"]}
    assert not world.converge()["changed"]
    fresh = world.replace()
    assert fresh["instance_id"] != made["instance_id"]
    assert about(world) == {fresh["instance_id"]}
    assert not world.converge()["changed"]


def test_an_alarm_that_somebody_changed_is_put_right(world):
    world.also = {"alarm_topic": TOPIC}
    world.provision()
    world.cloudwatch.disable_alarm_actions(AlarmNames=["hermes-atlas-status"])
    world.server.calls.clear()
    planned = world.converge(check=True)
    assert planned["changed"]
    assert planned["diff"]["before"] == "alarm hermes-atlas-status: another alarm\n"
    assert world.server.changes == []
    assert world.converge()["changed"]
    assert world.server.changes == ["PutMetricAlarm"]
    assert not world.converge()["changed"]


@pytest.mark.parametrize("end", [{}, {"state": "absent"}], ids=["no longer declared", "destroyed"])
def test_alarms_go_with_their_declaration_and_with_the_host(world, end):
    world.also = {"alarm_topic": TOPIC}
    world.provision()
    world.cloudwatch.put_metric_alarm(
        AlarmName="theirs",
        Namespace="AWS/EC2",
        MetricName="CPUUtilization",
        Statistic="Average",
        ComparisonOperator="GreaterThanThreshold",
        Threshold=90,
        Period=60,
        EvaluationPeriods=1,
    )
    world.also = {}
    assert world.converge(**end)["changed"]
    assert [each["AlarmName"] for each in world.alarms()] == ["theirs"]
    assert not world.converge(**end)["changed"]


def test_a_topic_that_is_no_arn_is_refused(world):
    with pytest.raises(OpsError, match=r"aws_alarm_topic: pager: is not an ARN\. Fix: name a topic of SNS"):
        world.converge(create_volume=True, alarm_topic="pager")
    assert world.server.changes == []


# --- the Recycle Bin -------------------------------------------------------------------------------------------


def days(world):
    return {
        each["ResourceType"]: each["RetentionPeriod"]["RetentionPeriodValue"]
        for each in world.server.bin.rules.values()
    }


def test_the_recycle_bin_keeps_what_was_deleted_of_this_host(world):
    world.also = {"recycle_days": 30}
    world.provision()
    # AWS keeps a volume for a week at most.
    assert days(world) == {"EBS_SNAPSHOT": 30, "EBS_VOLUME": 7}
    tags = [each["ResourceTags"] for each in world.server.bin.rules.values()]
    assert tags == [[{"ResourceTagKey": "hermes:host", "ResourceTagValue": "atlas"}]] * 2
    assert not world.converge()["changed"]
    world.server.calls.clear()
    assert "Recycle Bin for snapshots: 60 days\n" in world.converge(recycle_days=60, check=True)["diff"]["after"]
    assert world.server.changes == []
    assert world.converge(recycle_days=60)["changed"]
    assert world.server.changes == ["UpdateRule"]
    assert days(world) == {"EBS_SNAPSHOT": 60, "EBS_VOLUME": 7}
    assert not world.converge(recycle_days=60)["changed"]


def test_a_rule_is_never_taken_away_and_costs_no_call_where_it_is_not_declared(world):
    world.provision()
    assert not world.converge(recycle_days=0)["changed"]
    assert "ListRules" not in world.server.calls
    world.converge(recycle_days=3)
    world.converge(state="absent")
    assert not world.converge(state="absent")["changed"]
    assert days(world) == {"EBS_SNAPSHOT": 3, "EBS_VOLUME": 3}


def test_rules_of_another_host_are_left_alone_and_all_pages_are_read(world):
    for host in ("other", "atlas", "atlas"):
        tag = {"ResourceTagKey": "hermes:host", "ResourceTagValue": host}
        world.rbin.create_rule(
            ResourceType="EBS_SNAPSHOT",
            ResourceTags=[tag],
            RetentionPeriod={"RetentionPeriodValue": len(world.server.bin.rules) + 1, "RetentionPeriodUnit": "DAYS"},
        )
    # The third rule, which is on the second page, is as declared.
    world.converge(create_volume=True, recycle_days=3)
    periods = [each["RetentionPeriod"]["RetentionPeriodValue"] for each in world.server.bin.rules.values()]
    assert periods == [1, 2, 3, 3]


@pytest.mark.parametrize("wrong", [-1, 366])
def test_days_that_aws_does_not_take_are_refused(world, wrong):
    with pytest.raises(OpsError, match=rf"aws_recycle_days: {wrong}: AWS does not take it\. Fix: say 1 to 365 days"):
        world.converge(create_volume=True, recycle_days=wrong)
    assert world.server.changes == []


def test_the_bin_refuses_what_the_real_one_does(world):
    """Or the tests above prove nothing."""
    period = {"RetentionPeriodValue": 8, "RetentionPeriodUnit": "DAYS"}
    with pytest.raises(ClientError, match="8 days for EBS_VOLUME"):
        world.rbin.create_rule(ResourceType="EBS_VOLUME", RetentionPeriod=period)
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        world.rbin.update_rule(Identifier="0" * 11, RetentionPeriod=period)


# --- who may not delete ----------------------------------------------------------------------------------------


def denied(statements, action, context):
    """Whether *statements* deny *action*, as IAM evaluates the few conditions that they have."""

    def holds(operator, key, wanted):
        if operator == "Null":
            return (key not in context) == (wanted == "true")
        assert operator == "ForAnyValue:StringEquals"
        return wanted in context.get(key, [])

    return any(
        each["Effect"] == "Deny"
        and action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
        and all(
            holds(operator, key, wanted)
            for operator, pairs in each["Condition"].items()
            for key, wanted in pairs.items()
        )
        for each in statements
    )


@pytest.mark.parametrize(
    ("action", "context", "expected"),
    [
        ("ec2:DeleteVolume", {"aws:ResourceTag/hermes:host": "atlas"}, True),
        ("ec2:DeleteSnapshot", {"aws:ResourceTag/hermes:host": "atlas"}, True),
        ("ec2:DeleteVolume", {}, False),
        ("ec2:DeleteTags", {"aws:TagKeys": ["hermes:host"]}, True),
        # The tag among others, and all tags at once.
        ("ec2:DeleteTags", {"aws:TagKeys": ["Name", "hermes:host"]}, True),
        ("ec2:DeleteTags", {}, True),
        ("ec2:DeleteTags", {"aws:TagKeys": ["hermes:replaces"]}, False),
    ],
)
def test_what_the_denial_covers(action, context, expected):
    assert denied(keep_data("aws"), action, context) is expected


def test_the_host_itself_may_not_delete_its_data(world):
    declared = Declared(host="atlas", region="eu-central-1", partition="aws")
    assert declared.own_policy["Statement"][-3:] == keep_data("aws")


def test_the_page_has_the_same_denial_for_people():
    text = (ROOT / "docs/aws.md").read_text(encoding="utf-8")
    (found,) = [each for each in re.findall(r"```json\n(.*?)```", text, re.S) if "KeepData" in each]
    assert json.loads(found) == {"Version": "2012-10-17", "Statement": keep_data("aws")}
