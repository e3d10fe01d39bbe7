# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook tenants, as somebody runs it, against a real API server."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import archives, collecting, extracting
from api_server import ApiServer
from playbook import Playbook, changed
from played_node import put

PASSWORD = "password-of-the-repository-0123"
SECRETS = {
    "tenants": "secret-of-the-tenants-0123456789abcdef",
    "model": "sk-secret-of-all-0123",
    "one": "secret-of-one-0123",
    "webhook": "secret-of-the-webhook-0123",
}
# Nothing runs pods here, so nothing would become ready.
DECLARED: dict[str, Any] = {
    "tenants_wait": 0,
    # The nodes that tests play have none.
    "tenants_room": False,
    "tenants_secret": SECRETS["tenants"],
    "tenants_image": "registry.example.com/hermes-agent:1",
    "tenants_agent": {
        "config": {"model": {"provider": "custom", "default": "stub"}},
        "secrets": {"MODEL_API_KEY": SECRETS["model"]},
        "webhooks": [{"name": "push", "prompt": "x", "secret": SECRETS["webhook"]}],
    },
    "hermes_tenants": [
        {"name": "acme"},
        {"name": "globex", "limits": {"memory": "2Gi"}, "agent": {"secrets": {"OWN_TOKEN": SECRETS["one"]}}},
    ],
}


@pytest.fixture
def playbook(server: ApiServer, namespace: str, tmp_path: Path) -> Playbook:
    return Playbook(tmp_path, DECLARED, server.kubeconfig, namespace)


def test_check_then_made_then_nothing_and_no_output_shows_a_secret(playbook):
    outputs = []
    for options, expected in ((["--check"], 1), ([], 1), ([], 0), (["--check"], 0)):
        status, output = playbook.run("-vvv", "--diff", *options)
        assert status == 0, output
        assert changed(output) == expected
        outputs.append(output)
    other = {**DECLARED["tenants_agent"], "secrets": {"MODEL_API_KEY": "another-secret-0123"}}
    status, output = playbook.run("-vvv", "--diff", tenants_agent=other)
    assert (status, changed(output)) == (0, 1)
    assert "MODEL_API_KEY" in output
    outputs.append(output)
    for secret in (*SECRETS.values(), "another-secret-0123"):
        for form in (secret, base64.b64encode(secret.encode()).decode()):
            assert not any(form in output for output in outputs)


def test_secrets_of_tenants_come_from_look_ups_and_a_new_value_changes_those_that_use_it(playbook):
    source = playbook.directory / "source.json"
    look_up = f"{{{{ (lookup('file', '{source}') | from_json).token }}}}"
    agents = [{"secrets": {"OWN_TOKEN": look_up}}, {}]
    declared = [{"name": name, "agent": agent} for name, agent in zip(("acme", "globex"), agents)]
    outputs = []
    for token, expected in (("from-the-source-1", "created"), ("from-the-source-2", "changed")):
        source.write_text(json.dumps({"token": token}))
        status, output = playbook.run("-vvv", "--diff", hermes_tenants=declared)
        assert (status, changed(output)) == (0, 1), output
        assert f'"acme": "{expected}"' in output
        assert "from-the-source" not in output
        outputs.append(output)
    assert '"globex": "unchanged"' in outputs[-1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hermes_tenants": [{"name": "acme"}, {"name": "Acme"}]}, "would be called like 'acme'"),
        ({"tenants_image": ""}, "tenant acme: image"),
        ({"tenants_secret": "short"}, "at least 32"),
        ({"hermes_tenants": [{"name": "acme", "agent": {"secrets": "x"}}]}, "acme"),
        ({"tenants_canaries": ["Acme"]}, "'Acme' is no tenant"),
        ({"tenants_batch": 0}, "batch: is 0"),
        ({"tenants_limts": {}}, "did you mean tenants_limits"),
        ({"tenants_kubeconfig": "/nowhere"}, "/nowhere"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else None,
)
def test_a_mistake_is_one_error_before_anything_changed(playbook, wrong, said):
    status, output = playbook.run(**wrong)
    assert status != 0
    assert said in re.sub(r"\s+", " ", output)
    assert "Fix: " in output
    assert "Traceback" not in output
    assert changed(output) == 0


def test_a_tenant_that_fails_is_named_and_the_run_fails(playbook):
    tenants = [{"name": "acme", "node_selector": {"no label": "x"}}, {"name": "globex"}]
    status, output = playbook.run(hermes_tenants=tenants)
    assert status != 0
    assert "tenant acme: StatefulSet hermes-acme: is refused" in re.sub(r"\s+", " ", output)
    assert '"globex": "created"' in output
    status, output = playbook.run(name="tenants_status")
    assert (status, changed(output)) == (0, 0)
    assert re.search(r"^globex +not ready +0 +5Gi .*\(the cluster has made no pod for it\)$", output, re.M)


# Plays the kit: says with which words it was called, and what it was given.
KIT = """
import os
given = next((int(word[8:]) for word in words if word.startswith("--bytes=")), 0)
print([word for word in words if not word.startswith("--bytes=")])
print(sys.stdin.buffer.read(given).decode())
"""


def test_tenants_are_told_and_asked_in_the_words_of_the_hosts(playbook, node, namespace):
    playbook.run()
    node.run(namespace, "hermes-acme")
    put(node, KIT)
    (playbook.directory / "notes.md").write_text("Grüße\nvon hier\n")
    given = {"tell_tenant": "acme", "tell_topic": " The \n deploy", "tell_file": "notes.md", "tell_timeout": 7}
    for options, word in (([], ""), (["--check"], ", '--check'")):
        status, output = playbook.run(*options, name="tenant_tell", **given)
        assert (status, changed(output)) == (0, int(not options)), output
        words = "['hermes-ops', 'agent', 'tell', '--webhook=claude-context', '--timeout=7'" + word
        assert f"acme:\n  {words}]\n  The deploy\n  Grüße\n  von hier\n" in output

    status, output = playbook.run(name="tenant_memory_query", memory_query="zebra 'hay'", memory_query_limit=3)
    assert (status, changed(output)) == (2, 0)
    assert "acme:\n  ['hermes-ops', 'agent', 'memory', '-', '--limit=3']\n  zebra 'hay'\n" in output
    assert "globex: ERROR: tenant globex: does not run: the cluster has made no pod for it" in output
    status, output = playbook.run(name="tenant_memory_query", memory_query="zebra", memory_query_tenant="acme")
    assert status == 0, output


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("tenant_tell", {"tell_topic": "x", "tell_body": "x"}, "Pass the tenant, the topic and the text"),
        ("tenant_memory_query", {}, "Pass the words to search for"),
        ("tenant_debug", {}, "Pass the tenant"),
    ],
)
def test_a_playbook_says_what_it_has_to_be_told(playbook, name, given, said):
    status, output = playbook.run(name=name, **given)
    assert (status, said in output) == (2, True)


def test_files_of_tenants_come_whole_and_verified(playbook, node, namespace, tmp_path):
    playbook.run()
    node.run(namespace, "hermes-acme")
    # As the kit writes it in the container.
    (tmp_path / "home").mkdir()
    (tmp_path / "home/SOUL.md").write_text("Be brief.")
    about = {**dict.fromkeys(("host", "kit", "release", "version", "env"), "x"), "agent": "acme", "created": 1.0}
    with open(tmp_path / "from the container", "wb") as out:
        collecting.collect(out.fileno(), out.name, str(tmp_path / "home"), about, False, None, True)
    put(node, f"sys.stdout.buffer.write(open({str(tmp_path / 'from the container')!r}, 'rb').read())")

    there = playbook.directory / "hermes-backups"
    status, output = playbook.run("--check", name="tenant_backup", backup_tenant="acme")
    assert (status, changed(output), there.exists()) == (0, 0, False), output
    assert f"would fetch its archive to {there}" in output
    status, output = playbook.run(name="tenant_backup", backup_tenant="acme")
    assert (status, changed(output)) == (0, 1), output
    (archive,) = there.iterdir()
    assert f"acme: archive: {archive}" in output
    assert archive.stat().st_mode & 0o777 == 0o600
    # As a host sees it: the name says whose it is, and so does what is inside.
    assert (extracting.verify(str(archive)).agent, archives.agent_of(str(archive))) == ("acme", "acme")

    status, output = playbook.run(name="tenant_debug", debug_tenant="acme")
    assert (status, changed(output)) == (0, 1), output
    (bundle,) = (playbook.directory / "hermes-debug").iterdir()
    assert bundle.read_bytes() == (tmp_path / "from the container").read_bytes()


@pytest.mark.skipif(not shutil.which("restic"), reason="SKIPPED, NOT PROVED: restic is not installed")
def test_archives_leave_the_cluster_by_restic_and_come_back(playbook, node, namespace, tmp_path):
    playbook.run()
    node.run(namespace, "hermes-acme")
    home, archive = tmp_path / "home", tmp_path / "from the container"
    (home / "memories").mkdir(parents=True)
    about = {**dict.fromkeys(("host", "kit", "release", "version", "env"), "x"), "agent": "acme", "created": 1.0}
    put(node, f"sys.stdout.buffer.write(open({str(archive)!r}, 'rb').read())")
    given = {"backup_restic_repository": str(tmp_path / "repository"), "backup_restic_password": PASSWORD}
    data, sizes = os.urandom(32 * 2**20), []
    for day in ("first", "second"):
        (home / "memories/MEMORY.md").write_text(day)
        (home / "memories/large").write_bytes(data)
        with open(archive, "wb") as out:
            collecting.collect(out.fileno(), out.name, str(home), about, False, None, True)
        status, output = playbook.run("-vvv", name="tenant_backup", backup_tenant="acme", **given)
        assert (status, changed(output), PASSWORD in output) == (0, 1, False), output
        sizes.append(sum(each.stat().st_size for each in (tmp_path / "repository").rglob("*") if each.is_file()))
    # What is the same is there once, but for the pieces at its ends.
    assert sizes[1] - sizes[0] < len(data) / 2

    def restic(*words: str) -> str:
        environ = {**os.environ, "RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(tmp_path / "repository")}
        return subprocess.run(["restic", *words], env=environ, capture_output=True, text=True, check=True).stdout

    # The newest of the day.
    (snapshot,) = json.loads(restic("snapshots", "--json"))
    assert (snapshot["hostname"], {*snapshot["tags"]}) == (f"tenants.{namespace}", {"hermes", "agent:acme"})
    for source in ("restic:latest", f"restic:{snapshot['id']}"):
        back = {"restore_tenant": "acme", "restore_source": source, **given}
        status, output = playbook.run("--check", name="tenant_restore", **back)
        assert (status, changed(output), PASSWORD in output) == (0, 0, False), output
        assert re.search(r"acme: would stop the agent, restore \d+ files of acme on x", output)
    status, output = playbook.run(
        "--check", name="tenant_restore", **{**given, "restore_tenant": "globex", "restore_source": "restic:latest"}
    )
    assert status == 2
    assert "there is no snapshot 'latest'" in output

    # A password that is wrong is told, and the archive is there all the same.
    status, output = playbook.run(name="tenant_backup", **{**given, "backup_restic_password": "wrong-0123"})
    assert status == 2
    assert "the password does not open the repository" in output
    assert len([*(playbook.directory / "hermes-backups").glob("acme-*.tar.gz")]) == 3


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"restore_tenant": "acme"},
        {"restore_tenant": "acme", "restore_upload": "x", "restore_former": True},
        {"restore_tenant": "acme", "restore_source": "latest"},
        {"restore_upload": "x"},
    ],
)
def test_a_restore_says_what_it_wants(playbook, given):
    status, output = playbook.run(name="tenant_restore", **given)
    assert status == 2
    assert "Pass the tenant: -e restore_tenant=NAME" in output
