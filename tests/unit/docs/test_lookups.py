# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The look-ups on the controller in docs/secrets.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

PAGE = (Path(__file__).resolve().parents[3] / "docs/secrets.md").read_text(encoding="utf-8")
(EXAMPLES,) = (block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S) if "lookup(" in block)
SECRETS = yaml.safe_load(EXAMPLES)["secrets"]
TOKEN = "12345:a-token"
# A playbook of a collection, as alwayson.hermes.site is: the directory that it lies in is not the user's.
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ hermes_agents[0].secrets.TELEGRAM_BOT_TOKEN }}"
        dest: "{{ found }}"
        mode: "0600"
      no_log: true
"""


def test_every_lookup_in_the_examples_comes_with_ansible(user):
    names = re.findall(r"lookup\('([\w.]+)'", EXAMPLES)
    assert len(names) == len(SECRETS)
    assert set(names) == set(json.loads(user.asks("ansible-doc", "--type", "lookup", "--json", *names)))


def test_the_example_of_sops_reads_a_file_of_the_inventory(user, sops, sealed_by_sops):
    sealed, identity = sealed_by_sops({"telegram": TOKEN}, "yaml")
    inventory, collection = user.home / "fleet", user.home / "ansible_collections/some/fleet"
    (inventory / "group_vars").mkdir(parents=True)
    (collection / "playbooks").mkdir(parents=True)
    (collection / "galaxy.yml").write_text("namespace: some\nname: fleet\nversion: 1.0.0\n")
    (collection / "playbooks/play.yml").write_text(PLAY)
    agents = [{"name": "work", "secrets": {"TELEGRAM_BOT_TOKEN": SECRETS["TELEGRAM_BOT_TOKEN"]}}]
    (inventory / "group_vars/all.yml").write_text(yaml.safe_dump({"hermes_agents": agents}))
    hosts = {"here": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    sealed.rename(inventory / "work.sops.yaml")
    user.environment["PATH"] = os.pathsep.join([str(sops), user.environment["PATH"]])
    user.environment["ANSIBLE_COLLECTIONS_PATH"] = str(user.home)
    user.environment["SOPS_AGE_KEY_FILE"] = str(identity)
    words = ("ansible-playbook", "-vvv", "--diff", "--inventory", inventory / "hosts.yml", "some.fleet.play")
    done = subprocess.run(
        [*words, "--extra-vars", f"found={user.home}/found"],
        cwd=inventory,
        env=user.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (user.home / "found").read_text() == TOKEN
    assert TOKEN not in done.stdout + done.stderr
