# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle, made by root, about an agent with a hostile home."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import HIDDEN
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import run_tail
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import bundle as debug
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import inside

PEM = [
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj",
    "MzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNbvJZHtCSuYEvu",
    "NMoSfm76oqFvAp8Gy0iz5sxjZmSnXyCdPEovGhLa0VzMaQ8s+CLOyS56YyCFGeJ=",
]


@pytest.fixture
def host(monkeypatch):
    """A host with the agents `bad` and `good`; what its commands say is in ``host.says``."""
    if os.geteuid() != 0:
        pytest.skip("SKIPPED, NOT PROVED: what root does about an agent's home, because we are not root")
    top = Path(tempfile.mkdtemp(prefix="hermes-bundle-", dir="/tmp"))
    top.chmod(0o755)
    nobody = Account.named("nobody")
    monkeypatch.setattr(settings, "DIRECTORY", str(top / "etc"))
    (top / "etc").mkdir()
    (top / "out").mkdir(mode=0o700)
    installed = Installation(
        {
            "scope": "system",
            "data_dir": str(top),
            "ops_dir": str(top / "ops"),
            "root": str(top / "root"),
            "managed_root": str(top / "managed"),
        }
    )
    agents = []
    for name in ("bad", "good"):
        (top / name).mkdir(mode=0o700)
        os.chown(top / name, nobody.uid, nobody.gid)
        places = {"home": str(top / name), "managed_dir": str(top / "managed" / name)}
        agents.append(described.agent(name, user="nobody", **places))
    says: dict[str, str] = {}
    monkeypatch.setattr(debug, "run_tail", lambda argv, **_options: says.get(" ".join(argv), f"{argv[0]} says\n"))
    installed.__dict__.update(agents=agents)
    monkeypatch.setattr(Installation, "load", lambda **_options: installed)
    installed.says, installed.top = says, top
    # Above a home that pytest made for root alone, a worker could not get in.
    yield installed
    # Also what is deeper than Python goes by recursion.
    subprocess.run(["rm", "-r", top], check=True)


def put(host, name, content):
    path = host.top / "bad" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    nobody = Account.named("nobody")
    os.chown(path, nobody.uid, nobody.gid)
    path.chmod(0o600)


def parts(made):
    with tarfile.open(fileobj=io.BytesIO(made.data), mode="r:gz") as archive:
        return {entry.name.partition("/")[2]: archive.extractfile(entry).read().decode() for entry in archive}


JOURNAL = "journal/hermes-gateway-bad.txt"


def said_by_bad(host, text):
    host.says["journalctl --no-pager --output short-iso --lines 7 _SYSTEMD_UNIT=hermes-gateway@bad.service"] = text


def test_what_was_pasted_into_env_is_no_name_and_no_text(host):
    put(
        host,
        ".env",
        "GOOD_NAME=1\nKEY_PEM=-----BEGIN PRIVATE KEY-----\n" + "\n".join(PEM) + "\n-----END PRIVATE KEY-----\n"
        'correct-horse-battery-staple\nOTHER="never closed quote\nhunter2secret-token-value-9911\n',
    )
    said_by_bad(host, f"x {PEM[1]} y\ncorrect-horse-battery-staple\nhunter2secret-token-value-9911\n{PEM[2]}\n")
    found = parts(debug.bundle(host, "b", 7))
    assert found["agents/bad/env_names.txt"].splitlines()[:2] == ["GOOD_NAME", "KEY_PEM"]
    everything = "\n".join(found.values())
    for secret in (*PEM, "correct-horse", "hunter2", PEM[2][:20]):
        assert secret not in everything
    assert found[JOURNAL] == f"x {HIDDEN} y\n{HIDDEN}\n{HIDDEN}\n{HIDDEN}\n" or HIDDEN in found[JOURNAL]


def test_secrets_of_config_yaml_are_hidden_there_and_elsewhere(host):
    secrets = {
        "webhook_url": "https://hooks.slack.com/services/T000/B000/XXXXsecretXXXX",
        "accessToken": "some-access-1",
        "clientSecret": "some-client-1",
        "bot_pass": "hunter2-pass",
        "pin": 49381755,
        "auth": "dXNlcjpwYXNz",
    }
    arguments = ["--token", "some-argument-1", "--api-key=some-argument-2"]
    config = {"platforms": {"x": {"extra": secrets}}, "mcp_servers": {"x": {"args": arguments}}}
    put(host, "config.yaml", "# password: some-comment-1\n" + json.dumps(config))
    put(host, "webhook_subscriptions.json", json.dumps({"x": {"deliver_extra": {"bot_token": "some-bot-token-1"}}}))
    values = [
        "XXXXsecretXXXX",
        "some-access-1",
        "some-client-1",
        "hunter2-pass",
        "49381755",
        "dXNlcjpwYXNz",
        "some-argument-1",
        "some-argument-2",
        "some-comment-1",
        "some-bot-token-1",
    ]
    said_by_bad(host, "".join(f"it was {value} here\n" for value in values))
    found = parts(debug.bundle(host, "b", 7))
    everything = "\n".join(found.values())
    assert [value for value in values if value in everything] == []
    assert found[JOURNAL] == f"it was {HIDDEN} here\n" * len(values)
    assert json.loads(found["agents/bad/config.yaml.json"])["mcp_servers"]["x"]["args"][0] == "--token"


SPOILS = {
    "pipes": lambda home: [
        os.mkfifo(home / name) for name in (".env", "config.yaml", "auth.json", "gateway_state.json")
    ],
    "a hole": lambda home: [(home / ".env").write_bytes(b""), os.truncate(home / ".env", 2**40)],
    "a hole of a state": lambda home: [
        (home / "gateway_state.json").write_bytes(b""),
        os.truncate(home / "gateway_state.json", 2**40),
    ],
    "an endless device": lambda home: (home / ".env").symlink_to("/dev/zero"),
    "itself": lambda home: (home / "config.yaml").symlink_to("config.yaml"),
    "nested lists": lambda home: (home / "config.yaml").write_text("x: " + "[" * 100_000),
    "nested JSON": lambda home: (home / "auth.json").write_text("[" * 100_000),
    "aliases": lambda home: (home / "config.yaml").write_text(
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    ),
    "directories": lambda home: nest(home, 1500),
    "a large .env": lambda home: (home / ".env").write_text(
        "".join(f"T{number}_TOKEN={number:040x}\n" for number in range(25_000))
    ),
    "many quotes": lambda home: (home / ".env").write_text('A="\\"' * 10_000),
    "no Unicode": lambda home: (home / ".env").write_bytes(bytes(range(256)) * 100),
    "escapes in names": lambda home: (home / "x\x1b[2J\ny").write_text(""),
}


def nest(home, depth):
    before = os.getcwd()
    try:
        os.chdir(home)
        for _ in range(depth):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("spoil", SPOILS)
def test_nothing_in_a_home_keeps_the_rest_from_being_there(host, spoil):
    """The other agent's part and the host's are there; so is what the agent said, where all its secrets are known."""
    put(host, "notes", "x")
    SPOILS[spoil](host.top / "bad")
    nobody = Account.named("nobody")
    for path in (host.top / "bad").iterdir():
        os.lchown(path, nobody.uid, nobody.gid)
    host.says["uname --all"] = "Linux box\n"
    made = debug.bundle(host, "b", 7)
    found = parts(made)
    assert found["system/kernel.txt"] == "Linux box\n"
    assert found["journal/hermes-gateway-good.txt"] == "journalctl says\n"
    assert "agents/good/home.txt" in found
    assert all("bad" in member for member in made.left_out)
    assert "\x1b" not in "".join(found.values())
    if spoil in ("a hole", "a large .env"):
        # Not all of its secrets can be known.
        assert JOURNAL in made.left_out
        assert f"{JOURNAL}: not all secrets of the agent bad are known" in found["left_out.txt"]
        assert '"bad"' in found["about.txt"]
    else:
        assert JOURNAL in found
    if spoil == "directories":
        # Python's rmtree cannot remove directories of this depth.
        subprocess.run(["rm", "-r", str(host.top / "bad" / ("d" * 200))], check=True)


@pytest.mark.parametrize("value", ["e", "0", "says", "aaaaaaaaaa", "----------", "\\"])
def test_no_line_in_env_leaves_nothing_of_a_bundle(host, value):
    put(host, ".env", f"X_TOKEN={value}\n")
    host.says["ss --listening --tcp --numeric --processes"] = "0 e aaaaaaaaaaaa ------------ \\\n"
    made = debug.bundle(host, "b", 7)
    assert made.left_out == {}
    assert parts(made)["system/ports.txt"] == "0 e aaaaaaaaaaaa ------------ \\\n"
    assert parts(made)["system/clock.txt"] == "timedatectl says\n"


def test_each_part_and_all_of_it_are_bounded(host, monkeypatch):
    monkeypatch.setattr(debug, "TOTAL_LIMIT", 2000)
    said_by_bad(host, "word " * 1000)
    made = debug.bundle(host, "b", 7)
    assert "the bundle is full" in made.left_out[JOURNAL]
    assert len("".join(parts(made).values())) < 2000 + len(parts(made)["left_out.txt"])


def test_of_what_says_more_than_fits_the_end_counts(tmp_path):
    script = "import sys\nfor n in range(200000): print('line', n)\nsys.exit(3)"
    said = run_tail(["python3", "-c", script], timeout=60, limit=1000)
    assert said.startswith("[earlier output is left out]\nline 1999")
    assert said.endswith("line 199999\n[exit status 3]\n")
    assert len(said) < 1200


def test_what_never_ends_is_ended():
    said = run_tail(["sh", "-c", "while :; do echo again; done"], timeout=1, limit=1000)
    assert said.startswith("[earlier output is left out]\nagain\n")
    assert said.endswith("[it did not finish within 1 s]\n")
    assert run_tail(["sh", "-c", "echo out; echo err >&2"], timeout=10, limit=1000) == "out\nerr\n"
    with pytest.raises(OpsError, match="cannot be run"):
        run_tail(["no-such-program"], timeout=1, limit=10)


def test_the_bundle_lies_where_no_agent_can_put_another(host, capsys):
    assert cli.main(["debug", "--output", str(host.top / "bad" / "x.tar.gz")]) == cli.EXIT_ERROR
    assert "not a directory that only root can change" in capsys.readouterr().err
    assert os.listdir(host.top / "bad") == []
    assert cli.main(["debug", "--output", str(host.top / "out" / "x.tar.gz")]) == cli.EXIT_OK
    assert (host.top / "out" / "x.tar.gz").stat().st_mode & 0o777 == 0o600


def test_a_worker_that_dies_leaves_out_its_agent_only(host, monkeypatch):
    monkeypatch.setattr(debug, "_LIMITS", debug.Limits(seconds=0))
    made = debug.bundle(host, "b", 7)
    assert {JOURNAL, "journal/hermes-gateway-good.txt"} <= made.left_out.keys()
    assert "system/kernel.txt" in made.members


def test_names_that_may_be_pieces_of_a_key_are_counted():
    assert (
        inside.env_names("A_KEY=1\nhttp_proxy=x\nMIIEvQ=\nB\n") == "A_KEY\nhttp_proxy\nand 1 not named like a setting\n"
    )
