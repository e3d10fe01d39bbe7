# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time writes in a namespace: two with different declarations would remove each other's Secrets.

A run that writes holds a Lease of the cluster and renews it. One that was killed does not, and the next run takes it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.text import printable
from .cluster import Changed, Cluster, Unreachable
from .objects import MANAGED

NAME = "hermes-run"
_KIND = ("coordination.k8s.io/v1", "Lease")
# Seconds after which a run that did not renew it has lost it; between two renewals; and for which it is waited for.
_LASTS, _RENEWED, _PATIENCE = 30.0, 10.0, 60.0
# Seconds between two looks at another run's.
_PAUSE = 1.0


@contextlib.contextmanager
def held(cluster: Cluster) -> Iterator[None]:
    """Hold the Lease of the namespace. If it is lost, *cluster* writes nothing any more.

    :raises OpsError: another run holds it, and goes on doing so
    """
    lease = _Lease(cluster)
    lease.take()
    ends = threading.Event()
    renews = threading.Thread(target=lease.renew, args=(ends,), daemon=True)
    renews.start()
    cluster.fence = lease.check
    try:
        yield
    finally:
        ends.set()
        # A server that does not answer is not waited for; a late renewal is refused, since the Lease has changed then.
        renews.join(_PAUSE)
        cluster.fence = None
        # It ends by itself, too.
        with contextlib.suppress(OpsError):
            lease.give_back()


class _Lease:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.holder = f"{_user()}@{socket.gethostname()}, process {os.getpid()}, {secrets.token_hex(4)}"
        self.until = 0.0

    def take(self) -> None:
        """:raises OpsError: another run holds it"""
        begun = since = written = time.monotonic()
        version = ""
        while True:
            found = self.cluster.get(*_KIND, NAME)
            now, other = time.monotonic(), _holder(found)
            if other == self.holder:
                # Also after a call that was repeated though it had been carried out.
                self.until = written + _LASTS
                return
            if found and found["metadata"]["resourceVersion"] != version:
                version, since = found["metadata"]["resourceVersion"], now
            # The clocks of two controllers may differ, so only our own is asked.
            if not other or now - since > _LASTS:
                written = now
                with contextlib.suppress(Changed):
                    self._write(found, self.holder)
            elif now - begun > _PATIENCE:
                raise OpsError(
                    f"is held by another run, of {printable(other)}",
                    where=f"Lease {NAME} in namespace {self.cluster.namespace}",
                    fix="wait for that run to end, and run this again",
                )
            else:
                time.sleep(_PAUSE)

    def renew(self, ends: threading.Event) -> None:
        """Renew it until *ends*, or until it is lost."""
        while not ends.wait(_RENEWED):
            # If this fails, the next time may not.
            with contextlib.suppress(OpsError):
                asked = time.monotonic()
                found = self.cluster.get(*_KIND, NAME)
                if _holder(found) != self.holder:
                    self.until = 0.0
                    return
                self._write(found, self.holder)
                self.until = asked + _LASTS

    def check(self) -> None:
        """:raises Unreachable: it is lost, so that another run may write"""
        if time.monotonic() > self.until:
            raise Unreachable("was lost", where=f"Lease {NAME}", fix="run this again once no other run is under way")

    def give_back(self) -> None:
        found = self.cluster.get(*_KIND, NAME)
        if found and _holder(found) == self.holder:
            self._write(found, "")

    def _write(self, found: dict[str, Any] | None, holder: str) -> None:
        """:raises Changed: somebody was faster"""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": int(_LASTS), "renewTime": now}
        if found:
            version = found["metadata"]["resourceVersion"]
            self.cluster.patch(found, *_KIND, {"metadata": {"resourceVersion": version}, "spec": spec})
        else:
            api, kind = _KIND
            metadata = {"name": NAME, "labels": dict(MANAGED)}
            self.cluster.create({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec})


def _holder(found: dict[str, Any] | None) -> str:
    return str((found or {}).get("spec", {}).get("holderIdentity") or "")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # One without a name.
        return str(os.getuid())
