# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units of tens of thousands of users are more than the arguments of one program may be."""

from __future__ import annotations

from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import systemd
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

LEAST_ARGUMENTS = 2**20


def test_the_state_of_very_many_is_asked_in_calls_that_the_kernel_allows(monkeypatch):
    sizes = []

    def run(argv, **_options):
        sizes.append(sum(len(word) + 9 for word in argv))
        names = argv[4:]
        return Completed(tuple(argv), 0, "\n".join(f"Id={name}\nMainPID={name[1:]}\n" for name in names), "")

    monkeypatch.setattr(systemd, "run", run)
    monkeypatch.setattr(Manager, "reachable", True)
    names = [f"u{number:0>200}" for number in range(1, 25_001)]
    found = Manager("system", Account.current()).units(names)
    assert list(found) == names
    assert [found[name].name for name in (names[0], names[-1])] == [names[0], names[-1]]
    assert max(sizes) < LEAST_ARGUMENTS


def test_nothing_is_asked_of_none(monkeypatch):
    monkeypatch.setattr(Manager, "reachable", True)
    assert Manager("system", Account.current()).units([]) == {}
