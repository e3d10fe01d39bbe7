# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host as a node of a tailnet: observe tailscaled, log in when needed, apply what is declared.

What tailscaled and its command line answer, and which options they have, is that of version 1.102.
"""

from __future__ import annotations

import calendar
import json
import os
import re
import shlex
import stat
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..system.errors import OpsError
from ..system.files import check_own, ensure_directory, read_json, read_text, write_json
from ..system.paths import check_path
from ..system.plan import Difference, Plan
from ..system.process import Completed, run
from ..system.services import plan_enabled, plan_young
from ..system.systemd import Manager
from .jobs import UNIT_DIRECTORY
from .records import check_ops

UNIT = "tailscaled.service"
DROP_IN = f"{UNIT_DIRECTORY}/{UNIT}.d/hermes.conf"
COMMAND = "tailscale"
# The directory of its socket (tailscaled.service: RuntimeDirectory=).
SOCKET_DIRECTORY = "/run/tailscale"
# The control server of a node that names none (ipn.DefaultControlURL).
DEFAULT_SERVER = "https://controlplane.tailscale.com"
# Its other name (1.102 ipn/prefs.go: IsLoginServerSynonym).
_SYNONYM = "https://login.tailscale.com"
# Below the ops directory: which node this is to be.
RECORD = "tailnet.json"
# Seconds for one question, for a login, and until a control server that does not answer counts as away.
ASK, LOGIN, SETTLE = 20.0, 60.0, 10.0
# Names as DNS has them (RFC 1123), since a node's host name becomes part of its DNS name.
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DECLARE_TAGS = "declare tailscale_tags, such as [tag:hermes]"
# How the secret of an OAuth client begins (1.102 feature/oauthkey).
_CLIENT = "tskey-client-"
_TAG = re.compile(r"tag:[a-zA-Z][a-zA-Z0-9-]*")
# The states of tailscaled (ipn.State) from its start until it has heard of the control server.
UNSURE = ("NoState", "Starting")
# The states of a node that has logged in and is not in its tailnet: what that means, and the fix.
IDLE = {
    "Stopped": ("the tailnet was switched off on this host", "tailscale up"),
    "NeedsMachineAuth": ("this host waits for its approval in the tailnet", "approve it in the tailnet's console"),
}


@dataclass(frozen=True)
class Settings:
    """What is declared of the node.

    :param hostname: its name in the tailnet
    :param tags: with the prefix ``tag:``
    :param login_server: URL of the control server
    """

    hostname: str
    tags: tuple[str, ...]
    ssh: bool
    accept_routes: bool
    accept_dns: bool
    login_server: str

    def __post_init__(self) -> None:
        if not _HOSTNAME.fullmatch(self.hostname):
            raise OpsError(
                f"{self.hostname!r} is not a host name",
                where="tailscale_hostname",
                fix="use lower-case letters, digits and '-', at most 63",
            )
        for tag in self.tags:
            if not _TAG.fullmatch(tag):
                raise OpsError(f"{tag!r} is not a tag", where="tailscale_tags", fix="write it as tag:NAME")
        parts = urllib.parse.urlsplit(self.login_server)
        if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", self.login_server):
            raise OpsError(
                f"{self.login_server!r} is not a control server's URL",
                where="tailscale_login_server",
                fix=f"declare https://HOST, or leave it out for {DEFAULT_SERVER}",
            )

    @property
    def flags(self) -> dict[str, str]:
        """The options that ``tailscale up`` and ``tailscale set`` share -> their values."""
        return {
            "hostname": self.hostname,
            "ssh": str(self.ssh).lower(),
            "accept-routes": str(self.accept_routes).lower(),
            "accept-dns": str(self.accept_dns).lower(),
        }


@dataclass(frozen=True)
class Node:
    """What tailscaled says about this host.

    :param state: in the words of ``ipn.State``: Running, NeedsLogin, …
    :param id: the control server's lasting name of the node; "" when it has none
    :param name: its DNS name without the tailnet's; "" when it has none
    :param addresses: in the tailnet
    :param tags: as the control server has them
    :param expiry: when its key expires, in seconds since 1970; None: never
    :param server: the control server's URL; "" when it was never logged in
    :param flags: as :attr:`Settings.flags`
    :param served: port in the tailnet -> where its connections are forwarded
    :param troubles: what tailscaled itself says is wrong
    """

    state: str
    id: str
    name: str
    addresses: tuple[str, ...]
    tags: tuple[str, ...]
    expiry: float | None
    server: str
    flags: dict[str, str]
    served: dict[int, str]
    troubles: tuple[str, ...]

    @property
    def out(self) -> bool:
        """Whether only a login makes it a node."""
        return self.state == "NeedsLogin" or self.expired

    @property
    def expired(self) -> bool:
        return self.expiry is not None and self.expiry < time.time()


def parse_node(status: Any, prefs: Any, serve: Any) -> Node:
    """The answers of ``tailscale status --json``, ``debug prefs`` and ``serve status --json``, as a :class:`Node`."""
    own = status.get("Self") or {}
    known = prefs.get("ControlURL") or ""
    flags = {
        "hostname": prefs.get("Hostname") or "",
        "ssh": str(bool(prefs.get("RunSSH"))).lower(),
        "accept-routes": str(bool(prefs.get("RouteAll"))).lower(),
        "accept-dns": str(bool(prefs.get("CorpDNS"))).lower(),
    }
    served = {int(port): each.get("TCPForward") or "" for port, each in ((serve or {}).get("TCP") or {}).items()}
    return Node(
        state=str(status.get("BackendState")),
        id=own.get("ID") or "",
        name=(own.get("DNSName") or "").partition(".")[0],
        addresses=tuple(own.get("TailscaleIPs") or ()),
        tags=tuple(own.get("Tags") or ()),
        expiry=_seconds(own.get("KeyExpiry")),
        server=known,
        flags=flags,
        served=served,
        troubles=tuple(status.get("Health") or ()),
    )


def _seconds(text: str | None) -> float | None:
    """A time in Go's form of RFC 3339, always UTC here, in seconds since 1970."""
    match = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text or "")
    return float(calendar.timegm(time.strptime(match[0], "%Y-%m-%dT%H:%M:%S"))) if match else None


def observe() -> Node:
    """:raises OpsError: tailscaled does not answer"""
    status = _ask("status", "--json", "--peers=false")
    return parse_node(status, _ask("debug", "prefs"), _ask("serve", "status", "--json"))


def settled(node: Node) -> Node:
    """*node* once tailscaled has heard of the control server, or after some seconds without an answer."""
    deadline = time.monotonic() + SETTLE
    while node.state in UNSURE and time.monotonic() < deadline:
        time.sleep(0.2)
        node = observe()
    return node


def endpoints() -> tuple[set[str], set[str]]:
    """The addresses under which peers find the node: by its own account, and by that of the control server."""
    own = (_ask("status", "--json", "--peers=false").get("Self") or {}).get("Addrs")
    known = (_ask("debug", "netmap").get("SelfNode") or {}).get("Endpoints")
    return set(own or ()), set(known or ())


def _ask(*arguments: str) -> Any:
    done = _tailscale(*arguments)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise OpsError(
            f"does not answer: {done.last_words}",
            where="tailscaled",
            fix=f"see why: systemctl status {UNIT}; then: systemctl restart {UNIT}",
        ) from None


def _tailscale(*arguments: str, timeout: float = ASK, pass_fds: Sequence[int] = ()) -> Completed:
    return run([COMMAND, *arguments], timeout=timeout, check=False, pass_fds=pass_fds)


# --- which node this is to be ----------------------------------------------------------------------------------------


def recorded(ops_dir: str) -> dict[str, Any]:
    """``id`` and ``name`` of the node that this host is to be, and the ports that were ``served`` for agents."""
    found = read_json(os.path.join(ops_dir, RECORD))
    return found if isinstance(found, dict) else {}


def declared_here() -> bool:
    """Whether the collection made this host a node."""
    return os.path.lexists(DROP_IN)


def key_of(text: str | None, path: str | None, tags: tuple[str, ...]) -> str | None:
    """The key to log in with; None if none is declared.

    :param text: the key itself, or the secret of an OAuth client
    :param path: a file on the host that holds it
    :raises OpsError: both are declared, or others can read or replace the file, or a client has no tags
    """
    if text and path:
        raise OpsError(
            "is declared beside tailscale_auth_key_file", where="tailscale_auth_key", fix="declare one of them"
        )
    if path:
        check_path(path, "tailscale_auth_key_file")
        if not os.path.lexists(path):
            # Perhaps it was removed after the first login, which is all that it is for.
            return None
        text = read_text(check_own(path, secret=True))
    key = (text or "").strip()
    if not key.startswith(_CLIENT):
        return key or None
    if not tags:
        raise OpsError(
            "is that of an OAuth client, whose nodes need tags", where="tailscale_auth_key", fix=_DECLARE_TAGS
        )
    # By default, such a node would vanish from the tailnet when its host is down, and wait for an approval.
    attributes = [each for each in ("ephemeral=false", "preauthorized=true") if each.partition("=")[0] not in key]
    return "&".join([key if "?" in key else f"{key}?", *attributes]).replace("?&", "?")


# --- the plan --------------------------------------------------------------------------------------------------------


def plan_daemon(data_dir: str, manager: Manager, unit_files: dict[str, str]) -> Plan:
    """Compare the host with one where tailscaled waits for the data volume, and starts at boot.

    :param unit_files: path -> text, for a unit that is ours. Only a change of these restarts tailscaled, because a
        restart cuts the connections over the tailnet
    """
    plan = Plan()
    check_path(data_dir, "hermes_data_dir")
    drop_in = (
        "# Written by the Ansible collection alwayson.hermes.\n\n[Unit]\n"
        "# The node's identity is on the data volume. Without it, tailscaled would become another node.\n"
        f"RequiresMountsFor={data_dir}\n"
        "# It may be the only way in. systemd would give up after five starts in ten seconds.\n"
        "StartLimitIntervalSec=0\n\n[Service]\n"
        "RestartSec=5\n"
        "# systemd refuses a link as a state directory (252: exit status 238).\n"
        "StateDirectory=\n"
        "# Its socket is open to every user, and through it tailscaled opens connections, as root, for whoever asks\n"
        "# (1.102 ipn/localapi: serveDial). With a name whose address changes, they reach the metadata service.\n"
        "RuntimeDirectoryMode=0700\n"
    )
    unit = plan_enabled(plan, manager, [UNIT], {**unit_files, DROP_IN: drop_in})[UNIT]
    # A tailscaled that runs has the directory of its start.
    if os.path.isdir(SOCKET_DIRECTORY) and stat.S_IMODE(os.stat(SOCKET_DIRECTORY).st_mode) != 0o700:
        plan.add(Difference(SOCKET_DIRECTORY, "every user's", "root's"), lambda: os.chmod(SOCKET_DIRECTORY, 0o700))
    if unit.active == "active":
        plan_young(plan, manager, unit, unit_files)
    return plan


def plan_login(settings: Settings, node: Node | None, record: dict[str, Any], key: str | None) -> Plan:
    """Compare the node with the declared one; log in only if it is none, or its key has expired.

    :param node: None: tailscaled does not run yet (in check mode)
    :param key: to log in with, a secret
    :raises OpsError: a login is needed, and there is no key; or it is a node of another control server
    """
    plan = Plan()
    if node is None:
        plan.add(Difference("tailnet", None, f"{settings.hostname}, unless the state on the data volume is a node"))
        return plan
    if node.server and _server(node.server) != _server(settings.login_server) and not node.out:
        raise OpsError(
            f"this host is a node of {node.server}",
            where="tailscale_login_server",
            fix=f"declare that one; or leave it (tailscale logout), remove {RECORD} below hermes_ops_dir, "
            "and converge with a key of the new one",
        )
    if node.out:
        if not key:
            why = "its key has expired" if node.expired else f"tailscaled is in the state {node.state}"
            was = f", which was {record['name']}," if record.get("name") else ""
            raise OpsError(
                f"this host{was} has to log in to the tailnet ({why}), and there is no key",
                where="tailscale_auth_key",
                fix="declare one that was made for its tags, or tailscale_auth_key_file",
            )
        before = f"{node.state}{', key expired' if node.expired else ''}"
        plan.add(
            Difference("tailnet", before, f"logged in as {settings.hostname}"), lambda: _log_in(settings, key, node)
        )
        return plan
    changed = {name: value for name, value in settings.flags.items() if node.flags[name] != value}
    for name, value in changed.items():
        plan.add(Difference(f"tailscale {name}", node.flags[name], value))
    if changed:
        plan.actions.append(lambda: _set(changed))
    return plan


def _server(url: str) -> str:
    """*url* of a control server, in one form."""
    url = url.rstrip("/")
    return DEFAULT_SERVER if url == _SYNONYM else url


def plan_served(ports: list[int], node: Node | None, record: dict[str, Any]) -> Plan:
    """Compare what the tailnet reaches with *ports*, each of which is forwarded to the same port of 127.0.0.1.

    Ports that somebody else serves are left alone.

    :raises OpsError: somebody else serves one of *ports*
    """
    plan = Plan()
    ours = record.get("served") or []
    served = node.served if node else {}
    for port in ports:
        target = f"127.0.0.1:{port}"
        if port in served and served[port] != target:
            raise OpsError(
                f"port {port} of the tailnet is served to {served[port] or 'a web server'}, and an agent is to have it",
                where="tailscale serve",
                fix=f"tailscale serve --tcp={port} off; or give the agent another port",
            )
        if port not in served:
            plan.add(Difference(f"tailnet port {port}", None, target), lambda port=port: _serve(port))
    for port in sorted(set(ours) - set(ports)):
        if served.get(port) == f"127.0.0.1:{port}":
            plan.add(Difference(f"tailnet port {port}", served[port], None), lambda port=port: _unserve(port))
    return plan


def plan_recorded(ops_dir: str, node: Node, record: dict[str, Any], ports: list[int]) -> Plan:
    """Compare the record with the node. A node that is already recorded stays the one that is expected."""
    plan = Plan()
    wanted = {"id": record.get("id") or node.id, "name": record.get("name") or node.name, "served": sorted(ports)}
    if wanted != record:
        path = os.path.join(ops_dir, RECORD)
        plan.add(Difference(path, _shown(record), _shown(wanted)), lambda: _record(path, wanted))
    return plan


def _shown(record: dict[str, Any]) -> str | None:
    """*record* in a diff."""
    ports = ", ".join(map(str, record.get("served") or ())) or "none"
    return f"node {record.get('name')}, ports for agents: {ports}" if record else None


def _record(path: str, record: dict[str, Any]) -> None:
    if not os.path.isdir(os.path.dirname(path)):
        ensure_directory(os.path.dirname(path), mode=0o700)
    check_ops(os.path.dirname(path))
    write_json(path, record)


# --- acting ----------------------------------------------------------------------------------------------------------


def _log_in(settings: Settings, key: str, node: Node) -> None:
    """Log in, or renew an expired key.

    The key is in memory that has no name: every user sees the arguments of a process, and a kill would leave a file.
    """
    with os.fdopen(os.memfd_create("key"), "w") as memory:
        memory.write(key)
        memory.flush()
        path = f"/proc/self/fd/{memory.fileno()}"
        flags = {**settings.flags, "advertise-tags": ",".join(settings.tags), "login-server": settings.login_server}
        options = [
            # Without it, an expired key is noticed too late to be renewed.
            *(["--force-reauth"] if node.expired else []),
            "--accept-risk=lose-ssh",
            *(f"--{name}={value}" for name, value in flags.items()),
        ]
        command = ["up", f"--auth-key=file:{path}", f"--timeout={LOGIN - 5:.0f}s", *options]
        done = _tailscale(*command, timeout=LOGIN, pass_fds=(memory.fileno(),))
    if done.ok:
        return
    where = f"tailnet of {settings.login_server}"
    others = _set_by_hand(done.stderr, {"auth-key", "timeout", "force-reauth", "accept-risk", *flags})
    if others:
        raise OpsError(
            f"the login failed: settings that were made by hand would be lost: {' '.join(others)}",
            where=where,
            fix="log in by hand, with a file that holds the key: "
            f"{shlex.join([COMMAND, 'up', '--auth-key=file:FILE', *options, *others])}; then converge again",
        )
    raise OpsError(
        f"the login failed: {done.last_words}",
        where=where,
        fix="see that the key is valid, was made for the declared tags, and that the server can be reached; then "
        "converge again",
    )


def _set_by_hand(said: str, known: set[str]) -> list[str]:
    """The options that ``tailscale up`` misses, each as ``--NAME=VALUE``: it wants all that differ from the default.

    :param said: its error, which ends with the whole command (1.102 cmd/tailscale/cli/up.go: accidentalUpPrefix)
    :param known: the names of the options that it was given
    """
    _before, found, command = said.partition("requires mentioning all")
    words = re.findall(r"(?<=\s)--([a-z-]+)(\S*)", command.partition("\ttailscale up")[2]) if found else []
    return [f"--{name}{value}" for name, value in words if name not in known]


def _set(flags: dict[str, str]) -> None:
    options = [f"--{name}={value}" for name, value in flags.items()]
    if "ssh" in flags:
        # Otherwise it waits, in case somebody wants to keep a connection that this may cut.
        options.append("--accept-risk=lose-ssh")
    _order("set", *options)


def _serve(port: int) -> None:
    _order("serve", "--bg", f"--tcp={port}", f"tcp://127.0.0.1:{port}")


def _unserve(port: int) -> None:
    _order("serve", f"--tcp={port}", "off")


def _order(*arguments: str) -> None:
    """Have tailscaled change something.

    :raises OpsError: it does not
    """
    done = _tailscale(*arguments)
    if not done.ok:
        raise OpsError(
            f"failed: {done.last_words}",
            where=shlex.join([COMMAND, *arguments]),
            fix=f"see what tailscaled says: journalctl --unit {UNIT}; then converge again",
        )
