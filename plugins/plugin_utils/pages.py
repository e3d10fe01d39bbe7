# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTML pages. page.html.j2 is what they have in common."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import jinja2
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import write_atomic


def when(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC")


def counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def publish(path: str, page: str) -> str:
    """Write the *page*; returns its URL.

    :raises OpsError: it cannot be written
    """
    path = os.path.abspath(os.path.expanduser(path))
    write_atomic(path, page, mode=0o644)
    return Path(path).as_uri()


def render(template: str, **words: Any) -> str:
    """A page; every text in it is escaped.

    :param template: a file of this directory
    :param words: for the template; ``subject``, ``summary``, ``counts``, ``words`` and ``now`` are those of all pages
    """
    # Ansible's own templating cannot be used: its native mode ignores autoescape.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(when=when, **words)
