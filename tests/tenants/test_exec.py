# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands in the pods of tenants: a real API server passes them on to a node that speaks Kubernetes' own protocol."""

from __future__ import annotations

import io
import os
import resource
import stat
import threading
import time

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import asking, execute
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.execute import Command
from played_node import put
from space import Space

MIB = 2**20


@pytest.fixture
def cluster(server, namespace, node):
    """One tenant whose agent runs."""
    Space(server, namespace).converge({"name": "acme"})
    node.run(namespace, "hermes-acme")
    with Cluster(server.kubeconfig, "", namespace) as cluster:
        yield cluster


def run(cluster: Cluster, *words: str, **more) -> tuple[execute.Ended, bytes]:
    out = io.BytesIO()
    return execute.execute(cluster, "hermes-acme-0", Command(words, **more), out), out.getvalue()


def test_a_command_gets_its_words_and_input_and_says_how_it_ended(cluster, node):
    put(
        node,
        "given = sys.stdin.buffer.read(int(words[0]))\n"
        "sys.stdout.buffer.write(repr(words[1:]).encode() + given)\n"
        "sys.stderr.buffer.write(b'\\xff\\x1b[2J done')\nsys.exit(7)",
    )
    given = os.urandom(3 * MIB)
    ended, out = run(cluster, str(len(given)), "a b", "$(c) é", "", given=given)
    assert out == repr(["a b", "$(c) é", ""]).encode() + given
    assert ended == execute.Ended(7, "\ufffd\\x1b[2J done")
    assert run(cluster, "0")[0].status == 7


def test_much_output_goes_through_little_memory(cluster, node, tmp_path):
    put(node, "print('the client imports what it needs')")
    run(cluster)
    put(node, f"for _ in range(200): sys.stdout.buffer.write(b'x' * {MIB})\nsys.stderr.write('y' * {MIB} + 'end')")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open(tmp_path / "out", "wb") as out:
        ended = execute.execute(cluster, "hermes-acme-0", Command((), most=200 * MIB), out)
    assert ((tmp_path / "out").stat().st_size, ended.status) == (200 * MIB, 0)
    assert 16_000 < len(ended.said) < 16 * 1024
    assert ended.said.endswith("yend")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_too_much_output_and_too_much_time_end_it(cluster, node):
    put(node, "while True: sys.stdout.write('x' * 99999)")
    with pytest.raises(OpsError, match="wrote more than 1000000 bytes"):
        run(cluster, most=1_000_000)
    put(node, "time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(OpsError, match="has not ended after 1"):
        run(cluster, seconds=1)
    assert time.monotonic() - began < 10


def test_a_silent_command_is_waited_for(cluster, node, monkeypatch):
    monkeypatch.setattr(execute, "_SILENCE", 0.1)
    put(node, "time.sleep(2); print('at last')")
    assert run(cluster)[1] == b"at last\n"


def test_a_disk_that_is_full_is_no_cut_connection(cluster, node):
    put(node, "print('x' * 100000)")
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OpsError, match="/dev/full: cannot be written"):
        execute.execute(cluster, "hermes-acme-0", Command(()), full)


def test_what_cannot_be_run_is_said(cluster, node, server):
    with pytest.raises(OpsError, match=r"could not be run: .*no such file or directory"):
        run(cluster)
    with pytest.raises(OpsError, match='pods "hermes-nobody-0" not found'):
        execute.execute(cluster, "hermes-nobody-0", Command(("true",)), io.BytesIO())
    node.kill()
    with pytest.raises(OpsError, match="refused"):
        run(cluster)


def test_a_node_that_dies_meanwhile_is_an_error(cluster, node):
    put(node, "print('begun', flush=True); time.sleep(60)")
    threading.Timer(1.0, node.kill).start()
    with pytest.raises(OpsError, match="was cut off"):
        run(cluster, seconds=20)


def test_tenants_that_cannot_be_asked_are_named_and_the_others_answer(cluster, node, server, namespace):
    Space(server, namespace).converge({"name": "acme"}, {"name": "Initech GmbH"}, {"name": "new"})
    node.run(namespace, "hermes-initech-gmbh", "waiting")
    put(node, "sys.stdout.write(os.environ['POD'] + ' \\x1b]0;')")
    answers = asking.ask(cluster, ["acme", "nobody", "Initech GmbH", "new"], Command(()))
    assert answers.lines == {"acme": ["hermes-acme-0 agent \\x1b]0;"]}
    assert {name: str(error) for name, error in answers.errors.items()} == {
        "Initech GmbH": "tenant Initech GmbH: does not run: CrashLoopBackOff. "
        "Fix: see how it is: alwayson.hermes.tenants_status",
        "new": "tenant new: does not run: the cluster has made no pod for it. "
        "Fix: see how it is: alwayson.hermes.tenants_status",
        "nobody": "tenant nobody: is not there. Fix: see how it is: alwayson.hermes.tenants_status",
    }
    assert {*asking.ask(cluster, [], Command(())).errors} == {"Initech GmbH", "new"}


def test_one_tenant_fills_no_disk(cluster, node, server, namespace, tmp_path):
    Space(server, namespace).converge({"name": "acme"}, {"name": "globex", "volume": "64Mi"})
    node.run(namespace, "hermes-globex")
    there = tmp_path / "there"
    put(node, "while True: sys.stdout.write('x' * 99999)")
    answers = asking.fetch(cluster, ["globex"], asking.backup(), str(there))
    assert "wrote more than 100663296 bytes" in str(answers.errors["globex"])
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking.space, "RESERVE", free - 8 * MIB)
        answers = asking.fetch(cluster, ["globex"], asking.backup(), str(there))
    assert "has no room" in str(answers.errors["globex"])
    assert [*there.iterdir()] == []


def test_a_directory_of_everybody_is_refused_and_what_lies_in_one_is_not_touched(cluster, node, tmp_path, monkeypatch):
    put(node, "print('x')")
    tmp_path.chmod(0o777)
    with pytest.raises(OpsError, match="can be written by everybody"):
        asking.fetch(cluster, [], asking.backup(), str(tmp_path))
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(asking.secrets, "token_hex", lambda _bytes: "guessed")
    monkeypatch.setattr(asking.archives, "free_name", lambda directory, name: f"{directory}/{name}")
    theirs = tmp_path / "acme.guessed.partial"
    theirs.write_text("theirs")
    answers = asking.fetch(cluster, [], asking.backup(), str(tmp_path))
    assert "cannot be written (File exists)" in str(answers.errors["acme"])
    assert theirs.read_text() == "theirs"


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("sys.stdout.write('no archive')", r"acme-.*\.partial"),
        ("sys.stderr.write('hermes-ops: the disk is full')\nsys.exit(2)", "ended with status 2: the disk is full"),
        ("sys.stdout.write('x')\nos.kill(os.getpid(), 9)", "could not be run|ended with status"),
    ],
)
@pytest.mark.parametrize("wanted", [asking.backup, asking.bundle])
def test_no_file_is_left_that_is_not_whole(cluster, node, tmp_path, program, error, wanted):
    put(node, program)
    answers = asking.fetch(cluster, [], wanted(), str(tmp_path / "there"))
    assert answers.paths == {}
    with pytest.raises(OpsError, match=error):
        raise answers.errors["acme"]
    assert [*(tmp_path / "there").iterdir()] == []
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o700
