# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build a release from a source tree: a commit of a repository, or a directory on the host."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from typing import Any

from ..system.errors import OpsError
from ..system.files import read_text, write_json
from .interpreter import interpreter_for
from .observe import LEFT_OUT
from .patches import apply_patches
from .request import lock_text
from .uv import redact
from .versions import tag_key
from .workshop import Workshop, locking


def from_tree(shop: Workshop) -> dict[str, Any]:
    tree = os.path.join(shop.work, "src")
    os.mkdir(tree)
    if shop.request.method == "git":
        shop.about = f"hermes-agent {shop.request.ref}"
        source: dict[str, Any] = {"url": redact(shop.request.url or ""), "ref": shop.request.ref}
        _export(shop, tree)
    else:
        shop.about = f"hermes-agent in {shop.request.path}"
        source = {"path": shop.request.path}
        _copy_tree(shop.request.path or "", tree)
    apply_patches(shop, tree)
    project = read_text(os.path.join(tree, "pyproject.toml")) or ""
    requires = _project_value(project, "requires-python")
    python = interpreter_for(shop, requires)
    shop.environment(python)
    os.rename(tree, os.path.join(shop.partial, "src"))
    tree = os.path.join(shop.partial, "src")
    _mark_as_ours(shop, tree)
    extras = [word for extra in shop.request.extras for word in ("--extra", extra)]
    manifest = os.path.join(tree, "pyproject.toml")
    if shop.request.lock == "auto" and os.path.exists(os.path.join(tree, "uv.lock")):
        locked = "tree"
        text = shop.uv(
            "export", "--frozen", "--no-dev", "--no-emit-project", "--quiet", "--no-header", "--no-annotate",
            "--format", "requirements.txt", "--python", python, *extras, about=shop.about, cwd=tree,
        )  # fmt: skip
        pinned = shop.write("requirements.txt", text)
        shop.install(pinned, text, "--requirement", pinned)
    else:
        locked = "none" if shop.request.lock in ("auto", "none") else "given"
        if locked == "given":
            text = lock_text(shop.request.lock)
        else:
            text = shop.uv(
                "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes", "--python",
                python, *extras, *shop.uv.source, manifest, about=shop.about,
            )  # fmt: skip
        shop.install(manifest, text, "--requirement", manifest, *extras)
    _install(shop, tree)
    return {
        "version": _project_value(project, "version"),
        "source": source,
        "commit": shop.request.commit,
        "python": {"path": python, "requires": requires},
        **locking(locked, text),
    }


def _git(shop: Workshop, *arguments: str) -> str:
    """The output of git, run on the repository in the work directory."""
    env = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")}
    if "GIT_SSL_CAINFO" in shop.uv.env:
        env["GIT_SSL_CAINFO"] = shop.uv.env["GIT_SSL_CAINFO"]
    argv = ["git", "--git-dir", os.path.join(shop.work, "git"), *arguments]
    done = shop.run(argv, env=env, cwd=shop.work)
    if not done.ok:
        raise OpsError(
            f"{shop.about}: git failed: {redact(done.last_words)}; nothing was changed",
            where=redact(shop.request.url or ""),
            fix="check url and ref, the network, and that root may read the repository",
        )
    return done.stdout.strip()


def newest_tag(shop: Workshop) -> tuple[str, str]:
    """The newest tag of the channel (never a branch) and its commit."""
    url = shop.request.url or ""
    shop.about = f"hermes-agent {shop.request.channel}"
    commits: dict[str, str] = {}
    for line in _git(shop, "ls-remote", "--tags", "--end-of-options", url).splitlines():
        commit, _separator, name = line.partition("\trefs/tags/")
        if name.endswith("^{}"):
            # The commit of an annotated tag, which is an object of its own.
            commits[name[:-3]] = commit
        elif name:
            commits.setdefault(name, commit)
    offered = [tag for tag in commits if shop.request.is_offered(tag)]
    if not offered:
        raise OpsError(
            f"{shop.about}: there is no such tag; nothing was changed",
            where=redact(url),
            fix=f"correct channel; see git ls-remote --tags {redact(url)}",
        )
    tag = max(offered, key=tag_key)
    return tag, commits[tag]


def _export(shop: Workshop, tree: str) -> None:
    """Export the files of the commit without history: Hermes leaves a tree without .git alone."""
    url, ref, commit = shop.request.url or "", shop.request.ref or "", shop.request.commit or ""
    _git(shop, "init", "--quiet", "--bare")
    _git(shop, "fetch", "--quiet", "--depth=1", "--no-tags", "--end-of-options", url, ref)
    found = _git(shop, "rev-parse", "--verify", "FETCH_HEAD^{commit}")
    if found != commit:
        raise OpsError(
            f"{ref} is at commit {found}, declared is {commit}; nothing was changed",
            where=redact(url),
            fix="find out why it moved; if that is right, declare the new commit",
        )
    _git(shop, "--work-tree", tree, "checkout", "--quiet", "--force", commit, "--", ".")


def _mark_as_ours(shop: Workshop, tree: str) -> None:
    """Tell Hermes' own updater that this tree is updated from outside (read by Hermes since 0.21)."""
    path = os.path.join(tree, "install-stamp.json")
    try:
        known = json.loads(read_text(path) or "{}")
    except ValueError:
        known = {}
    value = {**(known if isinstance(known, dict) else {}), "updateMechanism": "external"}
    if shop.request.commit:
        value.update(commit=shop.request.commit, ref=shop.request.ref)
    write_json(path, value, mode=0o644)


def _install(shop: Workshop, tree: str) -> None:
    """Make the tree importable in place, before and after the rename.

    Upstream installs it this way, too: Hermes finds its skills and other data beside the code, and a wheel would
    have none. ``editable_mode=compat`` asks setuptools for a plain path file, in which the path can be relative.
    """
    shop.uv(
        "pip", "install", "--quiet", "--no-deps", "--python", shop.python, "--config-setting",
        "editable_mode=compat", *shop.uv.source, "--editable", tree, about=shop.about,
    )  # fmt: skip
    packages = shop.packages
    for name in os.listdir(packages):
        if not name.endswith((".pth", ".py")):
            continue
        path = os.path.join(packages, name)
        text = read_text(path) or ""
        if shop.partial not in text:
            continue
        if name.endswith(".py"):
            raise OpsError(f"{shop.about}: its build backend cannot install it in place", where=path)
        with open(path, "w", encoding="utf-8") as stream:
            stream.writelines(
                os.path.relpath(line, packages) + "\n" if line.startswith(shop.partial) else line + "\n"
                for line in text.splitlines()
            )
    left_out = r"/(tests|website|skills|optional-skills)/"
    if shop.compiled:
        shop.run([shop.python, "-m", "compileall", "-q", "-j", "0", "-x", left_out, tree])


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
