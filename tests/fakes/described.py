# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents for tests that need only a few of their settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Agent
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account


def agent(name: str = "default", **over: Any) -> Agent:
    """The agent *name*, which runs as the tests' own user and has no servers.

    :param over: other values, in the form of :meth:`Agent.to_plain`; tables are completed
    """
    found = declaration.resolve(
        [{"name": name, "api": {"enabled": False}}], host="", data_dir="/data", managed_root="/m"
    )
    plain = {**found[name].agent.to_plain(), "user": Account.current().name}
    for key, value in over.items():
        plain[key] = {**plain[key], **value} if isinstance(value, dict) else value
    return Agent.from_plain(plain, "over")


def release(root: str, name: str = "0.19.0-22c8bba0") -> Path:
    """The release *name* below *root*, as much of it as a look at a host needs; it is the current one."""
    path = Path(root, "releases", name)
    (path / "bin").mkdir(parents=True)
    python = path / "bin/python"
    python.write_text("#!/bin/sh\necho 3.51.3\n")
    python.chmod(0o755)
    Path(root, "current").unlink(missing_ok=True)
    os.symlink(f"releases/{name}", Path(root, "current"))
    return path
