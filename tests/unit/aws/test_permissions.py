# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The permissions that the page asks for are those that the code needs, and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ansible_collections.alwayson.hermes.plugins.module_utils.aws import account

ROOT = Path(__file__).resolve().parents[3]
SERVICES = "cloudwatch|dlm|ec2|iam|rbin|ssm"


def needed() -> set[str]:
    """All calls in the sources, and what AWS asks for besides."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "plugins/module_utils/aws").glob("*.py"))
    calls = set(re.findall(rf'"({SERVICES})",\s*"([a-z]+(?:_[a-z]+)+)"', source))
    # The one whose name is in a variable.
    assert source.count('"ec2", operation') == 1
    calls.add(("ec2", "replace_iam_instance_profile_association"))
    operations = {operation for _service, operation in calls}
    assert account._FURTHER.keys() <= operations
    further = {action for operation in account._FURTHER for action in account._FURTHER[operation]}
    return {account._action(*call) for call in calls} | further


def test_the_page_names_each_permission():
    text = (ROOT / "docs/aws.md").read_text(encoding="utf-8")
    (found,) = [each for each in re.findall(r"```json\n(.*?)```", text, re.S) if "RunInstances" in each]
    (statement,) = json.loads(found)["Statement"]
    # Of Session Manager, which the connection needs.
    assert set(statement["Action"]) == needed() | {"ssm:StartSession", "ssm:TerminateSession"}
    assert statement["Action"] == sorted(statement["Action"])


def test_no_permission_deletes_data():
    deleting = {action for action in needed() if re.search(":(Delete|Deregister|Disable)", action)}
    assert not {action for action in deleting if re.search("Volume|Snapshot|Parameter|Rule|Image", action)}
    assert "ec2:DeleteSecurityGroup" in deleting
