# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans units other than the gateways: their files, enabled, active, and restarted when what they read changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from .plan import Difference, Plan
from .systemd import Manager, Unit

UNIT_MODE = 0o644


def plan_active(
    plan: Plan,
    manager: Manager,
    name: str,
    *,
    unit_files: dict[str, str] | None = None,
    reads: Iterable[str] = (),
    reasons: Iterable[str] = (),
) -> None:
    """Plan that the unit *name* is enabled, active, and started after its files were written.

    :param unit_files: path -> text, for the unit itself, its drop-ins, and units that belong to it
    :param reads: other files that it reads only at its start; their changes are in *plan* already
    :param reasons: further reasons to restart it, as sentences for the diff
    """
    unit_files = unit_files or {}
    unit = plan_enabled(plan, manager, [name], unit_files)[name]
    # Files of units that belong to it do not count: those units read them at their own start.
    if not plan_started(plan, manager, unit):
        plan_young(plan, manager, unit, [*(path for path in unit_files if name in path), *reads], reasons)


def plan_enabled(plan: Plan, manager: Manager, names: Iterable[str], unit_files: dict[str, str]) -> dict[str, Unit]:
    """Plan that *unit_files* are written, and the units *names* enabled.

    :param unit_files: path -> text, for these units, their drop-ins, and units that belong to them
    :returns: the units as they are now, by name
    """
    # A drop-in is not a unit that systemd can be asked about.
    written = [os.path.basename(path) for path in unit_files if not path.endswith(".conf")]
    units = manager.units(dict.fromkeys([*names, *written]))
    changed = [path for path, text in unit_files.items() if plan.add_file(path, text, mode=UNIT_MODE)]
    before = len(plan.actions)
    for name in names:
        # All of it is read at once, below: a host takes a fifth of a second for that.
        if not units[name].enabled:
            plan.add(
                Difference(name, "not enabled", "enabled"),
                lambda name=name: manager.call("enable", "--no-reload", name),
            )
        elif any(not path.endswith(".conf") for path in changed):
            # Its [Install] section may name another unit than before.
            plan.actions.append(lambda name=name: manager.call("reenable", "--no-reload", name))
    if changed or len(plan.actions) > before or any(unit.stale for unit in units.values()):
        plan.actions.append(lambda: manager.call("daemon-reload"))
    return units


def plan_started(plan: Plan, manager: Manager, unit: Unit) -> bool:
    """Plan the start of *unit* unless it is active or about to be; returns whether one is planned."""
    if unit.active in ("active", "activating"):
        return False
    plan.add(Difference(f"{unit.name} state", unit.active, "active"), lambda: _start(manager, unit.name))
    return True


def plan_young(plan: Plan, manager: Manager, unit: Unit, reads: Iterable[str], reasons: Iterable[str] = ()) -> None:
    """Plan a restart of the running *unit* if one of the files that it reads only at its start changed.

    :param reads: these files; their changes are in *plan* already
    """
    written = {difference.what for difference in plan.differences}
    why = [path for path in reads if path in written or unit.is_older_than(path)]
    why += reasons
    if why:
        plan.add(Difference(f"{unit.name} restart", None, ", ".join(why)), lambda: manager.call("restart", unit.name))


def plan_gone(plan: Plan, manager: Manager, name: str, files: Iterable[str]) -> None:
    """Plan the removal of the unit *name*: stop and disable it, remove *files* and drop-in directories left empty.

    :param files: its unit files, and files that only it reads. If none of them exists, nothing is done
    """
    found = [path for path in files if os.path.lexists(path)]
    if not found:
        return
    unit = manager.units([name])[name]
    if unit.enabled or not unit.dead:
        plan.add(Difference(name, unit.active, "stopped, disabled"), lambda: manager.call("disable", "--now", name))
    plan_files_gone(plan, found)
    plan.actions.append(lambda: manager.call("daemon-reload"))
    # A unit that failed stays in systemd's list without its file, and the host counts as degraded.
    also = [os.path.basename(path) for path in found if path.endswith((".service", ".timer"))]
    for unit_name in dict.fromkeys([name, *also]):
        plan.actions.append(lambda unit_name=unit_name: manager.call("reset-failed", unit_name, check=False))


def plan_files_gone(plan: Plan, files: Iterable[str]) -> None:
    for path in filter(os.path.lexists, files):
        plan.add(Difference(path, "present", None), lambda path=path: _remove(path))


def _start(manager: Manager, name: str) -> None:
    # Also clears a start limit that was reached.
    manager.call("reset-failed", name, check=False)
    manager.call("start", name)


def _remove(path: str) -> None:
    os.unlink(path)
    directory = os.path.dirname(path)
    if directory.endswith((".conf.d", ".service.d", ".device.d")):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
