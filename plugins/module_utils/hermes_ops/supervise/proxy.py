# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy of a host: nginx with njs, the one address at which callers reach the agent of each user.

It has its own unit, user and configuration; the distribution's ``nginx.service`` is not touched. A call with the key of
a user (``description/runtime_keys.py``) goes to that user's socket, whose unit starts the agent. A webhook goes to the
agent itself, which serves them at a port of its own, once a call of the socket was answered. All else gets one and the
same answer, 404. Debian packages both parts, and njs computes the keys in nginx' own processes: nothing of ours runs
for a call.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from dataclasses import dataclass

from ..host import settings
from ..host.accounts import number_of_user
from ..host.runtimes import BOOT, RUN
from ..system import network
from ..system.errors import OpsError
from ..system.files import read_bytes, write_atomic
from ..system.paths import check_path
from ..system.plan import Difference, Plan
from ..system.process import run
from ..system.services import plan_active, plan_gone
from ..system.systemd import NO_CORE, Manager, Unit
from . import proxy_program
from .units import SANDBOX, UNIT_DIRECTORIES

NAME = "hermes-proxy.service"
UNIT_PATH = os.path.join(UNIT_DIRECTORIES["system"], NAME)
USER = "hermes-proxy"
_USER_FILE = "/etc/sysusers.d/hermes-proxy.conf"
_USER_TEXT = f"""\
# Written by the Ansible collection alwayson.hermes.
u {USER} - "Proxy before the agents of users"
"""
CONFIGURATION = os.path.join(settings.DIRECTORY, "proxy.conf")
PROGRAM = os.path.join(settings.DIRECTORY, "proxy.js")
NGINX = "/usr/sbin/nginx"
MODULE = "/usr/lib/nginx/modules/ngx_http_js_module.so"
# The packages of Debian that have these two.
PACKAGES = ("nginx", "libnginx-mod-http-js")
# A call takes two connections. Descriptors leave room for nginx' own files.
_CONNECTIONS, _DESCRIPTORS = 4096, 8192
_ALWAYS = """\
    server_tokens off;
    # Calls that wait for one user's agent must not take the connections of all.
    limit_conn_zone $way_user zone=users:1m;
    limit_conn_status 429;
    # Also for the second attempt at a webhook.
    recursive_error_pages on;
    # Else an agent could command nginx with headers of its answer.
    proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;"""
_PORT = re.compile("[0-9]{1,5}")


@dataclass(frozen=True)
class Proxy:
    """What is declared for the proxy.

    :param listen: numeric address and port, ``127.0.0.1:8640`` or ``[::1]:8640``
    :param certificate: a file in PEM format with the certificate and those that lead to its authority; empty: no TLS
    :param certificate_key: the file with its private key. Both files may be readable by root only
    :raises OpsError: these values cannot be
    """

    listen: str
    certificate: str = ""
    certificate_key: str = ""

    def __post_init__(self) -> None:
        host, _colon, port = self.listen.rpartition(":")
        if not _is_address(host) or not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
            raise OpsError(
                f"is {self.listen!r}", where="listen", fix="write an address and a port, such as 127.0.0.1:8640"
            )
        if bool(self.certificate) != bool(self.certificate_key):
            raise OpsError("goes with certificate_key only", where="certificate", fix="declare both or neither")
        for name in ("certificate", "certificate_key") if self.certificate else ():
            check_path(getattr(self, name), name)

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])


def _is_address(host: str) -> bool:
    """Whether *host* is an address as nginx writes them: of IPv6 in brackets, without a zone."""
    bracketed = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]", host)
    try:
        ipaddress.IPv6Address(bracketed[1]) if bracketed else ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Places:
    """The paths of a proxy. The defaults are those of the unit; a trial and a test have others.

    :param own: a directory that only it writes to
    :param log: the socket that takes the log of the calls
    """

    program: str = PROGRAM
    runtimes: str = RUN
    own: str = "/run/hermes-proxy"
    log: str = "/dev/log"
    certificate: str = f"{RUN}/proxy/certificate"
    certificate_key: str = f"{RUN}/proxy/certificate_key"


PLACES = Places()


def render(proxy: Proxy, places: Places = PLACES) -> str:
    """The configuration of nginx."""
    tls = (
        f"""
        ssl_certificate {places.certificate};
        ssl_certificate_key {places.certificate_key};
        ssl_protocols TLSv1.2 TLSv1.3;"""
        if proxy.certificate
        else ""
    )
    temporary = "\n".join(
        f"    {name}_temp_path {places.own}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
# Written by the Ansible collection alwayson.hermes.
load_module {MODULE};
pid {places.own}/nginx.pid;
# Messages of lower levels quote the request, with the id of the user and the query.
error_log stderr alert;
worker_processes auto;
events {{
    worker_connections {_CONNECTIONS};
}}
http {{
    js_import way from {places.program};
    js_set $way_user way.user;
    js_set $way_path way.path;
    js_set $way_place way.place;
    js_set $way_webhooks way.webhooks;
    js_set $way_authorization way.authorization;
    # Neither keys, nor queries, nor the ids of users, which may be addresses; a refused call without its path.
    log_format way 'caller=$remote_addr user=$way_user method=$request_method path=$way_place status=$status '
        'bytes=$bytes_sent seconds=$request_time';
    access_log syslog:server=unix:{places.log},tag=hermes_proxy,nohostname way;
{_ALWAYS}
{temporary}
    server {{
        # A stream whose caller is gone would keep the agent from its rest.
        listen {proxy.listen}{" ssl" if tls else ""} so_keepalive=5m:30s:4;{tls}
        client_max_body_size 32m;
        # Answers of nginx itself become the program's. No call has such an address, for nginx merges slashes.
        error_page 400 404 405 = //nobody;
        error_page 502 504 = //unavailable;
        location = //nobody {{
            internal;
            js_content way.nobody;
        }}
        location = //unavailable {{
            internal;
            js_content way.unavailable;
        }}
{_locations(places)}
    }}
}}
"""


def _locations(places: Places) -> str:
    """Where calls go, and webhooks."""
    return f"""\
        location / {{
            if ($way_user = "") {{
                return 404;
            }}
            proxy_pass http://unix:{places.runtimes}/sockets/$way_user.sock:$way_path;
{_PASSING}
            proxy_set_header Authorization $way_authorization;
            # As they come, in both directions: streams of events, and large bodies.
            proxy_request_buffering off;
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
        location /w/ {{
            if ($way_webhooks = "") {{
                return 404;
            }}
{_WEBHOOK}
            error_page 400 404 405 = //nobody;
            error_page 500 504 = //unavailable;
            # The agent was restarted after it had been woken.
            error_page 502 = @again;
        }}
        location @again {{
{_WEBHOOK}
            error_page 500 502 504 = //unavailable;
        }}
        # Answered as soon as the agent is healthy. What a sender says is not for this server.
        location = //wake {{
            internal;
            proxy_pass http://unix:{places.runtimes}/sockets/$way_user.sock:/health;
            proxy_pass_request_body off;
            proxy_pass_request_headers off;
            proxy_read_timeout 1h;
        }}"""


# How a call and its answer are passed on.
_PASSING = """\
            limit_conn users 100;
            # For bodies of unknown length. Each call has a connection of its own: without any, the front is idle.
            proxy_http_version 1.1;
            proxy_redirect off;
            proxy_set_header Forwarded "";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Real-IP "";\
"""
_WEBHOOK = f"""\
            auth_request //wake;
            # Kept until the agent is awake, in the memory of the host; Hermes takes no larger one.
            client_max_body_size 1m;
            # Else an agent could fill that memory with its answers.
            proxy_max_temp_file_size 0;
            proxy_pass http://$way_webhooks$way_path;
{_PASSING}\
"""


def render_unit(proxy: Proxy) -> str:
    # Only the port decides whether a capability is needed.
    capability = "CAP_NET_BIND_SERVICE" if proxy.port < 1024 else ""
    own = PLACES.own
    sandbox = {
        **SANDBOX,
        "CapabilityBoundingSet": capability,
        "AmbientCapabilities": capability,
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
        "ReadWritePaths": own,
    }
    confinement = "\n".join(f"{name}={value}" for name, value in [NO_CORE, *sandbox.items()])
    command = f"{NGINX} -e stderr -c {CONFIGURATION}"
    copies = [
        # As root, for nginx may not read the declared ones, into a directory of root's.
        f"+/usr/bin/install --mode=0640 --group={USER} {declared} {copy}"
        for declared, copy in _copies(proxy).items()
    ]
    before = "".join(f"ExecStartPre={copy}\n" for copy in copies)
    again = "".join(f"ExecReload={copy}\n" for copy in copies)
    return f"""\
# Written by the Ansible collection alwayson.hermes; add your own in a drop-in beside it.

[Unit]
Description=Proxy before the agents of the users
Documentation=https://nginx.org/en/docs/
Wants=network-online.target {BOOT}
After=network-online.target {BOOT}
# Never stop restarting.
StartLimitIntervalSec=0

[Service]
# It is started when it listens.
Type=forking
PIDFile={own}/nginx.pid
User={USER}
RuntimeDirectory={os.path.basename(own)}
RuntimeDirectoryMode=0700
{before}ExecStart={command}
# Takes a renewed certificate, and ends no call.
{again}ExecReload={command} -t -q
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=5
KillMode=mixed
TimeoutStopSec=10
SyslogIdentifier=hermes-proxy
LimitNOFILE={_DESCRIPTORS}
TasksMax=256
{confinement}

[Install]
WantedBy=multi-user.target
"""


def plan_user(plan: Plan) -> None:
    """Plan the user that it runs as. It stays when the proxy goes."""
    if plan.add_file(_USER_FILE, _USER_TEXT, mode=0o644) or number_of_user(USER) is None:
        plan.actions.append(lambda: run(["systemd-sysusers", _USER_FILE], timeout=60.0))


def plan_proxy(proxy: Proxy, manager: Manager) -> Plan:
    """Plan a proxy as declared.

    :param manager: the system's
    :raises OpsError: nginx would not start with it, for instance with this certificate, or something else has the port;
        nothing was changed
    """
    unit = manager.units([NAME])[NAME]
    _check_port(proxy, unit)
    plan = Plan()
    if _installed():
        try_out(proxy)
    else:
        # In check mode, on a host whose packages are still to be installed.
        plan.actions.append(lambda: try_out(proxy))
    plan.add_file(CONFIGURATION, render(proxy), mode=0o644)
    plan.add_file(PROGRAM, proxy_program.render(RUN), mode=0o644)
    plan_active(plan, manager, NAME, unit_files={UNIT_PATH: render_unit(proxy)}, reads=[CONFIGURATION, PROGRAM])
    served = {copy: read_bytes(copy) for copy in _copies(proxy).values()}
    if unit.running and any(read_bytes(declared) != served[copy] for declared, copy in _copies(proxy).items()):
        plan.add(
            Difference(f"{NAME} certificate", "another version", "this version"),
            lambda: manager.call("reload", NAME),
        )
    return plan


def plan_no_proxy(manager: Manager) -> Plan:
    """Plan a host without a proxy."""
    plan = Plan()
    plan_gone(plan, manager, NAME, [UNIT_PATH, CONFIGURATION, PROGRAM])
    return plan


def try_out(proxy: Proxy) -> None:
    """Let nginx read what the proxy would have, beside the one that runs.

    :raises OpsError: it refuses it, or is missing
    """
    if not _installed():
        raise OpsError("nginx or njs is missing", where="the proxy", fix=f"install {' and '.join(PACKAGES)}")
    with tempfile.TemporaryDirectory(prefix="hermes-proxy-") as directory:
        configuration = os.path.join(directory, "proxy.conf")
        places = Places(
            program=os.path.join(directory, "proxy.js"),
            own=directory,
            certificate=proxy.certificate,
            certificate_key=proxy.certificate_key,
        )
        write_atomic(places.program, proxy_program.render(RUN), mode=0o600)
        write_atomic(configuration, render(proxy, places), mode=0o600)
        tried = run([NGINX, "-e", "stderr", "-t", "-q", "-c", configuration], timeout=20, check=False)
        if not tried.ok:
            raise OpsError(
                f"nginx would not start: {_complaint(tried.stderr, configuration)}",
                where="the proxy",
                fix="correct listen, certificate or certificate_key",
            )


def _installed() -> bool:
    return os.path.exists(NGINX) and os.path.exists(MODULE)


def _copies(proxy: Proxy) -> dict[str, str]:
    """The declared file -> where nginx reads it."""
    pairs = {proxy.certificate: PLACES.certificate, proxy.certificate_key: PLACES.certificate_key}
    return pairs if proxy.certificate else {}


def _complaint(said: str, configuration: str) -> str:
    """The first error in what nginx said, without the place in a file that is gone."""
    errors = re.findall(r"\[emerg\] (?:\d+#\d+: )?(.+)$", said, re.M) or [said.strip() or "it said nothing"]
    return re.sub(rf" in {re.escape(configuration)}:\d+$", "", errors[0])


def _check_port(proxy: Proxy, unit: Unit) -> None:
    served = network.look_at_listeners({proxy.port}).get(proxy.port)
    # Nothing else runs as this user.
    if served is not None and not (unit.running and number_of_user(USER) in served.uids):
        raise OpsError(
            f"{proxy.port} is taken by {network.describe(served.pids, served.uids)}",
            where="listen",
            fix="stop it, or declare another port",
        )
