# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables of the role cluster, rendered by Ansible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).resolve().parents[2]
RENDER = """
- hosts: {host}
  gather_facts: false
  connection: local
  vars_files: [{top}/roles/cluster/defaults/main.yml, given.json, {top}/roles/cluster/vars/main.yml]
  tasks:
    - ansible.builtin.copy:
        dest: result.json
        mode: "0600"
        content: >-
          {{{{ {{'servers': cluster_config_of_servers, 'agents': cluster_config_of_agents,
          'files': cluster_manifest_files}} | to_json }}}}
"""


def rendered(directory: Path, *, workers: bool = True, **given: Any) -> dict[str, Any]:
    """What a server of a cluster with or without workers gets: configurations, and files with their objects."""
    groups = {"server": {"hosts": {"s1": {}}}, **({"agent": {"hosts": {"w1": {}}}} if workers else {})}
    (directory / "hosts.json").write_text(json.dumps({"k3s_cluster": {"children": groups}}))
    (directory / "given.json").write_text(json.dumps({name: _unsafe(value) for name, value in given.items()}))
    (directory / "render.yml").write_text(RENDER.format(host="s1", top=TOP))
    done = subprocess.run(
        ["ansible-playbook", "-i", "hosts.json", "-e", f"ansible_python_interpreter={sys.executable}", "render.yml"],
        cwd=directory,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCAL_TEMP": str(directory / "local")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((directory / "result.json").read_text())
    result["files"] = {name: list(yaml.safe_load_all(text)) for name, text in result["files"].items()}
    return result


def _unsafe(value: Any) -> Any:
    """*value*, of which Ansible takes no text for a template."""
    return {"__ansible_unsafe": value} if isinstance(value, str) else value
