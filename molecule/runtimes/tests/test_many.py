# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty users at once, on one of the hosts: it takes the machine's processors for a while."""

from __future__ import annotations

import json

testinfra_hosts = ["ansible://users-bookworm"]


def test_fifty_who_are_ensured_at_once_all_get_their_agents(controller):
    names = [f"one-of-fifty-{number}" for number in range(50)]
    # On a busy machine some may wait for longer than they may, and are told to try again.
    ensure = "for try in 1 2 3 4 5; do hermes-ops runtime ensure --json $name >/run/$name.json 2>&1 && break; done"
    said = controller.shell(
        f'for name in "$@"; do {{ {ensure}; }} & done; wait; for name in "$@"; do cat /run/$name.json; echo ---; done',
        *names,
    )
    answers = said.split("---\n")[:-1]
    assert [answer for answer in answers if not answer.startswith("{")] == []
    made = [json.loads(answer) for answer in answers]
    assert [(each["user"], each["state"]) for each in made] == [(name, "running") for name in names]
    assert len({each["uid"] for each in made}) == len(names)
    assert controller.shell("ls /run/hermes-runtimes/starting") == ""
