# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent that has moved, without a controller: all files of root's that name its home and its user.

They become what the next run of site.yml would write, so that it changes nothing.
"""

from __future__ import annotations

import os

from ..description.agent import Agent
from ..host import installation, logs
from ..system.files import Owner, read_text, write_atomic
from . import units


def write(host: units.Host, before: tuple[Agent, Owner], after: tuple[Agent, Owner]) -> None:
    """Let all that says *before* say *after*, and what says it already as it is.

    :param host: only scope, root and verbose count
    :param before: the agent as it was, and its user
    :param after: the same, as it is now
    """
    for path, text in plan(host, before, after).items():
        write_atomic(path, text, mode=0o644)
    installation.publish(after[0])


def plan(host: units.Host, before: tuple[Agent, Owner], after: tuple[Agent, Owner]) -> dict[str, str]:
    """Path -> new text of the files that have to change."""
    agents = (before[0], after[0])
    homes = [logs.Home(agent.name, agent.home, agent.user, logs.group_of(agent.user)) for agent in agents]
    texts = {
        host.drop_in_path(after[0].name): lambda _text: units.render_drop_in(host, *after),
        host.dashboard_path: lambda text: units.moved_dashboard(host, text, before, after),
        logs.CONFIG.format(after[0].name): lambda text: logs.moved_config(text, *homes),
        logs.UNIT.format(after[0].name): lambda text: logs.moved_unit(text, *homes),
    }
    found = {path: read_text(path) for path in texts if os.path.exists(path)}
    changed = {path: texts[path](text) for path, text in found.items() if text is not None}
    return {path: text for path, text in changed.items() if text != found[path]}
