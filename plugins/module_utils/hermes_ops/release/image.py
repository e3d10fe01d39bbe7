# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of an agent: what it is made of, which follows its name, and how podman or docker makes it.

The steps are those of ``image/Containerfile`` in the collection. Nothing here depends on where that file lies: what a
build may read is handed in, as the content of files.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..system.errors import OpsError
from ..system.files import lock, read_bytes, write_tree
from ..system.plan import Difference, Plan
from ..system.process import run
from ..system.text import brief
from .request import Request, lock_text, read_patches
from .uv import SYSTEM_CERTIFICATES, Index

# Podman first: it needs no daemon.
ENGINES = ("podman", "docker")
VARIANTS = ("slim", "browser")
CONTAINERFILE = "image/Containerfile"
# To trust during the build. The image does not have them.
_AUTHORITIES = "ca.crt"
# Held while an image is built.
LOCK = "/run/hermes-image.lock"
# Seconds for a build and for a push: a browser is 300 MB.
_TIMEOUT = 3600.0
# Seconds for a question.
_SHORT = 60.0
# Of the stages in the Containerfile, which docker keeps.
_STAGES = ("--filter", "label=io.alwayson.hermes.stage=yes")
# A repository, with its registry if it has one. The tag is ours.
_NAME = re.compile(r"(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_BASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
# What podman (4.3.1, 5.4.2) and docker (28.2.2) say of a tag that its registry does not have.
_UNKNOWN = re.compile(r"manifest unknown|no such manifest")
# What podman (4.3.1, 5.4.2) says of an image that it finds there, but that it cannot show.
_SINGLE = re.compile(r"Treating single images as manifest lists is not implemented")


@dataclass(frozen=True)
class Image:
    """The image that is wanted. Raises OpsError when the parts do not make sense together.

    :param name: a repository, without a tag
    :param release: what is installed in it, by the interpreter of *base*
    :param base: the image that it is built on
    :param variant: one of :data:`VARIANTS`
    :param packages: more packages of Debian
    :param index_url: see :class:`Index`
    :param ca_bundle: PEM file with the authorities to trust during the build; None: those of this host
    """

    name: str
    release: Request
    base: str
    variant: str = "slim"
    packages: tuple[str, ...] = ()
    index_url: str | None = None
    ca_bundle: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise OpsError(
                f"{self.name!r} is not the name of a repository", where="name", fix="write it as HOST/NAME, with no tag"
            )
        if not _BASE.fullmatch(self.base):
            raise OpsError(
                f"{self.base!r} is not the name of an image", where="base", fix="write one such as debian:trixie-slim"
            )
        if self.variant not in VARIANTS:
            raise OpsError(f"{self.variant!r} is not known", where="variant", fix=f"use {' or '.join(VARIANTS)}")
        for package in self.packages:
            if not _PACKAGE.fullmatch(package):
                raise OpsError(
                    f"{package!r} is not the name of a package", where="packages", fix="write names of Debian's"
                )
        Index(url=self.index_url)
        self._check_release()

    def _check_release(self) -> None:
        request = self.release
        if request.method == "path":
            raise OpsError(
                "a build sees no directory of its host", where="method", fix="use pypi or git for the host that builds"
            )
        if request.is_range:
            # Which version that is depends on the day, and the name of an image must not.
            raise OpsError(
                "an image holds one exact release",
                where="channel" if request.channel else "version",
                fix="declare the version, or ref and commit, for the host that builds",
            )

    @property
    def version(self) -> str:
        """Of the release: its version, or its tag in git."""
        return (self.release.ref if self.release.method == "git" else self.release.version) or ""


def arguments(image: Image) -> dict[str, str]:
    """The arguments of the Containerfile."""
    return {
        "BASE": image.base,
        "VARIANT": image.variant,
        "PACKAGES": " ".join(image.packages),
        "HERMES_VERSION": image.version,
    }


def told(image: Image) -> dict[str, Any]:
    """What image/release.py is told of the release, beside its version. Files of this host become their texts."""
    request = image.release
    value: dict[str, Any] = {"extras": list(request.extras)}
    if request.method == "git":
        value.update(method="git", url=request.url, ref=request.ref, commit=request.commit)
    if request.lock != "auto":
        value["lock"] = request.lock if request.lock == "none" else lock_text(request.lock)
    if request.patches:
        value["patches"] = [text for _name, text in read_patches(request)]
    if image.index_url:
        value["index_url"] = image.index_url
    return value


def context(image: Image, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that a build may read, by their paths.

    :param files: the Containerfile with its programs, and the kit
    """
    found = {**files, "release.json": json.dumps(told(image), sort_keys=True).encode()}
    authorities = read_bytes(image.ca_bundle or SYSTEM_CERTIFICATES)
    if authorities is not None:
        found[_AUTHORITIES] = authorities
    elif image.ca_bundle:
        raise OpsError("there is no such file on the host", where=image.ca_bundle, fix="copy it there")
    return found


def reference(image: Image, files: Mapping[str, bytes], machine: str) -> str:
    """The name of the image with its tag, which says all that the image is made of: other inputs, another tag.

    Debian's packages of the day are no input that is known before, nor is what a tag of the base stands for.

    :param files: :func:`context`
    :param machine: the architecture
    """
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items() if path != _AUTHORITIES}
    parts = [arguments(image), machine, digests]
    recipe = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    version = re.sub(r"[^A-Za-z0-9._-]+", "-", image.version).lstrip(".-")[:64]
    return f"{image.name}:{version}-{image.variant}-{recipe}"


def find_engine(declared: str | None) -> str:
    """The program that builds, of :data:`ENGINES`: *declared*, or else the first that there is."""
    for engine in [declared] if declared else ENGINES:
        if shutil.which(engine):
            return engine
    missing = declared or "podman or docker"
    raise OpsError(
        f"there is no {missing} on {os.uname().nodename}", where="engine", fix="apt install podman, or docker.io"
    )


def plan_image(image: Image, files: Mapping[str, bytes], engine: str, *, push: bool) -> tuple[Plan, str]:
    """Compare what there is with *image*.

    :param files: :func:`context`
    :param engine: one of :data:`ENGINES`
    :param push: whether the registry in the image's name is to have it
    :returns: the plan, and the :func:`reference` of the image
    """
    name = reference(image, files, platform.machine())
    plan = Plan()
    if push and is_pushed(engine, name):
        # Whoever needs it pulls it, this host too.
        return plan, name
    if not is_there(engine, name):
        text = f"Hermes {image.version}, {image.variant}, on {image.base}"
        plan.add(Difference(name, None, text), lambda: _build_once(image, files, engine, name))
    if push:
        plan.add(Difference(f"{name} in its registry", None, "pushed"), lambda: _push(engine, name))
    return plan, name


def is_there(engine: str, name: str) -> bool:
    """Whether this host has the image *name*."""
    listed = (engine, "image", "ls", "--quiet", "--filter", f"reference={name}")
    return bool(run(listed, timeout=_SHORT).stdout.strip())


def is_pushed(engine: str, name: str) -> bool:
    """Whether the registry in *name* has it.

    :raises OpsError: it does not say so
    """
    done = run([engine, "manifest", "inspect", name], timeout=_SHORT, check=False)
    if done.ok or _SINGLE.search(done.stderr):
        return True
    if _UNKNOWN.search(done.stderr):
        return False
    raise OpsError(f"its registry does not answer: {done.last_words}", where=name, fix=f"log in there: {engine} login")


def _build_once(image: Image, files: Mapping[str, bytes], engine: str, name: str) -> None:
    with lock(LOCK, timeout=_TIMEOUT):
        if is_there(engine, name):
            return
        try:
            build(image, files, engine, name, anew=True)
        finally:
            # The lock keeps those of a build that is under way.
            run([engine, "image", "prune", "--force", *_STAGES], timeout=_TIMEOUT, check=False)


def build(image: Image, files: Mapping[str, bytes], engine: str, name: str, *, anew: bool) -> None:
    """Build *image* as *name*.

    :param files: :func:`context`
    :param anew: with Debian's packages of today, whatever the engine kept of earlier builds
    :raises OpsError: with what the build said last
    """
    given = [word for key, value in arguments(image).items() for word in ("--build-arg", f"{key}={value}")]
    with tempfile.TemporaryDirectory(prefix="hermes-image-") as directory:
        # Their modes become those in the image.
        write_tree(directory, files)
        fresh = ["--no-cache"] if anew else []
        argv = [engine, "build", "--tag", name, "--file", os.path.join(directory, CONTAINERFILE), *fresh, *given]
        # Docker's other builder is a plugin of its own, which a host may lack.
        done = run([*argv, directory], timeout=_TIMEOUT, check=False, env={"DOCKER_BUILDKIT": "0"})
    if not done.ok:
        # Where the steps of a build speak; the engine's own last words only say in which step it was.
        said = done.stdout if engine == "docker" else done.stderr
        lines = [line for line in said.splitlines() if line.strip()]
        raise OpsError(
            f"cannot be built: {brief(' | '.join(lines[-3:]), 1000)}",
            where=name,
            fix="run it by hand to see all that it says: docs/image.md",
        )


def _push(engine: str, name: str) -> None:
    done = run([engine, "push", name], timeout=_TIMEOUT, check=False)
    if not done.ok:
        raise OpsError(f"cannot be pushed: {done.last_words}", where=name, fix=f"log in there: {engine} login")
