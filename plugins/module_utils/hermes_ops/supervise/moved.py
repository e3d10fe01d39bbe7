# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Update root's files that name the home and the user of an agent, after the agent has moved.

This works without a controller. The files get the text that site.yml would write, so its next run changes nothing.
"""

from __future__ import annotations

import os

from ..description.agent import Agent
from ..host import installation, logs
from ..system.files import Account, read_text, write_atomic
from . import units


def write(settings: units.UnitSettings, before: tuple[Agent, Account], after: tuple[Agent, Account]) -> None:
    """Change root's files from *before* to *after*. Files that already agree with *after* stay untouched.

    :param settings: only scope, root and verbose matter
    :param before: the agent before its move, and its user
    :param after: the agent as it is now, and its user
    """
    for path, text in plan(settings, before, after).items():
        write_atomic(path, text, mode=0o644)
    installation.publish(after[0])


def plan(settings: units.UnitSettings, before: tuple[Agent, Account], after: tuple[Agent, Account]) -> dict[str, str]:
    """The files that have to change: path -> new text."""
    agents = (before[0], after[0])
    homes = [logs.Home(agent.name, agent.home, agent.user, logs.group_of(agent.user)) for agent in agents]
    texts = {
        settings.drop_in_path(after[0].name): lambda _text: units.render_drop_in(settings, *after),
        settings.dashboard_path: lambda text: units.moved_dashboard(settings, text, before, after),
        logs.CONFIG.format(after[0].name): lambda text: logs.moved_config(text, *homes),
        logs.UNIT.format(after[0].name): lambda text: logs.moved_unit(text, *homes),
    }
    found = {path: read_text(path) for path in texts if os.path.exists(path)}
    changed = {path: texts[path](text) for path, text in found.items() if text is not None}
    return {path: text for path, text in changed.items() if text != found[path]}
