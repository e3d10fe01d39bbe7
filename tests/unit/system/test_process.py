# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that are run: whose environment they get."""

from __future__ import annotations

import ctypes
import os
import time

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import run, run_tail


def environment(**options):
    said = run(["env", "--null"], timeout=20, cwd="/", **options).stdout
    return dict(line.split("=", 1) for line in said.split("\0") if line)


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv("RESTIC_PASSWORD", "hunter2")
    monkeypatch.setenv("HOME", "/root")


# Of linux/keyctl.h: the call joins a session keyring, adds a key to it (add_key(2)), or reads one.
_READ_KEY = """
import ctypes, sys
text = ctypes.create_string_buffer(64)
number = ctypes.CDLL(None).syscall(int(sys.argv[1]), 11, int(sys.argv[2]), text, 64)
print(text.value.decode() if number >= 0 else "no key")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: that a program cannot read root's keys; needs root")
def test_a_program_of_another_user_cannot_read_the_keys_of_our_session():
    numbers = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(os.uname().machine)
    call = ctypes.CDLL(None, use_errno=True).syscall
    if numbers is None or call(numbers[1], 1, None) < 0:
        pytest.skip("SKIPPED, NOT PROVED: that a program cannot read root's keys; keyrings are forbidden here")
    key = call(numbers[0], b"user", b"password", b"hunter2", 7, -3)
    reads = ["/usr/bin/python3", "-I", "-c", _READ_KEY, str(numbers[1]), str(key)]
    assert run(reads, timeout=20, cwd="/").stdout == "hunter2\n"
    assert run(reads, timeout=20, cwd="/", user=Account.named("nobody")).stdout == "no key\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: what a program of another user gets; needs root")
def test_a_program_of_another_user_gets_nothing_of_ours(secret):
    nobody = Account.named("nobody")
    assert environment(user=nobody, env={"XDG_RUNTIME_DIR": "/run/user/1"}) == {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "HOME": nobody.home,
        "USER": "nobody",
        "LOGNAME": "nobody",
        "XDG_RUNTIME_DIR": "/run/user/1",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: what a program of another user gets; needs root")
def test_nor_does_one_whose_end_is_kept(secret):
    said = run_tail(["env"], timeout=20, limit=10_000, user=Account.named("nobody"))
    assert "USER=nobody" in said
    assert "RESTIC_PASSWORD" not in said
    assert "HOME=/root" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: where a program of another user runs; needs root")
def test_a_program_of_another_user_does_not_run_where_we_are(monkeypatch, tmp_path):
    # What others may read there, they cannot reach: through the program's /proc/PID/cwd they could.
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert run(["pwd"], timeout=20).stdout == f"{tmp_path}\n"
    nobody = Account.named("nobody")
    assert run(["pwd"], timeout=20, user=nobody).stdout == "/\n"
    assert run_tail(["pwd"], timeout=20, limit=100, user=nobody) == "/\n"


def test_one_of_our_own_gets_what_we_have(secret):
    found = environment(user=Account.current(), env={"MORE": "1"})
    assert (found["RESTIC_PASSWORD"], found["HOME"], found["MORE"]) == ("hunter2", "/root", "1")


@pytest.mark.parametrize("options", [{"env": {"A": "b\0c"}}, {"argv": "b\0c"}])
def test_a_nul_is_an_error_like_others(options):
    words = ["true", *([options.pop("argv")] if "argv" in options else [])]
    with pytest.raises(OpsError, match="cannot be run"):
        run(words, timeout=20, **options)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("yes", "printed more than 1000000 bytes"),
        ("yes >&2", "printed more than 1000000 bytes"),
        ("sleep 1000", "did not finish within 1 s"),
        ("trap '' TERM; while :; do sleep 0.1; echo on; done", "did not finish within 1 s"),
        ("exec >&- 2>&-; sleep 1000", "did not finish within 1 s"),
        # A process that has left the group still holds the pipes.
        ("setsid sleep 20 & sleep 1000", "did not finish within 1 s"),
        ("setsid sleep 20 &", "did not finish within 1 s"),
    ],
)
def test_a_program_says_so_much_for_so_long(script, why):
    began = time.monotonic()
    with pytest.raises(OpsError, match=why):
        run(["bash", "-c", script], timeout=1, limit=1000000)
    assert time.monotonic() - began < 10


def test_what_a_program_says_is_heard_to_its_end():
    said = run(["bash", "-c", "head -c 3000000 /dev/zero; echo -n error >&2; exit 3"], timeout=20, check=False)
    assert (said.rc, len(said.stdout), said.stderr) == (3, 3000000, "error")


def test_an_error_repeats_what_a_program_said_so_that_it_does_nothing_to_a_terminal():
    said = r"printf 'first\n\033[2J\033]0;title\007%05000d\n' 7 >&2; exit 1"
    with pytest.raises(OpsError) as failed:
        run(["sh", "-c", said], timeout=20)
    assert failed.value.what.startswith(r"failed with status 1: \x1b[2J\x1b]0;title\x070000")
    assert len(failed.value.what) < 1100
