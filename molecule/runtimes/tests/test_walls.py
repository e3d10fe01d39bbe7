# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent can reach from within its container, and what its limits are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

testinfra_hosts = ["ansible://hermes"]

METADATA = "169.254.169.254"
# A service of the host that listens on all of its addresses.
PORT = 8999
# Prints the addresses, of those in its argument, that let it in.
REACH = """
import json, socket, sys
for host, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((host, port), timeout=2).close()
        print(host, port)
    except OSError:
        pass
"""


@pytest.fixture
def service(controller: Any) -> Iterator[list[str]]:
    """The addresses of the host, the metadata service's among them, at each of which the same service listens."""
    controller.shell(
        f"ip address add {METADATA}/32 dev lo;"
        "systemd-run --quiet --unit=neighbour --working-directory=/usr/share/common-licenses"
        f" python3 -m http.server {PORT}"
    )
    controller.shell(
        f"curl --silent --retry 20 --retry-delay 1 --retry-connrefused http://127.0.0.1:{PORT}/ >/dev/null"
    )
    yield re.findall(r"inet ([0-9.]+)/", controller.shell("ip -4 -oneline address"))
    controller.shell(f"systemctl stop neighbour; ip address del {METADATA}/32 dev lo")


def reach(user: Any, *places: tuple[str, int]) -> list[str]:
    """Those of *places* that the user's agent can connect to."""
    return user.python(REACH, json.dumps(places)).splitlines()


def address_of(user: Any) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return user.shell(f"podman inspect --format '{form}' {user.container}").strip()


def test_no_address_of_the_host_can_be_reached(ada, service):
    # All of them, and the service is there.
    assert {"127.0.0.1", "10.210.0.1", METADATA} < set(service)
    for address in service:
        assert ada.shell(f"curl --silent --head http://{address}:{PORT}/").startswith("HTTP/")
    others = [address for address in service if not address.startswith("127.")]
    assert reach(ada, *((address, port) for address in others for port in (PORT, 22, 8640))) == []
    # Its own loopback has its own services.
    assert reach(ada, ("127.0.0.1", 8642), ("127.0.0.1", PORT), ("127.0.0.1", 8640)) == ["127.0.0.1 8642"]


def test_another_user_s_agent_cannot_be_reached(ada, bob):
    hers, his = address_of(ada), address_of(bob)
    assert hers != his
    assert reach(ada, (hers, 8642), (his, 8642)) == [f"{hers} 8642"]
    assert reach(bob, (hers, 8642), (his, 8642)) == [f"{his} 8642"]
    # The host reaches both.
    for address in (hers, his):
        assert '"ok"' in ada.shell(f"curl --silent http://{address}:8642/health")


def test_neighbours_of_the_host_cannot_be_reached_but_what_is_declared(ada, model):
    host, port = re.fullmatch(r"http://([0-9.]+):(\d+)", model.url).groups()
    assert reach(ada, (host, int(port)), (host, 22)) == [f"{host} {port}", f"{host} 22"]
    # The engine that runs the boxes, and another box.
    gateway = ada.shell("ip route show default | cut -d' ' -f3").strip()
    other = ada.shell("getent ahostsv4 users-trixie users-bookworm | cut -d' ' -f1 | sort -u").split()
    assert reach(ada, *((address, port) for address in (gateway, *other) for port in (22, 53, 80))) == []


def test_another_user_s_files_and_the_host_s_are_not_there(ada, bob):
    bob.python("open('/opt/data/marked-4711', 'w').write('x')")
    assert ada.inside("sh", "-c", "find / -xdev -name marked-4711 2>/dev/null || true") == ""
    hosts = "/var/lib/hermes /run/hermes-runtimes /run/podman /var/lib/containers"
    assert ada.inside("sh", "-c", f"ls -d {hosts} 2>/dev/null || true") == ""
    assert ada.inside("sh", "-c", "find / -xdev -type s 2>/dev/null || true") == ""
    # Nor could its UNIX user read them on the host.
    uid = ada.status()["uid"]
    memory, kept = "/run/hermes-runtimes", "/etc/hermes-ops/runtimes.json"
    for look in (f"ls {bob.data}", f"ls {memory}/shared", f"ls {memory}/users", f"cat {kept}"):
        ada.shell(look)
        denied = ada.shell(f"setpriv --reuid={uid} --regid={uid} --clear-groups {look} 2>&1 || true")
        assert "Permission denied" in denied, look
    assert ada.shell(f"stat --format='%u:%g %a' {ada.data}").strip() == f"{uid}:{uid} 700"


def test_it_has_no_rights_and_can_write_its_volume_only(ada):
    status = dict(re.findall(r"^(\w+):\t(.*)$", ada.inside("cat", "/proc/1/status"), re.M))
    uid = str(ada.status()["uid"])
    assert status["Uid"].split() == status["Gid"].split() == [uid] * 4
    assert status["Groups"].split() in ([], [uid])
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for path in ("/", "/opt/hermes", "/etc/hermes/agent.json", "/run/secrets/hermes", "/opt/plugins/licenses"):
        assert "cannot" in ada.inside("sh", "-c", f"(: >>{path}{'/x' if '.' not in path else ''}) 2>&1 || true"), path
    assert "GNU GENERAL PUBLIC LICENSE" in ada.inside("cat", "/opt/plugins/licenses/GPL-3")
    assert ada.inside("sh", "-c", "echo x >/opt/data/own && cat /opt/data/own") == "x\n"


def test_secrets_are_in_its_processes_only(ada):
    key = ada.shell(f"cat /run/hermes-runtimes/users/{ada.id}/secrets/*/API_SERVER_KEY").strip()
    for secret in (key, "the-model-s-key"):
        assert ada.shell(f"grep --recursive --files-with-matches {secret} {ada.data} /etc/systemd || true") == ""
        assert secret not in ada.shell("ps -ef")
        assert secret not in ada.shell("journalctl --boot --output=cat")
    # podman itself keeps the variables of a container that runs, for root only.
    assert ada.shell("grep --recursive --files-with-matches the-model-s-key /var/lib/containers || true") == ""
    assert ada.shell("stat --format=%a /var/lib/containers/storage").strip() == "700"


def test_it_dies_of_its_own_hunger_only(ada, bob):
    if not ada.show("MemoryCurrent").isdigit():
        pytest.skip("SKIPPED, NOT PROVED: no limit of memory in this box, whose systemd has no such controller")
    assert ada.show("MemoryMax") == str(512 << 20)
    assert "made it" not in ada.python("x = bytearray(700 << 20); print('made it')", check=False)
    forks = "import os, time\nfor n in range(400):\n    if not os.fork(): time.sleep(3); os._exit(0)\nprint('made it')"
    assert "made it" not in ada.python(forks, check=False)
    assert bob.call().status == 200
    assert (bob.show("Result"), bob.show("NRestarts")) == ("success", "0")


def test_it_answers_after_its_hunger(ada):
    assert ada.reply("still there?") == "The model heard: still there?"
