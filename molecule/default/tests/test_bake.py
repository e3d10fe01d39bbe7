# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of aws_image that works on the builder: what an image has, and what it has forgotten.

tests/unit/aws tests the calls to AWS. Here the builder is a box of its own, which shuts down at the end.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
BOX = ROOT / "tests/hosts/box.py"
BUILDER = "bake-bookworm"
# Debian's image for containers has no cloud-init. This one does what the real one does with these options.
CLOUD_INIT = """#!/bin/sh
test "$*" = "clean --logs --machine-id" && echo uninitialized > /etc/machine-id
"""
PREPARE = f"""
mkdir -p /home/admin/.ssh /root/.ssh
touch /etc/ssh/sshd_config
echo key | tee /home/admin/.ssh/authorized_keys /root/.ssh/authorized_keys /etc/ssh/ssh_host_ed25519_key >/dev/null
cat > /usr/bin/cloud-init <<'END'
{CLOUD_INIT}END
chmod +x /usr/bin/cloud-init
"""
# The host that the image is for has all that an image must not have.
HOST = {
    "ansible_host": "a-host-that-nobody-may-touch",
    "data_volume_enabled": True,
    "data_volume_device": "vol-0123456789abcdef0",
    "tailscale_enabled": True,
    "secrets_enabled": True,
    "hermes_agents": [{"name": "default", "secrets_from": {"ssm": "/hermes/atlas"}}],
}


def box(*arguments: str) -> str:
    return subprocess.run([sys.executable, BOX, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def docker(*arguments: str) -> bytes:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True).stdout


def content(builder: str, path: str) -> list[str]:
    """The names in *path* on the disk of the box; none if it does not exist."""
    copied = subprocess.run(["docker", "cp", f"{builder}:{path}", "-"], capture_output=True, check=False)
    if copied.returncode:
        assert b"Could not find the file" in copied.stderr
        return []
    with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as archive:
        return [each.name + "/" * each.isdir() for each in archive]


@pytest.fixture
def builder() -> Iterator[str]:
    box("up", BUILDER, "bookworm+0.19.0")
    docker("exec", BUILDER, "sh", "-ec", PREPARE)
    yield BUILDER
    box("down", BUILDER)


def test_a_baked_builder_has_the_release_and_has_forgotten_what_it_is(builder, tmp_path):
    settings = {"ansible_connection": "community.docker.docker", "ansible_python_interpreter": "/usr/bin/python3"}
    inventory = {"hermes": {"hosts": {"atlas": {**HOST, **settings}}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    baked = json.dumps({"aws_baked": {"instance_id": builder}})
    done = subprocess.run(
        ["ansible-playbook", "-i", "hosts.yml", "alwayson.hermes.shared.aws_bake", "-e", baked],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    deadline = time.monotonic() + 60
    while docker("inspect", "--format", "{{.State.Running}}", builder).strip() == b"true":
        assert time.monotonic() < deadline, "it has not shut down"
        time.sleep(0.5)

    # The disk of a box that is off, as an image would have it.
    assert content(builder, "/opt/hermes/current") == ["current"]
    ssh = content(builder, "/etc/ssh")
    assert "ssh/sshd_config" in ssh
    assert [path for path in ssh if "ssh_host_" in path] == []
    for empty in ("/root/.ssh", "/home/admin/.ssh", "/var/log/journal"):
        assert content(builder, empty) == [f"{os.path.basename(empty)}/"]
    assert content(builder, "/var/lib/hermes") == []
    assert b"uninitialized" in docker("cp", f"{builder}:/etc/machine-id", "-")
    assert b"Hermes agent" not in docker("cp", f"{builder}:/etc/passwd", "-")
