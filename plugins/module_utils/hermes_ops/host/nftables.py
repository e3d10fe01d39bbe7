# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of nftables of our own, beside everybody else's, which a unit loads before there is a network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..system.errors import OpsError
from ..system.files import read_text
from ..system.plan import Difference, Plan
from ..system.process import run
from ..system.services import plan_active, plan_gone
from ..system.systemd import Manager
from .jobs import UNIT_DIRECTORY

NFT = "/usr/sbin/nft"

_UNIT_TEXT = """\
# Written by the Ansible collection alwayson.hermes.

[Unit]
Description={description}
# Before there is a network, which cloud-init needs before sysinit.target.
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target
# nftables.service flushes the whole ruleset when it starts, and when it reloads.
After=local-fs.target nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
# nft replaces the table in one step. There is no ExecStop=: a restart would leave the host open for a moment.
ExecStart={nft} --file {rules}
ExecReload={nft} --file {rules}

[Install]
WantedBy=sysinit.target
"""


@dataclass(frozen=True)
class Table:
    """One table, in one family of nftables or in several.

    :param name: of the table
    :param unit: the name of the unit that loads it
    :param description: of the unit
    :param rules: the path of the file with the rules, which exists if they are declared
    :param families: of nftables
    """

    name: str
    unit: str
    description: str
    rules: str
    families: tuple[str, ...] = ("inet",)

    @property
    def unit_path(self) -> str:
        return f"{UNIT_DIRECTORY}/{self.unit}"

    @property
    def unit_text(self) -> str:
        return _UNIT_TEXT.format(description=self.description, nft=NFT, rules=self.rules)

    def delete(self, family: str = "inet") -> list[str]:
        """The command that removes the table of *family*."""
        return [NFT, "delete", "table", family, self.name]

    def render(self, **families: Mapping[str, Iterable[str]]) -> str:
        """The content of a file that replaces the table, at one moment, by one with these rules.

        :param families: family -> hook of nftables, which also names the chain -> its rules
        """
        text = "# Written by the Ansible collection alwayson.hermes.\n"
        for family, chains in families.items():
            # Named first, so that there is a table to delete.
            text += f"table {family} {self.name}\ndelete table {family} {self.name}\ntable {family} {self.name} {{\n"
            for hook, rules in chains.items():
                body = "".join(f"    {rule}\n" for rule in rules)
                text += f"  chain {hook} {{\n    type filter hook {hook} priority filter; policy accept;\n{body}  }}\n"
            text += "}\n"
        return text

    def plan_present(self, text: str, manager: Manager) -> Plan:
        """Compare the host with one on which the rules *text* are in force, also after a boot."""
        plan = Plan()
        plan.add_file(self.rules, text, mode=0o600)
        plan_active(plan, manager, self.unit, unit_files={self.unit_path: self.unit_text}, reads=[self.rules])
        if not plan.changed and os.path.exists(NFT) and not self.stands():
            plan.add(Difference(f"table {self.name}", None, "present"), lambda: manager.call("restart", self.unit))
        return plan

    def plan_absent(self, manager: Manager) -> Plan:
        """Compare the host with one that has no such table."""
        plan = Plan()
        plan_gone(plan, manager, self.unit, [self.unit_path, self.rules])
        if plan.changed:
            # Before its files go, by which a run that follows a kill finds it.
            plan.actions.insert(0, self._delete)
        return plan

    def _delete(self) -> None:
        for family in self.families:
            run(self.delete(family), timeout=20, check=False)

    def kept(self) -> str | None:
        """The rules that are declared; None: there are none."""
        return read_text(self.rules)

    def lost(self) -> bool:
        """Whether rules are declared, and somebody flushed them."""
        return os.path.exists(self.rules) and not self.stands()

    def stands(self) -> bool:
        """Whether rules of ours are in force."""
        try:
            return all(
                run([NFT, "list", "table", family, self.name], timeout=20, check=False).ok for family in self.families
            )
        except OpsError:
            return False
