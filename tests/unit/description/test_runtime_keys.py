# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ids and keys of users: the vectors of docs/runtimes-keys.json, in Python, in JavaScript, and in the examples.

In JavaScript it is the program of the proxy: Node runs the same text as nginx.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.alwayson.hermes.plugins.filter.runtime_key import runtime_key
from ansible_collections.alwayson.hermes.plugins.filter.runtime_webhook import runtime_webhook
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_ids import hex_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_keys import (
    api_key_of,
    key_of,
    webhook_path_of,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import proxy_program
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from hypothesis import example, given
from hypothesis import strategies as st

DOCS = Path(__file__).resolve().parents[3] / "docs"
VECTORS = json.loads((DOCS / "runtimes-keys.json").read_text(encoding="utf-8"))
SECRET, USERS, REFUSED = VECTORS["secret"], VECTORS["users"], VECTORS["refused"]
WEBHOOKS, PATHS = VECTORS["webhooks"], [each["path"] for each in VECTORS["webhooks"]]
# What each implementation has to say, in the order of the vectors.
EXPECTED = [[each["hex"], each["keys"]] for each in USERS]
UUIDS = st.uuids(version=4).map(str)


def what(vector: dict[str, Any]) -> str:
    return vector["what"]


@pytest.mark.parametrize("vector", USERS, ids=what)
def test_the_vectors_hold(vector):
    digits = hex_of(vector["user"])
    assert digits == vector["hex"]
    assert {version: key_of(SECRET, digits, int(version)) for version in vector["keys"]} == vector["keys"]


@pytest.mark.parametrize("vector", REFUSED, ids=what)
def test_what_is_no_id_is_refused(vector):
    with pytest.raises(OpsError, match="Fix: use"):
        hex_of(vector["user"])


def test_a_half_of_a_character_is_refused():
    with pytest.raises(OpsError, match="not valid Unicode"):
        hex_of("\ud83e")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=256), UUIDS)
@example("550e8400-e29b-41d4-c716-446655440000", "550e8400-e29b-41d4-a716-446655440000")
def test_only_a_uuid_has_the_digits_of_a_uuid(user, uuid):
    assert re.fullmatch("[0-9a-f]{32}", hex_of(user))
    assert hex_of(user)[16] not in "89ab"
    assert hex_of(uuid) == hex_of(uuid.upper()) == uuid.replace("-", "")
    assert hex_of(uuid)[16] in "89ab"


def test_two_vectors_share_digits_only_if_they_are_one_uuid():
    by_digits: dict[str, set[str]] = {}
    for each in USERS:
        by_digits.setdefault(each["hex"], set()).add(each["user"].lower())
    assert [users for users in by_digits.values() if len(users) > 1] == []


@pytest.mark.parametrize(("secret", "version"), [("x" * 31, 1), ("", 1), (SECRET, 0), (SECRET, 1000), (SECRET, -1)])
def test_a_secret_that_can_be_guessed_and_a_version_that_cannot_be_are_refused(secret, version):
    with pytest.raises(OpsError, match="Fix: use"):
        key_of(secret, "0" * 32, version)


def test_the_paths_of_webhooks_hold():
    each = [(each["user"], each["webhook"], each["version"]) for each in WEBHOOKS]
    assert [webhook_path_of(SECRET, hex_of(user), name, version) for user, name, version in each] == PATHS
    assert [runtime_webhook(user, SECRET, name, version) for user, name, version in each] == PATHS
    assert len(set(PATHS)) == len(PATHS)


@pytest.mark.parametrize("name", ["", "A", "a/b", "../a", "a b", "-a", "a\n", "ü"])
def test_a_name_that_hermes_does_not_take_is_no_webhook(name):
    with pytest.raises(OpsError, match="the name of a webhook"):
        webhook_path_of(SECRET, "0" * 32, name)


@pytest.mark.parametrize(("user", "secret", "name"), [("", SECRET, "a"), ("a", "short", "a"), ("a", SECRET, 1)])
def test_a_playbook_is_told_what_cannot_be_of_webhooks(user, secret, name):
    with pytest.raises(AnsibleFilterError, match="Fix: "):
        runtime_webhook(user, secret, name)


def test_the_key_of_the_agent_is_none_of_its_user():
    digits = hex_of("a")
    assert re.fullmatch("[0-9a-f]{64}", api_key_of(SECRET, digits))
    assert api_key_of(SECRET, digits) != api_key_of(SECRET, hex_of("b"))


def test_a_playbook_computes_the_same_keys():
    for each in USERS:
        assert {version: runtime_key(each["user"], SECRET, version) for version in each["keys"]} == each["keys"]


@pytest.mark.parametrize(("user", "secret"), [("", SECRET), ("a\n", SECRET), ("a", "short"), (42, SECRET), ("a", None)])
def test_a_playbook_is_told_what_cannot_be(user, secret):
    with pytest.raises(AnsibleFilterError, match="Fix: "):
        runtime_key(user, secret)


def run_in_node(directory: Path, program: str) -> Any:
    if shutil.which("node") is None:
        pytest.skip("SKIPPED, NOT PROVED: the vectors of keys in JavaScript, because there is no node")
    (directory / "main.mjs").write_text(program, encoding="utf-8")
    (directory / "vectors.json").write_text(json.dumps(VECTORS), encoding="utf-8")
    done = subprocess.run(["node", "main.mjs"], cwd=directory, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_program_of_the_proxy_computes_the_same(tmp_path):
    (tmp_path / "proxy.mjs").write_text(proxy_program.render("/run/hermes-runtimes"), encoding="utf-8")
    said = run_in_node(
        tmp_path,
        """
import fs from 'fs';
import way from './proxy.mjs';
const {secret, users, webhooks, refused} = JSON.parse(fs.readFileSync('vectors.json'));
const keys = (hex, versions) => Object.fromEntries(versions.map((each) => [each, way.key_of(secret, hex, each)]));
console.log(JSON.stringify({
    users: users.map((each) => [way.hex_of(each.user), keys(way.hex_of(each.user), Object.keys(each.keys))]),
    api: users.map((each) => way.api_key_of(secret, each.hex)),
    tokens: webhooks.map((each) => way.webhook_token_of(secret, way.hex_of(each.user), each.webhook, each.version)),
    refused: refused.map((each) => way.hex_of(each.user)),
}));
""",
    )
    assert said["users"] == EXPECTED
    assert said["api"] == [api_key_of(SECRET, each["hex"]) for each in USERS]
    assert said["tokens"] == [path.split("/")[3] for path in PATHS]
    assert said["refused"] == [None] * len(REFUSED)


def examples(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", (DOCS / "runtimes-keys.md").read_text(encoding="utf-8"), re.S)
    return found


def test_the_example_in_python_holds():
    names: dict[str, Any] = {}
    exec(examples("python"), names)
    said = [
        [names["hex_of"](each["user"]), {one: names["key_of"](SECRET, each["user"], one) for one in each["keys"]}]
        for each in USERS
    ]
    assert said == EXPECTED
    each = [(each["user"], each["webhook"], each["version"]) for each in WEBHOOKS]
    assert [names["webhook_path_of"](SECRET, *values) for values in each] == PATHS


def test_the_example_in_javascript_holds(tmp_path):
    (tmp_path / "keys.mjs").write_text(examples("javascript"), encoding="utf-8")
    said = run_in_node(
        tmp_path,
        """
import fs from 'fs';
import {hexOf, keyOf, webhookPathOf} from './keys.mjs';
const {secret, users, webhooks} = JSON.parse(fs.readFileSync('vectors.json'));
const keys = (user, versions) => Object.fromEntries(versions.map((each) => [each, keyOf(secret, user, each)]));
console.log(JSON.stringify({
    users: users.map((each) => [hexOf(each.user), keys(each.user, Object.keys(each.keys))]),
    paths: webhooks.map((each) => webhookPathOf(secret, each.user, each.webhook, each.version)),
}));
""",
    )
    assert said == {"users": EXPECTED, "paths": PATHS}
