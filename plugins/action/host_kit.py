# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the collection's modules: checks their arguments here and lets the kit on the host do the work.

``meta/runtime.yml`` names this action, or one that adds to it, for each module. For all of them it sends the same small
module (plugins/modules/host_kit.py), which Ansible packs only once in a run, and the arguments. If the host lacks the
controller's kit, the kit is sent as well.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.alwayson.hermes.plugins.modules.host_kit import DIRECTORY, version_of

COLLECTION = "ansible_collections.alwayson.hermes"
# The controller's directory with the package hermes_ops.
SOURCES = Path(__file__).resolve().parent.parent / "module_utils"
# Read when this is imported: Ansible does that once, before it forks a worker for each task and host.
VERSION = version_of(str(SOURCES))


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        name = self._task.action.rpartition(".")[2]
        specification = importlib.import_module(f"{COLLECTION}.plugins.modules.{name}").SPECIFICATION
        arguments = self._checked(name, specification)
        for option, value in paths(specification["argument_spec"], arguments):
            if not value.startswith("/"):
                raise AnsibleActionFail(f"{name}: {option}: is {value!r}. Fix: write a path that begins with /")
        call = {
            "name": name,
            "arguments": arguments,
            "secrets": sorted(set(secrets(specification["argument_spec"], arguments))),
            "place": f"{DIRECTORY}/{VERSION}",
        }
        answer = self._ask(call, task_vars)
        if answer.get("missing"):
            answer = self._ask({**call, "sent": self._send(archive())}, task_vars)
        # What the host will take long for is said before it does it.
        for line in answer.get("awaited", ()):
            Display().display(f"{(task_vars or {}).get('inventory_hostname', '')}: {line}")
        return {**result, **answer}

    def _checked(self, name: str, specification: dict[str, Any]) -> dict[str, Any]:
        """The task's arguments, converted to their types and with defaults.

        :raises AnsibleActionFail: when they do not fit *specification*
        """
        rules = {**specification, "argument_spec": on_host(specification["argument_spec"])}
        checked = ArgumentSpecValidator(**rules).validate(self._task.args)
        if checked.unsupported_parameters:
            unknown, known = (
                ", ".join(sorted(names)) for names in (checked.unsupported_parameters, rules["argument_spec"])
            )
            raise AnsibleActionFail(f"{name}: no such option: {unknown}. Fix: known ones are {known}")
        if checked.error_messages:
            raise AnsibleActionFail(f"{name}: {'; '.join(checked.error_messages)}")
        return checked.validated_parameters

    def _ask(self, call: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        return self._execute_module(module_name="alwayson.hermes.host_kit", module_args=call, task_vars=task_vars)

    def _send(self, path: str) -> str:
        """Copy the file *path* to the host's temporary directory, which Ansible removes after the task.

        :returns: its path there
        """
        shell = self._connection._shell
        if not shell.tmpdir:
            self._make_tmp_path()
        there = shell.join_path(shell.tmpdir, "hermes-ops.zip")
        self._transfer_file(path, there)
        self._fixup_perms2((shell.tmpdir, there), execute=False)
        return there


def on_host(specification: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """*specification* for a check on the controller: paths stay as they are.

    Ansible would expand ``~`` and variables in a path with the values of the controller.
    """
    checked = {}
    for option, rule in specification.items():
        checked[option] = {**rule, "type": "str"} if rule["type"] == "path" else dict(rule)
        if "options" in rule:
            checked[option]["options"] = on_host(rule["options"])
    return checked


def paths(specification: dict[str, dict[str, Any]], arguments: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The paths among *arguments*, with the names of their options."""
    for option, rule, value in _given(specification, arguments):
        if rule["type"] == "path":
            yield option, value


def secrets(specification: dict[str, dict[str, Any]], arguments: dict[str, Any]) -> Iterator[str]:
    """The texts that no output may show. Numbers are left out: Ansible would mask every 1 and every 2 in the output."""
    for _option, rule, value in _given(specification, arguments):
        if rule.get("no_log"):
            yield from filter(None, _texts(value))


def _given(
    specification: dict[str, dict[str, Any]], arguments: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Each given option, with its rule and its value; those of sub-options as well."""
    for option, rule in specification.items():
        value = arguments.get(option)
        if value is None:
            continue
        yield option, rule, value
        for each in value if rule["type"] == "list" else [value]:
            if "options" in rule:
                yield from _given(rule["options"], each)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def archive() -> str:
    """Path of the kit as a zip file, from which Python can import; made once in a run of Ansible."""
    path = os.path.join(constants.DEFAULT_LOCAL_TMP, f"hermes-ops-{VERSION}.zip")
    if not os.path.exists(path):
        # The tasks of several hosts run in parallel processes, so the file appears by a rename.
        handle, unfinished = tempfile.mkstemp(dir=constants.DEFAULT_LOCAL_TMP)
        with open(handle, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as kit:
            for source in sorted(SOURCES.glob("hermes_ops/**/*.py")):
                kit.write(source, source.relative_to(SOURCES))
        os.rename(unfinished, path)
    return path
