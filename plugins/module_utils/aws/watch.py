# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What AWS itself does when something fails: alarms about an instance, and a Recycle Bin for what is deleted."""

from __future__ import annotations

from typing import Any

from .account import Account
from .declared import TAG, Declared

# What a rule of the Recycle Bin is about.
KINDS = {"EBS_SNAPSHOT": "snapshots", "EBS_VOLUME": "data volumes"}
# Days that AWS keeps a deleted volume at most; a snapshot may stay for a year.
MOST_FOR_VOLUMES = 7


def alarms(declared: Declared, instance: str) -> dict[str, dict[str, Any]]:
    """The alarms by name, as CloudWatch takes and describes them; none without a topic."""
    if not declared.alarm_topic:
        return {}
    recover = f"arn:{declared.partition}:automate:{declared.region}:ec2:recover"
    topic = declared.alarm_topic
    # The machine below the instance is AWS': it moves the instance to another one, with its disks and addresses.
    system = _alarm("StatusCheckFailed_System", "AWS has lost the machine, and recovers the instance", [recover, topic])
    # Also the instance's own: a kernel or network that does not answer.
    status = _alarm("StatusCheckFailed", "The instance does not answer, see aws_replace", [topic])
    dimensions = [{"Name": "InstanceId", "Value": instance}]
    found = zip(alarm_names(declared), (system, status))
    return {name: {**alarm, "AlarmName": name, "Dimensions": dimensions} for name, alarm in found}


def alarm_names(declared: Declared) -> tuple[str, str]:
    return f"{declared.name}-system", f"{declared.name}-status"


def _alarm(metric: str, description: str, actions: list[str]) -> dict[str, Any]:
    return {
        "AlarmDescription": description,
        "Namespace": "AWS/EC2",
        "MetricName": metric,
        "Statistic": "Maximum",
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "Threshold": 1.0,
        # EC2 reports each minute. One failed check may be the network's.
        "Period": 60,
        "EvaluationPeriods": 2,
        "ActionsEnabled": True,
        "AlarmActions": actions,
        # That it is over is told as well.
        "OKActions": actions[-1:],
    }


def found_alarms(account: Account, declared: Declared) -> dict[str, dict[str, Any]]:
    """The host's alarms, as far as :func:`alarms` declares such."""
    keys = {"AlarmName", "Dimensions", *_alarm("", "", [])}
    names = list(alarm_names(declared))
    found = account("cloudwatch", "describe_alarms", AlarmNames=names, AlarmTypes=["MetricAlarm"])["MetricAlarms"]
    return {each["AlarmName"]: {key: each[key] for key in keys if key in each} for each in found}


def rules(declared: Declared) -> dict[str, int]:
    """Days in the Recycle Bin, by type of resource; none without a number of days."""
    days = declared.recycle_days
    return {"EBS_SNAPSHOT": days, "EBS_VOLUME": min(days, MOST_FOR_VOLUMES)} if days else {}


def rule(declared: Declared, kind: str, days: int) -> dict[str, Any]:
    """A rule of the Recycle Bin, for the resources of a type that have the host's tag."""
    return {
        "ResourceType": kind,
        "ResourceTags": [{"ResourceTagKey": TAG, "ResourceTagValue": declared.host}],
        "RetentionPeriod": {"RetentionPeriodValue": days, "RetentionPeriodUnit": "DAYS"},
        "Description": f"What was deleted of {declared.name}",
    }


def found_rules(account: Account, declared: Declared) -> dict[str, dict[str, int]]:
    """Days by rule, by type of resource; asked for only where rules are declared."""
    found: dict[str, dict[str, int]] = {}
    for kind in rules(declared):
        tags = rule(declared, kind, 1)["ResourceTags"]
        answer = account.all("rbin", "list_rules", "Rules", ResourceType=kind, ResourceTags=tags)
        found[kind] = {each["Identifier"]: each["RetentionPeriod"]["RetentionPeriodValue"] for each in answer}
    return found
