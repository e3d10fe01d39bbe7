# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first boot: the page that cloud-init gets, checked by cloud-init's own command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = ROOT / "roles/aws/templates/cloud-config.yml.j2"
# Debian's packages. They are unpacked, not installed: an installed cloud-init would run when this machine boots.
PACKAGES = ("cloud-init", "python3-configobj")


def rendered(**changes: object) -> str:
    environment = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters["to_json"] = json.dumps
    values = {"inventory_hostname_short": "atlas", "aws_admin": "admin", "aws_ssh_keys": ["ssh-ed25519 AAAA ada"]}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render({**values, **changes})


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """A function that runs ``cloud-init schema`` on a text."""
    kept = ROOT / ".cache" / "cloud-init"
    if not kept.is_dir():
        work = tmp_path_factory.mktemp("cloud-init")
        fetch = ["apt-get", "download", "-qq", *PACKAGES]
        if shutil.which("apt-get") is None or subprocess.run(fetch, cwd=work, check=False).returncode:
            pytest.skip("SKIPPED, NOT PROVED: cloud-init's own check of the first boot: apt-get does not fetch it here")
        for package in work.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, work / "all"], check=True)
        kept.parent.mkdir(exist_ok=True)
        # Renamed into place, because another pytest worker may look for it at the same moment.
        whole = shutil.move(work / "all", kept.parent / f"{kept.name}.{os.getpid()}")
        try:
            os.rename(whole, kept)
        except OSError:
            shutil.rmtree(whole)

    def run(text: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path_factory.mktemp("page") / "user-data"
        path.write_text(text)
        return subprocess.run(
            [sys.executable, "-m", "cloudinit.cmd.main", "schema", "--config-file", path],
            env={**os.environ, "PYTHONPATH": str(kept / "usr/lib/python3/dist-packages")},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_cloud_init_takes_the_page(schema):
    done = schema(rendered())
    assert done.returncode == 0, done.stderr
    assert "Valid cloud-config" in done.stdout
    assert "deprecat" not in done.stdout + done.stderr


def test_cloud_init_refuses_a_mistake(schema):
    """Or the test above proves nothing."""
    done = schema(rendered().replace("ssh_pwauth: false", "ssh_pwauth: {}"))
    assert done.returncode != 0
    assert "ssh_pwauth" in done.stdout + done.stderr


def test_the_page_is_a_page_without_installers():
    text = rendered()
    assert text.startswith("#cloud-config\n")
    assert text.count("\n") <= 40
    assert not {"runcmd", "bootcmd", "packages", "write_files"} & yaml.safe_load(text).keys()


def test_names_and_keys_are_data_and_never_yaml():
    key = 'ssh-ed25519 AAAA "ada": [x] # y'
    found = yaml.safe_load(rendered(aws_admin="yes", aws_ssh_keys=[key, key]))
    (user,) = found["users"]
    assert (user["name"], user["ssh_authorized_keys"]) == ("yes", [key, key])
