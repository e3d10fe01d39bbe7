# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a prepared copy of a home Hermes itself would connect no platform."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import dotenv
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Server
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.declaration import resolve
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets import store as fetched
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import canary, copy, units
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Unit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.worker import WorkerDied

VENVS = list(filter(None, os.environ.get("TEST_HERMES_VENVS", "").split(os.pathsep)))
PLATFORM_SECRET = "a-token-of-a-platform"

# Asks the real Hermes, in a process of its own, which platforms it would start. Like `hermes gateway run` it reads the
# .env files first.
ASK_HERMES = """
import json, pathlib, sys
from hermes_cli.env_loader import load_hermes_dotenv
load_hermes_dotenv()
from gateway.config import load_gateway_config
found = load_gateway_config()
json.dump(sorted(p.value for p, c in found.platforms.items() if c.enabled), sys.stdout)
"""


@pytest.fixture
def host(tmp_path: Path) -> Installation:
    made = Installation(
        {
            "scope": "system",
            "data_dir": str(tmp_path),
            "ops_dir": str(tmp_path / "ops"),
            "root": "/opt/hermes",
            "managed_root": str(tmp_path / "managed"),
        }
    )
    made.__dict__.update(agents=[], account_of=lambda _agent: Account.current())
    return made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "copy"
    path.mkdir()
    return path


def agent(host: Installation, name: str = "default", **declared) -> dict:
    ports = {} if name == "default" else {"api": {"port": 8700}}
    found = resolve(
        [{"name": name, **ports, **declared}],
        host="box",
        data_dir=host.data_dir,
        managed_root=host.managed_root,
    )
    return replace(found[name].agent, user="nobody")


def managed(described: dict) -> tuple[dict, dict[str, str]]:
    directory = Path(described.managed_dir)
    return yaml.safe_load((directory / "config.yaml").read_text()), dotenv.read_env(str(directory / ".env"))


def test_tokens_jobs_hooks_and_subscriptions_are_gone_and_the_rest_is_there(host, home):
    (home / ".env").write_text(
        "OPENROUTER_API_KEY=model\nTELEGRAM_BOT_TOKEN=1:a\nexport DISCORD_BOT_TOKEN='b'\nQQ_APP_ID=c\n"
        "GOOGLE_API_KEY=model\nGOOGLE_CHAT_PROJECT_ID=d\nHERMES_HOME=/elsewhere\nHERMES_MANAGED_DIR=/elsewhere\n"
    )
    (home / "cron" / "output").mkdir(parents=True)
    (home / "hooks" / "one").mkdir(parents=True)
    for name in ("cron/jobs.json", "cron/executions.db", "hooks/one/handler.py", "SOUL.md", "gateway.pid",
                 "gateway_state.json", "webhook_subscriptions.json", "gateway.json", "state.db"):  # fmt: skip
        (home / name).write_text("{}")
    canary.prepare(host, agent(host), str(home))
    assert dotenv.read_env(str(home / ".env")) == {"OPENROUTER_API_KEY": "model", "GOOGLE_API_KEY": "model"}
    left = {str(path.relative_to(home)) for path in home.rglob("*")}
    assert left == {
        ".env", "config.yaml", ".canary", ".canary/.env", ".canary/config.yaml", "cron", "cron/output",
        "cron/executions.db", "SOUL.md", "state.db",
    }  # fmt: skip


def test_it_has_a_key_and_a_port_of_its_own_on_the_loopback_address(host, home):
    (home / ".env").write_text("API_SERVER_KEY=the-real-one-0123456789\nAPI_SERVER_HOST=0.0.0.0\n")
    declared = agent(host, webhooks=[{"name": "hook", "prompt": "x", "secret": "y" * 20}], health={"webhook": "hook"})
    described = canary.prepare(host, declared, str(home))
    settings, variables = managed(described)
    port = described.api.port
    assert described.api == Server(True, "127.0.0.1", port)
    assert port != 8642
    assert settings["platforms"]["api_server"] == {"enabled": True, "extra": {"host": "127.0.0.1", "port": port}}
    assert (variables["API_SERVER_HOST"], variables["API_SERVER_PORT"]) == ("127.0.0.1", str(port))
    assert len(variables["API_SERVER_KEY"]) == 64
    # Work that the copy interrupted belongs to the agent; the canary must not resume it.
    assert 0 < float(variables["HERMES_AUTO_CONTINUE_FRESHNESS"]) < 1
    assert 0 < settings["agent"]["gateway_auto_continue_freshness"] < 1
    assert not described.webhook.enabled
    assert described.platforms == ["api_server"]
    assert described.health.webhook is None
    for name in (".env", "config.yaml", ".canary/.env", ".canary/config.yaml"):
        assert (home / name).stat().st_mode & 0o777 == 0o600


def test_without_a_free_port_it_is_said_who_may_have_them(host, home, monkeypatch):
    def refuse(*_arguments):
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(canary.socket.socket, "bind", refuse)
    monkeypatch.setattr(canary.network, "most_sockets", lambda: "hermes-work has the most sockets, 28215")
    with pytest.raises(OpsError, match=r"no free port .*; of all users, hermes-work has the most sockets, 28215"):
        canary.prepare(host, agent(host), str(home))


def test_what_is_declared_in_the_managed_scope_counts_but_for_its_platforms(host, home, tmp_path):
    scope = tmp_path / "managed" / "work"
    scope.mkdir(parents=True)
    (scope / "config.yaml").write_text("model: {default: one}\ntelegram: {enabled: true, token: x}\n1: two\n")
    (scope / ".env").write_text(f"SOME_API_KEY=model\nTELEGRAM_BOT_TOKEN={PLATFORM_SECRET}\nAPI_SERVER_KEY=real\n")
    described = canary.prepare(host, agent(host, "work", config_scope="managed"), str(home))
    settings, variables = managed(described)
    assert settings["model"] == {"default": "one"}
    assert settings["telegram"]["enabled"] is False
    assert settings["platforms"]["telegram"] == {"enabled": False}
    assert variables["SOME_API_KEY"] == "model"
    assert variables["TELEGRAM_BOT_TOKEN"] == ""
    assert variables["API_SERVER_KEY"] != "real"
    assert PLATFORM_SECRET not in (home / ".canary" / ".env").read_text()
    assert (scope / ".env").read_text().count(PLATFORM_SECRET) == 1


@pytest.mark.parametrize("linked", ["cron", "hooks", ".canary", "auth.json", ".env", "config.yaml"])
def test_a_link_in_the_copy_leads_to_no_change_outside(host, home, tmp_path, linked):
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = {"jobs.json": "{}", ".env": "TELEGRAM_BOT_TOKEN=1", "config.yaml": "", "auth.json": '{"refresh_token": 1}'}
    for name, text in kept.items():
        (outside / name).write_text(text)
    is_file = linked in kept
    (home / linked).symlink_to(outside / linked if is_file else outside)
    canary.prepare(host, agent(host), str(home))
    assert {path.name: path.read_text() for path in outside.iterdir()} == kept


def test_a_file_that_does_not_parse_is_named_with_its_line(host, home):
    (home / "config.yaml").write_text("model:\n  default: [one\nother: two\n")
    with pytest.raises(OpsError, match=r"copy/config.yaml:\d"):
        canary.prepare(host, agent(host), str(home))


@pytest.mark.parametrize(
    "place", ["agents/default/.hermes", "agents/default/.hermes/copy", "agents/default", "profiles/copy", "a b"]
)
def test_a_copy_in_a_wrong_place_is_refused(host, place, tmp_path):
    with pytest.raises(OpsError):
        canary.prepare(host, agent(host), os.path.normpath(tmp_path / place))


def store(active: str | None, **providers) -> str:
    return json.dumps({"active_provider": active, "providers": providers})


@pytest.mark.parametrize(
    ("files", "name", "reply"),
    [
        ({}, "default", True),
        ({"copy/auth.json": store("nous", nous={"access_token": "a", "refresh_token": "r"})}, "default", False),
        ({"copy/auth.json": store("nous", nous={"tokens": {"refresh_token": "r"}})}, "default", False),
        ({"copy/auth.json": store("zai", zai={"key": "k"}, spotify={"refresh_token": "r"})}, "default", True),
        ({"copy/.anthropic_oauth.json": '{"refreshToken": "r"}'}, "default", False),
        # A Hermes profile of an adopted home uses that home's login.
        ({".hermes/auth.json": store("nous", nous={"refresh_token": "r"})}, "work", False),
        ({".hermes/auth.json": store("nous", nous={"refresh_token": "r"})}, "default", True),
    ],
)
def test_no_login_is_renewed_by_the_copy(host, home, tmp_path, files, name, reply):
    (tmp_path / ".hermes").mkdir()
    for path, text in files.items():
        (tmp_path / path).write_text(text)
    adopted = {"home": f"{tmp_path}/.hermes/profiles/work"} if name == "work" else {}
    described = canary.prepare(host, agent(host, name, **adopted), str(home))
    assert described.health.reply is reply
    for path in home.rglob("*.json"):
        assert not re.search("refresh_?token", path.read_text(), re.I), path
    for path in (tmp_path / ".hermes").iterdir():
        assert path.read_text() == files[f".hermes/{path.name}"]


def test_its_unit_is_the_sandbox_of_a_gateway_and_sees_nothing_but_the_copy(host, home):
    described = canary.prepare(host, agent(host, sandbox={"enabled": False, "open": ["home"]}), str(home))
    pairs = canary.properties(host, described, 100.0, online=True)
    values = {name: [v for n, v in pairs if n == name] for name, _value in pairs}
    managed = values.pop("InaccessiblePaths")
    assert managed == [units.SANDBOX["InaccessiblePaths"], f"-{host.managed_root}"]
    sandbox = {name: [value] for name, value in units.SANDBOX.items() if name != "InaccessiblePaths"}
    assert {name: values[name] for name in sandbox} == sandbox
    assert values["TemporaryFileSystem"] == [f"{host.data_dir}:ro"]
    assert values["BindPaths"] == values["ReadWritePaths"] == [str(home)]
    offline = dict(canary.properties(host, described, 100.0, online=False))
    assert (offline["IPAddressDeny"], offline["IPAddressAllow"]) == ("any", "localhost")
    # Everybody who may list units can read these values.
    assert dotenv.read_env(os.path.join(described.managed_dir, ".env"))["API_SERVER_KEY"] not in str(pairs)


def test_it_gets_its_share_of_what_a_source_gives(host, home):
    described = canary.prepare(host, agent(host, secrets_from={"ssm": "/hermes/prod"}), str(home))
    pairs = canary.properties(host, described, 100.0, online=True)
    assert [value for name, value in pairs if name == "EnvironmentFile"] == ["/run/hermes-ops/secrets/.canary.env"]
    assert ("LimitCORE", "1") in pairs
    lent = ("OPENAI_API_KEY", "API_SERVER_KEY", "TELEGRAM_BOT_TOKEN", "SLACK_APP_TOKEN", "HERMES_HOME")
    assert list(filter(copy.is_lent, lent)) == ["OPENAI_API_KEY", "API_SERVER_KEY"]


def test_its_share_goes_with_it_also_if_it_could_not_be_started(host, home, tmp_path, monkeypatch):
    monkeypatch.setattr(fetched, "DIRECTORY", str(tmp_path / "secrets"))
    monkeypatch.setattr(fetched, "_kind_of", lambda _path: "tmpfs")
    fetched.prepare()
    fetched.keep("default", {"OPENAI_API_KEY": "hunter2"})
    lent = []

    def refuse(argv, **_options):
        lent.extend((tmp_path / "secrets").glob(".canary.env"))
        raise OpsError("the bus is gone")

    monkeypatch.setattr(canary, "run", refuse)
    monkeypatch.setattr(canary, "end", lambda _manager: None)
    monkeypatch.setattr(canary._Attempt, "failed", lambda _attempt, problem: OpsError(problem.what))
    described = canary.prepare(host, agent(host, secrets_from={"ssm": "/hermes/prod"}), str(home))
    with pytest.raises(OpsError, match="does not start"):
        canary.boot(host, "0.19.0-x", described, reply=False, timeout=1)
    assert tmp_path / "secrets/.canary.env" in lent
    assert not list((tmp_path / "secrets").glob(".canary*"))
    assert fetched.secrets_of("default") == {"OPENAI_API_KEY": "hunter2"}


def test_a_home_outside_of_the_data_directory_is_hidden_as_well(host, home):
    described = canary.prepare(host, agent(host), str(home))
    host.__dict__["agents"] = [agent(host), agent(host, home="/srv/agent")]
    pairs = canary.properties(host, described, 100.0, online=True)
    assert [v for n, v in pairs if n == "TemporaryFileSystem"] == [f"{host.data_dir}:ro", "/srv/agent:ro"]


def every_way(packages: Path) -> tuple[set[str], dict]:
    """Variables and settings that between them enable every platform of a Hermes."""
    source = (packages / "gateway" / "config.py").read_text()
    names = set(re.findall(r"getenv\w*\(\s*\"([A-Z][A-Z0-9_]+)\"", source))
    for manifest in (packages / "plugins" / "platforms").glob("*/plugin.y*ml"):
        names |= set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", manifest.read_text()))
    builtin = re.findall(r"^    [A-Z_]+ = \"(\w+)\"", source.split("class Platform(Enum)")[1].split("def ")[0], re.M)
    plugins = [path.name for path in (packages / "plugins" / "platforms").iterdir() if path.is_dir()]
    platforms = {name: {"enabled": True, "token": PLATFORM_SECRET} for name in {*builtin, *plugins} - {"local"}}
    on = {"platforms": platforms, "gateway": {"platforms": platforms, "relay_url": "wss://x.invalid"}, **platforms}
    # Otherwise Hermes would install the platforms' packages when it looks for them.
    on["security"] = {"allow_lazy_installs": False}
    return names - {"API_SERVER_PORT", "API_SERVER_HOST", "GATEWAY_MULTIPLEX_PROFILES"}, on


@pytest.mark.parametrize("venv", VENVS)
@pytest.mark.parametrize("scope", ["home", "managed"])
def test_hermes_itself_finds_only_the_api_server_however_platforms_are_enabled(host, home, tmp_path, venv, scope):
    (packages,) = Path(venv).glob("lib/python3*/site-packages")
    names, settings = every_way(packages)
    text = "".join(f"{name}=true-{PLATFORM_SECRET}\n" for name in sorted(names))
    text = re.sub(r"^(\w+_ENABLED)=.*$", r"\1=true", text, flags=re.M)
    place = home if scope == "home" else tmp_path / "managed" / "default"
    place.mkdir(parents=True, exist_ok=True)
    (place / ".env").write_text(text)
    (place / "config.yaml").write_text(yaml.safe_dump(settings))
    # The settings layer below config.yaml, a second .env, and the environment of the process (as from a password
    # manager).
    (home / "gateway.json").write_text(json.dumps({"platforms": settings["platforms"]}))
    (home / ".op.env").write_text(text)
    given = dict(line.split("=", 1) for line in text.splitlines())

    def ask(**environ: str) -> list[str]:
        environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HERMES_HOME": str(home), **given, **environ}
        command = [Path(venv) / "bin/python", "-c", ASK_HERMES]
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    before = ask(HERMES_MANAGED_DIR=str(place) if scope == "managed" else "")
    assert {"api_server", "telegram", "discord", "email", "feishu", "signal", "webhook", "weixin"} <= set(before)
    described = canary.prepare(host, agent(host, config_scope=scope), str(home))
    assert ask(HERMES_MANAGED_DIR=described.managed_dir) == ["api_server"]


@pytest.mark.parametrize("venv", VENVS)
def test_all_platforms_of_hermes_are_known(venv):
    (packages,) = Path(venv).glob("lib/python3*/site-packages")
    _names, settings = every_way(packages)
    assert set(settings["platforms"]) - {"api_server"} <= set(copy.PLATFORMS)


# Hostile copies.


def spoil(path: Path, kind: str) -> None:
    """Replace a file with something from which a parser, a reader or a walk would never return."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 2**40)
    else:
        path.write_text("[" * 200_000)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("config.yaml", ".env", "auth.json") for kind in ("pipe", "sparse")),
        ("config.yaml", "nested"),
        ("auth.json", "nested"),
    ],
)
def test_a_file_that_nobody_can_read_is_an_error_about_that_agent(host, home, monkeypatch, name, kind):
    monkeypatch.setattr(canary, "FIT_SECONDS", 5.0)
    spoil(home / name, kind)
    with pytest.raises(OpsError):
        canary.prepare(host, agent(host), str(home))


@pytest.mark.parametrize("kind", ["pipe", "sparse"])
def test_an_env_that_nobody_can_read_is_lent_to_nobody(host, home, tmp_path, kind):
    described = agent(host)
    Path(described.home).mkdir(parents=True)
    spoil(Path(described.home, ".env"), kind)
    with pytest.raises(OpsError):
        canary.lend_env(host, described, str(home))
    assert not (home / ".env").exists()


@pytest.mark.parametrize("kind", ["pipe", "sparse", "nested"])
def test_a_state_that_nobody_can_read_is_not_ready(host, home, kind):
    described = canary.prepare(host, agent(host), str(home))
    spoil(home / "gateway_state.json", kind)
    attempt = canary._Attempt(Account.current(), "r", described, Running())
    problem, version = attempt._look()
    assert (problem.cause, version) == ("not_ready", None)


def test_what_it_says_of_itself_is_looked_at(host, home):
    described = canary.prepare(host, agent(host), str(home))
    (home / "gateway_state.json").write_text(json.dumps({"pid": 42, "gateway_state": "starting"}))
    problem, _version = canary._Attempt(Account.current(), "r", described, Running())._look()
    assert problem.what.startswith("is not ready (starting)")


class Running:
    """A service manager in which the canary runs."""

    def units(self, names: list[str]) -> dict[str, Unit]:
        return {name: Unit(name, "loaded", "active", "running", True, 42, 0, "", 0, 0.0, False) for name in names}


RUNNING = {"pid": 42, "state": "running", "platforms": {"api_server": {"state": "connected"}}, "problem": None}


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ({}, None),
        ({"pid": 41}, "not_ready"),
        ({"state": "\x1b[2J"}, "not_ready"),
        ({"platforms": {}}, "platform_missing"),
        ({"platforms": {"api_server": {"state": "connected"}, "telegram\x1b[2J": {}}}, "platform_started"),
        ({"problem": ["no_answer", "says \x1b[2J", "see"]}, "no_answer"),
    ],
)
def test_what_a_canary_says_of_itself_is_judged_and_printable(said, cause):
    problem = canary.judge({**RUNNING, **said}, 42, 1.0)
    assert (problem and problem.cause) == cause
    assert "\x1b" not in str(problem)


def copies(host) -> list[str]:
    return sorted(os.listdir(canary.scratch_directory(host)))


def test_whatever_a_canary_leaves_is_removed_but_what_is_anothers(host, tmp_path):
    said: list[str] = []
    others = [f"{job}.{agent}.x" for job, agent in (("rehearsal", "default"), ("canary", "default-2"))]
    for name in (*others, "canary.default.left"):
        (Path(canary.scratch_directory(host)) / name / "in it").mkdir(parents=True)
    with canary.scratch(host, agent(host), "canary", said.append) as scratch:
        assert copies(host) == sorted([*others, os.path.basename(scratch)])
        descriptor = os.open(scratch, os.O_RDONLY)
        for _ in range(1300):
            os.mkdir("d", dir_fd=descriptor)
            below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(descriptor)
        os.mkfifo(os.path.join(scratch, "pipe"))
        os.symlink(tmp_path, os.path.join(scratch, "link"))
        os.mkdir(os.path.join(scratch, "shut"), 0)
        os.chmod(scratch, 0)
    assert copies(host) == sorted(others)
    assert not said


def test_a_copy_that_cannot_be_removed_is_said_and_not_waited_for(host, monkeypatch):
    place = Path(canary.scratch_directory(host)) / "canary.default.x"
    place.mkdir(parents=True)
    for number in range(2000):
        (place / str(number)).touch()
    monkeypatch.setattr(canary, "SWEEP_SECONDS", 0.0)
    said: list[str] = []
    canary.sweep(host, agent(host), "canary", said.append)
    assert len(said) == 1
    assert "agent default" in said[0]


def test_copies_that_cannot_be_removed_are_not_waited_for_one_after_the_other(host, monkeypatch):
    for name in ("canary.default.x", "canary.default.y", "canary.default.z"):
        (Path(canary.scratch_directory(host)) / name / "in it").mkdir(parents=True)
    given: list[float] = []

    def never(_account, _function, *_arguments, limits, **_options):
        given.append(limits.seconds)
        time.sleep(limits.seconds)
        raise WorkerDied("did not finish")

    monkeypatch.setattr(canary, "work", never)
    monkeypatch.setattr(canary, "SWEEP_SECONDS", 0.5)
    said: list[str] = []
    canary.sweep(host, agent(host), "canary", said.append)
    assert len(said) == 3
    assert sum(given) < 1


@pytest.fixture
def nobodys(host):
    """A host with an agent of the user nobody, in a directory that every user may enter."""
    place = Path(tempfile.mkdtemp(prefix="hermes-canary-"))
    place.chmod(0o711)
    host.account_of = lambda _agent: Account.named("nobody")
    host.data_dir = str(place)
    directory = place / "agents/default"
    directory.mkdir(parents=True)
    for path in (directory.parent, directory):
        path.chmod(0o711)
    os.chown(directory, 65534, 65534)
    yield host, replace(agent(host), directory=str(directory))
    subprocess.run(["rm", "-rf", place], check=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root starts workers as others")


@needs_root
def test_the_copy_is_made_as_the_agent_s_user(nobodys):
    host, agent = nobodys
    with canary.scratch(host, agent, "canary", print) as scratch:
        described = canary.prepare(host, agent, scratch)
        made = [Path(scratch), *Path(scratch).rglob("*")]
        assert {path.stat().st_uid for path in made} == {65534}
        assert Path(scratch).stat().st_mode & 0o777 == 0o700
        assert dict(canary.properties(host, described, 1.0, online=True))["User"] == "nobody"
    assert copies(host) == []


@needs_root
def test_the_agent_can_put_nothing_in_the_place_of_the_copy_that_root_binds(nobodys):
    host, agent = nobodys
    with canary.scratch(host, agent, "canary", print) as scratch:
        home = canary.prepare(host, agent, scratch).home
        attack = f"""
import os
for attempt in (lambda: os.rename({home!r}, {home!r} + ".away"), lambda: os.rmdir({home!r}),
                lambda: os.symlink("/etc", os.path.dirname({home!r}) + "/canary.default.link"),
                lambda: os.rename(os.path.dirname({home!r}), os.path.dirname({home!r}) + ".away")):
    try:
        attempt()
    except OSError:
        continue
    print("done")
"""
        done = subprocess.run(["/usr/bin/python3", "-I", "-c", attack], user="nobody", capture_output=True, check=True)
        assert done.stdout == b""
        assert not os.path.islink(home)


@needs_root
def test_a_place_for_copies_that_is_not_roots_is_refused(nobodys):
    host, agent = nobodys
    os.mkdir(canary.scratch_directory(host))
    os.chown(canary.scratch_directory(host), 65534, 65534)
    with pytest.raises(OpsError, match="cannot be trusted"), canary.scratch(host, agent, "canary", print):
        pass
