# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image is made of, its name, and what is asked of an engine. The engine is a stand-in; tests/image builds."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import image
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.image import Image
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

WANTED = Image(name="registry.example.org/hermes-agent", release=Request(version="0.19.0"), base="debian:trixie-slim")
TAG = Request(method="git", url="https://example.org/hermes.git", ref="v2026.9.24", commit="a" * 40)
PATCH = "--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-1\n+2\n"
RECIPE = {"image/Containerfile": b"FROM scratch", "plugins/module_utils/hermes_ops/__init__.py": b""}
FILES = {**RECIPE, "release.json": b"{}"}

# It keeps the names of images in two directories, and says what it was asked.
ENGINE = f"""\
#!{sys.executable}
import json, os, pathlib, sys
here, words = pathlib.Path(sys.argv[0]).parent, sys.argv[1:]
name = words[-1].removeprefix("reference=").replace("/", "_")
with open(here / "asked", "a") as log:
    log.write(json.dumps(words) + "\\n")
if os.path.exists(here / "broken"):
    sys.exit((here / "broken").read_text())
if words[:2] == ["image", "ls"] and (here / "images" / name).exists():
    print("0123456789ab")
elif words[:2] == ["manifest", "inspect"] and not (here / "registry" / name).exists():
    sys.exit("no such manifest: " + name)
elif words[0] == "push":
    (here / "registry" / name).touch()
elif words[0] == "build":
    context = pathlib.Path(words[-1])
    files = {{str(path.relative_to(context)): path.read_text() for path in context.rglob("*") if path.is_file()}}
    (here / "context").write_text(json.dumps(files))
    modes = {{oct(path.stat().st_mode & 0o777) for path in context.rglob("*")}}
    (here / "modes").write_text(json.dumps(sorted(modes)))
    (here / "images" / words[words.index("--tag") + 1].replace("/", "_")).touch()
"""


class Engine:
    """A stand-in for podman or docker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("images", "registry"):
            (directory / name).mkdir()

    def install(self, name: str) -> None:
        program = self.directory / name
        program.write_text(ENGINE)
        program.chmod(0o755)

    def read(self, name: str) -> Any:
        return json.loads((self.directory / name).read_text())

    def asked(self, *first: str) -> list[list[str]]:
        """What it was asked, of the commands that begin with *first*."""
        log = self.directory / "asked"
        lines = log.read_text().splitlines() if log.exists() else []
        return [words for words in map(json.loads, lines) if words[: len(first)] == [*first]]


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(image, "LOCK", str(tmp_path / "lock"))
    found = Engine(tmp_path)
    found.install("docker")
    return found


# The name


def test_the_tag_names_the_version_and_the_variant():
    assert image.reference(WANTED, FILES, "x86_64").startswith("registry.example.org/hermes-agent:0.19.0-slim-")
    release = dataclasses.replace(TAG, ref="release/v1+rc.1")
    other = dataclasses.replace(WANTED, release=release, variant="browser")
    assert ":release-v1-rc.1-browser-" in image.reference(other, FILES, "x86_64")


@pytest.mark.parametrize(
    "change",
    [
        {"base": "debian:trixie-20261117-slim"},
        {"variant": "browser"},
        {"packages": ("git",)},
        {"release": Request(version="0.18.2")},
        {"release": Request(version="0.19.0", extras=("messaging",))},
        {"release": Request(version="0.19.0", patches=(PATCH,))},
        {"release": Request(version="0.19.0", lock="none")},
        {"release": TAG},
        {"index_url": "https://packages.example.com/simple/"},
    ],
    ids=str,
)
def test_another_declaration_has_another_tag(change):
    other = dataclasses.replace(WANTED, **change)
    names = [image.reference(each, image.context(each, RECIPE), "x86_64") for each in (WANTED, WANTED, other)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("path", RECIPE)
def test_another_recipe_or_kit_has_another_tag(path):
    changed = {**FILES, path: b"another"}
    assert image.reference(WANTED, changed, "x86_64") != image.reference(WANTED, FILES, "x86_64")


def test_another_architecture_has_another_tag():
    assert image.reference(WANTED, FILES, "aarch64") != image.reference(WANTED, FILES, "x86_64")


def test_what_is_only_trusted_during_the_build_is_no_part_of_the_tag(tmp_path):
    (tmp_path / "ca.pem").write_text("an authority")
    trusting = dataclasses.replace(WANTED, ca_bundle=str(tmp_path / "ca.pem"))
    files = image.context(trusting, RECIPE)
    assert files["ca.crt"] == b"an authority"
    assert image.reference(trusting, files, "x86_64") == image.reference(
        WANTED, image.context(WANTED, RECIPE), "x86_64"
    )


def test_files_of_the_host_go_into_the_build_as_texts(tmp_path):
    (tmp_path / "lock.txt").write_text("hermes-agent==0.19.0 --hash=sha256:00")
    (tmp_path / "our.patch").write_text(PATCH)
    release = Request(version="0.19.0", lock=str(tmp_path / "lock.txt"), patches=(str(tmp_path / "our.patch"),))
    files = image.context(dataclasses.replace(WANTED, release=release), RECIPE)
    assert json.loads(files["release.json"]) == {
        "extras": ["homeassistant"],
        "lock": "hermes-agent==0.19.0 --hash=sha256:00",
        "patches": [PATCH],
    }


def test_the_release_is_told_as_a_request():
    told = image.told(dataclasses.replace(WANTED, release=TAG))
    told["extras"] = tuple(told["extras"])
    assert Request(**told) == TAG


# What is refused


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": "Hermes"}, "name"),
        ({"name": "hermes:1"}, "name"),
        ({"name": "--all"}, "name"),
        ({"base": "--privileged"}, "base"),
        ({"base": "debian slim"}, "base"),
        ({"variant": "large"}, "variant"),
        ({"packages": ("-o", "git")}, "packages"),
        ({"packages": ("git;id",)}, "packages"),
        ({"index_url": "https://user:hunter2@example.org/"}, "index_url"),
        ({"release": Request(version=">=0.18")}, "version"),
        ({"release": Request(method="git", url="https://example.org/h.git", channel="v*")}, "channel"),
        ({"release": Request(method="path", path="/srv/wheels")}, "method"),
    ],
    ids=str,
)
def test_what_makes_no_image_is_refused(change, where):
    with pytest.raises(OpsError) as caught:
        dataclasses.replace(WANTED, **change)
    assert caught.value.where == where
    assert caught.value.fix
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["hermes-agent", "localhost/hermes-agent", "10.0.0.1:5000/a/b_c.d", "registry.example.org/team/agent"]
)
def test_names_of_repositories_are_accepted(name):
    assert dataclasses.replace(WANTED, name=name).name == name


def test_a_missing_bundle_is_refused(tmp_path):
    with pytest.raises(OpsError, match=r"no such file.*Fix"):
        image.context(dataclasses.replace(WANTED, ca_bundle=str(tmp_path / "ca.pem")), RECIPE)


# The engine


def test_podman_is_taken_first_and_docker_if_declared(engine):
    assert image.find_engine(None) == "docker"
    with pytest.raises(OpsError, match=r"no podman on .*Fix: apt install"):
        image.find_engine("podman")
    engine.install("podman")
    assert (image.find_engine(None), image.find_engine("docker")) == ("podman", "docker")


def test_none_of_them_is_an_error(engine):
    (engine.directory / "docker").unlink()
    with pytest.raises(OpsError, match=r"no podman or docker on .*Fix: apt install"):
        image.find_engine(None)


# The work


def test_an_image_is_built_once(engine):
    before = os.umask(0o077)
    try:
        plan, name = image.plan_image(WANTED, FILES, "docker", push=False)
        assert [(each.what, each.before) for each in plan.differences] == [(name, None)]
        assert engine.asked("build") == []
        plan.apply()
    finally:
        os.umask(before)
    (build,) = engine.asked("build")
    assert build[:4] == ["build", "--tag", name, "--file"]
    assert "--no-cache" in build
    given = [build[number + 1] for number, word in enumerate(build) if word == "--build-arg"]
    assert given == ["BASE=debian:trixie-slim", "VARIANT=slim", "PACKAGES=", "HERMES_VERSION=0.19.0"]
    assert engine.read("context") == {path: data.decode() for path, data in FILES.items()}
    # They become those of the image.
    assert engine.read("modes") == ["0o644", "0o755"]
    assert not Path(build[-1]).exists()

    again, same = image.plan_image(WANTED, FILES, "docker", push=False)
    assert (again.changed, same) == (False, name)


def test_who_waited_for_another_build_does_not_build_again(engine):
    plans = [image.plan_image(WANTED, FILES, "docker", push=False)[0] for _each in range(2)]
    for plan in plans:
        plan.apply()
    assert len(engine.asked("build")) == 1


def test_a_registry_that_has_the_image_is_enough(engine):
    plan, name = image.plan_image(WANTED, FILES, "docker", push=True)
    assert [each.what for each in plan.differences] == [name, f"{name} in its registry"]
    plan.apply()
    assert engine.asked("push") == [["push", name]]
    # A builder that was made anew.
    (engine.directory / "images" / name.replace("/", "_")).unlink()
    assert not image.plan_image(WANTED, FILES, "docker", push=True)[0].changed


def test_a_registry_may_have_an_image_that_the_engine_cannot_show(engine):
    said = 'Error: parsing manifest blob "{}": Treating single images as manifest lists is not implemented'
    (engine.directory / "broken").write_text(said)
    assert image.is_pushed("docker", "example.org/a:1")


def test_an_image_that_is_there_is_only_pushed(engine):
    image.plan_image(WANTED, FILES, "docker", push=False)[0].apply()
    plan, name = image.plan_image(WANTED, FILES, "docker", push=True)
    assert [each.what for each in plan.differences] == [f"{name} in its registry"]


SAID = "the release cannot be built: no such index\nstatus 1"


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda: image.is_there("docker", "example.org/a:1"), id="is it there?"),
        pytest.param(lambda: image.is_pushed("docker", "example.org/a:1"), id="is it pushed?"),
        pytest.param(lambda: image._push("docker", "example.org/a:1"), id="push"),
    ],
)
def test_a_failure_is_told(engine, act):
    (engine.directory / "broken").write_text(SAID)
    with pytest.raises(OpsError, match="status 1"):
        act()


# Docker's builder repeats on standard output what a step says, podman's on standard error.
@pytest.mark.parametrize(("name", "stream"), [("docker", "stdout"), ("podman", "stderr")])
def test_a_failed_build_is_told_with_its_cause(engine, name, stream):
    program = engine.directory / name
    said = "print('step 3', 'no such index', file=sys.{stream}, sep='\\n')"
    program.write_text(f"#!{sys.executable}\nimport sys\n{said.format(stream=stream)}\nsys.exit('status 1')\n")
    program.chmod(0o755)
    with pytest.raises(
        OpsError, match=r"^example.org/a:1: cannot be built: step 3 \| no such index.*Fix: run it by hand"
    ):
        image.build(WANTED, FILES, name, "example.org/a:1", anew=True)
