# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants that run: real agents in real pods, on nodes that fail. No network plugin here enforces policies."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
import sqlite3
import subprocess
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import other_release
import pytest
from ansible_collections.alwayson.hermes.plugins.filter.runtime_key import runtime_key
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import extracting
from containers import declared, request, until
from node import Node
from playbook import Playbook, changed, kill
from whole import CLASS, Cluster

SECRET, WEBHOOK_SECRET = "0123456789abcdef0123456789abcdef", "secret-of-the-webhook-0123"
NAMESPACE = "hermes"
NAMES = ["acme", "globex", "initech"]


class Tenants(Playbook):
    """The tenants of a cluster, and what can be asked of them."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        model = {"provider": "custom", "default": "stub-model", "base_url": cluster.model_url}
        agent = {
            "config": {"model": {**model, "api_key": "${MODEL_API_KEY}"}},
            "secrets": {"MODEL_API_KEY": "sk-test"},
            "webhooks": [
                {"name": "push", "prompt": "Pushed: {text}", "secret": WEBHOOK_SECRET},
                {"name": "claude-context", "prompt": "{topic}: {body}", "secret": WEBHOOK_SECRET},
            ],
        }
        declared = {"tenants_secret": SECRET, "tenants_image": cluster.image, "tenants_agent": agent}
        declared.update(tenants_storage_class=CLASS, hermes_tenants=[{"name": name} for name in NAMES])
        super().__init__(directory, declared, cluster.server.kubeconfig, NAMESPACE)
        self.cluster = cluster

    def converge(self, **variables: Any) -> int:
        """Run the playbook; returns how many tasks changed something."""
        status, output = self.run(**variables)
        assert status == 0, output
        return changed(output)

    def differing(self, **differences: dict[str, Any]) -> list[dict[str, Any]]:
        """The declaration of all tenants, of which some differ."""
        return [{"name": name, **differences.get(name, {})} for name in NAMES]

    def pod(self, name: str) -> dict[str, Any]:
        return self.cluster.pod(NAMESPACE, name)

    def ids(self) -> dict[str, str]:
        """Each tenant -> by what its pod differs from one that is made anew."""
        return {name: self.pod(name)["metadata"]["uid"] for name in NAMES}

    def reply(self, name: str, said: str) -> str:
        return self.cluster.reply(self.pod(name), runtime_key(name, SECRET), said)

    def home(self, name: str) -> Path:
        """The agent's home, on its volume."""
        path = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/hermes-{name}"
        volume = self.cluster.server.ask("GET", path)["spec"]["volumeName"]
        return self.cluster.nodes[0].volumes / volume / ".hermes"

    def kept(self, name: str) -> Path:
        """What its releases have left beside the home."""
        return self.home(name).parent / ".hermes-ops-update"

    def heard(self, name: str) -> list[str]:
        """What was ever said to the agent."""
        with sqlite3.connect(f"file:{self.home(name)}/state.db?mode=ro", uri=True) as database:
            return [text for (text,) in database.execute("select content from messages where role = 'user'")]

    def runs_anew(self, name: str, before: str) -> bool:
        """Whether another pod than the one with the id *before* is ready."""
        # In between there is none.
        with contextlib.suppress(OSError):
            pod = self.pod(name)
            conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
            return pod["metadata"]["uid"] != before and conditions.get("Ready") == "True"
        return False

    def node(self, name: str) -> Node:
        where = self.pod(name)["spec"]["nodeName"]
        return next(node for node in self.cluster.nodes if node.name == where)

    def processes(self, node: Node, name: str) -> list[str]:
        """The main processes of the agent of the tenant *name* on a *node*."""
        uid = self.pod(name)["metadata"]["uid"]
        found = node.execute("sh", "-c", "grep -ls 'gateway' /proc/[0-9]*/cmdline | cut -d/ -f3", check=False).split()
        return [each for each in found if uid in node.execute("cat", f"/proc/{each}/cgroup", check=False)]


@pytest.fixture(scope="session")
def tenants(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Tenants:
    tenants = Tenants(cluster, tmp_path_factory.mktemp("tenants"))
    assert tenants.converge() == 1
    return tenants


@pytest.fixture(autouse=True)
def as_declared(tenants: Tenants, cluster: Cluster):
    """Each test begins with tenants as they were declared at first, and a model that answers."""
    cluster.calm_model()
    tenants.converge()


def test_they_answer_their_own_key_and_a_signed_webhook(tenants, cluster):
    assert tenants.converge() == 0
    for name in NAMES:
        assert tenants.reply(name, f"hello {name}") == f"The model heard: hello {name}"
    acme = tenants.pod("acme")
    body = json.dumps({"model": "hermes-agent", "messages": [{"role": "user", "content": "x"}]})
    for wrong in (runtime_key("globex", SECRET), ""):
        assert cluster.call(acme, 8642, "/v1/chat/completions", body, Authorization=f"Bearer {wrong}")[0] == 401
    pushed = '{"text": "a parcel"}'
    good = hmac.new(WEBHOOK_SECRET.encode(), pushed.encode(), hashlib.sha256).hexdigest()
    answers = [
        cluster.call(acme, 8644, "/webhooks/push", pushed, X_Webhook_Signature=each)[0] for each in (good, "0" * 64)
    ]
    assert answers == [202, 401]
    until(lambda: any("a parcel" in said for said in tenants.heard("acme")), "the webhook's turn")


def test_the_status_says_what_they_use(tenants):
    # A kubelet measures now and then.
    until(
        lambda: re.search(r"^acme +ready +0 +\d+/\d+Mi +\d+%", tenants.run(name="tenants_status")[1], re.M),
        "memory is measured",
    )
    status, output = tenants.run(name="tenants_status")
    assert (status, changed(output)) == (0, 0)
    used, given, full = re.search(r"^acme +ready +0 +(\d+)/(\d+)Mi +(\d+)% of 5Gi +hermes-", output, re.M).groups()
    assert given == "256"
    assert 30 < int(used) < 1024
    assert 0 < int(full) <= 100
    page = (tenants.directory / "hermes-tenants.html").read_text()
    assert "3 tenants, all well" in page
    assert "acme" in page


def test_they_are_told_and_searched(tenants):
    told = {"tell_tenant": "acme", "tell_topic": "The deploy", "tell_body": "is on Thursday"}
    status, output = tenants.run(name="tenant_tell", **told)
    assert (status, changed(output)) == (0, 1), output
    assert "answer: The model heard: The deploy: is on Thursday" in output
    status, output = tenants.run(name="tenant_memory_query", memory_query="thursday")
    assert (status, changed(output)) == (0, 0), output
    found = dict(re.findall(r"^(\w+):\n  agent \S+ (\w+) found", output, re.M))
    assert found == {"acme": found["acme"], "globex": "nothing", "initech": "nothing"}
    assert found["acme"] != "nothing"


def test_their_homes_are_fetched_as_a_host_backs_them_up(tenants):
    tenants.reply("globex", "keep the walrus")
    status, output = tenants.run(name="tenant_backup")
    assert (status, changed(output)) == (0, 1), output
    archives = {manifest.agent: path for path, manifest in verified(tenants.directory / "hermes-backups").items()}
    assert sorted(archives) == NAMES
    with tarfile.open(archives["globex"]) as archive:
        names = archive.getnames()
        unpack(archive, tenants.directory / "globex")
    assert not any(name.endswith(".env") for name in names)
    (state,) = (tenants.directory / "globex").rglob("state.db")
    with sqlite3.connect(state) as database:
        assert ("keep the walrus",) in database.execute("select content from messages").fetchall()

    status, output = tenants.run(name="tenant_debug", debug_tenant="acme")
    assert (status, changed(output)) == (0, 1), output
    (bundle,) = (tenants.directory / "hermes-debug").iterdir()
    with tarfile.open(bundle) as archive:
        texts = [archive.extractfile(each).read() for each in archive if each.isfile()]
    assert any(b"stub-model" in text for text in texts)
    for secret in (WEBHOOK_SECRET, "sk-test", runtime_key("acme", SECRET)):
        assert not any(secret.encode() in text for text in texts)


def unpack(archive: tarfile.TarFile, directory: Path) -> None:
    # Debian 12's Python has no filters yet.
    archive.extractall(directory, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


def verified(directory: Path) -> dict[Path, Any]:
    """The archives in *directory*, each with what it says of itself."""
    return {path: extracting.verify(str(path)) for path in directory.iterdir()}


def test_their_processes_have_no_rights(tenants):
    node = tenants.node("acme")
    found = tenants.processes(node, "acme")
    assert found
    for each in found:
        status = dict(re.findall(r"^(\w+):\t(.*)$", node.execute("cat", f"/proc/{each}/status"), re.M))
        assert status["Uid"].split() == ["10000"] * 4
        assert (int(status["CapPrm"], 16), int(status["CapBnd"], 16)) == (0, 0)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        written = node.execute("sh", "-c", f"touch /proc/{each}/root/opt/x", check=False)
        assert written == ""
        assert not node.execute("sh", "-c", f"ls /proc/{each}/root/var/run/secrets/kubernetes.io", check=False)


def test_a_changed_secret_starts_just_its_tenant_again(tenants):
    before = tenants.ids()
    changed = tenants.differing(globex={"agent": {"secrets": {"MODEL_API_KEY": "sk-another"}}})
    assert tenants.converge(hermes_tenants=changed) == 1
    after = tenants.ids()
    assert {name for name in NAMES if before[name] != after[name]} == {"globex"}
    tenants.reply("globex", "with which key?")
    asked = tenants.cluster.tell_model("requests")[-1]
    assert asked["authorization"] == "Bearer sk-another"


def test_it_moves_to_another_node_with_its_memory(tenants, cluster):
    tenants.reply("acme", "remember the zebra")
    (other,) = (node for node in cluster.nodes if node.name != tenants.node("acme").name)
    there = {"node_selector": {"kubernetes.io/hostname": other.name}}
    assert tenants.converge(hermes_tenants=tenants.differing(acme=there)) == 1
    assert tenants.node("acme").name == other.name
    tenants.reply("acme", "still there?")
    assert {"remember the zebra", "still there?"} <= {*tenants.heard("acme")}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image": "localhost/not-there:1"}, "ImagePull|ErrImage"),
        ({"node_selector": {"disk": "of-gold"}}, "didn't match Pod's node affinity/selector"),
    ],
    ids=["image", "node"],
)
def test_an_update_that_cannot_run_is_told_in_the_words_of_the_cluster_and_goes_back(tenants, wrong, said):
    before = tenants.ids()
    status, output = tenants.run(hermes_tenants=tenants.differing(initech=wrong), tenants_wait=30)
    assert status != 0
    text = re.sub(r"\s+", " ", output)
    assert re.search(f"tenant initech: hermes-initech-0: is not ready after 30 s: [^.]*({said})", text), output
    after = tenants.ids()
    assert (before["acme"], before["globex"]) == (after["acme"], after["globex"])
    assert "it was rolled back" in text
    assert tenants.reply("initech", "as before?") == "The model heard: as before?"


@pytest.fixture(scope="session")
def releases(cluster: Cluster) -> dict[str, str]:
    """Images with other releases of Hermes, by what these do."""
    made = {}
    for what in ("FAILS", "MUTE", "GOOD"):
        made[what] = other_release.image(cluster.image, what.lower(), getattr(other_release, what))
        for node in cluster.nodes:
            node.take(made[what])
    return made


def updated(tenants: Tenants, image: str, **variables: Any) -> tuple[int, str]:
    """The status and the output, on one line, of a run that updates one tenant."""
    differing = tenants.differing(initech={"image": image})
    status, output = tenants.run(hermes_tenants=differing, tenants_wait=60, **variables)
    return status, re.sub(r"\s+", " ", output)


def test_an_image_that_migrates_the_data_and_fails_goes_back_with_its_data(tenants, releases):
    tenants.reply("initech", "told before the update")
    status, text = updated(tenants, releases["FAILS"])
    assert status != 0
    assert "hermes-initech-0: is not ready after 60 s" in text
    assert "it was rolled back" in text
    assert "told before the update" in tenants.heard("initech")
    assert tenants.reply("initech", "as before?") == "The model heard: as before?"
    with sqlite3.connect(tenants.kept("initech") / "set-aside/data/state.db") as database:
        assert ("told before the update",) in database.execute("select content from moved").fetchall()
    assert not (tenants.kept("initech") / "copies").exists()


def test_one_that_does_not_reply_any_more_goes_back_and_a_good_one_is_proved(tenants, releases):
    status, text = updated(tenants, releases["MUTE"])
    assert status != 0
    assert re.search(r"tenant initech: hermes-initech-0: is ready, and not as well as before: \S+ \w+", text), text
    assert "it was rolled back" in text
    assert tenants.reply("initech", "and now?") == "The model heard: and now?"
    assert not (tenants.kept("initech") / "copies").exists()

    # Without the question it is enough to be ready, and the copies stay for a while.
    status, text = updated(tenants, releases["MUTE"], tenants_reply=False)
    assert status == 0, text
    assert (tenants.kept("initech") / "copies/data/state.db").exists()
    tenants.converge()
    status, text = updated(tenants, releases["GOOD"])
    assert status == 0, text
    assert json.loads((tenants.kept("initech") / "record.json").read_text())["former"] == ""
    assert not (tenants.kept("initech") / "copies").exists()


def test_one_that_did_not_reply_before_is_not_blamed(tenants, cluster, releases):
    cluster.tell_model("faults", [{"status": 401, "times": 0}])
    status, text = updated(tenants, releases["GOOD"])
    assert status == 0, text


def test_one_whose_agent_broke_its_configuration_is_told(tenants):
    config = tenants.home("initech") / "config.yaml"
    kept = config.read_text()
    config.write_text("model: [")
    try:
        other = {"agent": {"soul": "Be brief."}}
        status, output = tenants.run(hermes_tenants=tenants.differing(initech=other), tenants_wait=30)
    finally:
        config.write_text(kept)
    assert status != 0
    assert "its home could not be converged" in re.sub(r"\s+", " ", output)


def test_one_whose_volume_cannot_be_had_is_told(tenants):
    news = [{"name": "umbrella", "storage_class": "of-nobody"}]
    status, output = tenants.run(hermes_tenants=[*tenants.differing(), *news], tenants_wait=5)
    assert status != 0
    assert "unbound immediate PersistentVolumeClaims" in re.sub(r"\s+", " ", output)
    gone = [{"name": "umbrella", "state": "absent", "purge": True}]
    assert tenants.converge(hermes_tenants=[*tenants.differing(), *gone]) == 1


def test_a_node_that_dies_in_the_midst_of_an_answer(tenants, cluster):
    tenants.reply("acme", "before the night")
    node = tenants.node("acme")
    (other,) = (each for each in cluster.nodes if each is not node)
    cluster.tell_model("faults", [{"hold": True, "times": 0}])
    answers: list[Any] = []
    body = json.dumps({"model": "hermes-agent", "messages": [{"role": "user", "content": "in the night"}]})
    words = (tenants.pod("acme"), 8642, "/v1/chat/completions", body)
    call = threading.Thread(
        target=lambda: answers.append(cluster.call(*words, Authorization=f"Bearer {runtime_key('acme', SECRET)}"))
    )
    call.start()
    until(lambda: "in the night" in json.dumps(cluster.tell_model("requests")), "the model is asked")
    before = tenants.ids()["acme"]
    node.kill()
    call.join()
    assert answers[0][0] == 0
    until(lambda: not cluster.is_ready(node), "the node is missed")
    # Nobody guesses that it is dead: its pod is not replaced until somebody says so.
    assert tenants.ids()["acme"] == before
    until(lambda: tenants.run(name="node_lost", node=node.name, node_is_off=True)[0] == 0, "it is given up", 180)
    until(lambda: tenants.runs_anew("acme", before), "it runs elsewhere", 120)
    assert tenants.node("acme") is other
    cluster.calm_model()
    tenants.reply("acme", "after the night")
    assert {"before the night", "after the night"} <= {*tenants.heard("acme")}

    # What comes back runs nothing of what it ran.
    node.power_on([other])
    until(lambda: cluster.is_ready(node), "the node is back", 120)
    status, output = tenants.run(name="node_lost", node=node.name, state="back")
    assert status == 0, output
    assert tenants.processes(other, "acme")
    assert not tenants.processes(node, "acme")


def backed_up(tenants: Tenants, name: str) -> Path:
    """An archive of a tenant's home."""
    there = tenants.directory / "hermes-backups"
    before = {*there.iterdir()} if there.exists() else set()
    status, output = tenants.run(name="tenant_backup", backup_tenant=name)
    assert status == 0, output
    (made,) = {*there.iterdir()} - before
    return made


def learnt(tenants: Tenants, name: str, token: str) -> None:
    """Have the agent know *token* by a conversation, by heart, in a webhook of its own and in a job."""
    tenants.reply(name, f"say {token}")
    home = tenants.home(name)
    with open(home / "memories/MEMORY.md", "a") as file:
        file.write(f"{token}\n")
    webhooks = json.loads((home / "webhook_subscriptions.json").read_text())
    webhooks[token] = {"prompt": token, "secret": WEBHOOK_SECRET}
    (home / "webhook_subscriptions.json").write_text(json.dumps(webhooks))
    # A job that is not due while tests run.
    job = json.dumps({"name": token, "schedule": "2099-01-01T00:00:00Z", "prompt": "say nothing"})
    key = f"Bearer {runtime_key(name, SECRET)}"
    status, text = tenants.cluster.call(tenants.pod(name), 8642, "/api/jobs", job, Authorization=key)
    assert status == 200, text


def known(home: Path, token: str) -> dict[str, bool]:
    """Whether each part of a home knows *token*."""
    with sqlite3.connect(f"file:{home}/state.db?mode=ro", uri=True) as database:
        said = database.execute("select count(*) from messages where content = ?", [f"say {token}"]).fetchone()[0]
    files = ("memories/MEMORY.md", "webhook_subscriptions.json", "cron/jobs.json")
    return {"sessions": said > 0, **{name: token in (home / name).read_text() for name in files}}


def test_a_home_is_restored(tenants):
    learnt(tenants, "acme", "walrus")
    archive = backed_up(tenants, "acme")
    tenants.reply("acme", "what came later")
    wanted = {"restore_tenant": "acme", "restore_upload": str(archive)}
    before = tenants.ids()["acme"]
    status, output = tenants.run("--check", name="tenant_restore", **wanted)
    assert (status, changed(output), tenants.ids()["acme"]) == (0, 0, before), output
    assert re.search(r"acme: would stop the agent, restore \d+ files of acme on ", output)

    # It knows more than the backup.
    status, output = tenants.run(name="tenant_restore", **wanted)
    assert status != 0
    assert "the home knows more than the backup" in re.sub(r"\s+", " ", output)
    until(lambda: tenants.runs_anew("acme", before), "it runs again")
    assert tenants.reply("acme", "still there?") == "The model heard: still there?"
    assert "what came later" in tenants.heard("acme")

    status, output = tenants.run(name="tenant_restore", restore_force=True, **wanted)
    assert (status, changed(output)) == (0, 1), output
    assert all(known(tenants.home("acme"), "walrus").values())
    assert "what came later" not in tenants.heard("acme")
    assert tenants.reply("acme", "and now?") == "The model heard: and now?"
    assert tenants.converge() == 0

    status, output = tenants.run(name="tenant_restore", restore_tenant="acme", restore_former=True)
    assert (status, changed(output)) == (0, 1), output
    assert "what came later" in tenants.heard("acme")
    assert "and now?" not in tenants.heard("acme")


def test_an_agent_that_does_not_start_is_restored(tenants):
    learnt(tenants, "globex", "heron")
    archive = backed_up(tenants, "globex")
    (tenants.home("globex") / "config.yaml").write_text("model: [")
    before = tenants.ids()["globex"]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/hermes-globex-0"
    tenants.cluster.server.ask("DELETE", path)

    def fails() -> bool:
        # In between there is none.
        with contextlib.suppress(OSError):
            pod = tenants.pod("globex")
            restarts = [each["restartCount"] for each in pod["status"].get("containerStatuses", ())]
            return pod["metadata"]["uid"] != before and any(restarts)
        return False

    until(fails, "it fails", 120)
    wanted = {"restore_tenant": "globex", "restore_upload": str(archive), "restore_force": True}
    status, output = tenants.run(name="tenant_restore", **wanted)
    assert (status, changed(output)) == (0, 1), output
    assert tenants.reply("globex", "well again?") == "The model heard: well again?"
    assert all(known(tenants.home("globex"), "heron").values())


def test_another_cluster_takes_what_an_agent_knows(tenants, cluster, tmp_path):
    """As another namespace: all that a tenant is given comes from there."""
    learnt(tenants, "initech", "osprey")
    archive = backed_up(tenants, "initech")
    there = Playbook(tmp_path, tenants.variables, cluster.server.kubeconfig, "elsewhere")
    assert there.run(hermes_tenants=[{"name": "umbrella"}])[0] == 0
    status, output = there.run(name="tenant_restore", restore_tenant="umbrella", restore_upload=str(archive))
    assert (status, changed(output)) == (0, 1), output
    pod = cluster.pod("elsewhere", "umbrella")
    said = cluster.reply(pod, runtime_key("umbrella", SECRET), "who are you now?")
    assert said == "The model heard: who are you now?"
    claim = cluster.server.ask("GET", "/api/v1/namespaces/elsewhere/persistentvolumeclaims/hermes-umbrella")
    assert all(known(cluster.nodes[0].volumes / claim["spec"]["volumeName"] / ".hermes", "osprey").values())


def test_a_restore_that_is_killed_is_ended_by_the_next_run(tenants, cluster):
    archive = backed_up(tenants, "acme")
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"

    def waits() -> bool:
        return "hermes-acme-restore" in [each["metadata"]["name"] for each in cluster.server.ask("GET", pods)["items"]]

    wanted = {"restore_tenant": "acme", "restore_upload": str(archive), "restore_force": True}
    process = tenants.begin(name="tenant_restore", **wanted)
    until(waits, "it has the volume")
    kill(process)
    # It waits until the one that was killed has lost its Lease.
    assert tenants.converge() == 1
    assert not waits()
    assert tenants.reply("acme", "after the kill") == "The model heard: after the kill"


def facts(archive: Path, directory: Path, token: str) -> dict[str, Any]:
    """What an agent knows, by its archive; of webhooks only the one of its own that is called *token*."""
    with tarfile.open(archive) as opened:
        unpack(opened, directory)
    home = directory / "home"
    with sqlite3.connect(home / "state.db") as database:
        said = database.execute("select role, content from messages order by id").fetchall()
    jobs = json.loads((home / "cron/jobs.json").read_text())["jobs"]
    return {
        "sessions": said,
        "memories": (home / "memories/MEMORY.md").read_text(),
        "webhooks": json.loads((home / "webhook_subscriptions.json").read_text())[token],
        "cron": [(each["id"], each["name"], each["prompt"]) for each in jobs],
    }


def test_an_agent_moves_from_a_container_to_a_tenant_and_back(tenants, cluster, tmp_path):
    """By archives, which a host and its runtimes make and take in the same form. They move an agent among themselves in
    the scenario runtimes; to begin with a whole host here would take longer than all else in this job."""
    token, archives = "bittern", iter(range(10))
    (tmp_path / "ada").mkdir()
    with declared(cluster.image, cluster.model, tmp_path / "ada") as ada:

        def archived() -> Path:
            path = tmp_path / f"ada-{next(archives)}.tar.gz"
            with open(path, "wb") as file:
                subprocess.run(["docker", "exec", ada.name, "hermes-ops", "agent", "backup"], stdout=file, check=True)
            return path

        ada.start()
        assert ada.reply(f"say {token}") == f"The model heard: say {token}"
        job = {"name": token, "schedule": "2099-01-01T00:00:00Z", "prompt": "say nothing"}
        request(ada.name, 8642, "/api/jobs", job)
        webhooks = json.dumps({token: {"prompt": token, "secret": WEBHOOK_SECRET}})
        script = 'cd "$1"; mkdir -p memories; echo "$2" >>memories/MEMORY.md; echo "$3" >webhook_subscriptions.json'
        ada.execute("sh", "-c", script, "sh", ada.home, token, webhooks)
        first = archived()
        known_at_first = facts(first, tmp_path / "first", token)
        assert known_at_first["cron"]

        moved = {"restore_tenant": "globex", "restore_upload": str(first), "restore_force": True}
        status, output = tenants.run(name="tenant_restore", **moved)
        assert (status, changed(output)) == (0, 1), output
        assert facts(backed_up(tenants, "globex"), tmp_path / "there", token) == known_at_first
        assert tenants.reply("globex", "say this there") == "The model heard: say this there"
        last = backed_up(tenants, "globex")
        known_at_last = facts(last, tmp_path / "last", token)
        assert known_at_last["sessions"][: len(known_at_first["sessions"])] == known_at_first["sessions"]

        assert ada.stop() == 0
        ada.remove()
        takes = replace(ada, words=("hermes-ops", "agent", "restore", "--force"))
        words = ["docker", "run", "--rm", "--interactive", *takes.options({}), takes.image, *takes.words[1:]]
        with open(last, "rb") as file:
            done = subprocess.run(words, stdin=file, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        ada.start()
        assert facts(archived(), tmp_path / "back", token) == known_at_last
        assert ada.reply("and back?") == "The model heard: and back?"
