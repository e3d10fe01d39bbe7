# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ship the journal off the host with systemd-journal-upload, to a receiver that the host cannot change.

The unit is that of the Debian package; ours are only drop-ins. As packaged (systemd 252), the unit is restarted 0.1 s
after a failure and given up after five failures, so a receiver that is gone for a second would stop it for good.
"""

from __future__ import annotations

import grp
import os
import re
import stat
import urllib.parse
from dataclasses import dataclass

from ..description.checks import is_loopback
from ..system.errors import OpsError
from ..system.files import read_text, write_atomic
from ..system.plan import HIDDEN, Difference, Plan
from ..system.services import plan_active, plan_gone, plan_young
from ..system.systemd import Manager

UNIT = "systemd-journal-upload.service"
CONFIG = "/etc/systemd/journal-upload.conf.d/hermes.conf"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/hermes.conf"
JOURNALD = "/etc/systemd/journald.conf.d/hermes-audit.conf"
_JOURNALD_UNIT = "systemd-journald.service"
TLS = "/etc/hermes-ops/audit"
CA = f"{TLS}/ca.pem"
CERTIFICATE = f"{TLS}/client.pem"
KEY = f"{TLS}/client.key"
# Owns the PEM files, and may read the journal. The unit's own user exists only while the unit runs, but is always in
# this group.
GROUP = "systemd-journal"
RETRY_SECONDS = 30

_UNIT_TEXT = f"""\
# Written by the Ansible collection alwayson.hermes.

[Unit]
# Never give up.
StartLimitIntervalSec=0

[Service]
Restart=always
RestartSec={RETRY_SECONDS}
"""
_JOURNALD_TEXT = """\
# Written by the Ansible collection alwayson.hermes.

[Journal]
# Entries that are not shipped yet survive a reboot.
Storage=persistent
"""


@dataclass(frozen=True)
class Settings:
    """The receiver, and how both sides authenticate.

    :param url: of a systemd-journal-remote, e.g. ``https://logs.example.org:19532``
    :param ca: PEM: the authority that signed the receiver's certificate
    :param certificate: PEM: the certificate that the host shows the receiver
    :param key: PEM, a secret; all three are empty with ``http`` on loopback
    """

    url: str
    ca: str
    certificate: str
    key: str

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url)
            scheme, host = parts.scheme, parts.hostname or ""
        except ValueError:
            scheme, host = "", ""
        if scheme not in ("http", "https") or not host or re.search(r"[\s%\"'\\\\]", self.url) or "@" in self.url:
            raise OpsError(f"{self.url!r} is not a receiver's URL", where="audit_url", fix="declare https://HOST:19532")
        if scheme == "http" and not is_loopback(host):
            raise OpsError(
                "would send the journal unencrypted over the network",
                where="audit_url",
                fix="use https, or http to a tunnel on 127.0.0.1",
            )
        for name, value in (("ca", self.ca), ("certificate", self.certificate), ("key", self.key)):
            if bool(value) != (scheme == "https"):
                raise OpsError(
                    "is not declared" if not value else "has no meaning with http",
                    where=f"audit_{name}",
                    fix="declare audit_ca, audit_certificate and audit_key with https, and none of them with http",
                )
            if value and "-----BEGIN " not in value:
                raise OpsError("is not PEM", where=f"audit_{name}", fix="declare the text that begins with -----BEGIN")

    @property
    def files(self) -> dict[str, str]:
        """path -> PEM"""
        texts = {CA: self.ca, CERTIFICATE: self.certificate, KEY: self.key}
        return {path: text.rstrip() + "\n" for path, text in texts.items() if text}


def render_config(settings: Settings) -> str:
    lines = ["# Written by the Ansible collection alwayson.hermes.", "", "[Upload]", f"URL={settings.url}"]
    if settings.files:
        lines += [f"ServerKeyFile={KEY}", f"ServerCertificateFile={CERTIFICATE}", f"TrustedCertificateFile={CA}"]
    return "\n".join(lines) + "\n"


def plan_audit(settings: Settings, manager: Manager) -> Plan:
    """Compare the host with one that ships its journal.

    :param manager: the system's
    """
    plan = Plan()
    plan.add_file(JOURNALD, _JOURNALD_TEXT, mode=0o644)
    plan_young(plan, manager, manager.units([_JOURNALD_UNIT])[_JOURNALD_UNIT], [JOURNALD])
    for path, text in settings.files.items():
        _plan_pem(plan, path, text)
    plan.add_file(CONFIG, render_config(settings), mode=0o644)
    plan_active(plan, manager, UNIT, unit_files={DROP_IN: _UNIT_TEXT}, reads=[CONFIG, *settings.files])
    return plan


def plan_no_audit(manager: Manager) -> Plan:
    """Compare the host with one that ships nothing. systemd keeps its position in the journal, and resumes there."""
    plan = Plan()
    plan_gone(plan, manager, UNIT, [DROP_IN, CONFIG, JOURNALD, CA, CERTIFICATE, KEY])
    if os.path.isdir(TLS):
        plan.actions.append(lambda: os.rmdir(TLS))
    return plan


def present() -> bool:
    """Whether any of these files is on the host."""
    return any(map(os.path.lexists, (DROP_IN, CONFIG, JOURNALD)))


def _plan_pem(plan: Plan, path: str, text: str) -> None:
    before = read_text(path)
    if before == text and _is_closed(path):
        return
    plan.add(Difference(path, None if before is None else HIDDEN, f"{HIDDEN} changed"), lambda: _write_pem(path, text))


def _is_closed(path: str) -> bool:
    status = os.stat(path)
    return stat.S_IMODE(status.st_mode) == 0o640 and status.st_gid == grp.getgrnam(GROUP).gr_gid


def _write_pem(path: str, text: str) -> None:
    if not os.path.isdir(TLS):
        os.makedirs(TLS)
    os.chmod(TLS, 0o755)
    write_atomic(path, text, mode=0o600)
    os.chown(path, 0, grp.getgrnam(GROUP).gr_gid)
    os.chmod(path, 0o640)
