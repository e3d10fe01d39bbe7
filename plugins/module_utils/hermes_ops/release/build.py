# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release made true: built, proved, switched to, old ones pruned. What is to be done is decided in release.py."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from ..system.errors import OpsError
from ..system.files import Owner, ensure_directory, lock, read_text, sync_directory, write_json
from ..system.plan import Plan
from ..system.process import Completed, run
from .decide import (
    LEFT_OUT,
    STAMP,
    Decision,
    Request,
    Tree,
    decide,
    describe,
    digest,
    examine,
    identity,
    lock_text,
    observe,
    pin_installed,
    read_patches,
    release_id,
    superfluous,
    tag_key,
    used_by_processes,
)
from .uv import Index, PythonMismatch, Uv, building, redact
from .versions import satisfies, version_key

# Below this a build is not begun: a release with messaging is 281 MB (0.19.0), its wheels come on top.
NEEDED_BYTES = 512 * 1024 * 1024
# Extras that bring aiohttp (0.19.0 METADATA), without which the gateway has neither API server nor webhooks.
AIOHTTP_EXTRAS = frozenset({"all", "homeassistant", "matrix", "messaging", "slack", "sms", "teams", "termux-all"})
_SAID_VERSION = re.compile(r"\bv?(\d+\.\d+[0-9A-Za-z.]*)")


@dataclass
class Outcome:
    """What was, or would be, done."""

    plan: Plan
    decision: Decision
    previous: str | None
    stamp: dict[str, Any] | None = None


def ensure(
    request: Request,
    index: Index,
    *,
    root: str = "/opt/hermes",
    current: bool = True,
    keep: int = 2,
    timeout: float = 900.0,
    check: bool = False,
) -> Outcome:
    """Make *request* true: build, prove, switch, prune. Nothing at all happens when it is true already.

    :param timeout: seconds for each step of a build, and for another builder to finish
    :param check: only say what would be done
    :raises OpsError: and then the current release is what it was
    """
    outcome = _consider(request, root, current, keep)
    if check or not outcome.plan.changed:
        return outcome
    with _alone(root, timeout) as descriptor:
        releases = os.path.join(root, "releases")
        # Another builder may have done it while we waited.
        outcome = _consider(request, root, current, keep)
        for name in outcome.decision.garbage:
            remove(os.path.join(releases, name))
        if outcome.decision.build:
            wanted = pin_installed(request, observe(root))
            builder = Builder(wanted, index, root, timeout, descriptor)
            stamp = builder.build(outcome.decision)
            outcome = _after_build(outcome, request, root, current, keep, stamp)
        if outcome.decision.switch:
            switch(root, outcome.decision.release_id or "")
        for name in outcome.decision.remove:
            retire(releases, name)
    return outcome


def newest(request: Request, index: Index, *, root: str = "/opt/hermes", timeout: float = 900.0) -> Request:
    """*request* pinned to the newest that is offered: a version of its range, a tag and commit of its channel.

    Nothing is built or changed. What is no range stands for itself, without a look at the network.

    :param timeout: seconds for each question, and for a builder to finish
    :raises OpsError: nothing in the range is offered, or whom to ask cannot be reached
    """
    if not request.is_range:
        return request
    with _alone(root, timeout) as descriptor:
        return Builder(request, index, root, timeout, descriptor).newest()


@contextlib.contextmanager
def _alone(root: str, timeout: float) -> Iterator[int]:
    """The one builder below *root*; yields the descriptor of its lock."""
    with building():
        for directory in (root, os.path.join(root, "releases"), os.path.join(root, "tools")):
            ensure_directory(directory, mode=0o755)
        with lock(os.path.join(root, ".lock"), timeout=timeout) as descriptor:
            yield descriptor


def _consider(request: Request, root: str, current: bool, keep: int) -> Outcome:
    observed = observe(root, request)
    decision = decide(request, observed, current=current, keep=keep)
    if decision.remove:
        # Only now is it worth a walk through /proc.
        decision = decide(request, observed, current=current, keep=keep, in_use=used_by_processes(root))
    there = observed.find(decision.release_id)
    return Outcome(describe(decision, observed, request), decision, observed.current, there.stamp if there else None)


def _after_build(
    before: Outcome, request: Request, root: str, current: bool, keep: int, stamp: dict[str, Any]
) -> Outcome:
    """What is left to do now that the version is known and the release is there; what was done stays told."""
    built = stamp["id"]
    observed = observe(root)
    switch = current and observed.current != built
    gone = superfluous(observed, built, switch=switch, keep=keep)
    if gone:
        gone = superfluous(observed, built, switch=switch, keep=keep, in_use=used_by_processes(root))
    decision = Decision(stamp["version"], built, True, switch, gone, before.decision.garbage)
    return Outcome(describe(decision, observed, request), decision, before.previous, stamp)


def switch(root: str, release: str) -> None:
    """Let ``current`` be *release*, in one step. For who holds the lock of *root*."""
    link = os.path.join(root, "current")
    fresh = os.path.join(root, ".current")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    before = os.path.realpath(link)
    os.symlink(os.path.join("releases", release), fresh)
    os.replace(fresh, link)
    sync_directory(root)
    # The order in which releases were last used decides which are kept.
    for path in (before, os.path.realpath(link)):
        with contextlib.suppress(OSError):
            os.utime(path)


def prune(root: str, *, keep: int, first: Container[str] = ()) -> None:
    """Remove all but the current release and *keep* others, the last used first; one that is in use stays.

    For who holds the lock of *root*.

    :param first: ids of releases that nobody wants to go back to
    """
    observed = observe(root)
    releases = tuple(replace(each, used=0.0) if each.id in first else each for each in observed.releases)
    observed = replace(observed, releases=releases)
    if superfluous(observed, observed.current, switch=False, keep=keep):
        for name in superfluous(observed, observed.current, switch=False, keep=keep, in_use=used_by_processes(root)):
            retire(os.path.join(root, "releases"), name)


def retire(releases: str, name: str) -> None:
    # Without its stamp in place under its name it is no release any more, however far the removal gets.
    going = os.path.join(releases, f"{name}.removed")
    os.rename(os.path.join(releases, name), going)
    remove(going)


def remove(path: str) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OpsError(f"cannot be removed ({error.strerror})", where=path, fix="remove it by hand") from None


class Builder:
    """One build, from nothing to a complete release. Whatever goes wrong, nothing of it is left behind."""

    def __init__(self, request: Request, index: Index, root: str, timeout: float, descriptor: int) -> None:
        self.request = request
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
        # Who proves that an unprivileged user can run the release; nobody we could become when not root.
        self.nobody = Owner("nobody", 65534, 65534, "/") if os.geteuid() == 0 else None

    def build(self, decision: Decision) -> dict[str, Any]:
        """Build what *decision* names and return its stamp."""
        free = shutil.disk_usage(self.root).free
        if free < NEEDED_BYTES:
            raise OpsError(
                f"has {free // 2**20} MB free, a build wants {NEEDED_BYTES // 2**20} MB; nothing was changed",
                where=self.root,
                fix="free space there",
            )
        with self._workspace(decision.release_id or "unresolved"):
            if self.request.channel:
                self.request = self._pin()
            stamp = self._fill(decision)
            self._complete(stamp)
        return stamp

    def newest(self) -> Request:
        """The request, pinned to the newest that is offered."""
        # Somebody else's who was killed.
        remove(os.path.join(self.root, "releases", "newest.work"))
        with self._workspace("newest"):
            return self._pin()

    def _pin(self) -> Request:
        if self.request.channel:
            ref, commit = self._newest_tag()
            return replace(self.request, channel=None, ref=ref, commit=commit)
        return replace(self.request, version=self._newest(self.request.version or ""))

    @contextlib.contextmanager
    def _workspace(self, name: str) -> Iterator[None]:
        """uv, and directories to work in that are gone afterwards."""
        releases = os.path.join(self.root, "releases")
        self.work = os.path.join(releases, f"{name}.work")
        self.partial = os.path.join(releases, f"{name}.partial")
        os.mkdir(self.work)
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

    def _fill(self, decision: Decision) -> dict[str, Any]:
        if self.request.method == "git" or (self.tree is not None and self.tree.versions is None):
            stamp = self._from_tree()
        else:
            stamp = self._from_index(decision.version)
        _close_to_others(self.partial)
        version = stamp["version"] = self._prove(stamp["version"])
        identifier = release_id(self.request, version, self.tree)
        if decision.release_id is None:
            # The newest of a range: only now is there a name to build under.
            named = os.path.join(os.path.dirname(self.partial), f"{identifier}.partial")
            os.rename(self.partial, named)
            self.partial = named
        return {
            "id": identifier,
            "method": self.request.method,
            **stamp,
            "extras": list(self.request.extras),
            "uv": self.uv.version,
            "patches": [{"name": name, "sha256": digest(text)} for name, text in read_patches(self.request)],
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "identity": identity(self.request, version, self.tree),
        }

    # From an index, or from a directory of wheels.

    def _from_index(self, version: str | None) -> dict[str, Any]:
        if version is None:
            version = self._newest(self.request.version or "")
        self.about = f"hermes-agent {version}"
        extras = f"[{','.join(self.request.extras)}]" if self.request.extras else ""
        requirement = f"hermes-agent{extras}=={version}"
        locked, text, requires = self._lock_for(version)
        python = self._interpreter(requires or self._requires(version, text))
        if text is None:
            text = self._resolve(requirement, python, "--generate-hashes")
        self._environment(python)
        requirements = self._write("requirements.txt", requirement + "\n")
        self._install(requirements, text, "--requirement", requirements)
        requires = self._check_metadata()
        self._compile(self._patch(self._packages))
        return {
            "version": version,
            "source": {"index": self.index.wheels or self.index.url},
            "python": {"path": python, "requires": requires},
            **self._locking(locked, text),
        }

    def _check_metadata(self) -> str | None:
        """``requires-python`` of what was installed.

        :raises OpsError: there is no such extra; uv only warns
        """
        metadata = _metadata(self._packages)
        offered = {_normal(name) for name in re.findall(r"^Provides-Extra: (\S+)", metadata, re.MULTILINE)}
        unknown = [extra for extra in self.request.extras if _normal(extra) not in offered]
        if unknown:
            raise OpsError(
                f"{self.about} has no extra {', '.join(unknown)}; nothing was changed",
                where="extras",
                fix="it has " + ", ".join(sorted(offered)),
            )
        return _requires_python(metadata)

    def _requires(self, version: str, lock: str | None) -> str | None:
        """``requires-python`` of a version that we ship no lock for, from its own metadata.

        Asked before anything is resolved, because uv heeds the lower bound of it only: it would install on an
        interpreter that is too new.
        """
        target = os.path.join(self.work, "metadata")
        pins = ["--require-hashes", "--constraint", self._write("given.txt", lock)] if lock else []
        wanted = self._write("metadata.txt", f"hermes-agent=={version}\n")
        try:
            self.uv(
                "pip", "install", "--quiet", "--no-deps", "--target", target, "--python", self._interpreter(None),
                *pins, *self.uv.source, "--requirement", wanted, about=self.about,
            )  # fmt: skip
        except PythonMismatch as mismatch:
            return mismatch.requires
        return _requires_python(_metadata(target))

    def _newest(self, specifier: str) -> str:
        """The newest version in *specifier* that the index has for an interpreter of this host."""
        self.about = f"hermes-agent {specifier}"
        try:
            text = self._resolve(f"hermes-agent{specifier}", self._interpreter(None), "--no-deps")
        except PythonMismatch as mismatch:
            text = self._resolve(f"hermes-agent{specifier}", self._interpreter(mismatch.requires), "--no-deps")
        return re.findall(r"^hermes-agent==([^\s;\\]+)", text, re.MULTILINE)[0]

    def _resolve(self, requirement: str, python: str, *options: str) -> str:
        """*requirement* and, unless *options* say otherwise, all that it needs, as uv pins them."""
        return self.uv(
            "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python", python, *options,
            *self.uv.source, self._write("requirements.in", requirement + "\n"), about=self.about,
        )  # fmt: skip

    def _lock_for(self, version: str) -> tuple[str, str | None, str | None]:
        """Kind of the lock, its text (None: there is none), and the ``requires-python`` that it knows of."""
        if self.request.lock == "none":
            return "none", None, None
        if self.request.lock != "auto":
            return "given", lock_text(self.request.lock), None
        from .pins import LOCKS, REQUIRES_PYTHON

        text = LOCKS.get(version)
        return ("shipped", text, REQUIRES_PYTHON) if text is not None else ("none", None, None)

    # From a tree.

    def _from_tree(self) -> dict[str, Any]:
        tree = os.path.join(self.work, "src")
        os.mkdir(tree)
        if self.request.method == "git":
            self.about = f"hermes-agent {self.request.ref}"
            source: dict[str, Any] = {"url": redact(self.request.url or ""), "ref": self.request.ref}
            self._export(tree)
        else:
            self.about = f"hermes-agent in {self.request.path}"
            source = {"path": self.request.path}
            _copy_tree(self.request.path or "", tree)
        self._patch(tree)
        project = read_text(os.path.join(tree, "pyproject.toml")) or ""
        requires = _project_value(project, "requires-python")
        python = self._interpreter(requires)
        self._environment(python)
        os.rename(tree, os.path.join(self.partial, "src"))
        tree = os.path.join(self.partial, "src")
        self._mark_as_ours(tree)
        extras = [word for extra in self.request.extras for word in ("--extra", extra)]
        manifest = os.path.join(tree, "pyproject.toml")
        if self.request.lock == "auto" and os.path.exists(os.path.join(tree, "uv.lock")):
            locked = "tree"
            text = self.uv(
                "export", "--frozen", "--no-dev", "--no-emit-project", "--quiet", "--no-header", "--no-annotate",
                "--format", "requirements.txt", "--python", python, *extras, about=self.about, cwd=tree,
            )  # fmt: skip
            pinned = self._write("requirements.txt", text)
            self._install(pinned, text, "--requirement", pinned)
        else:
            locked = "none" if self.request.lock in ("auto", "none") else "given"
            if locked == "given":
                text = lock_text(self.request.lock)
            else:
                text = self.uv(
                    "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes", "--python",
                    python, *extras, *self.uv.source, manifest, about=self.about,
                )  # fmt: skip
            self._install(manifest, text, "--requirement", manifest, *extras)
        self._install_tree(tree)
        return {
            "version": _project_value(project, "version"),
            "source": source,
            "commit": self.request.commit,
            "python": {"path": python, "requires": requires},
            **self._locking(locked, text),
        }

    def _git(self, *arguments: str) -> str:
        """What git says; its repository is one of the work directory."""
        env = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")}
        if "GIT_SSL_CAINFO" in self.uv.env:
            env["GIT_SSL_CAINFO"] = self.uv.env["GIT_SSL_CAINFO"]
        argv = ["git", "--git-dir", os.path.join(self.work, "git"), *arguments]
        done = run(argv, timeout=self.timeout, check=False, env=env, cwd=self.work, pass_fds=(self.descriptor,))
        if not done.ok:
            raise OpsError(
                f"{self.about}: git failed: {redact(done.last_words)}; nothing was changed",
                where=redact(self.request.url or ""),
                fix="check url and ref, the network, and that root may read the repository",
            )
        return done.stdout.strip()

    def _newest_tag(self) -> tuple[str, str]:
        """The newest tag of the channel and its commit; a tag, never a branch."""
        url = self.request.url or ""
        self.about = f"hermes-agent {self.request.channel}"
        commits: dict[str, str] = {}
        for line in self._git("ls-remote", "--tags", "--end-of-options", url).splitlines():
            commit, _separator, name = line.partition("\trefs/tags/")
            if name.endswith("^{}"):
                # What an annotated tag, an object of its own, leads to.
                commits[name[:-3]] = commit
            elif name:
                commits.setdefault(name, commit)
        offered = [tag for tag in commits if self.request.is_offered(tag)]
        if not offered:
            raise OpsError(
                f"{self.about}: there is no such tag; nothing was changed",
                where=redact(url),
                fix=f"correct channel; see git ls-remote --tags {redact(url)}",
            )
        tag = max(offered, key=tag_key)
        return tag, commits[tag]

    def _export(self, tree: str) -> None:
        """The files of the commit, without history: a tree without .git is one that Hermes leaves alone."""
        url, ref, commit = self.request.url or "", self.request.ref or "", self.request.commit or ""
        self._git("init", "--quiet", "--bare")
        self._git("fetch", "--quiet", "--depth=1", "--no-tags", "--end-of-options", url, ref)
        found = self._git("rev-parse", "--verify", "FETCH_HEAD^{commit}")
        if found != commit:
            raise OpsError(
                f"{ref} is at commit {found}, declared is {commit}; nothing was changed",
                where=redact(url),
                fix="find out why it moved; if that is right, declare the new commit",
            )
        self._git("--work-tree", tree, "checkout", "--quiet", "--force", commit, "--", ".")

    def _mark_as_ours(self, tree: str) -> None:
        """Tell Hermes' own updater that somebody else updates this tree (read from 0.21 on; FACTS 12)."""
        path = os.path.join(tree, "install-stamp.json")
        try:
            known = json.loads(read_text(path) or "{}")
        except ValueError:
            known = {}
        value = {**(known if isinstance(known, dict) else {}), "updateMechanism": "external"}
        if self.request.commit:
            value.update(commit=self.request.commit, ref=self.request.ref)
        write_json(path, value, mode=0o644)

    def _install_tree(self, tree: str) -> None:
        """Make the tree importable where it lies, now and after the rename.

        As upstream installs it: the skills and other data of a tree are found beside its code, a wheel of it
        has none. ``editable_mode=compat`` asks setuptools for a plain path file, in which the path can be relative.
        """
        self.uv(
            "pip", "install", "--quiet", "--no-deps", "--python", self._python, "--config-setting",
            "editable_mode=compat", *self.uv.source, "--editable", tree, about=self.about,
        )  # fmt: skip
        packages = self._packages
        for name in os.listdir(packages):
            if not name.endswith((".pth", ".py")):
                continue
            path = os.path.join(packages, name)
            text = read_text(path) or ""
            if self.partial not in text:
                continue
            if name.endswith(".py"):
                raise OpsError(f"{self.about}: its build backend cannot install it in place", where=path)
            with open(path, "w", encoding="utf-8") as stream:
                stream.writelines(
                    os.path.relpath(line, packages) + "\n" if line.startswith(self.partial) else line + "\n"
                    for line in text.splitlines()
                )
        run([self._python, "-m", "compileall", "-q", "-j", "0", "-x", r"/(tests|website|skills|optional-skills)/",
             tree],
            timeout=self.timeout, check=False, pass_fds=(self.descriptor,))  # fmt: skip

    # Steps that both share.

    def _patch(self, tree: str) -> list[str]:
        """Apply the patches to *tree*, each exactly: where a context differs it is for a person to look.

        By git, which hosts have (base_packages), and which applies a patch as a whole or not at all, never guesses
        (GNU patch does, unless told) and writes nowhere outside of *tree*, not through a link either.

        :returns: the files that were changed
        :raises OpsError: one does not apply; names the patch, the file, and what was not found there
        """
        changed: list[str] = []
        for name, text in read_patches(self.request):
            path = self._write("patch", text if text.endswith("\n") else text + "\n")
            checked = self._apply(tree, "--check", "--verbose", path)
            if not checked.ok:
                self._explain_patch(name, checked.stderr, there=self._apply(tree, "--check", "--reverse", path).ok)
            self._apply(tree, path)
            stats = self._apply(tree, "--numstat", "-z", path).stdout.split("\0")
            changed += [os.path.join(tree, entry.split("\t")[-1]) for entry in stats if entry]
        return changed

    def _apply(self, tree: str, *arguments: str) -> Completed:
        # A repository that the tree happens to lie in is none of its business.
        env = {"GIT_CEILING_DIRECTORIES": os.path.dirname(tree)}
        argv = ["git", "apply", "--whitespace=nowarn", *arguments]
        return run(argv, timeout=self.timeout, check=False, env=env, cwd=tree, pass_fds=(self.descriptor,))

    def _explain_patch(self, name: str, said: str, *, there: bool) -> NoReturn:
        """:raises OpsError: what ``git apply --check --verbose`` said, in our words"""
        if there:
            raise OpsError(f"{self.about}: {name} is in it already; nothing was changed", fix="take it out of patches")
        missing = re.search(r"^error: while searching for:\n(.*?)\nerror: ", said, re.MULTILINE | re.DOTALL)
        errors = [line[len("error: ") :] for line in said.splitlines() if line.startswith("error: ")]
        errors = [line for line in errors if line != "while searching for:"]
        lines = f"; it looks for:\n{missing[1]}\n" if missing else "; "
        raise OpsError(
            f"{self.about}: {name} does not apply ({', '.join(errors)}){lines}nothing was changed",
            fix="adapt the patch to this version, or take it out of patches",
        )

    def _compile(self, files: list[str]) -> None:
        """Byte code of *files* anew, even where a file has the time and size that it had before."""
        sources = [path for path in files if path.endswith(".py") and os.path.exists(path)]
        if sources:
            run([self._python, "-m", "compileall", "-q", "-f", *sources], timeout=self.timeout, check=False,
                pass_fds=(self.descriptor,))  # fmt: skip

    @property
    def _packages(self) -> str:
        library = os.path.join(self.partial, "lib")
        return os.path.join(library, os.listdir(library)[0], "site-packages")

    @property
    def _python(self) -> str:
        return os.path.join(self.partial, "bin", "python")

    def _write(self, name: str, text: str) -> str:
        path = os.path.join(self.work, name)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return path

    def _interpreter(self, requires: str | None) -> str:
        """Path of the interpreter to build with.

        :raises OpsError: it, or the one that was asked for, does not satisfy *requires*; names both
        """
        found = self._find(self.request.python or requires)
        if found is None and not self.request.python:
            # None that fits: the host's own, for the error that names both.
            found = self._find(None)
        if found is None:
            needs = f" ({self.about} requires {requires})" if requires else ""
            raise OpsError(
                f"{self.about}: this host has no Python {self.request.python or ''}{needs}; nothing was changed",
                where="python",
                fix="install it, name another in python, or allow python_downloads",
            )
        query = [found, "-I", "-c", "import platform; print(platform.python_version())"]
        version = run(query, timeout=20).stdout.strip()
        if requires and not satisfies(version, requires):
            raise PythonMismatch(self.about, version, requires, found)
        if not self._everybody_can_run(query):
            raise OpsError(
                f"{self.about}: only root can run this interpreter; nothing was changed",
                where=found,
                fix="name one in python that lies outside of a private directory, e.g. /usr/bin/python3.11",
            )
        return found

    def _find(self, request: str | None) -> str | None:
        """What uv finds for *request*, its links resolved; None when there is no such interpreter.

        Not /usr/bin/python3: what that leads to changes with the distribution, a release must not.
        """
        downloads = [] if self.request.python_downloads else ["--no-python-downloads"]
        arguments = ["--no-project", "--system", *downloads, *([request] if request else [])]
        try:
            return os.path.realpath(self.uv("python", "find", *arguments, about=self.about).strip())
        except OpsError:
            if self.request.python_downloads and request:
                # uv only fetches one where it is told to install.
                self.uv("python", "install", "--no-bin", request, about=f"Python {request}")
                return os.path.realpath(self.uv("python", "find", *arguments, about=self.about).strip())
            return None

    def _everybody_can_run(self, argv: list[str]) -> bool:
        if self.nobody is None:
            return True
        try:
            return run(argv, timeout=20, check=False, user=self.nobody, cwd="/").ok
        except OpsError:
            return False

    def _environment(self, python: str) -> None:
        self.uv("venv", "--quiet", "--relocatable", "--no-project", "--python", python, self.partial, about=self.about)

    def _install(self, what: str, constraints: str, *arguments: str) -> None:
        lockfile = os.path.join(self.partial, "requirements.lock")
        with open(lockfile, "w", encoding="utf-8") as stream:
            stream.write(constraints)
        self.uv(
            "pip", "install", "--quiet", "--python", self._python, "--require-hashes", "--compile-bytecode",
            "--constraint", lockfile, *self.uv.source, *arguments, about=self.about,
        )  # fmt: skip

    @staticmethod
    def _locking(kind: str, text: str) -> dict[str, Any]:
        return {"locked": kind != "none", "lock": {"kind": kind, "sha256": digest(text)}}

    def _prove(self, expected: str | None) -> str:
        """Start what was built, as a user with no rights and without network; returns the version it says it is.

        :raises OpsError: it does not start, lacks what its extras promise, or is another version
        """
        home = os.path.join(self.work, "home")
        os.mkdir(home)
        if self.nobody:
            os.chown(home, self.nobody.uid, self.nobody.gid)
        # `hermes --version` asks the index for news (0.19.0 hermes_cli/banner.py): a dead proxy answers at once.
        dead = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
                             "http://127.0.0.1:9")  # fmt: skip
        env = {**dead, "HOME": home, "HERMES_HOME": os.path.join(home, "hermes"), "no_proxy": "", "NO_PROXY": ""}
        modules = ["gateway", *(["aiohttp"] if AIOHTTP_EXTRAS.intersection(self.request.extras) else [])]
        said = ""
        for argv in (
            [self._python, "-c", f"import {', '.join(modules)}"],
            [os.path.join(self.partial, "bin", "hermes"), "--version"],
        ):
            done = run(argv, timeout=120, check=False, env=env, cwd=home, user=self.nobody, pass_fds=(self.descriptor,))
            if not done.ok:
                raise OpsError(
                    f"{self.about}: built, but {' '.join(map(os.path.basename, argv))} fails: {done.last_words}; "
                    "nothing was changed",
                    fix="take another version; see that all users may enter the install root",
                )
            said = done.stdout
        match = _SAID_VERSION.search(said)
        if match is None:
            raise OpsError(f"{self.about}: bin/hermes --version names no version; nothing was changed")
        if self.request.method == "pypi" and version_key(match[1]) != version_key(expected or ""):
            raise OpsError(f"{self.about}: built, but it says it is {match[1]}; nothing was changed")
        return match[1]

    def _complete(self, stamp: dict[str, Any]) -> None:
        """Stamp it, get everything on disk, rename it: from then on it is a release."""
        write_json(os.path.join(self.partial, STAMP), stamp, mode=0o644)
        # A release that a power cut left half on disk would look complete.
        run(["sync", "--file-system", self.partial], timeout=self.timeout, check=False)
        final = os.path.join(os.path.dirname(self.partial), stamp["id"])
        if os.path.lexists(final):
            # The same release, whose interpreter is gone.
            retire(os.path.dirname(final), stamp["id"])
        os.rename(self.partial, final)
        sync_directory(os.path.dirname(final))


def _metadata(packages: str) -> str:
    """The METADATA of the hermes-agent that is installed in *packages*."""
    name = next(name for name in os.listdir(packages) if re.match(r"hermes_agent-.*\.dist-info$", name))
    return read_text(os.path.join(packages, name, "METADATA")) or ""


def _requires_python(metadata: str) -> str | None:
    match = re.search(r"^Requires-Python: (\S+)", metadata, re.MULTILINE)
    return match[1] if match else None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _project_value(project: str, key: str) -> str | None:
    """A string in ``[project]`` of a pyproject.toml (hosts before Python 3.11 have no tomllib)."""
    section = re.search(r"^\[project\]\s*$(.*?)(?=^\[|\Z)", project, re.MULTILINE | re.DOTALL)
    match = re.search(rf"""^{key}\s*=\s*["']([^"']*)["']""", section[1], re.MULTILINE) if section else None
    return match[1] if match else None


def _copy_tree(source: str, target: str) -> None:
    shutil.copytree(
        source, target, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT), copy_function=_copy
    )


def _copy(source: str, target: str, *, follow_symlinks: bool = True) -> None:
    shutil.copyfile(source, target, follow_symlinks=follow_symlinks)
    if not os.path.islink(target):
        os.chmod(target, 0o755 if os.stat(source).st_mode & stat.S_IXUSR else 0o644)


def _close_to_others(path: str) -> None:
    """Readable for everybody, writable for the owner only, whatever modes a wheel or a tree came with."""
    for entry in _walk(path):
        mode = entry.stat(follow_symlinks=False).st_mode
        wanted = 0o755 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644
        if stat.S_IMODE(mode) != wanted:
            os.chmod(entry.path, wanted)
    os.chmod(path, 0o755)


def _walk(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_symlink():
                continue
            yield entry
            if entry.is_dir():
                yield from _walk(entry.path)
