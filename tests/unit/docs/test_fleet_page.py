# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the fleet lies where the user is, and is named so that a terminal can open it (docs/fleet.md)."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
NAME = "hermes-fleet.html"


def test_the_page_lies_where_the_user_is(user):
    user.environment["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / ".cache/collections")
    user.directory = user.home / "agents"
    user.directory.mkdir()
    # A host that cannot be reached is an answer, too.
    words = ("--inventory", "host,", "--connection", "ssh", "--extra-vars", "hermes_hosts=all ansible_host=127.0.0.1")
    said = user.asks("ansible-playbook", *words, "--extra-vars", "ansible_port=1", "alwayson.hermes.status")
    assert (user.directory / NAME).is_file()
    assert f"The page: file://{user.directory}/{NAME}" in said


def test_a_page_in_the_checkout_is_not_packed():
    assert NAME in yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"]
    assert f"/{NAME}" in (ROOT / ".gitignore").read_text().splitlines()
