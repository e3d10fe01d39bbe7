# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateways of a host: their units as declared, enabled, running, and running what is current."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field, replace
from typing import Any

from . import ports, units
from .files import Owner, read_text, write_atomic
from .plan import Difference, Plan
from .records import Records
from .systemd import Manager, Unit

UNIT_MODE = 0o644


@dataclass
class GatewayPlan(Plan):
    """What is to be done.

    :param restart: profile -> reasons; only gateways that are running are restarted
    """

    restart: dict[str, list[str]] = field(default_factory=dict)


def running_release(pid: int, root: str) -> str | None:
    """The release a process runs: the interpreter it was started with lies in it."""
    prefix = os.path.join(root, "releases") + os.sep
    for word in ports.command_line(pid)[:2]:
        if word.startswith(prefix):
            return word[len(prefix) :].split(os.sep, 1)[0]
    return None


def current_release(root: str) -> str | None:
    """The release that ``current`` points to."""
    try:
        return os.path.basename(os.readlink(os.path.join(root, "current")))
    except OSError:
        return None


def plan_files(host: units.Host, profiles: list[dict[str, Any]]) -> dict[str, str]:
    """Every unit file that should exist: path -> text."""
    present = [profile for profile in profiles if profile["state"] == "present"]
    files = {host.template_path: units.render_template(host)}
    files.update({host.drop_in_path(p["name"]): units.render_drop_in(host, p) for p in present})
    return files


def restart_reasons(
    profile: dict[str, Any], unit: Unit, requested: list[str], changed_files: list[str], host: units.Host
) -> list[str]:
    """Why a running gateway is not what is declared."""
    if not unit.running:
        return []
    reasons = list(requested)
    reasons += [f"unit: {path}" for path in changed_files if path in _files_of(host, profile["name"])]
    now, wanted = running_release(unit.pid, host.root), current_release(host.root)
    if now and wanted and now != wanted:
        reasons.append(f"release: {now} -> {wanted}")
    return reasons


def _files_of(host: units.Host, profile: str) -> tuple[str, str]:
    return host.template_path, host.drop_in_path(profile)


def plan_gateways(
    host: units.Host,
    profiles: list[dict[str, Any]],
    owner: Owner,
    records: dict[str, Records],
) -> GatewayPlan:
    """Compare the host with *profiles*. Nothing is changed, and nothing is restarted by the plan's actions:
    :func:`restart` does that."""
    plan = GatewayPlan()
    manager = Manager(host.scope, owner)
    _plan_other_scope(plan, host, profiles, owner)

    changed_files = []
    for path, text in plan_files(host, profiles).items():
        present = read_text(path)
        if present != text or stat.S_IMODE(os.stat(path).st_mode) != UNIT_MODE:
            changed_files.append(path)

    states = manager.units(profile["unit"] for profile in profiles)
    for profile in profiles:
        unit, name = states[profile["unit"]], profile["name"]
        if profile["state"] == "present":
            reasons = restart_reasons(profile, unit, records[name].restart_reasons(), changed_files, host)
            if reasons:
                plan.restart[name] = reasons

    # Before the files change, so that a kill between the two still ends in a restart.
    for name, reasons in plan.restart.items():
        plan.actions.append(lambda name=name, reasons=reasons: _request(records[name], reasons))
    for path in changed_files:
        text = plan_files(host, profiles)[path]
        plan.add(
            Difference(path, read_text(path), text),
            lambda path=path, text=text: _write(path, text),
        )
    drop_ins = [p for p in profiles if p["state"] == "absent" and os.path.exists(host.drop_in_path(p["name"]))]
    for profile in profiles:
        unit = states[profile["unit"]]
        if profile["state"] == "absent" and (unit.active != "inactive" or unit.enabled):
            plan.add(
                Difference(profile["unit"], f"{unit.active}, {_enabled(unit)}", "stopped, disabled"),
                lambda name=profile["unit"]: manager.call("disable", "--now", name),
            )
    for profile in drop_ins:
        directory = os.path.dirname(host.drop_in_path(profile["name"]))
        plan.add(Difference(directory, "present", None), lambda directory=directory: shutil.rmtree(directory))
    if plan.changed or any(unit.stale for unit in states.values()):
        plan.actions.append(lambda: _reload(manager))
    for profile in profiles:
        unit = states[profile["unit"]]
        if profile["state"] == "present" and not unit.enabled:
            plan.add(
                Difference(profile["unit"], "disabled", "enabled"),
                lambda name=profile["unit"]: manager.call("enable", name),
            )
    stopped = [p for p in profiles if p["state"] == "present" and states[p["unit"]].active in ("inactive", "failed")]
    for profile in stopped:
        plan.add(Difference(profile["unit"] + " state", states[profile["unit"]].active, "active"))
    if stopped:
        plan.actions.append(lambda: _start(manager, stopped, records))
    for name, reasons in plan.restart.items():
        plan.add(Difference(f"hermes-gateway@{name}.service restart", None, "; ".join(reasons)))
    return plan


def restart(
    host: units.Host, profiles: list[dict[str, Any]], owner: Owner, records: dict[str, Records], names: list[str]
) -> None:
    """Restart the named gateways at once, and only then forget why."""
    manager = Manager(host.scope, owner)
    chosen = [profile for profile in profiles if profile["name"] in names]
    if chosen:
        manager.call("restart", *(profile["unit"] for profile in chosen))
    for profile in chosen:
        records[profile["name"]].restarted()


def remember(records: Records, profile: dict[str, Any]) -> None:
    """Write the description down for ``hermes-ops``, which has no controller to ask."""
    if records.applied("gateway") != profile:
        records.prepare()
        records.write_applied("gateway", profile)


def _plan_other_scope(plan: Plan, host: units.Host, profiles: list[dict[str, Any]], owner: Owner) -> None:
    """Take away what the other scope left, when ``gateway_scope`` was changed."""
    other = replace(host, scope="user" if host.scope == "system" else "system")
    if not os.path.exists(other.template_path):
        return
    manager = Manager(other.scope, owner)
    states = manager.units(profile["unit"] for profile in profiles)
    for name, unit in states.items():
        if unit.enabled or unit.active != "inactive":
            plan.add(
                Difference(f"{name} ({other.scope} scope)", f"{unit.active}, {_enabled(unit)}", None),
                lambda name=name: manager.call("disable", "--now", name),
            )
    for profile in profiles:
        directory = os.path.dirname(other.drop_in_path(profile["name"]))
        if os.path.exists(directory):
            plan.add(Difference(directory, "present", None), lambda directory=directory: shutil.rmtree(directory))
    plan.add(Difference(other.template_path, "present", None), lambda: os.unlink(other.template_path))
    plan.actions.append(lambda: manager.reachable and manager.call("daemon-reload"))


def _enabled(unit: Unit) -> str:
    return "enabled" if unit.enabled else "disabled"


def _request(records: Records, reasons: list[str]) -> None:
    records.prepare()
    records.request_restart(reasons)


def _write(path: str, text: str) -> None:
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        os.makedirs(directory)
        os.chmod(directory, 0o755)
    write_atomic(path, text, mode=UNIT_MODE)


def _reload(manager: Manager) -> None:
    if not manager.reachable:
        # The manager of a user that lingers, but has not been started since it does.
        Manager("system", manager.owner).call("start", f"user@{manager.owner.uid}.service")
    manager.call("daemon-reload")


def _start(manager: Manager, profiles: list[dict[str, Any]], records: dict[str, Records]) -> None:
    names = [profile["unit"] for profile in profiles]
    manager.call("reset-failed", *names, check=False)
    manager.call("start", *names)
    for profile in profiles:
        records[profile["name"]].restarted()
