# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with runtimes, and who is who on it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from urllib.parse import quote

from ..description.runtime_addresses import address_of, network_of
from ..description.runtimes import Runtimes
from ..host import settings
from ..host.installation import Installation
from ..host.runtimes import JOB, User, Users
from ..system.files import Account
from ..system.systemd import Manager


@dataclass(frozen=True)
class Host:
    """A host with runtimes.

    :param settings: what all of them share
    :param data_dir: directory of the agents' data
    :param ops_dir: directory of the records
    """

    settings: Runtimes
    data_dir: str
    ops_dir: str

    @classmethod
    def load(cls) -> Host:
        """:raises OpsError: this host has no runtimes, or was not converged"""
        return cls.of(Installation.load())

    @classmethod
    def of(cls, host: Installation) -> Host:
        """:raises OpsError: *host* has no runtimes"""
        return cls(settings.load(JOB, Runtimes), host.data_dir, host.ops_dir)

    @property
    def users(self) -> Users:
        return Users(self.ops_dir)

    @property
    def manager(self) -> Manager:
        return Manager.of_host()

    def account_of(self, user: User) -> Account:
        """The UNIX user of the user's container."""
        return user.account(self.settings.first_uid, self.data_dir)

    def address_of(self, user: User) -> IPv4Address:
        """Of the user's container."""
        return address_of(network_of(self.settings.network), user.number)

    def url_of(self, user: User) -> str:
        return f"{self.settings.url}/u/{quote(user.name, safe='')}/"
