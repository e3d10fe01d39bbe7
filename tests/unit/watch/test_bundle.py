# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle for triage: no secret of the host is in it, in whatever form, or there is no bundle."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import tarfile
from urllib.parse import quote, quote_plus

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import dotenv
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import bundle as debug
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import inside
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import redaction as redact

HIDDEN = redact.HIDDEN
# One of each place where a host keeps secrets; none has a look by which it could be known.
PLANTED = {
    "env": 'correct "horse"/battery+staple&\\Grüße',
    "env, private": "123456789012345678",
    "env, short": "ab1",
    "env, many lines": "first line of it\nsecond line of it",
    "env, broken line": "never-closed-quote",
    "env, URL": "database-password",
    "managed env": "managed-value-1",
    "kept env": "kept-value-of-env",
    "config": "config-value-1",
    "config, headers": "header-value-1",
    "managed config": "managed-config-1",
    "webhook": "webhook-value-1",
    "auth.json": "oauth-value-1",
    "ping URL": "5f2f9b8e-0c1e-4a7f-a3ad-5b2c0a1e7d11",
    "settings": "restic-value-1",
    "settings, env": "aws-value-1",
    "private file": "private-key-material",
}


def lines(values):
    return "".join(f"{value}\n" for value in values)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with all of :data:`PLANTED`; what its commands print is in ``host.says``."""
    monkeypatch.setattr(settings, "DIRECTORY", str(tmp_path / "etc"))
    installed = Installation(
        {
            "scope": "system",
            "data_dir": str(tmp_path),
            "ops_dir": str(tmp_path / "ops"),
            "root": str(tmp_path / "root"),
            "managed_root": str(tmp_path / "managed"),
        }
    )
    agent = described.agent(home=str(tmp_path / "home"), managed_dir=str(tmp_path / "managed/default"))
    says = {}

    def run(argv, **_options):
        return says.get(" ".join(argv), f"{argv[0]} says nothing\n")

    monkeypatch.setattr(debug, "run_tail", run)
    installed.__dict__.update(agents=[agent], account_of=lambda _agent: Account.current())
    monkeypatch.setattr(Installation, "load", lambda **_options: installed)

    records = installed.records("default")
    records.prepare()
    records.write_applied("env", {"salt": "5a" * 16, "keys": {"ALLOWED_USERS": "ab" * 32}})
    records.write_agent(agent)

    def put(path, text, mode=0o600):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    env = {
        "A_TOKEN": PLANTED["env"],
        "ALLOWED_USERS": PLANTED["env, private"],
        "DB_PASSWORD": PLANTED["env, short"],
        "PRIVATE_KEY": PLANTED["env, many lines"],
        "DATABASE_URL": f"postgres://user:{PLANTED['env, URL']}@db/name",
        "API_SERVER_HOST": "127.0.0.1",
        "SOME_DIR": "/var/lib/hermes/workspace",
    }
    broken = f'BROKEN_TOKEN="{PLANTED["env, broken line"]}\n'
    put(tmp_path / "home/.env", lines(dotenv.encode(*pair) for pair in env.items()) + broken)
    put(tmp_path / "managed/default/.env", f"M_TOKEN={PLANTED['managed env']}\n")
    put(tmp_path / "ops/agents/default/kept/.env", f"K_TOKEN={PLANTED['kept env']}\n")
    put(
        tmp_path / "home/config.yaml",
        f"# token: {PLANTED['config']}\nmodel:\n  default: stub-model\n  api_key: {PLANTED['config']}\n"
        f"mcp_servers:\n  x:\n    headers: {{X-Some: {PLANTED['config, headers']}}}\n",
    )
    put(tmp_path / "managed/default/config.yaml", f"model:\n  api_key: {PLANTED['managed config']}\n")
    put(
        tmp_path / "home/webhook_subscriptions.json",
        json.dumps({"claude-context": {"secret": PLANTED["webhook"], "prompt": "{body}"}}),
    )
    put(tmp_path / "home/auth.json", json.dumps({"nous": {"refresh_token": PLANTED["auth.json"]}}))
    put(tmp_path / "home/memories/MEMORY.md", "The agent remembers.")
    put(tmp_path / "home/gateway_state.json", json.dumps({"error": lines(PLANTED.values())}))
    put(tmp_path / "etc/heartbeat.json", json.dumps({"url": f"https://hc-ping.example.org/{PLANTED['ping URL']}"}))
    backup = {"password": PLANTED["settings"], "env": {"AWS_ID": PLANTED["settings, env"]}, "keep": 7}
    put(tmp_path / "etc/backup.json", json.dumps(backup))
    put(tmp_path / "etc/audit/client.key", PLANTED["private file"] + "\n")
    put(tmp_path / "etc/host.json", json.dumps({"user": "hermes-user-name"}), 0o644)
    put(tmp_path / "ops/status/update.json", json.dumps({"status": "failed", "message": PLANTED["managed env"]}))
    installed.says, installed.put, installed.tmp_path = says, put, tmp_path
    return installed


def contents(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return {
            member.name.split("/", 1)[1]: archive.extractfile(member).read().decode() for member in archive.getmembers()
        }


def forms(value):
    """What programs make of a value, made here by other means than in the kit."""
    yield value
    yield value.encode("unicode_escape").decode()
    yield json.dumps({"x": value})[7:-2]
    yield repr(value)[1:-1]
    yield quote(value, safe="")
    yield quote_plus(value)
    yield base64.b64encode(value.encode()).decode()
    for before in ("", "u:", "us:", "use:"):
        yield base64.b64encode(f"{before}{value}".encode()).decode()
        yield base64.urlsafe_b64encode(f"{before}{value}:after".encode()).decode()
    yield value.encode().hex()


def test_no_planted_secret_is_in_the_bundle(host):
    """Every secret, in every form, in whatever the host prints."""
    everywhere = lines(f"said: {form} end" for value in PLANTED.values() for form in forms(value))
    for words in debug.COMMANDS.values():
        host.says[" ".join(words)] = everywhere
    for what in ("cat", "show"):
        host.says[f"systemctl {what} --no-pager hermes-gateway@default.service"] = everywhere
    journal = "journalctl --no-pager --output short-iso --lines 7 _SYSTEMD_UNIT=hermes-gateway@default.service"
    host.says[journal] = everywhere
    made = debug.bundle(host, "bundle", 7)
    found = contents(made.data)
    assert sorted(found) == made.members
    assert made.left_out == {}
    assert found["journal/hermes-gateway-default.txt"].count("said: ") > 100
    everything = "\n".join([*found, *found.values()])
    for place, value in PLANTED.items():
        # A short secret is hidden only after its name.
        for form in forms(value) if len(value) >= redact.SHORTEST else [f"PASSWORD={value}"]:
            assert form not in everything, place


def test_what_triage_needs_is_there(host):
    host_says = "127.0.0.1 /var/lib/hermes/workspace hermes-user-name"
    host.says["uname --all"] = host_says
    found = contents(debug.bundle(host, "bundle", 7).data)
    assert json.loads(found["agents/default/config.yaml.json"])["model"] == {
        "default": "stub-model",
        "api_key": HIDDEN,
    }
    assert found["agents/default/env_names.txt"].splitlines()[:2] == ["A_TOKEN", "ALLOWED_USERS"]
    assert json.loads(found["agents/default/webhooks.json"])["claude-context"]["prompt"] == "{body}"
    assert json.loads(found["agents/default/applied_gateway.json"])["unit"] == "hermes-gateway@default.service"
    assert json.loads(found["agents/default/applied_env.json"]) == {"keys": {"ALLOWED_USERS": "(fingerprint)"}}
    assert '"status": "failed"' in found["jobs/update.json"]
    assert "memories/MEMORY.md" in found["agents/default/home.txt"]
    assert "PRETTY_NAME" in found["system/os.txt"]
    everything = "\n".join(found.values())
    assert "The agent remembers." not in everything
    # No secrets: a path, an address, a name.
    assert str(host.tmp_path) in everything
    assert host_says in found["system/kernel.txt"]


def test_what_looks_like_a_secret_is_hidden_though_nobody_knows_it(host):
    unknown = {
        "sk-abcdefghijklmnopqrstuvwx": "key {}",
        "ghp_abcdefghijklmnopqrstuvwx": "({})",
        "unknown-token-value": '"bot_token": "{}",',
        "unknown-password-1": "PASSWORD={}",
        "unknown-bearer-1": "Authorization: Bearer {}",
        "unknown-in-url": "https://user:{}@example.org/x",
        "unknown-in-query": "https://example.org/x?api_key={}&y=1",
        "MIIEpAIBAAKCAQEA": "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    }
    host.says["uname --all"] = lines(text.format(value) for value, text in unknown.items()) + "Linux max_tokens: 5\n"
    found = contents(debug.bundle(host, "bundle", 7).data)["system/kernel.txt"]
    assert [value for value in unknown if value in found] == []
    assert "Linux max_tokens: 5" in found


@pytest.mark.parametrize("break_over", [1, 10, 20])
def test_a_secret_broken_over_lines_is_hidden(host, tmp_path, break_over):
    value = PLANTED["webhook"] + "-and-more-of-it"
    host.put(tmp_path / "home/webhook_subscriptions.json", json.dumps({"x": {"secret": value}}))
    host.says["timedatectl"] = "\n    ".join(value[i : i + break_over] for i in range(0, len(value), break_over))
    assert contents(debug.bundle(host, "bundle", 7).data)["system/clock.txt"] == HIDDEN


def test_the_search_does_not_trust_the_hiding(host, tmp_path, monkeypatch, capsys):
    """A part that still holds a secret is left out and named; the rest of the bundle stays."""
    host.says["uname --all"] = f"Linux {PLANTED['managed env']}\n"
    monkeypatch.setattr(redact.KnownSecrets, "hide", lambda self, text: text)
    assert cli.main(["debug", "--output", str(tmp_path / "x.tar.gz")]) == cli.EXIT_OK
    assert "left out: system/kernel.txt: a secret of this host is in it" in capsys.readouterr().out
    found = contents((tmp_path / "x.tar.gz").read_bytes())
    assert "system/kernel.txt" not in found
    assert "system/kernel.txt: a secret" in found["left_out.txt"]
    assert found["system/ports.txt"] == "ss says nothing\n"


@pytest.mark.parametrize(
    ("said", "secrets"),
    [
        pytest.param("2 agents healthy, no warning", ["healthy", f"agents {HIDDEN} no warning"], id="placeholder"),
        pytest.param("restarts_allowed: 0, one agent", ["restarts", "_allowed"], id="rest of a word"),
    ],
)
def test_no_choice_of_secrets_leaves_out_a_part_about_others(host, tmp_path, said, secrets):
    """Hiding one of them makes another one recognisable."""
    host.says["uname --all"] = f"{said}\nLinux\n"
    host.put(tmp_path / "home/.env", lines(f'X{number}_TOKEN="{value}"' for number, value in enumerate(secrets)))
    made = debug.bundle(host, "bundle", 7)
    assert made.left_out == {}
    kernel = contents(made.data)["system/kernel.txt"]
    assert kernel.endswith("\nLinux\n")
    assert secrets[0] not in kernel


def test_a_file_with_a_secret_in_its_name_is_not_shown_by_it(host):
    (host.tmp_path / "home" / PLANTED["managed env"]).write_text("x")
    found = contents(debug.bundle(host, "bundle", 7).data)
    assert PLANTED["managed env"] not in found["agents/default/home.txt"]


@pytest.mark.parametrize("spoil", ["config", "webhooks", "env", "state", "pipes"])
def test_a_broken_host_is_what_it_is_for(host, tmp_path, spoil):
    home = tmp_path / "home"
    secret = "in-a-broken-file"
    if spoil == "config":
        (home / "config.yaml").write_text(f"model: [\n  api_key: {secret}\n")
    elif spoil == "webhooks":
        (home / "webhook_subscriptions.json").write_text(f'{{"x": {{"secret": "{secret}"')
    elif spoil == "env":
        (home / ".env").write_bytes(b"\xff\xfe\nA_TOKEN=" + secret.encode() + b"\n")
    elif spoil == "state":
        (home / "gateway_state.json").write_bytes(b"\xff[" * 10)
        secret = "nothing"
    else:
        for name in (".env", "config.yaml", "gateway_state.json"):
            (home / name).unlink()
            os.mkfifo(home / name)
        secret = "nothing"
    host.says["uname --all"] = f"Linux {secret}\n"
    found = contents(debug.bundle(host, "bundle", 7).data)
    assert secret == "nothing" or secret not in "\n".join(found.values())
    if spoil in ("config", "webhooks", "pipes"):
        assert "not available" in "\n".join(found.values())


def test_a_command_that_is_missing_or_fails(host, monkeypatch):
    def run(argv, **_options):
        if argv[0] == "ss":
            raise OpsError("cannot be run (No such file or directory)", where="ss")
        return "it failed\n"

    monkeypatch.setattr(debug, "run_tail", run)
    found = contents(debug.bundle(host, "bundle", 7).data)
    assert found["system/ports.txt"] == "not available: ss: cannot be run (No such file or directory)\n"
    assert found["status.txt"] == "it failed\n"


def test_the_bundle_is_private(host, tmp_path, capsys):
    output = tmp_path / "bundle.tar.gz"
    assert cli.main(["debug", "--output", str(output)]) == cli.EXIT_OK
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert f"bundle: {output}" in capsys.readouterr().out
    assert cli.main(["debug", "--output", str(output), "--json"]) == cli.EXIT_OK
    assert "status.txt" in json.loads(capsys.readouterr().out)["members"]


def test_a_home_of_many_files(tmp_path, monkeypatch):
    for number in range(5):
        (tmp_path / "a" / "b" / str(number)).mkdir(parents=True)
        (tmp_path / "a" / "b" / str(number) / "f").write_text("12345")
    (tmp_path / "x\x1b[2J\ny").write_text("")
    listing = inside.listing(str(tmp_path))
    assert "a/b/…: 10 entries" in listing
    assert "\x1b" not in listing
    monkeypatch.setattr(inside, "LISTED", 1)
    assert "and 2 more" in inside.listing(str(tmp_path))
