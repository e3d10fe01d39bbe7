# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in the image as root, with nothing mounted, and prints what there is to know of its content."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Programs that build or install something, and directories that would be full of what no agent needs.
TOOLS = ("apt", "apt-get", "as", "cc", "g++", "gcc", "git", "ld", "make", "pip", "pip3", "uv")
EMPTY = ("/root", "/opt/data", "/usr/share/man", "/var/backups", "/var/cache", "/var/lib/apt", "/var/log")
# What the engine mounts.
MOUNTED = {"/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}


def everything() -> Iterator[str]:
    for directory, directories, files in os.walk("/"):
        yield from (path for name in directories + files if (path := os.path.join(directory, name)) not in MOUNTED)
        directories[:] = [name for name in directories if os.path.join(directory, name) not in MOUNTED]


def rights() -> dict[str, list[str]]:
    """Files that lend rights, that anybody may write, or that are not root's."""
    found: dict[str, list[str]] = {"lent": [], "open": [], "foreign": []}
    for path in everything():
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            continue
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID) or "security.capability" in os.listxattr(path):
            found["lent"].append(path)
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            found["open"].append(path)
        if status.st_uid:
            found["foreign"].append(path)
    return found


def byte_code() -> dict[str, Any]:
    """Modules without byte code, byte code that this Python does not use unchecked (PEP 552), and how much it does."""
    paths = set(everything())
    unused = {path for path in paths if path.endswith(".pyc")}
    missing, right = [], 0
    for source in (path for path in paths if path.endswith(".py")):
        text = Path(source).read_bytes()
        code = importlib.util.cache_from_source(source)
        head = importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + importlib.util.source_hash(text)
        if code in unused and Path(code).read_bytes().startswith(head):
            unused.remove(code)
            right += 1
        elif is_module(text, source):
            missing.append(source)
    return {"missing": sorted(missing), "unused": sorted(unused), "right": right}


def is_module(text: bytes, path: str) -> bool:
    """Whether it is a module: packages hold programs and templates, too."""
    try:
        compile(text, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return "/lib/" in path


def installed() -> dict[str, list[list[str]]]:
    """Name and version of each package, as dpkg and the release's Python know them."""
    line = r"${db:Status-Status} ${Package} ${Version} ${Architecture}\n"
    done = subprocess.run(["dpkg-query", "--show", "--showformat", line], capture_output=True, text=True, check=True)
    (packages,) = Path("/opt/hermes/current/lib").glob("python3*/site-packages")
    return {
        "deb": sorted(words[1:] for words in map(str.split, done.stdout.splitlines()) if words[0] == "installed"),
        "pypi": sorted(
            [each.metadata["Name"], each.version] for each in importlib.metadata.distributions(path=[str(packages)])
        ),
    }


print(
    json.dumps(
        {
            "tools": [tool for tool in TOOLS if shutil.which(tool)],
            "full": [path for path in EMPTY if os.path.isdir(path) and os.listdir(path)],
            "rights": rights(),
            "byte_code": byte_code(),
            "installed": installed(),
            "sbom": json.loads(Path("/usr/share/hermes/sbom.cdx.json").read_text()),
            "manifest": Path("/usr/share/hermes/manifest").read_text(errors="surrogateescape"),
        }
    )
)
