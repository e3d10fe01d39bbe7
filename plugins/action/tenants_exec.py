# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action tenants_exec: asks the agents of tenants; documented in plugins/modules/tenants_exec.py."""

from __future__ import annotations

from typing import Any

from ansible.utils.display import Display
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import asking, offsite
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.asking import Answers
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.execute import running
from ansible_collections.alwayson.hermes.plugins.modules.tenants_exec import SPECIFICATION
from ansible_collections.alwayson.hermes.plugins.plugin_utils.on_controller import OnController, cluster_of, errors_of

# The commands that make a file, and what it is.
_FILES = {"backup": (asking.backup, "archive"), "debug": (asking.bundle, "bundle")}


class ActionModule(OnController):
    specification = SPECIFICATION

    def act(self, given: dict[str, Any], *, check: bool) -> dict[str, Any]:
        with cluster_of(given) as cluster:
            answers = _answers(cluster, given, check)
        for line in asking.lines(answers, _FILES.get(given["command"], ("", ""))[1]):
            Display().display(line)
        return {
            "changed": bool(answers.paths) or (given["command"] == "tell" and bool(answers.lines) and not check),
            "lines": answers.lines,
            "paths": answers.paths,
            **errors_of(answers.errors),
        }


def _answers(cluster: Cluster, given: dict[str, Any], check: bool) -> Answers:
    """What the tenants answer, or would be asked for."""
    names = given["tenants"]
    if given["command"] == "memory":
        return asking.ask(cluster, names, asking.memory_query(given["text"], given["limit"]))
    if given["command"] == "tell":
        told = asking.telling(given["topic"], given["text"], given["webhook"], given["timeout"], check=check)
        return asking.ask(cluster, names, told)
    make, named = _FILES[given["command"]]
    if check:
        pods, errors = running(cluster, names)
        would = f"would fetch its {named} to {given['directory']}"
        return Answers(lines={name: [would] for name in pods}, errors=errors)
    repository = offsite.repository(given["restic"], given["directory"], given["namespace"])
    answers = asking.fetch(cluster, names, make(), given["directory"])
    if repository and given["command"] == "backup":
        offsite.keep(repository, answers)
    return answers
