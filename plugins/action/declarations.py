# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action declarations: checks the variables of several roles at once; documented in plugins/modules/declarations.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import ArgumentValueError, ElementError, RequiredError
from ansible.plugins.action import ActionBase
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration, sources
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.plugin_utils import settings, variables
from ansible_collections.alwayson.hermes.plugins.plugin_utils.roles import SPECIFICATIONS, VALUES, trust_as_template

# The variables of the playbooks that begin like those of the roles.
PLAYBOOK_VARIABLES = ("hermes_hosts", "backup_agent", "backup_fetch")
KNOWN = frozenset(PLAYBOOK_VARIABLES).union(*SPECIFICATIONS.values())
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


def _prefixes() -> list[str]:
    """The beginnings of our variables. The role common has those of others beside ``hermes_`` and ``gateway_``."""
    roles = {f"{role}_" for role in SPECIFICATIONS}
    options = (option for options in SPECIFICATIONS.values() for option in options)
    return sorted(roles | {f"{option.split('_')[0]}_" for option in options if not option.startswith(tuple(roles))})


PREFIXES = _prefixes()
# The role common is known in the whole play, so its defaults are among the variables.
_DEFAULTS = VALUES["common"]


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
        wrong = list(self._wrong(options["roles"]))
        if not wrong:
            return {**result, "changed": False}
        # Ansible would name this task as the origin of the error, and the mistake is elsewhere. There is no public way
        # to prevent that. Where this one has no effect, only that wrong origin is shown.
        self._task._ds = None
        host = self._variables["inventory_hostname"]
        return {**result, "failed": True, "msg": "\n".join(f"{host}: {error}" for error in wrong)}

    def _wrong(self, roles: list[str]) -> Iterator[str]:
        """What is wrong with the host's declarations: a line each, with the fix, and with the place if it is known."""
        user = self.get_become_option("become_user") if self._connection.become else None
        if user not in (None, "root"):
            yield f"not root: this play becomes {user}. Fix: take become_user and ansible_become_user away"
            return
        # By variable, because two roles may describe the same one.
        found: dict[str, str] = {}
        for variable, error in self._unknown():
            found[variable] = f"{variable}: {error}{self._at(variable)}"
        for role in roles:
            for variable, error in self._errors_of(role):
                place = self._at(variable, f"role {role}")
                found.setdefault(variable, f"{variable}: {error}{place}")
        yield from self._doubled()
        yield from found.values()
        # The rest takes values that fit their descriptions, and those of the role common for all roles.
        if "common" not in roles or found.keys() & SPECIFICATIONS["common"].keys():
            return
        agents = list(self._agents())
        yield from agents
        if not agents:
            for role in filter(settings.CHECKED.__contains__, roles):
                if self._is_declared(role) and not found.keys() & SPECIFICATIONS[role].keys():
                    yield from self._settings(role)

    def _at(self, variable: str, more: str = "", keys: list[str] | None = None) -> str:
        """The place where *variable* is declared, and *more* about it, in parentheses."""
        place = variables.place_in(self._variables.get(variable), keys or [])
        texts = [more, variables.shown(place or self._place_of_name(variable))]
        return f" ({'; '.join(filter(None, texts))})" if any(texts) else ""

    def _place_of_name(self, variable: str) -> variables.Place | None:
        """Some values (true, false) have no place, but their names do."""
        return next((variables.place_of(name) for name in self._variables if name == variable), None)

    def _unknown(self) -> Iterator[tuple[str, str]]:
        """The variables that nothing reads, and whose names are a slip of one that is read."""
        for name in map(str, self._variables):
            if name in declaration.REPLACED_VARIABLES:
                yield name, f"is not used any more. Fix: {declaration.REPLACED_VARIABLES[name]}; see docs/agents.md"
                continue
            near = variables.nearest(name, KNOWN, PREFIXES)
            if near:
                own = "Give it another name if it is your own"
                yield name, f"is not a variable of this collection. Fix: did you mean {near}? {own}"

    def _doubled(self) -> Iterator[str]:
        """The keys that stand twice in a mapping of a file that declares one of our variables."""
        places = [
            variables.place_of(part)
            for name, value in self._variables.items()
            if name in KNOWN
            for part in (name, value)
        ]
        for path in sorted({place[0] for place in places if place}):
            for key, first, second in variables.doubled(path):
                place = variables.shown((path, second))
                yield (
                    f"{place}: {key} stands twice in one mapping, so the one in line {first} is lost. "
                    "Fix: begin each entry of a list with '- ', or remove one of the two"
                )

    def _errors_of(self, role: str) -> Iterator[tuple[str, str]]:
        """The variables of *role* that are declared wrongly, each with the reason and the fix."""
        if role not in SPECIFICATIONS:
            known = ", ".join(sorted(SPECIFICATIONS))
            raise AnsibleActionFail(f"declarations: roles: there is no role {role}. Fix: known ones are {known}")
        switch = f"{role}_enabled"
        rule = {switch: {"type": "bool"}}
        values, wrong = self._values(role, rule)
        wrong.update(errors(rule, values))
        yield from wrong.items()
        if not wrong and ArgumentSpecValidator(rule).validate(values).validated_parameters.get(switch) is False:
            return
        specification = SPECIFICATIONS[role]
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
        templar = self._templar_of(role)
        values, wrong = {}, {}
        for name, value in declared.items():
            try:
                values.update(templar.template({name: value}))
            except AnsibleError as error:
                wrong[name] = not_evaluated(error, secret=bool(specification[name].get("no_log")))
        return values, wrong

    def _templar_of(self, *roles: str) -> Any:
        """A templar that knows the defaults and the variables of *roles*. Ansible itself does once a role runs."""
        known = {name: value for role in roles for name, value in VALUES[role].items()}
        return self._templar.copy_with_new_env(available_variables={**known, **self._variables})

    def _agents(self) -> Iterator[str]:
        """The first mistake in hermes_agents, if there is any."""
        names = (
            "hermes_agents",
            "hermes_data_dir",
            "hermes_managed_root",
            "gateway_scope",
            "secrets_enabled | bool",
            "tailscale_enabled | bool",
        )
        templar = self._templar_of("common")
        agents, data_dir, managed_root, scope, fetches, tailnet = (
            templar.template(trust_as_template(f"{{{{ {name} }}}}")) for name in names
        )
        host = self._variables["inventory_hostname"]
        try:
            resolved = declaration.resolve(
                variables.plain(agents),
                host=host,
                data_dir=str(data_dir),
                managed_root=str(managed_root),
                tailnet=tailnet,
            )
            declared = [each.agent for each in resolved.values()]
            sources.check_host(declared, scope, enabled=fetches, where=f"{host}: hermes_agents")
        except OpsError as error:
            _host, variable, *path = str(error.where).split(": ")
            keys = [key for each in path for key in each.removeprefix("agent ").split(".")]
            yield f"{str(error).removeprefix(f'{host}: ')}{self._at(variable, keys=keys)}"

    def _is_declared(self, role: str) -> bool:
        """Whether somebody declared a variable that the settings of *role* are made of: our defaults fit.

        For a fleet this is most of the time that the check takes.
        """
        own = [*(option for each in _made_of(role) for option in SPECIFICATIONS[each]), "hermes_version"]
        return any(name in self._variables and self._variables[name] != _DEFAULTS.get(name) for name in own)

    def _settings(self, role: str) -> Iterator[str]:
        """What the kit would refuse of the settings of *role*, in the names of its variables."""
        templar = self._templar_of("common", *_made_of(role))

        def value(expression: str) -> Any:
            return variables.plain(templar.template(trust_as_template(f"{{{{ {expression} }}}}")))

        for error in settings.problems(role, value):
            variable, what, fix = settings.in_variables(error, role, KNOWN)
            yield f"{variable}: {what}. Fix: {fix}{self._at(variable, f'role {role}')}"


def _made_of(role: str) -> tuple[str, ...]:
    """The roles, beside common, of whose variables the settings of *role* are made."""
    return ("install", role) if role in ("auto_update", "image") else (role,)


def errors(specification: dict[str, dict[str, Any]], values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The options whose value does not fit *specification*, each with the reason and the fix.

    Ansible's own messages are not used: they quote values, also secret ones.
    """
    rules = {name: _checkable(rule) for name, rule in specification.items()}
    checked = ArgumentSpecValidator(rules).validate(values)
    if not checked.error_messages:
        # No number of ours may be negative, which a specification cannot say.
        for name, value in checked.validated_parameters.items():
            if rules.get(name, {}).get("type") in ("int", "float") and value is not None and value < 0:
                yield name, f"is {value}, less than 0. Fix: write 0 or more"
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
    if "no vault secrets" in str(error):
        return (
            "is encrypted, and there is no password for it. Fix: give it with --ask-vault-pass or --vault-password-file"
        )
    reason = "" if secret else f": {' '.join(str(error).split())}"
    return f"cannot be evaluated{reason.rstrip('.')}. Fix: correct the template"
