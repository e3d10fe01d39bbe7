# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The workshop in which one release is built: temporary directories, and the tools."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..system.errors import OpsError
from ..system.files import Account
from ..system.process import Completed, run
from .observe import Tree, examine
from .request import Request, digest
from .store import remove
from .uv import Index, Uv


class Workshop:
    """One build. It leaves nothing behind, whatever goes wrong.

    :param timeout: seconds for each step
    :param descriptor: of the builder's lock; every child inherits it
    :param compiled: whether to compile what is installed
    """

    def __init__(
        self, request: Request, index: Index, root: str, timeout: float, descriptor: int, compiled: bool = True
    ) -> None:
        self.request = request
        self.compiled = compiled
        self.root = root
        self.timeout = timeout
        self.descriptor = descriptor
        self.index = index
        self.tree: Tree | None = None
        if request.method == "path":
            self.tree = examine(request)
            if self.tree.versions is not None:
                self.index = Index(ca_bundle=index.ca_bundle, wheels=request.path)
        self.about = "hermes-agent"
        # The unprivileged user who proves that the release runs; None without root, since we cannot become that user.
        self.nobody = Account("nobody", 65534, 65534, "/") if os.geteuid() == 0 else None

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[None]:
        """Provide uv and the working directories, which are removed afterwards."""
        releases = os.path.join(self.root, "releases")
        self.work = os.path.join(releases, f"{name}.work")
        self.partial = os.path.join(releases, f"{name}.partial")
        # Whoever can open a file can lock it, and uv waits minutes for each of its lock files. So no agent may enter
        # the work directory before the last call of uv (:mod:`.proof` opens it), nor the unfinished release.
        os.mkdir(self.work, 0o700)
        os.mkdir(os.path.join(self.work, "tmp"))
        self.uv = Uv(self.root, self.work, self.index, timeout=self.timeout, lock=self.descriptor)
        try:
            self.uv.ensure()
            yield
        except OSError as error:
            raise OpsError(
                f"{self.about}: cannot be built ({error.strerror}); nothing was changed",
                where=error.filename or self.partial,
                fix="free space below the install root, or mount it writable",
            ) from None
        finally:
            remove(self.partial)
            remove(self.work)

    def run(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> Completed:
        """Run a program that holds the builder's lock as long as it lives; returns its output, whatever its status."""
        return run(argv, timeout=self.timeout, check=False, env=env, cwd=cwd, pass_fds=(self.descriptor,))

    def resolve(self, requirement: str, python: str, *options: str) -> str:
        """The versions that uv pins for *requirement* and, unless *options* exclude them, all its dependencies."""
        return self.uv(
            "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python", python, *options,
            *self.uv.source, self.write("requirements.in", requirement + "\n"), about=self.about,
        )  # fmt: skip

    @property
    def packages(self) -> str:
        library = os.path.join(self.partial, "lib")
        return os.path.join(library, os.listdir(library)[0], "site-packages")

    @property
    def python(self) -> str:
        return os.path.join(self.partial, "bin", "python")

    def write(self, name: str, text: str) -> str:
        path = os.path.join(self.work, name)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return path

    def environment(self, python: str) -> None:
        os.mkdir(self.partial, 0o700)
        self.uv("venv", "--quiet", "--relocatable", "--no-project", "--python", python, self.partial, about=self.about)

    def install(self, what: str, constraints: str, *arguments: str) -> None:
        lockfile = os.path.join(self.partial, "requirements.lock")
        with open(lockfile, "w", encoding="utf-8") as stream:
            stream.write(constraints)
        self.uv(
            "pip", "install", "--quiet", "--python", self.python, "--require-hashes",
            *(["--compile-bytecode"] if self.compiled else []),
            "--constraint", lockfile, *self.uv.source, *arguments, about=self.about,
        )  # fmt: skip

    def compile(self, files: list[str]) -> None:
        """Compile *files* again, even if a file has the same time and size as before."""
        sources = [path for path in files if path.endswith(".py") and os.path.exists(path)]
        if sources and self.compiled:
            self.run([self.python, "-m", "compileall", "-q", "-f", *sources])


def locking(kind: str, text: str) -> dict[str, Any]:
    """The part of the stamp about the lock.

    :param kind: ``shipped``, ``given``, ``tree`` or ``none``
    :param text: the pinned versions that were installed
    """
    return {"locked": kind != "none", "lock": {"kind": kind, "sha256": digest(text)}}
