# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared settings of backups."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from ..system.errors import OpsError

# Prefix of a recipient's public key; it means that .env is encrypted.
AGE = "age:"


@dataclass(frozen=True)
class Settings:
    """``/etc/hermes-ops/backup.json``.

    :param keep: how many archives of each agent stay on this host
    :param env: how archives include ``.env``: ``exclude``, ``include``, ``encrypt``
    :param age_recipient: public key (age or SSH) for which ``.env`` is encrypted
    :param restic_repository: repository for copies off the host, as restic names it; ``""``: none
    :param restic_password: of the repository
    :param restic_environment: variables for its back end, e.g. ``AWS_ACCESS_KEY_ID``
    :param restic_keep_daily: for how many days one copy each stays there; ``weekly``, ``monthly`` likewise
    """

    keep: int = 7
    env: str = "exclude"
    age_recipient: str = ""
    restic_repository: str = ""
    restic_password: str = ""
    restic_environment: dict[str, str] = field(default_factory=dict)
    restic_keep_daily: int = 7
    restic_keep_weekly: int = 4
    restic_keep_monthly: int = 6

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise OpsError("keep is less than 1", fix="declare 1 or more")
        if self.env not in ENV_CHOICES:
            raise OpsError(f"env is {self.env!r}", fix=f"declare one of {', '.join(ENV_CHOICES)}")
        if self.env == "encrypt" and not self.age_recipient:
            raise OpsError("age_recipient is missing", fix="make a pair with age-keygen and declare its public key")
        if self.age_recipient and not re.fullmatch(r"age1[a-z0-9]+|ssh-(ed25519|rsa) \S+( .*)?", self.age_recipient):
            raise OpsError("age_recipient is no public key", fix="declare one that begins with age1 or ssh-")
        if self.restic_repository and not is_definite(self.restic_repository):
            # Not shown, because it may hold credentials.
            raise OpsError(
                "is a relative path, which means another place in each working directory",
                where="backup_restic_repository",
                fix=f"write an absolute path, or begin with a back end of restic: {':, '.join(BACK_ENDS)}:",
            )
        if self.restic_repository and not self.restic_password:
            raise OpsError("restic_password is missing", fix="declare one, and keep it elsewhere as well")
        for name, value in self.restic_environment.items():
            if not re.fullmatch(r"[A-Za-z_]\w*", name) or not isinstance(value, str):
                raise OpsError(f"restic_environment: {name!r} is not a variable with a text", fix="declare NAME: text")
        keeps = (self.restic_keep_daily, self.restic_keep_weekly, self.restic_keep_monthly)
        if min(keeps) < 0 or not any(keeps):
            raise OpsError("restic_keep_… would keep nothing", fix="declare 1 or more for one of them")

    def env_of(self, choice: str | None = None) -> str:
        """The parameter ``env`` of :func:`making.create`.

        :param choice: overrides the declared one
        """
        choice = choice or self.env
        if choice != "encrypt":
            return choice
        if not self.age_recipient:
            raise OpsError("no recipient is declared to encrypt .env for", fix="declare backup_age_recipient")
        return AGE + self.age_recipient


ENV_CHOICES = ("exclude", "include", "encrypt")
# restic's back ends besides local (0.14 internal/backend/location, 0.18 internal/backend/all). What follows their names
# is resolved by the server or, for rclone, by its configuration, so it is the same from every working directory.
BACK_ENDS = ("azure", "b2", "gs", "rclone", "rest", "s3", "sftp", "swift")


def is_definite(repository: str) -> bool:
    """Whether *repository* names the same place from every working directory."""
    return os.path.isabs(repository.removeprefix("local:")) or repository.partition(":")[0] in BACK_ENDS
