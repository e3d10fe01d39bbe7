# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command of Hermes as an agent: the arguments of systemd-run, and the home that Hermes uses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import command, units
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account

ENVIRON = {
    "TERM": "xterm",
    "LANG": "de_DE.UTF-8",
    "LC_TIME": "C",
    "RESTIC_PASSWORD": "hunter2",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "PYTHONPATH": "/root",
    "LCX": "1",
}


@pytest.fixture
def host():
    return Installation(
        {
            "scope": "system",
            "data_dir": "/data",
            "ops_dir": "/data/ops",
            "root": "/opt/hermes",
            "managed_root": "/m",
        }
    )


def resolved(name="default", **declared):
    declared = {"name": name, "user": "nobody", "home": "/data/.hermes", **declared}
    return declaration.resolve([declared], host="box", data_dir="/data", managed_root="/m")[name].agent


def argv(host, agent, *words, terminal=False):
    return command.unit_command(
        host, agent, words, unit="u.service", terminal=terminal, environ=ENVIRON, directory=("/srv", "1:2")
    )


def options(argv, name):
    """The values of all options *name*."""
    end = argv.index("--")
    return [word.partition("=")[2] for word in argv[:end] if word.startswith(f"{name}=")]


def test_nothing_of_the_caller_s_environment_but_terminal_and_language(host):
    built = argv(host, resolved(), "chat")
    assert sorted(options(built, "--setenv")) == [
        "HERMES_DISABLE_LAZY_INSTALLS=1",
        "HERMES_HOME=/data/.hermes",
        "LANG=de_DE.UTF-8",
        "LC_TIME=C",
        "TERM=xterm",
    ]
    assert not any("hunter2" in word for word in built)


@pytest.mark.parametrize(
    "declared",
    [
        {},
        {"limits": {"memory": "1G", "cpu": "150%", "tasks": 99}},
        {"sandbox": {"open": ["home", "sudo"], "paths": ["/srv/shared"]}},
        {"sandbox": {"enabled": False}},
        {"config_scope": "managed"},
    ],
)
@pytest.mark.parametrize("scope", ["system", "user"])
def test_it_is_confined_as_the_agent_s_gateway_is(host, scope, declared):
    host.scope = scope
    agent = resolved(**declared)
    unit = units.UnitSettings(scope=scope, root="/opt/hermes", systemd=257, restart_sec=10, restart_max_delay_sec=300)
    lines = units.render_drop_in(unit, agent, Account.named("nobody")).splitlines()
    # The gateway's own: what it runs, where, and for how long; HERMES_HOME is set for a command, too.
    own = (
        "TimeoutStopSec=",
        "ExecStart=",
        "WorkingDirectory=",
        "RequiresMountsFor=",
        "ConditionPathIsDirectory=",
        "Environment=HERMES_HOME=",
        "User=",
    )
    gateway = [line for line in lines if "=" in line and not line.startswith(own)]
    assert gateway
    properties = options(argv(host, agent), "--property")
    assert sorted(properties) == sorted([*gateway, "User=nobody", "WorkingDirectory=/data/.hermes"])


def test_a_terminal_of_its_own_or_pipes(host):
    assert "--pty" in argv(host, resolved(), terminal=True)
    assert "--pipe" not in argv(host, resolved(), terminal=True)
    assert "--pipe" in argv(host, resolved())
    assert "--pty" not in argv(host, resolved())


def test_no_word_is_an_option_or_a_variable_of_systemd_s(host):
    words = ["--property=User=root", "$HOME", "${HOME}", "$$"]
    built = argv(host, resolved(), *words)
    behind = built[built.index("--") + 1 :]
    assert behind[-4:] == ["--property=User=root", "$$HOME", "$${HOME}", "$$$$"]
    assert options(built, "--property").count("User=root") == 0
    # The unit's description, which the journal shows, does not contain the command line.
    assert "HOME" not in "".join(options(built, "--description"))


@pytest.mark.parametrize(
    ("home", "name"),
    [
        ("/srv/agents/ada/.hermes", "default"),
        ("/data/.hermes/profiles/work", "work"),
        ("/data/.hermes/profiles/work/", "work"),
        ("/data/profiles/.hermes/x", "default"),
    ],
)
def test_the_profile_is_always_named(home, name):
    assert command.hermes("/r", home, ["chat"]) == ["/r/current/bin/hermes", "--profile", name, "chat"]


VENVS = [Path(path) for path in os.environ.get("TEST_HERMES_VENVS", "").split(":") if path]


@pytest.mark.parametrize(
    "below", ["agent/.hermes", "agent/.hermes/profiles/work", "elsewhere", "elsewhere/profiles/work"]
)
@pytest.mark.parametrize("venv", VENVS or [None], ids=lambda venv: venv.name if venv else "none")
def test_the_real_hermes_takes_the_home_that_we_mean(venv, below, tmp_path):
    """Also where ``active_profile``, or a ``-p`` behind the command, names another one."""
    if venv is None:
        pytest.skip("SKIPPED, NOT PROVED: which home Hermes takes, because TEST_HERMES_VENVS names no Hermes")
    home = tmp_path / below
    top = home.parents[1] if home.parent.name == "profiles" else home
    for name in ("other", "work"):
        (top / "profiles" / name).mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    (top / "active_profile").write_text("other\n")
    _hermes, *words = command.hermes("/r", str(home), ["config", "path", "-p", "other"])
    # Hermes' own scan of its arguments, without executing the command.
    code = (
        "import os, sys; sys.argv = ['hermes', *sys.argv[1:]]; import hermes_cli.main; print(os.environ['HERMES_HOME'])"
    )
    answer = subprocess.run(
        [venv / "bin/python", "-c", code, *words],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.defpath, "HOME": str(tmp_path / "agent"), **command.environment(str(home))},
    )
    assert answer.stdout.splitlines()[-1] == str(home)


# As _run_with_pipes() is used, with a shell for systemd-run.
RUN = f"""
import sys
sys.path.insert(0, {str(Path(command.__file__).parents[2])!r})
from hermes_ops.supervise import command
sys.exit(command._run_with_pipes(["sh", "-c", sys.argv[1]], "u.service", None))
"""


def run_shell(script, reader="cat"):
    """Standard output, standard error and exit status of the command *script*."""
    piped = ["bash", "-c", f'"$@" | {reader}; exit "${{PIPESTATUS[0]}}"', "-", sys.executable, "-c", RUN, script]
    done = subprocess.run(piped, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    return done.stdout, done.stderr, done.returncode


@pytest.mark.parametrize("stays", ["sleep 20", "timeout 20 yes"])
def test_a_command_ends_although_somebody_keeps_its_output_open(stays):
    began = time.monotonic()
    out, err, status = run_shell(f"echo out; echo err >&2; {stays} & exit 3")
    assert time.monotonic() - began < 15
    assert out.startswith(b"out\n")
    assert err.startswith(b"err\n")
    assert status == 3


def test_a_slow_reader_gets_all_that_was_said():
    out, _err, status = run_shell("head -c 1000000 /dev/zero; sleep 20 & exit", reader="(sleep 1; cat)")
    assert (len(out), status) == (1_000_000, 0)


def test_a_reader_that_goes_ends_who_writes():
    out, _err, status = run_shell("timeout 20 yes", reader="head -n 1")
    assert out == b"y\n"
    # SIGPIPE, of yes.
    assert status == 128 + 13
