# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit of the proxy: what may be declared, when it is restarted, and what is refused before anything changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import proxy
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.proxy import Proxy
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.network import Listener
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

PLAIN = Proxy("127.0.0.1:8640")
needs_nginx = pytest.mark.skipif(
    not os.path.exists(proxy.NGINX) or not os.path.exists(proxy.MODULE),
    reason=f"SKIPPED, NOT PROVED: that nginx takes the configuration, because {' or '.join(proxy.PACKAGES)} is missing",
)


@pytest.fixture
def host(tmp_path, monkeypatch, systemd):
    """A host whose nginx takes everything; ``host.tried`` counts how often."""
    monkeypatch.setattr(proxy, "UNIT_PATH", str(tmp_path / "system" / proxy.NAME))
    monkeypatch.setattr(proxy, "CONFIGURATION", str(tmp_path / "proxy.conf"))
    monkeypatch.setattr(proxy, "PROGRAM", str(tmp_path / "proxy.js"))
    copies = {name: str(tmp_path / f"copy of {name}") for name in ("certificate", "certificate_key")}
    monkeypatch.setattr(proxy, "PLACES", replace(proxy.PLACES, **copies))
    monkeypatch.setattr(proxy, "NGINX", str(tmp_path / "nginx"))
    monkeypatch.setattr(proxy, "MODULE", str(tmp_path / "nginx"))
    (tmp_path / "nginx").touch()
    systemd.tried = []
    monkeypatch.setattr(proxy, "try_out", systemd.tried.append)
    systemd.listeners = {}
    monkeypatch.setattr(proxy.network, "look_at_listeners", lambda _ports: systemd.listeners)
    monkeypatch.setattr(proxy, "number_of_user", {proxy.USER: 990}.get)
    return systemd


@pytest.fixture
def secure(tmp_path):
    for name in ("certificate", "certificate_key"):
        (tmp_path / name).write_text(name)
    return Proxy("0.0.0.0:443", str(tmp_path / "certificate"), str(tmp_path / "certificate_key"))


def manager() -> Manager:
    return Manager("system", Account.current())


def converge(declared):
    plan = proxy.plan_proxy(declared, manager())
    plan.apply()
    return plan


def started_now(host):
    """As if the start began after all that was written until now."""
    now = str(int((time.clock_gettime(time.CLOCK_MONOTONIC) + 5) * 1e6))
    host.states[proxy.NAME].update(ActiveEnterTimestampMonotonic=now, InactiveExitTimestampMonotonic=now)


@pytest.mark.parametrize(
    ("listen", "port"), [("127.0.0.1:8640", 8640), ("[::1]:8640", 8640), ("0.0.0.0:443", 443), ("[::]:1", 1)]
)
def test_an_address_and_a_port_can_be_declared(listen, port):
    assert Proxy(listen).port == port
    assert f"listen {listen} so_keepalive" in proxy.render(Proxy(listen))


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "8640",
        ":8640",
        "localhost:8640",
        "::1:8640",
        "[127.0.0.1]:x",
        "[127.0.0.1]:80",
        "[::g]:80",
        "[::1:80",
        "[fe80::1%eth0;]:80",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.256:80",
        "127.0.0.1:80 ssl",
        "127.0.0.1:80\n",
        "127.0.0.1:80;}",
        "unix:/tmp/x:80",
        "*:80",
        "127.0.0.1:٨٠",
    ],
)
def test_what_is_no_address_never_reaches_nginx(listen):
    with pytest.raises(OpsError, match="write an address and a port"):
        Proxy(listen)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("/etc/a.pem",), "both or neither"),
        (("", "/etc/a.key"), "both or neither"),
        (("/etc/a b.pem", "/etc/a.key"), "certificate: '/etc/a b.pem' cannot be used"),
        (("/etc/a.pem", "/etc/a;}.key"), "certificate_key: '/etc/a;}.key' cannot be used"),
        (("a.pem", "/etc/a.key"), "cannot be used"),
    ],
)
def test_files_that_cannot_be_are_refused(files, message):
    with pytest.raises(OpsError, match=message):
        Proxy("127.0.0.1:8640", *files)


def test_check_then_apply_then_nothing(host):
    assert proxy.plan_proxy(PLAIN, manager()).changed
    assert host.asked == []
    assert not os.path.exists(proxy.CONFIGURATION)
    converge(PLAIN)
    assert host.verbs[-1] == f"start {proxy.NAME}"
    assert f"enable --no-reload {proxy.NAME}" in host.verbs
    started_now(host)
    host.asked.clear()
    assert not converge(PLAIN).changed
    assert host.asked == []


def test_files_are_nobodys_secret_and_only_roots_to_change(host):
    converge(PLAIN)
    modes = {os.stat(path).st_mode & 0o777 for path in (proxy.CONFIGURATION, proxy.PROGRAM, proxy.UNIT_PATH)}
    assert modes == {0o644}


def test_another_address_restarts_it(host):
    converge(PLAIN)
    started_now(host)
    host.asked.clear()
    assert converge(Proxy("[::1]:8640")).changed
    assert host.verbs == [f"restart {proxy.NAME}"]


def test_another_program_restarts_it(host):
    converge(PLAIN)
    started_now(host)
    Path(proxy.PROGRAM).write_text("an earlier one")
    host.asked.clear()
    converge(PLAIN)
    assert host.verbs == [f"restart {proxy.NAME}"]


def test_a_renewed_certificate_is_reloaded(host, secure):
    converge(secure)
    started_now(host)
    # As the unit does.
    for declared, copy in proxy._copies(secure).items():
        shutil.copy(declared, copy)
    assert not converge(secure).changed
    host.asked.clear()
    Path(secure.certificate_key).write_text("renewed")
    plan = proxy.plan_proxy(secure, manager())
    assert "renewed" not in str(plan.diff(""))
    plan.apply()
    assert host.verbs == [f"reload {proxy.NAME}"]


def test_what_nginx_refuses_changes_nothing(host, monkeypatch):
    def refuse(_proxy):
        raise OpsError("nginx would not start")

    monkeypatch.setattr(proxy, "try_out", refuse)
    with pytest.raises(OpsError, match="would not start"):
        proxy.plan_proxy(PLAIN, manager())
    # Not installed yet: a check goes on, and an installation stops before it writes anything.
    os.unlink(proxy.NGINX)
    plan = proxy.plan_proxy(PLAIN, manager())
    assert plan.changed
    with pytest.raises(OpsError, match="would not start"):
        plan.apply()
    assert host.asked == []
    assert not os.path.exists(proxy.CONFIGURATION)


def test_a_port_of_somebody_else_is_refused(host):
    host.listeners = {8640: Listener({0}, {os.getpid()})}
    with pytest.raises(OpsError, match="listen: 8640 is taken by pid"):
        proxy.plan_proxy(PLAIN, manager())
    # Its user's own process, though no unit runs.
    host.listeners = {8640: Listener({990}, set())}
    with pytest.raises(OpsError, match="is taken"):
        proxy.plan_proxy(PLAIN, manager())


def test_its_own_port_is_not_taken(host):
    converge(PLAIN)
    host.listeners = {8640: Listener({990}, set())}
    proxy.plan_proxy(PLAIN, manager())


def test_it_goes_without_a_trace(host):
    assert not proxy.plan_no_proxy(manager()).changed
    converge(PLAIN)
    host.asked.clear()
    plan = proxy.plan_no_proxy(manager())
    assert plan.changed
    plan.apply()
    assert host.verbs[0] == f"disable --now {proxy.NAME}"
    assert not any(map(os.path.exists, (proxy.UNIT_PATH, proxy.CONFIGURATION, proxy.PROGRAM)))
    assert not proxy.plan_no_proxy(manager()).changed


def directives(unit: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{name}=")]


@pytest.mark.parametrize(
    ("listen", "capability"),
    [("127.0.0.1:1024", ""), ("127.0.0.1:1023", "CAP_NET_BIND_SERVICE"), ("[::]:443", "CAP_NET_BIND_SERVICE")],
)
def test_it_has_at_most_the_capability_for_its_port(listen, capability):
    unit = proxy.render_unit(Proxy(listen))
    assert directives(unit, "CapabilityBoundingSet") == directives(unit, "AmbientCapabilities") == [capability]
    assert directives(unit, "User") == ["hermes-proxy"]
    assert directives(unit, "NoNewPrivileges") == ["yes"]
    assert directives(unit, "Restart") == ["always"]


def test_keys_of_root_are_handed_over_at_start_and_reload(secure):
    unit = proxy.render_unit(secure)
    (*copies, tried, signalled) = directives(unit, "ExecReload")
    assert directives(unit, "ExecStartPre") == copies
    assert [copy.split()[-2:] for copy in copies] == [list(pair) for pair in proxy._copies(secure).items()]
    assert all(copy.startswith("+/") and "--mode=0640" in copy for copy in copies)
    assert tried.endswith("-t -q")
    assert signalled == "/bin/kill -HUP $MAINPID"
    assert "install" not in proxy.render_unit(PLAIN)


def test_systemd_takes_the_unit(tmp_path, secure):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("SKIPPED, NOT PROVED: that systemd takes the unit, because there is no systemd-analyze")
    path = tmp_path / proxy.NAME
    # It looks for the program.
    path.write_text(proxy.render_unit(secure).replace(proxy.NGINX, "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert proxy.NAME not in done.stderr
    assert done.returncode == 0


def make_certificate(directory: Path, name: str) -> tuple[str, str]:
    if shutil.which("openssl") is None:
        pytest.skip("SKIPPED, NOT PROVED: certificates of the proxy, because there is no openssl")
    pair = (str(directory / f"{name}.pem"), str(directory / f"{name}.key"))
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x")
    subprocess.run(
        ["openssl", "req", "-x509", *curve, "-out", pair[0], "-keyout", pair[1]], check=True, capture_output=True
    )
    return pair


@needs_nginx
@pytest.mark.parametrize("listen", ["127.0.0.1:8640", "[::1]:8640", "0.0.0.0:8443", "[::]:8443"])
def test_nginx_takes_the_configuration(tmp_path, listen):
    if "[" in listen and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("SKIPPED, NOT PROVED: the proxy on IPv6, which this machine has not")
    proxy.try_out(Proxy(listen) if listen.endswith("8640") else Proxy(listen, *make_certificate(tmp_path, "a")))


@needs_nginx
def test_a_bad_certificate_is_one_clear_error(tmp_path):
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    (tmp_path / "empty").touch()
    for files, message in (
        ((first[0], second[1]), "key values mismatch"),
        (("/nowhere.pem", first[1]), '"/nowhere.pem".*[Nn]o such file'),
        ((first[0], "/nowhere.key"), '"/nowhere.key".*[Nn]o such file'),
        ((str(tmp_path / "empty"), first[1]), 'empty".*no start line'),
    ):
        with pytest.raises(OpsError, match=message) as caught:
            proxy.try_out(Proxy("127.0.0.1:8640", *files))
        assert "\n" not in str(caught.value)
        assert "correct listen, certificate or certificate_key" in str(caught.value)


@needs_nginx
def test_an_address_of_another_machine_is_a_clear_error():
    # For documentation (RFC 5737).
    with pytest.raises(OpsError, match=r"192\.0\.2\.1:8640 failed .*Cannot assign"):
        proxy.try_out(Proxy("192.0.2.1:8640"))


def test_a_host_without_nginx_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(proxy, "MODULE", "/nowhere.so")
    with pytest.raises(OpsError, match="Fix: install nginx and libnginx-mod-http-js"):
        proxy.try_out(PLAIN)
