# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shipping the journal: never unencrypted, without showing the key, and without giving up."""

from __future__ import annotations

import dataclasses
import grp
import os
import stat
import time
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import audit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import info

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
SECRET = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
KEY = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
SETTINGS = audit.Settings(url="https://logs.example.org:19532", ca=PEM, certificate=PEM, key=KEY)
MANAGER = Manager("system", Account.current())


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"url": ""}, "audit_url"),
        ({"url": "logs.example.org"}, "audit_url"),
        ({"url": "ftp://logs.example.org"}, "audit_url"),
        ({"url": "https://"}, "audit_url"),
        ({"url": "https://[::1"}, "audit_url"),
        ({"url": "https://user:pass@logs.example.org"}, "audit_url"),
        ({"url": "https://logs.example.org\nTrustedCertificateFile=all"}, "audit_url"),
        ({"url": "http://logs.example.org:19532", "ca": "", "certificate": "", "key": ""}, "audit_url"),
        ({"ca": ""}, "audit_ca"),
        ({"certificate": ""}, "audit_certificate"),
        ({"key": ""}, "audit_key"),
        ({"key": "/etc/ssl/private/key.pem"}, "audit_key"),
        ({"url": "http://127.0.0.1:19532"}, "audit_ca"),
    ],
)
def test_what_would_go_in_clear_or_to_anybody_is_refused(changed, where):
    with pytest.raises(OpsError) as refused:
        dataclasses.replace(SETTINGS, **changed)
    assert refused.value.where == where
    assert refused.value.fix
    assert SECRET not in str(refused.value)


def test_a_tunnel_on_loopback_needs_no_certificates():
    settings = audit.Settings(url="http://127.0.0.1:19532", ca="", certificate="", key="")
    assert settings.files == {}
    assert "File=" not in audit.render_config(settings)


def test_each_file_stands_under_the_name_that_systemd_has_for_it():
    lines = audit.render_config(SETTINGS).splitlines()
    assert lines[lines.index("[Upload]") + 1 :] == [
        "URL=https://logs.example.org:19532",
        f"ServerKeyFile={audit.KEY}",
        f"ServerCertificateFile={audit.CERTIFICATE}",
        f"TrustedCertificateFile={audit.CA}",
    ]


class Systemctl:
    def __init__(self):
        self.asked: list[str] = []
        self.states: dict[str, dict[str, str]] = {}

    def call(self, *arguments):
        if arguments[0] == "show":
            states = [self.states.get(name, {}) for name in arguments[3:]]
            return Completed(arguments, 0, "\n\n".join("\n".join(f"{k}={v}" for k, v in s.items()) for s in states), "")
        self.asked.append(" ".join(arguments))
        for name in arguments[1:]:
            state = self.states.setdefault(name, {})
            if arguments[0] == "enable":
                state["UnitFileState"] = "enabled"
            elif arguments[0] in ("start", "restart"):
                entered = str(int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6))
                state.update(ActiveState="active", ActiveEnterTimestampMonotonic=entered)
            elif arguments[0] == "disable":
                state.update(ActiveState="inactive", UnitFileState="disabled")
        return Completed(arguments, 0, "", "")


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host with its files in tmp_path, and a journal that the test's own group may read."""
    told = Systemctl()
    monkeypatch.setattr(Manager, "call", lambda _manager, *words, **_options: told.call(*words))
    monkeypatch.setattr(Manager, "reachable", True)
    for name in ("CONFIG", "DROP_IN", "JOURNALD", "TLS", "CA", "CERTIFICATE", "KEY"):
        monkeypatch.setattr(audit, name, str(tmp_path) + getattr(audit, name))
    monkeypatch.setattr(audit, "GROUP", grp.getgrgid(os.getegid()).gr_name)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: None)
    told.call("start", "systemd-journald.service")
    told.asked.clear()
    return told


def converge(settings=SETTINGS):
    plan = audit.plan_audit(settings, MANAGER)
    plan.apply()
    return plan


def test_check_then_apply_then_nothing(host):
    assert audit.plan_audit(SETTINGS, MANAGER).changed
    assert host.asked == []
    assert not audit.present()
    converge()
    assert host.asked == [
        "restart systemd-journald.service",
        "enable --no-reload systemd-journal-upload.service",
        "daemon-reload",
        "reset-failed systemd-journal-upload.service",
        "start systemd-journal-upload.service",
    ]
    assert info.FEATURES["audit"].present()
    host.asked.clear()
    assert not converge().changed
    assert host.asked == []


def test_the_key_is_closed_and_never_shown(host):
    plan = audit.plan_audit(SETTINGS, MANAGER)
    assert SECRET not in repr(plan.differences)
    assert SECRET not in repr(plan.diff("audit"))
    plan.apply()
    assert stat.S_IMODE(os.stat(audit.KEY).st_mode) == 0o640
    assert Path(audit.KEY).read_text() == KEY
    os.chmod(audit.KEY, 0o644)
    plan = audit.plan_audit(dataclasses.replace(SETTINGS, key=KEY.replace("MII", "MIJ")), MANAGER)
    assert SECRET not in repr(plan.diff("audit"))
    plan.apply()
    assert stat.S_IMODE(os.stat(audit.KEY).st_mode) == 0o640


def test_another_key_or_receiver_restarts_what_ships(host):
    converge()
    for changed in ({"key": KEY.replace("MII", "MIJ")}, {"url": "https://other.example.org"}):
        host.asked.clear()
        converge(dataclasses.replace(SETTINGS, **changed))
        assert host.asked == ["restart systemd-journal-upload.service"]


def test_a_receiver_that_is_gone_changes_nothing(host):
    converge()
    host.states["systemd-journal-upload.service"].update(ActiveState="activating", ActiveEnterTimestampMonotonic="0")
    host.asked.clear()
    assert not converge().changed
    assert "StartLimitIntervalSec=0\n" in Path(audit.DROP_IN).read_text().split("[Service]")[0]


def test_switched_off_nothing_is_left(host, tmp_path):
    converge()
    host.asked.clear()
    plan = audit.plan_no_audit(MANAGER)
    assert plan.changed
    plan.apply()
    assert host.asked[0] == "disable --now systemd-journal-upload.service"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not os.path.exists(audit.TLS)
    assert not audit.plan_no_audit(MANAGER).changed
