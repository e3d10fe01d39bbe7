# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action declarations: checks the variables of several roles at once; documented in plugins/modules/declarations.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import ArgumentValueError, ElementError, RequiredError
from ansible.plugins.action import ActionBase

ROLES = Path(__file__).resolve().parents[2] / "roles"
# The parser in C takes a tenth of the time of the one in Python.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# A type of an argument specification: what a value must be, and what its elements must be.
TYPES = {
    "str": ("text", "texts"),
    "path": ("a path", "paths"),
    "int": ("a whole number", "whole numbers"),
    "float": ("a number", "numbers"),
    "bool": ("true or false", "true or false"),
    "list": ("a list", "lists"),
    "dict": ("a mapping", "mappings"),
}
# A longer value is not shown.
_SHOWN = 60


class ActionModule(ActionBase):
    """Runs on the controller only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, options = self.validate_argument_spec(
            argument_spec={"roles": {"type": "list", "elements": "str", "required": True}}
        )
        self._variables = task_vars or {}
        # By variable, because two roles may describe the same one.
        found: dict[str, str] = {}
        for role in options["roles"]:
            for variable, error in self._errors_of(role):
                found.setdefault(variable, f"{variable}: {error} (role {role})")
        if found:
            host = self._variables["inventory_hostname"]
            return {**result, "failed": True, "msg": "\n".join(f"{host}: {error}" for error in found.values())}
        return {**result, "changed": False}

    def _errors_of(self, role: str) -> Iterator[tuple[str, str]]:
        """The variables of *role* that are declared wrongly, each with the reason and the fix."""
        if not re.fullmatch(r"\w+", role) or not (ROLES / role).is_dir():
            known = ", ".join(sorted(path.name for path in ROLES.iterdir() if path.is_dir()))
            raise AnsibleActionFail(f"declarations: roles: there is no role {role}. Fix: known ones are {known}")
        switch = f"{role}_enabled"
        rule = {switch: {"type": "bool"}}
        values, wrong = self._values(role, rule)
        wrong.update(errors(rule, values))
        yield from wrong.items()
        if not wrong and ArgumentSpecValidator(rule).validate(values).validated_parameters.get(switch) is False:
            return
        specification = specification_of(role)
        values, wrong = self._values(role, specification)
        yield from wrong.items()
        yield from errors({name: rule for name, rule in specification.items() if name not in wrong}, values)
        version = values.get("hermes_version")
        if isinstance(version, float) and len(str(version).partition(".")[2]) == 1:
            # YAML reads 0.20 as 0.2, which is another version. It reads 0.19 as it is written.
            yield (
                "hermes_version",
                f"is the number {version}, which may have been written {version}0. Fix: put it in quotes",
            )

    def _values(self, role: str, specification: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
        """The values of the declared variables among those of *specification*, and why others have none."""
        declared = {name: self._variables[name] for name in specification if name in self._variables}
        try:
            return self._templar.template(declared), {}
        except AnsibleError:
            # Rarely; found one by one below.
            pass
        # A declared value may use a default of the role, which Ansible knows only once the role runs.
        defaults = ROLES / role / "defaults/main.yml"
        known = self._loader.load_from_file(str(defaults)) if defaults.is_file() else {}
        templar = self._templar.copy_with_new_env(available_variables={**(known or {}), **self._variables})
        values, wrong = {}, {}
        for name, value in declared.items():
            try:
                values.update(templar.template({name: value}))
            except AnsibleError as error:
                wrong[name] = not_evaluated(error, secret=bool(specification[name].get("no_log")))
        return values, wrong


def specification_of(role: str) -> dict[str, dict[str, Any]]:
    """The options of *role*, from its argument specification."""
    text = (ROLES / role / "meta/argument_specs.yml").read_text(encoding="utf-8")
    # LOADER is a safe loader.
    return yaml.load(text, Loader=LOADER)["argument_specs"]["main"].get("options") or {}


def errors(specification: dict[str, dict[str, Any]], values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The options whose value does not fit *specification*, each with the reason and the fix.

    Ansible's own messages are not used: they quote values, also secret ones.
    """
    rules = {name: _checkable(rule) for name, rule in specification.items()}
    if not ArgumentSpecValidator(rules).validate(values).error_messages:
        return
    for name, rule in rules.items():
        given = {name: values[name]} if name in values else {}
        found = ArgumentSpecValidator({name: rule}).validate(given).errors
        # Ansible reports a value of a wrong type as a wrong choice as well; the first error is the cause.
        for error in found[:1]:
            yield name, _in_words(error, specification[name], values.get(name))


def _checkable(rule: dict[str, Any]) -> dict[str, Any]:
    """*rule* without its texts, and without no_log, for which Ansible would collect the value's parts."""
    return {key: value for key, value in rule.items() if key not in ("description", "version_added", "no_log")}


def _in_words(error: Exception, rule: dict[str, Any], value: Any) -> str:
    """What is wrong with *value*, and the fix. A secret or a long value is not shown."""
    kind = rule.get("type", "str")
    shown = ""
    if not rule.get("no_log") and isinstance(value, (str, int, float)) and len(str(value)) <= _SHOWN:
        shown = repr(str(value)) if isinstance(value, str) else str(value)
    if isinstance(error, RequiredError):
        return "is not declared. Fix: declare it"
    if isinstance(error, ArgumentValueError):
        known = ", ".join(str(choice) for choice in rule["choices"])
        return f"is {shown or 'not a known value'}. Fix: known ones are {known}"
    if isinstance(error, ElementError):
        wanted = TYPES.get(rule.get("elements", "str"), ("", "something else"))[1]
        return f"has an element of another type. Fix: write a list of {wanted}"
    wanted = TYPES.get(kind, (kind, ""))[0]
    if rule.get("options"):
        wanted = f"{wanted} as the role describes it"
    return f"is {f'{shown}, ' if shown else ''}not {wanted}. Fix: write {wanted}"


def not_evaluated(error: Exception, *, secret: bool) -> str:
    """Why a template has no value, and the fix.

    :param secret: only the name of an undefined variable is shown; the rest of the message may quote the template
    """
    undefined = re.findall(r"'([A-Za-z_]\w*)' is undefined", str(error))
    if undefined:
        return f"uses {undefined[-1]}, which is undefined. Fix: define {undefined[-1]}, or correct its name here"
    reason = "" if secret else f": {' '.join(str(error).split())}"
    return f"cannot be evaluated{reason.rstrip('.')}. Fix: correct the template"
