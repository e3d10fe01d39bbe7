# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the host itself: said with file and fix, the host as before, and the next good run succeeds."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from control import differences

HOME = "/var/lib/hermes/.hermes"


@pytest.fixture
def changed_profiles(request) -> list[dict[str, Any]]:
    """The scenario's declaration with a change in config, environment, webhooks and unit."""
    variables = request.path.parents[1] / "group_vars/hermes.yml"
    (profile,) = copy.deepcopy(yaml.safe_load(variables.read_text())["hermes_profiles"])
    profile["config"]["agent"] = {"max_turns": 42}
    profile["settings"] = {"A_SETTING_OF_THE_TESTS": "on"}
    profile["webhooks"][0]["description"] = "changed"
    profile["limits"] = {"memory": "3G"}
    return [profile]


@contextmanager
def replaced(controller: Any, path: str, content: bytes) -> Iterator[None]:
    """Meanwhile *path* holds *content*; afterwards it is the very file that it was."""
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


def test_a_port_that_somebody_else_holds(controller, unharmed):
    squat = (
        "systemd-run --quiet --unit squatter python3 -m http.server --bind 127.0.0.1 8655; "
        "until curl --silent 127.0.0.1:8655 >/dev/null; do sleep 0.1; done"
    )
    with meanwhile(controller, squat, "systemctl stop squatter"):
        pid = controller.shell("systemctl show --property MainPID --value squatter").strip()
        run = controller.run({"hermes_profiles": [{"name": "default", "api": {"port": 8655}}]})
    assert run.rc != 0
    assert (
        f"{controller.box}: profile default: api.port 8655 is taken by pid {pid} (python3). "
        "Fix: stop it, or declare another port"
    ) in run.text


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


BROKEN_FILES = {
    "a tab": ("config.yaml", b"model:\n  default: x\n\tprovider: y\n", "config.yaml:3: "),
    "an open bracket": ("config.yaml", b"a: 1\nb: [1, 2\nc: 3\n", "config.yaml:3: "),
    "one key twice": ("config.yaml", b"model: {default: x}\nmodel: {default: y}\n", "config.yaml:2: "),
    "no mapping": ("config.yaml", b"- a\n- list\n", "config.yaml:1: "),
    "another encoding": ("config.yaml", "# grün\na: ä\n".encode("latin-1"), "config.yaml:1: is not UTF-8 text"),
    "an environment in another encoding": (".env", "A=1\nB=ä\n".encode("latin-1"), ".env:2: is not UTF-8 text"),
    "half a JSON": ("webhook_subscriptions.json", b'{"a":\n', "webhook_subscriptions.json:2: is not JSON"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_file_that_does_not_parse(case, controller, changed_profiles):
    # Hermes itself starts on defaults then, and the CLI replaces the file: both have been somebody's last.
    name, content, error = BROKEN_FILES[case]
    if name != "config.yaml":
        # config.yaml is right, and would be changed first.
        del changed_profiles[0]["config"]["agent"]
    if name == "webhook_subscriptions.json":
        del changed_profiles[0]["settings"]
    path, before = f"{HOME}/{name}", controller.manifest()
    good = controller.read(path)
    controller.write(path, content)
    try:
        broken = controller.manifest()
        run = controller.run({"hermes_profiles": changed_profiles})
        assert run.rc != 0
        assert f"profile default: {HOME}/{error}" in run.text
        assert "Traceback" not in run.output
        assert controller.read(path) == content
        assert not differences(broken, controller.manifest())
    finally:
        controller.write(path, good)
    # Repaired as its owner would, and nothing else has ever been touched.
    assert {line.partition(":")[0] for line in differences(before, controller.manifest())} == {path}


def test_a_data_disk_that_is_full(controller, changed_profiles, unharmed):
    fill = "! dd if=/dev/zero of=/var/lib/hermes/filler bs=64k 2>/dev/null"
    with meanwhile(controller, fill, "rm /var/lib/hermes/filler"):
        run = controller.run({"hermes_profiles": changed_profiles})
    assert run.rc != 0
    assert "cannot be written (No space left on device). Fix: free space" in run.text
    assert "/var/lib/hermes/" in run.text


def test_a_data_disk_that_is_read_only(controller, changed_profiles, unharmed):
    seal = "mount --bind /var/lib/hermes /var/lib/hermes && mount -o remount,ro,bind /var/lib/hermes"
    with meanwhile(controller, seal, "umount /var/lib/hermes"):
        run = controller.run({"hermes_profiles": changed_profiles})
    assert run.rc != 0
    assert "(Read-only file system). Fix: mount the file system writable" in run.text
    assert "/var/lib/hermes/" in run.text


def test_a_release_disk_that_is_too_small(controller, unharmed):
    with meanwhile(controller, "fallocate --length 300M /opt/hermes/filler", "rm /opt/hermes/filler"):
        run = controller.run({"hermes_version": "0.18.2"})
    assert run.rc != 0
    assert "/opt/hermes: has " in run.text
    assert "MB free, a build wants 512 MB; nothing was changed. Fix: free space there" in run.text


def test_a_release_disk_that_fills_up_meanwhile(controller, unharmed):
    # As soon as the build has begun, somebody else takes the rest.
    fill = (
        "systemd-run --quiet --unit filler --collect sh -c '"
        "until ls -d /opt/hermes/releases/*.partial; do sleep 0.02; done; "
        "dd if=/dev/zero of=/opt/hermes/filler bs=1M'"
    )
    with meanwhile(controller, fill, "systemctl stop filler 2>/dev/null || true; rm -f /opt/hermes/filler"):
        run = controller.run({"hermes_version": "0.18.2"})
    assert run.rc != 0
    assert "hermes-agent 0.18.2: the disk is full; nothing was changed. Fix: free space below the install" in run.text


def test_no_network(controller, unharmed):
    def network(word: str) -> None:
        subprocess.run(["docker", "network", word, "bridge", controller.box], check=True)

    network("disconnect")
    try:
        # A converged host needs none, another release does.
        assert controller.converge().changed == 0
        run = controller.run({"hermes_version": "0.18.2"})
    finally:
        network("connect")
    assert run.rc != 0
    assert "hermes-agent 0.18.2: the index" in run.text
    assert "cannot be reached; nothing was changed. Fix: check the host's network, name service and proxy" in run.text


def test_an_index_that_does_not_answer(controller, unharmed):
    run = controller.run(
        {
            "hermes_version": "0.18.2",
            "install_index_url": "http://127.0.0.1:9/simple",
            "install_index_username": "me",
            "install_index_password": "tell-nobody",
        }
    )
    assert run.rc != 0
    assert "hermes-agent 0.18.2: the index 127.0.0.1:9 cannot be reached; nothing was changed" in run.text
    assert "tell-nobody" not in run.output


def test_the_next_good_run_makes_the_change(controller, agent, changed_profiles):
    before = agent().pid
    assert controller.converge({"hermes_profiles": changed_profiles}).changed
    assert agent().pid != before
    assert agent().reply("well?") == "The model heard: well?"
    assert "max_turns: 42" in agent().read("config.yaml")
    assert "A_SETTING_OF_THE_TESTS=on" in agent().read(".env")
    assert controller.converge({"hermes_profiles": changed_profiles}).changed == 0
    controller.converge()
    assert "max_turns" not in agent().read("config.yaml")
    assert "A_SETTING_OF_THE_TESTS" not in agent().read(".env")
