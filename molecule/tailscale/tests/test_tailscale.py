# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hosts in a tailnet: who reaches what, and what survives what. The tests follow each other."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from control import Controller, Run, controller  # noqa: F401
from inside import inside
from killer import killer  # noqa: F401
from tailnet import Tailnet, shell

testinfra_hosts = ["ansible://tailscale-alpha"]

BOX = Path(__file__).resolve().parents[3] / "tests/hosts/box.py"
ALPHA, BETA, OPERATOR, STRANGER = (f"tailscale-{name}" for name in ("alpha", "beta", "operator", "stranger"))
TAILNET = Tailnet(OPERATOR)
# Answers of curl: the agent's, and nobody's.
HEALTHY = '"status": "ok"'
SSH = "timeout 10 ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o ConnectTimeout=5"
# Each step of the move of tailscaled's state, as Python announces it: the event, and words in its arguments.
STEPS = {
    "the copy": ("shutil.copyfile", "tailscale.partial/tailscaled.state"),
    "its name": ("os.rename", "/var/lib/hermes/tailscale.partial"),
    "the link": ("ctypes.dlsym", "renameat2"),
    "the end": ("os.rmdir", "/var/lib/.tailscale.moved"),
}
# Python that runs as the kit on the host, and what to add to it.
KIT = """
python3 -I - <<'END' 2>&1
import glob, sys
sys.path.insert(0, glob.glob('/usr/local/lib/hermes-ops/*/')[0])
from hermes_ops.host import firewall, tailnet_state
from hermes_ops.system.files import Account
from hermes_ops.system.systemd import Manager
manager = Manager('system', Account.current())
%s
END
"""
MOVE = KIT % "tailnet_state.plan_moved('/var/lib/hermes', manager).apply(); print('moved')"
# The timer takes the rules back sooner than the real one.
TRY_FILTER = KIT % (
    "firewall.TRIAL_SECONDS = 2\n"
    "plan, on_trial = firewall.plan_filter(firewall.Filter(('100.64.0.1',), True, (9,)), manager)\n"
    "plan.apply()"
)


def lan(box: str) -> str:
    return subprocess.run(
        [sys.executable, BOX, "address", box], capture_output=True, text=True, check=True
    ).stdout.strip()


def health(box: str, at: str, port: int = 8642) -> str:
    """What *box* gets from the API of the agent that answers *at*; empty if nothing."""
    return shell(box, f"curl --silent --max-time 4 http://{at}:{port}/health || true")


def eventually(question: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, f"not in time\n{seen()}"
        time.sleep(0.3)


def seen() -> str:
    """What the operator and alpha know of each other, and whether alpha's agent answers at all."""
    look = "tailscale status; journalctl --unit tailscaled --lines 20 --output cat --no-pager"
    local = "ss -Hltn; systemctl --no-pager status hermes-gateway@default"
    return "\n".join(shell(box, what, check=False) for box, what in ((OPERATOR, look), (ALPHA, look), (ALPHA, local)))


def causes(box: str) -> set[str]:
    """The causes of what ``hermes-ops check`` finds about the tailnet."""
    found = json.loads(shell(box, "hermes-ops check --json", check=False))["findings"]
    return {each["cause"] for each in found if each["cause"].startswith("tailnet") or each.get("subject") == "tailnet"}


@pytest.fixture(scope="module", autouse=True)
def known() -> None:
    """From here on, nodes need no key: this server asks for it at every registration, also of a known node."""
    TAILNET.administer("key?key=")


def test_each_host_is_the_declared_node():
    for name in ("alpha", "beta"):
        node = TAILNET.nodes()[TAILNET.id_of(name)]
        assert node["tags"] == ["tag:hermes"]
        box = f"tailscale-{name}"
        assert shell(box, "readlink /var/lib/tailscale").strip() == "/var/lib/hermes/tailscale"
        assert causes(box) == set()
    assert shell(ALPHA, "dpkg-query --show --showformat '${Status}' tailscale") == "install ok installed"
    assert "/opt/hermes/tailscale/" in shell(BETA, "readlink /usr/local/bin/tailscale")


def test_the_operator_reaches_api_webhook_and_shell_over_the_tailnet():
    at = TAILNET.address("alpha")
    assert HEALTHY in health(OPERATOR, at)
    code = "curl --silent --output /dev/null --write-out %{http_code} --max-time 5 --data '{}'"
    assert shell(OPERATOR, f"{code} http://{at}:8644/webhooks/context") == "401", "not signed"
    assert "accepted" in TAILNET.post(f"http://{at}:8644/webhooks/context", "the-webhook-s-secret", {"body": "hello"})
    assert shell(OPERATOR, f"{SSH} root@{at} hostname").strip() == ALPHA


def test_the_stranger_reaches_nothing():
    for name in ("alpha", "beta"):
        at = TAILNET.address(name)
        for port in (8642, 8644):
            assert health(STRANGER, at, port) == ""
        assert shell(STRANGER, f"{SSH} root@{at} hostname || true") == ""


def test_a_neighbour_finds_only_what_is_declared():
    """Neither at the host's other address, nor at its address in the tailnet, sent there past the tailnet."""
    at, beside = TAILNET.address("beta"), lan(BETA)
    for port in (8642, 8644):
        assert health(STRANGER, beside, port) == ""
    listening = shell(BETA, "ss -Hltn | awk '{print $4}'").split()
    open_to_all = {each.rpartition(":")[2] for each in listening if each.startswith(("0.0.0.0:", "*:", "[::]:"))}
    # sshd; the fake model server is on loopback.
    assert open_to_all == {"22"}
    shell(STRANGER, "systemctl stop tailscaled; ip link delete tailscale0 || true")
    shell(STRANGER, f"ip route add {at} via {beside}")
    try:
        assert health(STRANGER, at) == ""
        shell(BETA, "nft delete table inet hermes")
        assert HEALTHY in health(STRANGER, at), "the packet filter is what keeps it out"
    finally:
        shell(BETA, "systemctl restart hermes-firewall")
        shell(STRANGER, f"ip route del {at}")


def test_the_firewall_closes_the_rest_and_is_taken_back_without_a_new_connection(controller: Controller):  # noqa: F811
    beside = lan(ALPHA)
    reach = f"timeout 3 bash -c '</dev/tcp/{beside}/22' && echo open || true"
    assert shell(OPERATOR, reach).strip() == "open"
    controller.converge({"tailscale_firewall": True})
    assert shell(OPERATOR, reach).strip() == ""
    assert HEALTHY in health(OPERATOR, TAILNET.address("alpha"))
    assert controller.converge({"tailscale_firewall": True}).changed == 0
    # A trial that nobody confirms.
    shell(ALPHA, f"{TRY_FILTER}nft list table inet hermes | grep -q 'dport 9 accept'")
    eventually(lambda: "dport 9 accept" not in shell(ALPHA, "nft list table inet hermes"))
    controller.converge({"tailscale_firewall": False})
    assert shell(OPERATOR, reach).strip() == "open"


def test_flags_change_without_a_login(controller: Controller):  # noqa: F811
    run = controller.converge({"tailscale_ssh": False, "tailscale_auth_key": ""})
    assert run.changed == 1
    assert '"RunSSH": false' in shell(ALPHA, "tailscale debug prefs")
    controller.converge()


def test_an_expired_key_is_found_and_renewed_and_a_wrong_one_refused(controller: Controller):  # noqa: F811
    before = TAILNET.nodes()
    TAILNET.administer("expire?name=alpha&after=1h")
    eventually(lambda: causes(ALPHA) == {"expiry"})
    TAILNET.administer("expire?name=alpha&after=0s")
    eventually(lambda: causes(ALPHA) == {"tailnet_expired"})
    run = controller.run({"tailscale_auth_key": ""})
    assert run.rc
    assert "its key has expired), and there is no key" in run.text
    TAILNET.administer("key?key=tskey-auth-good")
    run = controller.run({"tailscale_auth_key": "tskey-auth-wrong"}, "-vvv")
    assert run.rc
    assert "invalid authkey" in run.text
    assert "tskey-auth-wrong" not in run.output
    controller.converge()
    TAILNET.administer("key?key=")
    assert causes(ALPHA) == set()
    assert TAILNET.nodes() == before
    assert shell(ALPHA, "ls -A /run | grep tailnet || true") == ""


def test_the_agent_works_on_while_the_control_server_is_away(controller: Controller):  # noqa: F811
    at = TAILNET.address("alpha")
    # The relay is away, too, and alpha may have a new key, with which nobody has spoken to it directly.
    shell(OPERATOR, f"tailscale ping --until-direct --c=30 --timeout=2s {at}")
    eventually(lambda: HEALTHY in health(OPERATOR, at))
    shell(OPERATOR, "systemctl kill --signal=STOP control")
    try:
        assert HEALTHY in health(OPERATOR, at), "a tailnet that is up stays up"
        shell(ALPHA, "systemctl restart tailscaled hermes-gateway@default")
        eventually(lambda: HEALTHY in health(ALPHA, "127.0.0.1"))
        eventually(lambda: causes(ALPHA) == {"tailnet_unreachable"})
        run = controller.run()
        assert run.rc == 0, run.output
        assert "control server does not answer" in run.text
    finally:
        shell(OPERATOR, "systemctl kill --signal=CONT control")
    eventually(lambda: HEALTHY in health(OPERATOR, at))


def test_a_tailscaled_that_starts_again_and_again_is_never_given_up():
    """systemd gives up after five starts in ten seconds, and a host without its tailnet may have no other way in."""
    shell(BETA, "for start in 1 2 3 4 5 6 7; do systemctl restart tailscaled || exit; done")
    assert shell(BETA, "systemctl is-active tailscaled").strip() == "active"
    eventually(lambda: causes(BETA) == set())


def test_two_hosts_with_one_identity_are_found():
    state = shell(BETA, "tar -C /var/lib/tailscale -c . | base64 --wrap=0")
    shell(STRANGER, "systemctl stop tailscaled || true; rm -rf /run/twin; mkdir /run/twin")
    write = subprocess.run([*inside(STRANGER), "bash", "-c", "base64 -d | tar -C /run/twin -x"], input=state.encode())
    assert write.returncode == 0
    twin = "/usr/local/bin/tailscaled --statedir=/run/twin --state=/run/twin/tailscaled.state"
    shell(STRANGER, f"systemd-run --unit twin -p RuntimeDirectory=tailscale -p Type=notify {twin} --no-logs-no-support")
    try:
        eventually(lambda: causes(BETA) == {"tailnet_twice"})
    finally:
        shell(STRANGER, "systemctl stop twin")
    shell(BETA, "systemctl restart tailscaled")
    eventually(lambda: causes(BETA) == set())


def directory_again() -> None:
    """Alpha, as if its state had never been moved, with tailscaled running."""
    shell(
        ALPHA,
        "systemctl stop tailscaled; cd /var/lib; "
        "if test -L tailscale; then rm tailscale; mv hermes/tailscale tailscale; fi; "
        "rm -rf hermes/tailscale* .tailscale.moved; systemctl start tailscaled",
    )


def place_of_the_state() -> str:
    return " ".join(shell(ALPHA, "readlink /var/lib/tailscale || echo a directory").split())


@pytest.mark.parametrize("step", STEPS)
def test_a_state_moves_while_tailscaled_runs_and_the_move_is_killed(controller: Controller, killer, step):  # noqa: F811
    """The kit as the module calls it. What starts after the kill, as at the next boot, is the same node."""
    before, identity = TAILNET.nodes(), TAILNET.id_of("alpha")
    directory_again()
    killer.order(*STEPS[step])
    said = controller.shell(MOVE, check=False)
    killer.obeyed(said)
    assert "nothing is lost" in said
    eventually(lambda: f'"ID": "{identity}"' in shell(ALPHA, "tailscale status --json --peers=false", check=False))
    print(f"killed before {step}: {identity} is up, and /var/lib/tailscale is {place_of_the_state()}")
    assert "moved" in controller.shell(MOVE).split()
    assert place_of_the_state() == "/var/lib/hermes/tailscale"
    left = shell(ALPHA, "cd /var/lib; ls -dA tailscale* .tailscale* hermes/tailscale* 2>/dev/null || true").split()
    assert left == ["hermes/tailscale", "tailscale"]
    eventually(lambda: HEALTHY in health(OPERATOR, TAILNET.address("alpha")))
    assert TAILNET.nodes() == before


def test_a_run_whose_move_is_killed_says_so_and_the_next_one_finishes(controller: Controller, killer):  # noqa: F811
    before = TAILNET.nodes()
    directory_again()
    killer.order(*STEPS["the link"])
    run = controller.run({"tailscale_auth_key": ""})
    killer.obeyed(run.output)
    assert run.rc
    assert "tailscaled's state could not be moved" in run.text
    controller.converge({"tailscale_auth_key": ""})
    assert place_of_the_state() == "/var/lib/hermes/tailscale"
    eventually(lambda: HEALTHY in health(OPERATOR, TAILNET.address("alpha")))
    assert TAILNET.nodes() == before


def test_a_fresh_host_with_the_volume_is_the_same_node_without_a_key(controller: Controller):  # noqa: F811
    before = TAILNET.nodes()
    with tempfile.TemporaryDirectory() as kept:
        subprocess.run(["docker", "kill", ALPHA], check=True, capture_output=True)
        subprocess.run(["docker", "cp", "-q", "-a", f"{ALPHA}:/var/lib/hermes", kept], check=True)
        subprocess.run([sys.executable, BOX, "down", ALPHA], check=True)
        up = [sys.executable, BOX, "up", ALPHA, "bookworm+0.19.0", "--docker=--device=/dev/net/tun"]
        subprocess.run(up, check=True, capture_output=True)
        subprocess.run(["docker", "cp", "-q", "-a", f"{kept}/hermes", f"{ALPHA}:/var/lib/"], check=True)
    shell(ALPHA, "printf 'PORT=41641\\nFLAGS=--no-logs-no-support\\n' >/etc/default/tailscaled")
    run: Run = controller.converge({"tailscale_auth_key": "", "gateway_health": False})
    assert run.changed
    assert TAILNET.nodes() == before
    at = TAILNET.address("alpha")
    eventually(lambda: shell(OPERATOR, f"{SSH} root@{at} hostname || true").strip() == ALPHA)
    eventually(lambda: HEALTHY in health(OPERATOR, TAILNET.address("alpha")))
