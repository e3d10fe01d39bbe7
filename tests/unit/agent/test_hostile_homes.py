# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Anything hostile in a home is an error about that home, which names the file and the fix."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import config, part, parts, webhooks
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import converge as agent
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.converge import (
    AgentHome,
    Config,
    Env,
    Home,
    Webhooks,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.worker import WorkerDied

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can act as somebody else")
FILES = ("config.yaml", ".env", "webhook_subscriptions.json", "SOUL.md")
EVERYTHING = AgentHome(
    Home(soul="Be kind.", user="Ada", memory="Tea."),
    Config({"model": {"default": "a/b"}, "approvals": {"mode": "smart"}}),
    Env({"PORT": "1"}, {"MY_TOKEN": "s3cret"}, ("A_KEY",)),
    Webhooks(({"name": "alerts", "prompt": "Look."},)),
)


class Agent:
    """An agent as an operator runs it, which may do anything to its home."""

    def __init__(self, directory: Path, name: str, account: Account) -> None:
        self.home = directory / name
        self.account = account
        self.records = Records(str(directory / "ops"), name)

    def converge(self, desired: AgentHome = EVERYTHING, *, check: bool = False) -> agent.Outcome:
        return agent.converge_home(str(self.home), self.account, self.records, desired, check=check)

    def refused(self, file: str, *, check: bool) -> OpsError:
        with pytest.raises(OpsError) as caught:
            self.converge(check=check)
        assert caught.value.where is not None
        assert caught.value.where.startswith(str(self.home / file))
        assert caught.value.fix
        return caught.value


@pytest.fixture
def victim(public: Path) -> Agent:
    """Converged once, so that its home is there."""
    victim = Agent(public, "a", Account.named("nobody") if os.geteuid() == 0 else Account.current())
    victim.converge()
    return victim


def put(path: Path, content: bytes | str | int) -> None:
    """A file of the agent's, with a content, or as a hole of a size."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else b"" if isinstance(content, int) else content)
    if isinstance(content, int):
        os.truncate(path, content)
    path.chmod(0o600)
    if os.geteuid() == 0:
        nobody = Account.named("nobody")
        os.chown(path, nobody.uid, nobody.gid)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
)
CONTENTS = {
    "brackets": ("config.yaml", "a: " + "[" * 100_000, "nested more than"),
    "dashes": ("config.yaml", "- " * 5_000, "nested more than"),
    "an alias bomb": ("config.yaml", BOMB, "holds more than"),
    "an alias of itself": ("config.yaml", "a: &a [*a]\n", "refers to a collection around it"),
    "a number without end": ("config.yaml", "a: " + "9" * 100_000, "cannot be used|can read"),
    "a surrogate": ("config.yaml", 'approvals: "\\ud800"\nmodel: {default: "\\udfff"}\n', "is not YAML"),
    "brackets in JSON": ("webhook_subscriptions.json", "[" * 100_000, "nested too deeply"),
    "a surrogate in JSON": ("webhook_subscriptions.json", '{"x": {"prompt": "\\ud800"}}', None),
    **{f"a hole as {file}": (file, 600 * 2**20, "is larger than") for file in FILES},
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_that_is_hard_to_read(case, victim):
    file, content, error = CONTENTS[case]
    put(victim.home / file, content)
    if error is None:
        victim.converge()
        assert not victim.converge().changed
        return
    for check in (True, False):
        with pytest.raises(OpsError, match=error) as caught:
            victim.converge(check=check)
        assert (caught.value.where or "").startswith(str(victim.home / file))
        assert caught.value.fix
    assert (victim.home / file).stat().st_size == (content if isinstance(content, int) else len(content))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("check", [True, False])
def test_a_pipe_in_a_file_s_place(file, check, victim):
    (victim.home / file).unlink()
    os.mkfifo(victim.home / file)
    assert "not a regular file" in victim.refused(file, check=check).what


@pytest.mark.parametrize("place", ["memories", "skills", "cron"])
def test_a_file_in_a_directory_s_place(place, victim):
    subprocess.run(["rm", "-r", str(victim.home / place)], check=True)
    (victim.home / place).write_text("")
    assert "not a directory" in victim.refused(place, check=False).what


def test_one_that_dies_over_a_file_names_it(victim, monkeypatch):
    # A base-60 number, which the YAML parser needs minutes to compute.
    put(victim.home / "config.yaml", "a: 1" + ":1" * 400_000)
    monkeypatch.setattr(agent, "LIMITS", agent.Limits(seconds=3))
    with pytest.raises(WorkerDied) as caught:
        victim.converge(check=True)
    assert caught.value.where == str(victim.home / "config.yaml")


def test_others_converge_all_the_same(victim, public):
    put(victim.home / "config.yaml", "a: " + "[" * 100_000)
    other = Agent(public, "b", victim.account)
    failed = []
    for each in (victim, other):
        try:
            each.converge()
        except OpsError as error:
            failed.append(error.where)
    assert failed == [f"{victim.home}/config.yaml:1"]
    assert (other.home / "config.yaml").exists()


@needs_root
@pytest.mark.parametrize("file", FILES)
def test_check_mode_reads_no_link_to_a_file_of_root_s(file, victim):
    # No directory that a worker does not see.
    with tempfile.NamedTemporaryFile("w", dir="/var/lib") as secret:
        secret.write('{"approvals": {"mode": "ROOTS-SECRET"}}\nPORT=ROOTS-SECRET\n')
        secret.flush()
        (victim.home / file).unlink()
        (victim.home / file).symlink_to(secret.name)
        outcome = victim.converge(check=True)
        assert "ROOTS-SECRET" not in repr(outcome)
        assert any(each.unpredicted for each in outcome.parts.values())
        with pytest.raises(OpsError, match="is a symbolic link to what the agent's user may not read") as caught:
            victim.converge()
        assert "ROOTS-SECRET" not in str(caught.value)
        # Whoever does as it says does not give the file of root's away.
        assert "chown --no-dereference " in caught.value.fix


@needs_root
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("file", FILES)
def test_a_link_to_what_others_let_everybody_read_is_refused(file, check, victim):
    """Followed, the other's words would be the agent's; taken for no file, it would be replaced."""
    with tempfile.TemporaryDirectory(dir="/home") as other:
        os.chmod(other, 0o755)
        theirs = Path(other, "notes")
        theirs.write_text('{"approvals": {"mode": "THEIRS"}}\nPORT=THEIRS\n')
        theirs.chmod(0o644)
        (victim.home / file).unlink()
        (victim.home / file).symlink_to(theirs)
        said = victim.refused(file, check=check)
        assert "is a symbolic link" in said.what
        assert (victim.home / file).is_symlink()


@pytest.mark.parametrize(("file", "kit"), [("config.yaml", config), ("webhook_subscriptions.json", webhooks)])
def test_what_somebody_writes_meanwhile_is_not_lost(file, kit, victim, monkeypatch):
    """The agent writes between our read and our write of a file: the plan is made again, and its key stays."""
    put(victim.home / file, "")
    request = {
        "config.yaml": {"config": [{"keys": {"ours": 1}, "beside": False}, {}]},
        "webhook_subscriptions.json": {"webhooks": [{"webhooks": [{"name": "ours"}], "purge": False}, {}]},
    }[file]
    put(victim.home / file, "{}")
    meanwhile = iter(['{"theirs": {"prompt": "x"}}', '{"theirs": {"prompt": "y"}}'])

    def disturbed(*arguments, replace=part.replace, **options):
        text = next(meanwhile, None)
        if text is not None:
            (victim.home / file).write_text(text)
        return replace(*arguments, **options)

    monkeypatch.setattr(kit, "replace", disturbed)
    assert parts.apply(str(victim.home), request, ["config: ours"])["error"] is None
    found = config.yaml_edit.load((victim.home / file).read_text(), file)
    assert found["theirs"] == {"prompt": "y"}
    assert "ours" in found


def test_who_never_stops_writing_is_told_so(victim, monkeypatch):
    count = iter(range(100))

    def disturbed(*arguments, replace=part.replace, **options):
        (victim.home / "config.yaml").write_text(f"theirs: {next(count)}\n")
        return replace(*arguments, **options)

    monkeypatch.setattr(config, "replace", disturbed)
    request = {"config": [{"keys": {"ours": 1}, "beside": False}, {}]}
    error = parts.apply(str(victim.home), request, ["config: ours"])["error"]
    assert error[:2] == ["is being changed by another process", str(victim.home / "config.yaml")]


def test_a_change_since_the_look_asks_for_its_restart_before_it_is_made(victim, monkeypatch):
    """The restart is recorded before the file changes, also for a key that somebody changes under us."""
    desired = AgentHome(config=Config({"model": {"default": "a/c"}, "approvals": {"mode": "smart"}, "port": 1}))
    victim.converge(desired)
    put(victim.home / "config.yaml", "model: {default: a/b}\napprovals: {mode: smart}\nport: 1\n")
    os.unlink(os.path.join(victim.records.directory, "restart.json"))
    asked = []

    def ask(account, function, *arguments, work=agent.work, **options):
        if function.endswith(":apply") and not asked:
            put(victim.home / "config.yaml", "model: {default: a/b}\napprovals: {mode: smart}\nport: 2\n")
        answer = work(account, function, *arguments, **options)
        if function.endswith(":apply"):
            asked.append((victim.records.restart_reasons(), "port: 2" in (victim.home / "config.yaml").read_text()))
        return answer

    monkeypatch.setattr(agent, "work", ask)
    outcome = victim.converge(desired)
    assert asked == [([], True), (["config: port"], False)]
    assert outcome.restart == ["config: port"]


@pytest.mark.parametrize("seconds", [2**34, 2**62])
def test_a_time_that_no_gateway_reads_past(seconds, victim):
    path = victim.home / "webhook_subscriptions.json"
    try:
        os.utime(path, (seconds, seconds))
    except OSError:
        pytest.skip("SKIPPED, NOT PROVED: this file system has no such time")
    if path.stat().st_mtime < 2**33:
        pytest.skip("SKIPPED, NOT PROVED: this file system has no such time")
    assert "modification time" in victim.refused("webhook_subscriptions.json", check=False).what


def test_what_is_said_of_hostile_names_is_printable(victim):
    put(victim.home / "webhook_subscriptions.json", json.dumps({"\x1b[2J" + "x" * 50_000: {"prompt": "\u202e"}}))
    desired = AgentHome(webhooks=Webhooks(purge=True))
    said = repr(
        [(each.what, each.before) for each in victim.converge(desired, check=True).parts["webhooks"].differences]
    )
    assert "\\x1b" in said
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert len(said) < 100_000


@needs_root
@pytest.mark.parametrize(
    "lie",
    [
        lambda answer: answer["parts"]["config"].update(record={"scope": "managed", "managed_dir": "/etc"}),
        lambda answer: answer["parts"]["config"].update(restart="x"),
        lambda answer: answer["parts"]["config"].update(differences=[[1, 2, 3]]),
        lambda answer: answer["parts"]["config"].update(differences=[["x", None, "y"]] * 20_000),
        lambda answer: answer["parts"]["config"].update(before=5),
        lambda answer: answer["parts"]["config"].pop("left"),
        lambda answer: answer["parts"].update(other={}),
        lambda answer: answer["parts"].pop("config"),
        lambda answer: answer.update(found=[]),
        lambda answer: answer.clear(),
    ],
)
def test_what_a_worker_says_is_not_believed(lie, victim, monkeypatch):
    """A hostile worker can neither write records of another form, nor affect what root does."""
    real = agent.work

    def lying(*arguments, **options):
        answer = real(*arguments, **options)
        lie(answer)
        return answer

    monkeypatch.setattr(agent, "work", lying)
    with pytest.raises(OpsError, match="malformed answer"):
        victim.converge(AgentHome(config=Config({"a": 1})), check=True)
