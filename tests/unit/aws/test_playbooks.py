# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks and the inventory for AWS, run as people run them, against moto.

moto has no machines. So the playbooks are copied beside a stand-in for site.yml, which says what it sees, and fails on
request, as site.yml does when an agent is not healthy; and beside one for shared/aws_bake.yml, which shuts the builder
down as the real one does. The connection to the host is one to this machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SECRET = "sk-hidden-hidden"
SITE = """\
- name: A stand-in for site.yml
  hosts: hermes
  gather_facts: false
  tasks:
    - name: What it sees
      ansible.builtin.debug:
        msg: "SEEN {{ ansible_host }} {{ ec2_data_volume }} {{ aws_connection }}"
    - name: An agent that is not healthy
      ansible.builtin.assert:
        that: not sick | default(false) | bool
"""

BAKE = """\
- name: A stand-in for aws_bake.yml
  hosts: hermes
  gather_facts: false
  tasks:
    - name: The image is there already
      ansible.builtin.meta: end_play
      when: aws_baked.instance_id | length == 0
    - name: What it sees
      ansible.builtin.debug:
        msg: "BAKED {{ aws_baked.instance_id }}"
    - name: It did not get through
      ansible.builtin.assert:
        that: not sick | default(false) | bool
    - name: It shuts down
      ansible.builtin.command:
        argv:
          - "{{ ansible_playbook_python }}"
          - -c
          - "import boto3, sys; boto3.client('ec2', sys.argv[1]).stop_instances(InstanceIds=sys.argv[2:])"
          - "{{ aws_region }}"
          - "{{ aws_baked.instance_id }}"
      changed_when: false
"""


class Run:
    """What a playbook said, and the calls to AWS that it made."""

    def __init__(self, done: subprocess.CompletedProcess[str], calls: list[str], changes: list[str]) -> None:
        self.ok = done.returncode == 0
        self.said = done.stdout + done.stderr
        self.calls = calls
        self.changes = changes
        assert "Traceback" not in self.said
        assert "[WARNING]" not in self.said, self.said
        assert SECRET not in self.said

    @property
    def recap(self) -> dict[str, int]:
        """The numbers of the last lines, such as those of changed tasks."""
        (line,) = re.findall(r"^atlas +: (.*)$", self.said, re.M)
        return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}


@pytest.fixture
def play(world, tmp_path, monkeypatch) -> Callable[..., Run]:
    """A function that runs a playbook with the inventory of the repository."""
    shutil.copytree(ROOT / "inventories/aws", tmp_path / "inventory")
    shutil.copytree(ROOT / "playbooks", tmp_path / "playbooks")
    (tmp_path / "playbooks/site.yml").write_text(SITE)
    (tmp_path / "playbooks/shared/aws_bake.yml").write_text(BAKE)
    declared = {
        "aws_subnet": world.declared["subnet"],
        "aws_image": world.declared["image"],
        "aws_image_base": world.declared["image"],
        "aws_ssh_keys": ["ssh-ed25519 AAAA ada"],
        "aws_stop_timeout": 1,
        "vault_openrouter_api_key": SECRET,
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    (tmp_path / "inventory/host_vars").mkdir()
    (tmp_path / "inventory/host_vars/atlas.yml").write_text(yaml.safe_dump(declared))
    environment = {
        **os.environ,
        **world.server.environment,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections"),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
        "ANSIBLE_NOCOLOR": "1",
        # amazon.aws 10.1.2 makes one in its inventory.
        "ANSIBLE_DEPRECATION_WARNINGS": "false",
    }

    def run(name: str, *options: str) -> Run:
        world.server.calls.clear()
        command = ["ansible-playbook", "-vvv", "--diff", "-i", "inventory", f"playbooks/{name}.yml", *options]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        return Run(done, list(world.server.calls), world.server.changes)

    return run


def test_a_host_is_provisioned_and_then_left_alone(world, play):
    planned = play("aws_provision", "--check", "-e", "aws_create_volume=true")
    assert planned.ok, planned.said
    assert (planned.recap["changed"], planned.changes) == (2, [])
    made = play("aws_provision", "-e", "aws_create_volume=true")
    assert made.ok, made.said
    assert made.recap["changed"] == 2
    assert made.changes.count("RunInstances") == made.changes.count("CreateLifecyclePolicy") == 1
    (policy,) = world.server.snapshots.policies.values()
    assert policy["ExecutionRoleArn"].endswith(":role/hermes-atlas-snapshots")
    assert policy["PolicyDetails"]["Schedules"][0]["CreateRule"]["Times"] == ["04:00"]
    (instance,) = world.instances()
    data = world.ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")["UserData"]
    assert data["Value"]
    again = play("aws_provision")
    assert again.ok, again.said
    assert (again.recap["changed"], again.changes) == (0, [])
    # One call of the inventory, and what the two modules read.
    assert len(again.calls) <= 14, again.calls


def test_a_host_is_replaced_by_one_command_that_goes_on_where_it_failed(world, play):
    made = world.provision()
    # A mistake in what the agents are is found before the old host is touched.
    wrong = play("aws_replace", "-e", json.dumps({"hermes_agents": [{"name": "default", "sole": "x"}]}))
    assert not wrong.ok
    assert "sole" in wrong.said
    assert wrong.changes == []
    sick = play("aws_replace", "-e", "sick=true")
    assert not sick.ok
    assert sick.changes.count("RunInstances") == 1
    assert "DeleteTags" not in sick.changes
    (fresh,) = world.instances()
    assert fresh["InstanceId"] != made["instance_id"]
    # site.yml sees the fresh instance, by Session Manager.
    seen = f"SEEN {fresh['InstanceId']} {made['volume_id']} session_manager"
    assert seen in sick.said, re.findall("SEEN.*", sick.said)
    well = play("aws_replace")
    assert well.ok, well.said
    assert well.changes == ["DeleteTags"]
    assert seen in well.said


def test_an_image_is_baked_by_one_command_beside_the_host(world, play):
    world.provision()
    sound = world.shape()
    planned = play("aws_image", "--check")
    assert planned.ok, planned.said
    assert (planned.recap["changed"], planned.changes) == (1, [])
    # The roles fail: there is no image, and the same command goes on with the same builder.
    sick = play("aws_image", "-e", "sick=true")
    assert not sick.ok
    assert "CreateImage" not in sick.changes
    (builder,) = re.findall(r"BAKED (i-\w+)", sick.said)
    well = play("aws_image")
    assert well.ok, well.said
    assert f"BAKED {builder}" in well.said
    assert (well.changes.count("CreateImage"), well.changes.count("RunInstances")) == (1, 0)
    (image,) = set(re.findall(r"Declare aws_image: (ami-\w+), and run aws_replace", well.said))
    again = play("aws_image")
    assert again.ok, again.said
    assert (again.recap["changed"], again.changes) == (0, [])
    assert image in again.said
    assert world.shape() == sound


def test_what_is_baked_is_the_ground_and_the_release_of_the_builder_and_nothing_else():
    (play,) = yaml.safe_load((ROOT / "playbooks/shared/aws_bake.yml").read_text(encoding="utf-8"))
    assert play["vars"]["ansible_host"] == "{{ aws_baked.instance_id }}"
    roles = [each.get("ansible.builtin.import_role", {}).get("name") for each in play["tasks"]]
    assert [role for role in roles if role] == ["alwayson.hermes.base", "alwayson.hermes.install"]
    # The role base runs these where they are on.
    common = yaml.safe_load((ROOT / "roles/common/vars/main.yml").read_text(encoding="utf-8"))
    switches = {*re.findall(r"\w+_enabled", common["common_foundations"]), "data_volume_enabled"}
    assert len(switches) >= 3
    assert {name: play["vars"].get(name) for name in switches} == dict.fromkeys(switches, False)
    assert [each["state"] for each in play["vars"]["hermes_agents"]] == ["absent"]


def test_a_host_is_destroyed_only_by_its_name_and_the_volume_stays(world, play):
    made = world.provision()
    refused = play("aws_destroy")
    assert not refused.ok
    assert "Fix: type the host's name, -e aws_destroy=atlas" in refused.said
    assert refused.changes == []
    gone = play("aws_destroy", "-e", "aws_destroy=atlas")
    assert gone.ok, gone.said
    assert world.instances() == []
    assert [each["VolumeId"] for each in world.volumes()] == [made["volume_id"]]


def test_a_host_is_destroyed_without_the_key_file_and_the_secrets_that_launched_it(world, play, tmp_path):
    world.provision()
    path = tmp_path / "inventory/host_vars/atlas.yml"
    declared = yaml.safe_load(path.read_text())
    lost = {"aws_ssh_keys": "{{ lookup('ansible.builtin.file', '/nowhere/id.pub') }}", "aws_volume_size": "large"}
    del declared["vault_openrouter_api_key"]
    path.write_text(yaml.safe_dump({**declared, **lost}))
    unknown = play("aws_destroy", "-e", "aws_destroy=atlas", "-e", "aws_stop_timeout=soon")
    assert not unknown.ok
    assert "aws_stop_timeout" in unknown.said
    assert unknown.changes == []
    gone = play("aws_destroy", "-e", "aws_destroy=atlas")
    assert gone.ok, gone.said
    assert world.instances() == []


def test_an_error_of_the_module_is_one_line_with_the_fix(world, play):
    failed = play("aws_provision")
    assert not failed.ok
    assert (
        "no volume in eu-central-1 has the tag hermes:host=atlas. Fix: for a new host, say -e aws_create_volume=true"
        in failed.said
    )
    assert failed.changes == []
