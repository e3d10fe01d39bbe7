# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty users at once, on one of the hosts: it takes the machine's processors for a while."""

from __future__ import annotations

import json

testinfra_hosts = ["ansible://users-bookworm"]


def test_fifty_who_are_ensured_at_once_all_have_their_agents(user):
    users = [user(f"one-of-fifty-{number}") for number in range(50)]
    users[0].shell(
        'for name in "$@"; do hermes-ops runtime ensure --json $name >/run/$name.json 2>&1 & done; wait',
        *(each.name for each in users),
    )
    made = [json.loads(each.shell("cat /run/$1.json; rm /run/$1.json", each.name)) for each in users]
    assert {each["state"] for each in made} == {"running"}
    assert len({each["uid"] for each in made}) == len(users)
    assert [each.call().status for each in users] == [200] * len(users)
    for each in users:
        each.command("remove", "--purge")
