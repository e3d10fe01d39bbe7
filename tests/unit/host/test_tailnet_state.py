# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The move of a node's identity to the data volume: whole at every moment, whatever is killed."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import tailnet_state
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

PROFILES = base64.b64encode(json.dumps({"4d37": {"ID": "4d37"}}).encode()).decode()
NODE = json.dumps({"_machinekey": "a2V5", "_profiles": PROFILES, "profile-4d37": "c2VjcmV0"})
FRESH = json.dumps({"_machinekey": "b3RoZXI="})
CHANGES = {
    "os.rename",
    "os.mkdir",
    "os.symlink",
    "os.remove",
    "os.rmdir",
    "shutil.copytree",
    "shutil.copyfile",
    "ctypes.dlsym",
}


class Host:
    def __init__(self, path: Path) -> None:
        self.data = path / "data"
        self.data.mkdir()
        self.place, self.aside = path / "tailscale", path / ".moved"
        self.target = self.data / "tailscale"

    def steps(self) -> list[str]:
        return tailnet_state.steps(str(self.data), str(self.place), str(self.aside))

    def move(self) -> None:
        tailnet_state.move(str(self.data), str(self.place), str(self.aside))

    def make(self, directory: Path, state: str) -> None:
        (directory / "files").mkdir(parents=True)
        (directory / "tailscaled.state").write_text(state)
        (directory / "files" / "certificate").write_text("more")

    @property
    def state(self) -> str:
        """What a tailscaled that starts now finds."""
        return (self.place / "tailscaled.state").read_text()


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_a_host_without_any_state_gets_an_empty_place_on_the_volume(host):
    host.move()
    assert os.readlink(host.place) == str(host.target)
    assert host.target.stat().st_mode & 0o777 == 0o700
    assert host.steps() == []


def test_a_node_moves_with_everything_that_it_has(host):
    host.make(host.place, NODE)
    host.move()
    assert host.state == NODE
    assert (host.target / "files/certificate").read_text() == "more"
    assert not host.aside.exists()
    assert host.steps() == []


def test_a_fresh_host_takes_the_node_of_the_volume(host):
    host.make(host.target, NODE)
    host.make(host.place, FRESH)
    host.move()
    assert host.state == NODE


def test_a_node_moves_where_the_volume_has_none(host):
    host.make(host.target, FRESH)
    host.make(host.place, NODE)
    host.move()
    assert host.state == NODE


@pytest.mark.parametrize("volume", ["missing", "fresh"])
def test_a_kill_before_any_change_loses_nothing_and_the_next_run_finishes(host, volume, killed_at_change):
    host.make(host.place, NODE)
    if volume == "fresh":
        host.make(host.target, FRESH)
    kills = 0
    while not killed_at_change(kills % 15, host.move, lambda event, _arguments: event in CHANGES):
        assert host.state == NODE
        kills += 1
        assert kills < 100
    assert kills > 3
    host.move()
    assert host.state == NODE
    assert host.steps() == []
    assert sorted(os.listdir(host.data)) == ["tailscale"]
    assert not host.aside.exists()


@pytest.mark.parametrize("number", range(15))
def test_one_kill_at_each_change(host, number, killed_at_change):
    host.make(host.place, NODE)
    killed_at_change(number, host.move, lambda event, _arguments: event in CHANGES)
    assert host.state == NODE
    host.move()
    assert host.state == NODE
    assert host.steps() == []


def test_systemd_starts_tailscaled_however_the_move_ends(host, monkeypatch):
    """A move that is killed cannot do it itself."""
    calls = []

    def run(argv, **_options):
        calls.append([str(each) for each in argv])
        return Completed(tuple(argv), 0, "", "")

    monkeypatch.setattr(tailnet_state, "run", run)
    monkeypatch.setattr(Manager, "call", lambda *_arguments, **_options: None)
    monkeypatch.setattr(tailnet_state, "steps", lambda _data: ["copy"])
    tailnet_state.plan_moved(str(host.data), Manager("system", Account.current())).apply()
    ((program, *options),) = calls
    assert program == "systemd-run"
    # Before the command, or it would be an argument of it.
    before = options[: options.index("-I")]
    assert "--property=ExecStopPost=-/usr/bin/systemctl start tailscaled.service" in before


def test_what_was_set_aside_is_only_forgotten_when_the_volume_has_it(host):
    host.make(host.aside, NODE)
    host.make(host.target, FRESH)
    host.place.symlink_to(host.target)
    host.move()
    assert host.state == NODE


def test_a_host_that_dies_before_the_link_is_there_leaves_the_node_on_the_volume(host, killed_at_change):
    """And one that lives on works with its own directory, so that is the newer one at the next run."""
    host.make(host.place, NODE)
    killed_at_change(0, host.move, lambda event, _arguments: event == "os.symlink")
    assert (host.target / "tailscaled.state").read_text() == NODE
    assert not host.place.is_symlink()
    renewed = NODE.replace("c2VjcmV0", "cmVuZXdlZA==")
    (host.place / "tailscaled.state").write_text(renewed)
    host.move()
    assert host.state == renewed
    assert host.place.is_symlink()


@pytest.mark.parametrize("number", range(15))
def test_a_newer_copy_takes_the_place_of_an_earlier_one_at_one_moment(host, number, killed_at_change):
    """A host that dies meanwhile has left one of them on the volume."""
    host.make(host.target, NODE)
    renewed = NODE.replace("c2VjcmV0", "cmVuZXdlZA==")
    host.make(host.place, renewed)
    killed_at_change(number, host.move, lambda event, _arguments: event in CHANGES)
    assert (host.target / "tailscaled.state").read_text() in (NODE, renewed)
    host.move()
    assert host.state == renewed


def test_a_copy_with_which_another_host_has_worked_is_refused(host):
    """Its state is the newer one, although it began as this node."""
    host.make(host.place, NODE)
    host.make(host.target, NODE.replace("c2VjcmV0", "cmVuZXdlZA=="))
    os.utime(host.place / "tailscaled.state", (0, 0))
    with pytest.raises(OpsError, match="holds another node"):
        host.move()


@pytest.mark.parametrize("other", [NODE.replace("a2V5", "eWVr"), NODE[:-9], "[1]"])
def test_two_nodes_are_refused_and_left_alone(host, other):
    host.make(host.place, NODE)
    host.make(host.target, other)
    with pytest.raises(OpsError, match="holds another node") as refused:
        host.move()
    assert "Then converge again" in refused.value.fix
    assert host.state == NODE


def test_a_link_to_elsewhere_is_refused(host):
    host.place.symlink_to("/srv/tailscale")
    with pytest.raises(OpsError, match="/srv/tailscale"):
        host.move()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, False),
        ("", False),
        ("{}", False),
        (FRESH, False),
        (NODE, True),
        ('{"key": {}, "nonce": "x", "data": "x"}', True),
        ("damaged", True),
        ("[]", True),
        ('{"_profiles": "%%%"}', True),
    ],
)
def test_what_cannot_be_read_counts_as_a_node(tmp_path, state, expected):
    if state is not None:
        (tmp_path / "tailscaled.state").write_text(state)
    assert tailnet_state.has_identity(str(tmp_path)) is expected


def test_a_sealed_state_is_refused_before_anything_is_done(host, monkeypatch):
    host.make(host.place, '{"key": {}, "nonce": "x", "data": "x"}')
    monkeypatch.setattr(tailnet_state, "PLACE", str(host.place))
    monkeypatch.setattr(tailnet_state, "ASIDE", str(host.aside))
    monkeypatch.setattr(tailnet_state, "steps", lambda _data: ["copy"])
    with pytest.raises(OpsError, match="sealed by this machine's TPM"):
        tailnet_state.plan_moved(str(host.data), Manager("system", Account.current()))


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
@pytest.mark.parametrize("kind", ["owned", "linked", "open"])
def test_tailscaled_does_not_write_where_somebody_else_may(host, kind):
    other = host.data / "other"
    other.mkdir()
    if kind == "linked":
        host.target.symlink_to(other)
    else:
        host.target.mkdir()
        host.target.chmod(0o777 if kind == "open" else 0o700)
        os.chown(host.target, 65534 if kind == "owned" else 0, 0)
    with pytest.raises(OpsError, match="cannot be trusted"):
        tailnet_state.plan_moved(str(host.data), Manager("system", Account.current()))
    host.data.chmod(0o777)
    with pytest.raises(OpsError, match="cannot be trusted") as refused:
        host.move()
    assert refused.value.fix == "check that its volume is mounted"
