# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The support bundle of an agent in a container of its own, made inside of it.

There is no root here: whoever runs as the agent can change what is in it, as it can change what the gateway says.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import time
from collections.abc import Callable

from .. import __version__
from ..supervise import entrypoint
from ..supervise.entrypoint import Container
from ..system.plan import HIDDEN
from ..system.text import moment
from ..system.worker import work
from . import bundle, inside
from .bundle import Bundle, Home, file, output
from .redaction import KnownSecrets

COMMANDS = {
    member: bundle.COMMANDS[member]
    for member in (f"system/{name}.txt" for name in ("disk", "inodes", "kernel", "load", "memory"))
}
# With what the kernel allows the container, and what it has used: cgroup v2, as the container sees its own.
FILES = {
    **bundle.FILES,
    **{
        f"container/{name}.txt": f"/sys/fs/cgroup/{name}"
        for name in ("cpu.max", "cpu.stat", "memory.current", "memory.events", "memory.max", "memory.peak", "pids.max")
    },
}


def make(container: Container, description: str, root: str, name: str) -> Bundle:
    """Make a bundle about the agent of *container*, searched for secrets.

    :param description: path of the description, in which secrets are declared
    :param root: the directory of the releases
    :param name: of the directory in the archive
    """
    agent, account = container.declared.agent, container.account
    home = Home(agent.name, agent.home, account, [[os.path.basename(description), file(description)]])
    secrets, private = home.secrets()
    servers = {name: server.to_plain() for name, server in agent.servers.items()}
    of_agent: dict[str, Callable[[], str]] = {
        "check.txt": lambda: "\n".join([*entrypoint.bring_up(container, check=True)[1], ""]),
        "health.json": lambda: inside.as_json(work(account, "supervise.servers:look", servers)),
        **{f"agents/{agent.name}/{member}": lambda text=text: text for member, text in home.members().items()},
    }
    of_all: dict[str, Callable[[], str]] = {
        "about.txt": lambda: _about(container, home),
        "release.json": lambda: file(os.path.join(root, "current", "release.json")),
        **{member: lambda argv=argv: output(*argv) for member, argv in COMMANDS.items()},
        **{member: lambda path=path: file(path) for member, path in FILES.items()},
    }
    makers: bundle.Makers = {
        **{member: (None, maker) for member, maker in of_all.items()},
        **{member: (home, maker) for member, maker in of_agent.items()},
    }
    declared = container.declared.description.secrets
    known = KnownSecrets([*secrets, *container.secrets.values(), *declared.values()], private)
    return bundle.assemble(name, bundle.made_by(makers), known)


def _about(container: Container, home: Home) -> str:
    agent = container.declared.agent
    return "".join(
        f"{name}: {value}\n"
        for name, value in {
            "made": moment(time.time()),
            "container": platform.node(),
            "hermes-ops": __version__,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "agent": f"{agent.name}: {agent.home}, {container.account.name}",
            "handed in": json.dumps(sorted(container.secrets)),
            "never in it": f"secrets (shown as {HIDDEN}), sessions, memories, context, all logs",
            "secrets that are not all known": home.unknown or "none",
        }.items()
    )
