# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of the host itself: the error has the file and the fix, and the host stays as it was.

test_kills.py then proves on the same host that a good run still makes its change after all of these.
"""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from control import differences

HOME = "/var/lib/hermes/agents/default/.hermes"


@pytest.fixture
def changed_agents(request) -> list[dict[str, Any]]:
    """The scenario's declaration with a change in config, environment, webhooks and unit."""
    variables = request.path.parents[1] / "group_vars/hermes.yml"
    (agent,) = copy.deepcopy(yaml.safe_load(variables.read_text())["hermes_agents"])
    agent["config"]["agent"] = {"max_turns": 42}
    agent["settings"] = {"A_SETTING_OF_THE_TESTS": "on"}
    agent["webhooks"][0]["description"] = "changed"
    agent["limits"] = {"memory": "3G"}
    return [agent]


@contextmanager
def replaced(controller: Any, path: str, content: bytes) -> Iterator[None]:
    """*path* has other *content* during the block; afterwards the same file is back."""
    controller.shell('cp --archive "$1" "/run/${1##*/}" && mount --bind "/run/${1##*/}" "$1"', path)
    controller.write(path, content)
    try:
        yield
    finally:
        controller.shell('umount "$1" && rm "/run/${1##*/}"', path)


@contextmanager
def meanwhile(controller: Any, begin: str, end: str) -> Iterator[None]:
    controller.shell(begin)
    try:
        yield
    finally:
        controller.shell(end)


SYSTEMS = {
    "another distribution": (
        'ID=fedora\nNAME="Fedora Linux"\nVERSION_ID=41\nPRETTY_NAME="Fedora Linux 41"\n',
        "this is Fedora Linux 41",
    ),
    "an old one": (
        'ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="11"\nVERSION="11 (bullseye)"\n',
        "this is Debian GNU/Linux 11",
    ),
}


@pytest.mark.parametrize("case", SYSTEMS)
def test_an_unsupported_system(case, controller, unharmed):
    release, error = SYSTEMS[case]
    with replaced(controller, "/usr/lib/os-release", release.encode()):
        run = controller.run()
    assert run.rc != 0
    assert f"{controller.box}: {error}" in run.text
    assert "Fix: use Debian 12 or newer, or Ubuntu 22.04 or newer, with systemd." in run.text


# One fault for each file; tests/unit/modules/test_agents.py has all the others.
BROKEN_FILES = {
    "config.yaml": (b"a: 1\nb: [1, 2\nc: 3\n", "config.yaml:3: is not YAML"),
    ".env": ("A=1\nB=ä\n".encode("latin-1"), ".env:2: is not UTF-8 text"),
    "webhook_subscriptions.json": (b'{"a":\n', "webhook_subscriptions.json:2: is not JSON"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_file_that_does_not_parse(name, controller, changed_agents):
    # With such a file Hermes itself starts on defaults, and its CLI replaces the file: both have cost somebody the
    # file. The other files are right, and the run would change them as well.
    content, error = BROKEN_FILES[name]
    path = f"{HOME}/{name}"
    good = controller.read(path)
    controller.write(path, content)
    try:
        broken = controller.manifest()
        run = controller.run({"hermes_agents": changed_agents})
        assert run.rc != 0
        assert f"agent default: {HOME}/{error}" in run.text
        assert "Traceback" not in run.output
        assert controller.read(path) == content
        # Nothing else has been touched either.
        assert not differences(broken, controller.manifest())
    finally:
        # The repair that its owner would make.
        controller.write(path, good)


def test_a_broken_agent_keeps_no_other_and_one_that_leaves_the_list_is_said(controller, changed_agents, agent):
    (default,) = changed_agents
    other = {**default, "name": "other", "api": {"port": 8655}, "webhook": {"port": 8656}}
    path = f"{HOME}/config.yaml"
    good = controller.read(path)
    controller.write(path, BROKEN_FILES["config.yaml"][0])
    try:
        run = controller.run({"hermes_agents": [default, other]})
    finally:
        controller.write(path, good)
    assert run.rc != 0
    last = run.text[run.text.rindex("TASK [") :]
    assert f"agent default: {HOME}/config.yaml:3: is not YAML" in last
    assert "Fix: repair it" in last
    # Unit, answer and rotation of the other one are there.
    assert agent("other", port=8655).reply("well?") == "The model heard: well?"
    controller.shell("systemctl is-enabled hermes-gateway@other; test -e /etc/hermes-ops/logrotate-other.conf")

    pid = agent("other", port=8655).pid
    for options in (["--check"], []):
        run = controller.run(None, *options)
        assert run.rc == 0
        assert "agent other left hermes_agents" in run.text
        assert "{name: other, state: absent}" in run.text
    controller.shell("test -e /etc/hermes-ops/logrotate-other.conf; systemctl start hermes-logrotate@other")
    assert agent("other", port=8655).pid == pid
    assert "agent other: it left hermes_agents" in controller.shell("hermes-ops status")
    gone = [default, {"name": "other", "state": "absent", "purge": True}]
    assert "left hermes_agents" not in controller.converge({"hermes_agents": gone}).text
    controller.shell("test ! -e /etc/hermes-ops/logrotate-other.conf; test ! -e /var/lib/hermes/agents/other")
    # As the scenario declares it again.
    controller.converge()


def test_a_declaration_that_lost_its_model_says_so_and_is_not_healthy(controller, agent):
    nothing = {"hermes_agents": [{"name": "default"}]}
    lost = "loses what is no longer declared: model."
    run = controller.run(nothing, "--check")
    assert run.rc == 0
    assert lost in run.text
    run = controller.run(nothing)
    assert run.rc != 0
    assert lost in run.text
    assert "agent default: it has no provider of models" in run.text
    controller.converge()
    assert agent().reply("well?") == "The model heard: well?"


def test_what_somebody_else_has_taken(run_as, controller, changed_agents, unharmed):
    # Another process has a port, one disk is full and the other nearly full; each affects only the cases that need it.
    squat = (
        "systemd-run --quiet --unit squatter python3 -m http.server --bind 127.0.0.1 8655; "
        "until curl --silent 127.0.0.1:8655 >/dev/null; do sleep 0.1; done"
    )
    fill = "! dd if=/dev/zero of=/var/lib/hermes/filler bs=64k 2>/dev/null"
    with (
        meanwhile(controller, squat, "systemctl stop squatter"),
        meanwhile(controller, fill, "rm /var/lib/hermes/filler"),
        meanwhile(controller, "fallocate --length 300M /opt/hermes/filler", "rm /opt/hermes/filler"),
    ):
        pid = controller.shell("systemctl show --property MainPID --value squatter").strip()
        _run, cases = run_as(
            {
                "the port": {"hermes_agents": [{"name": "default", "api": {"port": 8655}}]},
                "the data disk": {"hermes_agents": changed_agents},
                "the release disk": {"hermes_version": "0.18.2"},
            }
        )
    assert all(case.failed for case in cases.values())
    port = cases["the port"]
    assert (
        f"{port.name}: agent default: api.port 8655 is taken by pid {pid} (python3). "
        "Fix: stop it, or declare another port"
    ) in port.error
    assert "/var/lib/hermes/" in cases["the data disk"].error
    assert "cannot be written (No space left on device). Fix: free space" in cases["the data disk"].error
    assert "hermes_root: /opt/hermes has " in cases["the release disk"].error
    assert "MB free, a build wants 512 MB. Fix: free space there" in cases["the release disk"].error


def test_a_data_disk_that_is_read_only(controller, changed_agents, unharmed):
    seal = "mount --bind /var/lib/hermes /var/lib/hermes && mount -o remount,ro,bind /var/lib/hermes"
    with meanwhile(controller, seal, "umount /var/lib/hermes"):
        run = controller.run({"hermes_agents": changed_agents})
    assert run.rc != 0
    assert "(Read-only file system). Fix: mount the file system writable" in run.text
    assert "/var/lib/hermes/" in run.text


def test_a_release_disk_that_fills_up_meanwhile(controller, unharmed):
    # Another process fills the disk as soon as the build has begun.
    fill = (
        "systemd-run --quiet --unit filler --collect sh -c '"
        "until ls -d /opt/hermes/releases/*.partial; do sleep 0.02; done; "
        "dd if=/dev/zero of=/opt/hermes/filler bs=1M'"
    )
    with meanwhile(controller, fill, "systemctl stop filler 2>/dev/null || true; rm -f /opt/hermes/filler"):
        run = controller.run({"hermes_version": "0.18.2"})
    assert run.rc != 0
    assert "hermes-agent 0.18.2: the disk is full; nothing was changed. Fix: free space below the install" in run.text


def test_no_network(run_as, controller, unharmed):
    def network(word: str) -> None:
        subprocess.run(["docker", "network", word, "bridge", controller.box], check=True)

    network("disconnect")
    try:
        run, cases = run_as({"as it is": {}, "another release": {"hermes_version": "0.18.2"}})
    finally:
        network("connect")
    # A converged host needs no network, and none of the refused runs has left anything to change.
    assert not cases["as it is"].failed, run.output
    assert cases["as it is"].changed == 0
    assert cases["another release"].failed
    assert "hermes-agent 0.18.2: the index" in run.text
    assert "cannot be reached; nothing was changed. Fix: check the host's network, name service and proxy" in run.text
