# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent does to keep the rotation from the logs of others, against the real logrotate."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import logs
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import run

pytestmark = pytest.mark.skipif(
    not os.path.exists("/usr/sbin/logrotate"), reason="SKIPPED, NOT PROVED: needs logrotate (apt install logrotate)"
)

SETTINGS = logs.Settings(days=14, max_size="1k", paths=(), journal_max_use="500M", journal_days=0)
ME = Account.current().name


def write(path: str) -> str:
    """A log that is to be rotated."""
    Path(path).write_text("line\n" * 1000)
    return path


def agent_s(tmp_path: Path, name: str) -> logs.Home:
    home = tmp_path / name
    (home / "logs").mkdir(parents=True)
    return logs.Home(name, str(home), ME, logs.group_of(ME))


def rotate(tmp_path: Path, home: logs.Home, **limits: int) -> subprocess.CompletedProcess:
    """What the unit of *home* starts, with smaller *limits* (of prlimit(1)) than its own."""
    (rotation,) = logs.rotations(SETTINGS, [home])
    for path in (logs.CONFIG, logs.STATE):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    config = Path(logs.CONFIG.format(home.name))
    config.write_text(rotation.config)
    config.chmod(0o644)
    (command,) = re.findall("^ExecStart=(.*)$", logs.render_unit(rotation), re.M)
    if os.geteuid() != 0:
        # Giving up groups is root's.
        command = command.replace("setpriv --clear-groups ", "")
    limited = ["prlimit", *(f"--{name}={value}" for name, value in limits.items())]
    return subprocess.run([*limited, *shlex.split(command)], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files of rotations lie in tmp_path."""
    for name in ("CONFIG", "STATE"):
        monkeypatch.setattr(logs, name, str(tmp_path) + getattr(logs, name))


def test_with_a_hole_of_terabytes_an_agent_delays_its_own_logs_only(tmp_path, files):
    hostile, other = agent_s(tmp_path, "hostile"), agent_s(tmp_path, "other")
    os.truncate(write(f"{hostile.path}/logs/mcp-stderr.log"), 6 * 2**40)
    write(f"{other.path}/logs/mcp-stderr.log")
    # It ends, killed by the kernel for the processor's time that it took.
    assert rotate(tmp_path, hostile, cpu=1).returncode < 0
    # What it copied of the hole is one, and takes no place on the disk.
    assert os.stat(f"{hostile.path}/logs/mcp-stderr.log.1").st_blocks < 100
    assert rotate(tmp_path, other).returncode == 0
    assert sorted(os.listdir(f"{other.path}/logs")) == ["mcp-stderr.log", "mcp-stderr.log.1.gz"]


def test_a_log_that_is_too_large_to_be_copied_is_an_error_of_that_log(tmp_path, files):
    home = agent_s(tmp_path, "default")
    os.truncate(write(f"{home.path}/logs/hermes-update.log"), 4 * 2**20)
    for name in ("mcp-stderr.log", "update.log"):
        write(f"{home.path}/logs/{name}")
    done = rotate(tmp_path, home, fsize=2**20)
    assert done.returncode == 1
    assert "hermes-update.log.1: File too large" in done.stderr
    assert sorted(os.listdir(f"{home.path}/logs")) == [
        "hermes-update.log",
        *("mcp-stderr.log", "mcp-stderr.log.1.gz"),
        *("update.log", "update.log.1.gz"),
    ]
    # Nothing is lost of it.
    assert os.path.getsize(f"{home.path}/logs/hermes-update.log") == 4 * 2**20


def test_a_renamed_hole_that_gzip_does_not_get_to_the_end_of_leaves_nothing_behind(tmp_path, files):
    home = agent_s(tmp_path, "default")
    hole, log = (f"{home.path}/{name}.log" for name in ("logs/gateway-exit-diag", "interrupt_debug"))
    os.truncate(write(hole + ".1"), 6 * 2**40)
    for path in (hole, log, log + ".1"):
        write(path)
    done = rotate(tmp_path, home, cpu=1)
    assert (done.returncode, "failed to compress log" in done.stderr) == (1, True)
    assert os.listdir(f"{home.path}/logs") == ["gateway-exit-diag.log", "gateway-exit-diag.log.1"]
    assert sorted(os.listdir(home.path)) == ["interrupt_debug.log.1", "interrupt_debug.log.2.gz", "logs"]


def test_the_check_of_a_configuration_looks_at_no_log(tmp_path, monkeypatch):
    """However many there are, it says nothing of them: site.yml goes on."""
    home = agent_s(tmp_path, "hostile")
    for number in range(500):
        Path(home.path, f"logs/action-{number}.log").touch()
    monkeypatch.setattr(logs, "run", lambda argv, **options: run(argv, **options, limit=2**14))
    logs.check_config(logs.render_config(SETTINGS, home), "its configuration")


def test_what_logrotate_itself_says_of_a_configuration(tmp_path):
    home = logs.Home("default", str(tmp_path), "nobody-s", "nogroup-s")
    with pytest.raises(OpsError, match=r"logrotate refuses it: .*unknown user 'nobody-s'") as refused:
        logs.check_config(logs.render_config(SETTINGS, home), "its configuration")
    assert refused.value.where == "its configuration"


@pytest.mark.skipif(os.geteuid() != 0, reason="a user's groups are root's to change")
def test_what_an_agent_may_change_is_in_no_group_of_root_s(tmp_path, files):
    script = tmp_path / "logrotate"
    script.write_text("#!/bin/sh\nexec grep Groups /proc/self/status\n")
    script.chmod(0o755)
    (rotation,) = logs.rotations(SETTINGS, [agent_s(tmp_path, "work")])
    (command,) = re.findall("^ExecStart=(.*)$", logs.render_unit(rotation), re.M)
    words = shlex.split(command.replace("/usr/sbin/logrotate", str(script)))
    # As systemd in a container.
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60, extra_groups=[0]).stdout
    assert said.split() == ["Groups:"]
