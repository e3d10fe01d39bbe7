# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the messages of a soak in Hermes' databases. Runs in the box, with its own Python; prints JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile

# The homes of agents below the data directory, and where docs/host.md says that replaced data is. Other copies, as in
# backups and update/frozen/, do not count: no user and no operator finds a message there.
HOME = re.compile(r"/agents/[^/]+/\.hermes")
SET_ASIDE = re.compile(r"/ops/set-aside/|/\.hermes-ops-(set-aside|undone)-")


def numbers(directory: str, patterns: dict[str, str]) -> set[int]:
    """The numbers that a database knows completely: with a message of each role.

    :param directory: of a home or a copy of one; a copy of its database is read, since a reader writes beside it
    :param patterns: role -> what its messages look like; the first group is the number
    """
    found: dict[str, set[int]] = {role: set() for role in patterns}
    with tempfile.TemporaryDirectory() as copy:
        for name in os.listdir(directory):
            if name.startswith("state.db"):
                shutil.copy(os.path.join(directory, name), copy)
        database = sqlite3.connect(os.path.join(copy, "state.db"))
        try:
            for role, content in database.execute("SELECT role, content FROM messages"):
                match = re.fullmatch(patterns[role], str(content)) if role in patterns else None
                if match:
                    found[role].add(int(match[1]))
        except sqlite3.DatabaseError as error:
            # What it holds is missing then, and the soak says so.
            print(f"{directory}: {error}", file=sys.stderr)
        finally:
            database.close()
    return set.intersection(*found.values())


def search(data: str, patterns: dict[str, str]) -> dict[str, list[int]]:
    """The numbers in the sessions of the agents below *data* (``kept``), and in what was set aside (``aside``)."""
    kept: set[int] = set()
    aside: set[int] = set()
    for directory, _directories, files in os.walk(data):
        place = directory[len(data) :]
        if "state.db" not in files:
            continue
        if HOME.fullmatch(place):
            kept |= numbers(directory, patterns)
        elif SET_ASIDE.search(f"{place}/"):
            aside |= numbers(directory, patterns)
    return {"kept": sorted(kept), "aside": sorted(aside)}


if __name__ == "__main__":
    print(json.dumps(search(sys.argv[1], {"user": sys.argv[2], "assistant": sys.argv[3]})))
