# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that print secrets, and files that age and SOPS decrypt: bounded, root's own, and never quoted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Source
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets import programs, values
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

SECRET = "hunter2-and-more"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: who owns a file, which needs root")


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A directory for programs, first in PATH. systemd-run is a stand-in that keeps what it was told.

    Like the real one, it exits 255 if a signal ended the program.
    """
    directory = tmp_path / "bin"
    directory.mkdir()
    script = (
        f'#!/bin/sh\nfor word; do shift; printf "%s\\n" "$word" >>{tmp_path}/told; [ "$word" = -- ] && break; done\n'
    )
    make(directory / "systemd-run", script + '"$@"\nstatus=$?\n[ $status -le 128 ] || status=255\nexit $status\n')
    make(directory / "systemctl", f'#!/bin/sh\necho "$@" >>{tmp_path}/systemctl\n')
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def make(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_a_program_runs_in_a_sandbox_and_its_lines_are_secrets(tools, tmp_path):
    program = make(tools / "tell", f'#!/bin/sh\necho "A={SECRET}"; echo "B=$1"; echo noise >&2\n')
    found = programs.read_command(Source(command=(program, "two words")))
    assert found == {"A": SECRET, "B": "two words"}
    told = (tmp_path / "told").read_text().splitlines()
    for property in (
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "MemoryMax=512M",
        "RuntimeMaxSec=30",
        "LimitCORE=1",
    ):
        assert f"--property={property}" in told
    assert SECRET not in "".join(told)


def test_nothing_is_expanded_by_systemd(tools, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        programs, "run", lambda argv, **_more: seen.append(argv) or subprocess.CompletedProcess(argv, 1)
    )
    monkeypatch.setattr(programs, "_run", lambda argv, *_more, **_options: seen.append(argv) or "A=1")
    programs.read_command(Source(command=(make(tools / "tell", "#!/bin/sh\n"), "$HOME", "${X}")))
    assert seen[0][-2:] == ["$$HOME", "$${X}"]


@pytest.mark.parametrize(
    ("script", "what"),
    [
        (f"echo {SECRET}; echo A={SECRET} >&2; exit 3", "failed with status 3"),
        (f"echo A={SECRET}; kill -9 $$", "failed with status 255"),
        (f"echo {SECRET}", "is not KEY=value"),
        (f"printf 'A={SECRET}\\377'", "not UTF-8"),
        (f"echo {SECRET} >&2", "gives no secrets"),
        ("yes A=1", "printed more than"),
    ],
)
def test_a_program_that_fails_is_named_and_not_quoted(tools, script, what):
    program = make(tools / "tell", f"#!/bin/sh\n{script}\n")
    with pytest.raises(OpsError) as caught:
        programs.read_command(Source(command=(program,)))
    assert what in caught.value.what
    assert program in str(caught.value)
    if "failed" in what:
        assert "as a source it has 30 s and 512M of memory" in str(caught.value.fix)
    assert SECRET not in str(caught.value)


def test_a_program_that_hangs_is_killed_with_its_unit(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "SECONDS", -9)
    with pytest.raises(OpsError, match="did not finish"):
        programs.read_command(Source(command=(make(tools / "tell", "#!/bin/sh\nsleep 60\n"),)))
    assert (tmp_path / "systemctl").read_text().startswith("kill --signal=KILL hermes-secrets-command-")


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_a_program_that_is_none(tmp_path, kind):
    path = tmp_path / "it"
    if kind == "directory":
        path.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(OpsError) as caught:
        programs.read_command(Source(command=(str(path),)))
    assert caught.value.where == str(path)
    assert caught.value.fix


@needs_root
@pytest.mark.parametrize("change", ["owner", "mode", "directory", "link"])
def test_what_an_agent_can_change_is_not_run(tmp_path, change):
    directory = tmp_path / "there"
    directory.mkdir()
    program = Path(make(directory / "tell", "#!/bin/sh\n"))
    path = program
    if change == "owner":
        os.chown(program, 65534, 0)
    elif change == "mode":
        program.chmod(0o775)
    elif change == "directory":
        os.chown(directory, 65534, 0)
    else:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        os.chown(theirs, 65534, 0)
        path = theirs / "tell"
        path.symlink_to(program)
    for source in (Source(command=(str(path),)), Source(file=str(path), identity="/etc/passwd")):
        read = programs.read_command if source.command else programs.read_file
        with pytest.raises(OpsError) as caught:
            read(source)
        assert "root" in str(caught.value)


def test_a_private_key_that_others_can_read_is_refused(tmp_path):
    sealed, identity = tmp_path / "it.env.age", tmp_path / "identity"
    for path in (sealed, identity):
        path.write_text("x")
        path.chmod(0o644)
    with pytest.raises(OpsError) as caught:
        programs.read_file(Source(file=str(sealed), identity=str(identity)))
    assert str(caught.value) == f"{identity}: can be read by others. Fix: chmod 600 {identity}"


def test_age_and_sops_are_called_as_their_manuals_say(tools, tmp_path):
    for name in ("age", "sops"):
        told = f'printf "%s\\n" "$SOPS_AGE_KEY_FILE" "$@" >{tmp_path}/{name}.told'
        make(tools / name, f'#!/bin/sh\n{told}\necho \'{{"A": "{SECRET}"}}\'\n')
    identity = tmp_path / "identity"
    identity.write_text("key")
    identity.chmod(0o600)
    for name, file, words in (
        ("age", "it.env.age", ["", "--decrypt", "--identity", str(identity)]),
        ("sops", "it.yaml", [str(identity), "--decrypt", "--output-type", "json"]),
    ):
        path = tmp_path / file
        path.write_text("sealed")
        assert programs.read_file(Source(file=str(path), identity=str(identity))) == {"A": SECRET}
        assert (tmp_path / f"{name}.told").read_text().splitlines() == [*words, str(path)]


@pytest.mark.parametrize("name", ["age", "sops"])
def test_a_program_that_is_not_installed_is_named_with_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / f"it.{name}"
    path.write_text("sealed")
    with pytest.raises(OpsError) as caught:
        programs.read_file(Source(file=str(path)))
    assert str(caught.value) == f"{path}: needs {name}, which is not on this host. Fix: install {name}, in root's PATH"


@pytest.mark.parametrize("kind", ["yaml", "json", "env", "ini"])
def test_sops_with_age_for_real(sops, sealed_by_sops, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("PATH", f"{sops}:{os.environ['PATH']}")
    secrets = {"A": SECRET, "B": "'\"\\$HOME é", "NUMBER": "12"}
    # The sections of an INI file would be an object in an object.
    refused = kind == "ini"
    sealed, identity = sealed_by_sops(secrets, kind)
    assert SECRET not in sealed.read_text()
    source = Source(file=str(sealed), identity=str(identity))
    if refused:
        with pytest.raises(OpsError, match="is not text"):
            programs.read_file(source)
        return
    assert programs.read_file(source) == secrets
    sealed.write_text(sealed.read_text().replace("ENC[", "ENC[x", 1))
    with pytest.raises(OpsError, match="failed with status") as caught:
        programs.read_file(source)
    assert SECRET not in str(caught.value)
    assert "run it as root by hand: SOPS_AGE_KEY_FILE=" in str(caught.value.fix)


def test_a_file_of_sops_without_its_key(sops, sealed_by_sops, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{sops}:{os.environ['PATH']}")
    sealed, _identity = sealed_by_sops({"A": SECRET}, "yaml")
    other = tmp_path / "other"
    subprocess.run([sops / "age-keygen", "--output", other], check=True, capture_output=True)
    for identity in (str(other), None):
        with pytest.raises(OpsError, match="failed with status"):
            programs.read_file(Source(file=str(sealed), identity=identity))


def test_the_limit_lets_every_allowed_secret_through():
    assert programs._LARGEST > values.LARGEST_IN_ALL
