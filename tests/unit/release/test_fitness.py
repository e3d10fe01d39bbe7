# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host can run a release is known before anything is changed on it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules import info
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules.call import Call
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import fitness, pins
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.decide import release_id
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.fitness import Host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request, check_extras
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import write_json

BOOKWORM = Host(pythons=("3.11",))
TRIXIE = Host(pythons=("3.13",))
JAMMY = Host(pythons=("3.10",))
BOTH = Host(pythons=("3.12", "3.13"))
OURS = Request(version="0.19.0")
URL = "https://github.com/NousResearch/hermes-agent.git"
COMMIT = "85d304931fbec22337afa88b21cfc8b3d66b8e8c"


def tag(name: str, **options) -> Request:
    return Request(method="git", url=URL, ref=name, commit=COMMIT, **options)


def channel(pattern: str) -> Request:
    return Request(method="git", url=URL, channel=pattern)


def said(request: Request, host: Host) -> list[str]:
    return fitness.objections(request, host, fitness.requirements(request))


@pytest.mark.parametrize(
    ("request_", "host", "objection"),
    [
        (
            OURS,
            JAMMY,
            "hermes_version: hermes-agent 0.19.0 requires Python >=3.11,<3.14, and this host has Python 3.10. ",
        ),
        (Request(version=">=0.18,<0.20"), JAMMY, "hermes_version: hermes-agent >=0.18,<0.20 requires Python >=3.11"),
        (tag("v2026.7.20"), JAMMY, "install_ref: hermes-agent v2026.7.20 requires Python >=3.11,<3.14"),
        (tag("v2026.9.1"), JAMMY, "install_ref: hermes-agent v2026.9.1 requires Python >=3.11,<3.14"),
        (
            tag("v0.22.3"),
            TRIXIE,
            "install_ref: hermes-agent v0.22.3 requires Python >=3.14,<3.15, and this host has Python",
        ),
        (channel("v0.22.*"), BOOKWORM, "install_channel: hermes-agent v0.22.* requires Python >=3.14,<3.15"),
        (
            replace(OURS, python="/opt/python"),
            BOOKWORM,
            "install_python: this host has no Python at /opt/python. Fix: install it",
        ),
        (replace(OURS, python="3.12"), BOOKWORM, "install_python: this host has no Python 3.12. Fix: install it"),
        (
            replace(OURS, python="3.14"),
            replace(BOOKWORM, declared="3.14"),
            "install_python: 3.14 is Python 3.14, and hermes-agent 0.19.0 requires Python >=3.11,<3.14. Fix: name one",
        ),
        (
            replace(OURS, extras=("Matrix",)),
            TRIXIE,
            "install_extras: matrix of hermes-agent 0.19.0 has no packages for Python 3.13. Fix: leave it out, or "
            'declare install_python: "3.12", and install_python_downloads: true if the host has none',
        ),
        (
            replace(OURS, extras=("matrix",), python="/opt/python"),
            replace(BOOKWORM, declared="3.13.2"),
            "install_extras: matrix of hermes-agent 0.19.0 has no packages for Python 3.13.2. Fix: leave it out",
        ),
        (
            OURS,
            replace(BOOKWORM, machine="riscv64"),
            "hermes_version: hermes-agent 0.19.0 cannot run here: uv and the packages exist for x86-64 and arm64 with "
            "a 64-bit system, and this is riscv64. Fix: use another machine or system",
        ),
        (OURS, replace(BOOKWORM, machine="aarch64", wide=False), "and this is aarch64 with a 32-bit system. Fix: use"),
        (
            OURS,
            replace(BOOKWORM, free=3 * 2**20),
            "hermes_root: /opt/hermes has 3 MB free, a build wants 512 MB. Fix: ",
        ),
    ],
)
def test_a_host_that_cannot_run_it_is_told_with_variable_and_fix(request_, host, objection):
    (text,) = said(request_, host)
    assert objection in text
    assert ". Fix: " in text


@pytest.mark.parametrize(
    ("request_", "host"),
    [
        (OURS, BOOKWORM),
        (OURS, replace(TRIXIE, machine="aarch64")),
        (OURS, Host(pythons=("3.10", "3.12"))),
        # What is not known is found out by the build.
        (OURS, Host()),
        (Request(version="0.20.0"), JAMMY),
        (Request(version=">=0.18"), JAMMY),
        (channel("v*"), JAMMY),
        (channel("v0.*"), JAMMY),
        (tag("main"), JAMMY),
        (tag("v0.23.0"), JAMMY),
        (tag("v0.22.1", patches=("--- a/pyproject.toml\n+++ b/pyproject.toml\n",)), JAMMY),
        (replace(OURS, python=">=3.12"), BOOKWORM),
        # uv brings what is missing.
        (replace(OURS, python_downloads=True), JAMMY),
        (replace(OURS, extras=("matrix",)), BOTH),
        # Without the lock it is compiled.
        (replace(OURS, extras=("matrix",), lock="none"), TRIXIE),
    ],
)
def test_a_host_that_can_or_may_be_able_to_is_left_in_peace(request_, host):
    assert said(request_, host) == []


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """The only directory in which interpreters are searched."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setattr(fitness, "SEARCH_PATH", str(directory))
    return directory


def make_python(path, version="3.12.4"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)


def test_interpreters_are_found_where_uv_looks_and_among_the_packages_to_come(programs, tmp_path):
    root = str(tmp_path / "opt/hermes")
    for name in ("python3.9", "python3", "python3.11", "python3.11-config", "python3.13t"):
        make_python(programs / name)
    assert fitness.look(OURS, root, ["python3-venv", "git"]).pythons == ("3.9", "3.11")
    make_python(tmp_path / "opt/hermes/tools/python/cpython-3.12.4-linux/bin/python3.12")
    found = fitness.look(OURS, root, ["python3.10-venv", "python3.13"])
    assert found.pythons == ("3.9", "3.10", "3.11", "3.12", "3.13")
    assert (found.machine, found.wide) == (os.uname().machine, True)
    assert found.free > 0


def test_remains_of_a_killed_build_are_no_lack_of_space(programs, tmp_path, monkeypatch):
    """A build removes them first, so it can succeed where it was killed before."""
    releases = tmp_path / "releases"
    for name in ("0.19.0", "0.18.2.partial", "0.18.2.work"):
        (releases / name / "lib").mkdir(parents=True)
    (releases / "0.19.0/lib/in-use").write_bytes(bytes(2**20))
    remains = releases / "0.18.2.work/lib/wheel"
    remains.write_bytes(bytes(2**20))
    (releases / "0.18.2.partial/lib/wheel").hardlink_to(remains)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=3 * 2**20))
    assert 4 * 2**20 <= fitness.look(OURS, str(tmp_path), []).free < 5 * 2**20
    # Where there is room, nothing is looked through.
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=fitness.NEEDED_BYTES))
    assert fitness.look(OURS, str(tmp_path), []).free == fitness.NEEDED_BYTES


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ("3.11", "3.11"),
        ("python3.11", "3.11"),
        ("cpython@3.11.2", "3.11"),
        ("3.12", None),
        ("pypy", None),
        ("/nowhere/python3.11", None),
        # Of a package that is missing yet.
        ("/usr/bin/python3.77", "3.77"),
    ],
)
def test_the_declared_interpreter_is_looked_up(programs, tmp_path, declared, found):
    make_python(programs / "python3.11")
    assert fitness.look(replace(OURS, python=declared), str(tmp_path), ["python3.77"]).declared == found


def test_a_declared_interpreter_that_does_not_start_is_refused(asked, tmp_path):
    (tmp_path / "python").write_bytes(b"\x7fELF")
    (tmp_path / "python").chmod(0o755)
    assert asked(version="0.19.0", python=str(tmp_path / "python"))[1]


def test_the_declared_interpreter_is_asked_for_its_version(programs, tmp_path):
    make_python(tmp_path / "python")
    assert fitness.look(replace(OURS, python=str(tmp_path / "python")), str(tmp_path), []).declared == "3.12.4"
    make_python(tmp_path / "broken", "no Python at all")
    assert fitness.look(replace(OURS, python=str(tmp_path / "broken")), str(tmp_path), []).declared is None


@pytest.fixture
def asked(programs, tmp_path):
    """What the module info says about a release, on a host that has Python 3.10."""
    make_python(programs / "python3.10")

    def ask(**release):
        given = {**dict.fromkeys(Request.__dataclass_fields__), "extras": ["homeassistant"], "patches": []}
        given.update({"method": "pypi", "lock": "auto", "python_downloads": False, **release})
        return info.release(Call({"release": given, "root": str(tmp_path / "root"), "packages": ["python3-venv"]}))

    return ask


def test_the_module_says_what_is_to_be_built_and_what_prevents_it(asked, tmp_path):
    found = asked(version="0.19.0")
    assert found[0] == "hermes-agent 0.19.0 with homeassistant"
    (objection,) = found[1]
    assert objection.startswith(
        "hermes_version: hermes-agent 0.19.0 requires Python >=3.11,<3.14, and this host has Python 3.10"
    )
    assert info.release(Call({"release": None})) == (None, [])


def test_a_release_that_is_there_is_not_objected_to(asked, tmp_path):
    release = tmp_path / "root/releases/0.19.0-x"
    make_python(release / "bin/python")
    identity = {"method": "pypi", "extras": ["homeassistant"], "version": "0.19.0"}
    name = release_id(OURS, "0.19.0")
    release.rename(release.with_name(name))
    write_json(
        str(release.with_name(name) / "release.json"), {"version": "0.19.0", "locked": True, "identity": identity}
    )
    assert asked(version="0.19.0") == (None, [])
    assert asked(version=">=0.18,<0.20") == (None, [])
    assert asked(version="0.18.2")[1]


def test_a_tree_says_itself_what_it_requires(asked, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "pyproject.toml").write_text('[project]\nversion = "0.30"\nrequires-python = ">=3.15"\n')
    (objection,) = asked(method="path", path=str(tree))[1]
    assert objection.startswith(
        f"install_path: hermes-agent in {tree} requires Python >=3.15, and this host has Python 3.10"
    )
    assert asked(method="path", path=str(tree), patches=["--- a/pyproject.toml\n+++ b/pyproject.toml\n"])[1] == []


@pytest.mark.parametrize(
    ("release", "variable"),
    [
        ({"method": "path", "path": "/nowhere/wheels"}, "install_path"),
        ({"version": "0.19.0", "lock": "/nowhere/lock"}, "install_lock"),
        ({"version": "0.19.0", "patches": ["/nowhere/patch"]}, "install_patches"),
    ],
)
def test_a_declared_file_that_is_not_on_the_host_is_named_with_its_variable(asked, release, variable):
    found = asked(**release)
    (objection,) = found[1]
    assert objection.startswith(f"{variable}: /nowhere/")
    assert found[0] is None


@pytest.mark.parametrize("version", pins.HERMES)
def test_extras_of_a_locked_version_are_known_without_the_host(version):
    check_extras(Request(version=version, extras=("homeassistant", "tts_premium", "Azure.Identity")))
    with pytest.raises(OpsError, match=rf"extras: hermes-agent {version} has no extra hass. Fix: it has acp, all, "):
        check_extras(Request(version=version, extras=("hass",)))
    with pytest.raises(OpsError, match=r"Fix: did you mean homeassistant\?"):
        check_extras(Request(version=version, extras=("homeassistent",)))
    for other in ({"version": "0.20.0"}, {"lock": "none"}, {"method": "path", "path": "/srv/tree"}):
        check_extras(Request(**{"version": version, "extras": ("hass",), **other}))


def test_what_is_known_agrees_with_the_shipped_locks():
    for version in pins.HERMES:
        assert fitness.requirements(Request(version=version)) == [pins.REQUIRES_PYTHON]
    assert list(pins.EXTRAS) == list(pins.LACKING) == list(pins.HERMES)
    for version, lacking in pins.LACKING.items():
        assert {extra for extras in lacking.values() for extra in extras} <= set(pins.EXTRAS[version].split())
