# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finish the content of the image, in a stage of the Containerfile: nothing that is not used, the same each time."""

from __future__ import annotations

import compileall
import importlib.metadata
import json
import os
import platform
import py_compile
import re
import shutil
import stat
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import manifest
import sbom
from hermes_ops import __version__
from hermes_ops.host import kit

HERE = Path(__file__).resolve().parent
KIT = "/usr/local/lib/hermes-ops"
EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
USER, UID = "hermes", 10000
DATA = "/opt/data"
SHARE = Path(manifest.PATH).parent
# Nobody reads these in a container, or they differ from one build to the next. Licences stay, and so does dpkg's list
# of packages: scanners read it.
SUPERFLUOUS = (
    "etc/*-", "etc/apt", "etc/machine-id", "root/.*", "tmp/*", "usr/share/doc/*/*", "usr/share/info",
    "usr/share/lintian", "usr/share/locale", "usr/share/man", "var/backups/*", "var/cache/*", "var/lib/apt",
    "var/lib/dpkg/*-old", "var/log/*",
)  # fmt: skip
LICENCE = "copyright"
# What the engine mounts during the build.
MOUNTED = {Path("/", path) for path in ("dev", "proc", "run", "sys", "etc/hostname", "etc/hosts", "etc/resolv.conf")}


def main() -> None:
    purge_apt()
    commands()
    user()
    for pattern in SUPERFLUOUS:
        for path in Path("/").glob(pattern):
            if path.name != LICENCE:
                remove(path)
    byte_code()
    remove(HERE)
    SHARE.mkdir()
    write_json(SHARE / "sbom.cdx.json", bill())
    close()
    listing = "".join(f"{line}\n" for line in manifest.lines())
    Path(manifest.PATH).write_text(listing, encoding="utf-8", errors="surrogateescape")
    os.chmod(manifest.PATH, 0o644)
    for path in everything():
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def purge_apt() -> None:
    """Without its lists apt is of no use; nothing can be installed in a container that is read-only."""
    words = ("--yes", "--auto-remove", "--allow-remove-essential")
    subprocess.run(["apt-get", "purge", *words, "apt"], check=True)


def commands() -> None:
    Path(kit.COMMAND).write_text(kit.launcher(KIT), encoding="utf-8")
    os.chmod(kit.COMMAND, 0o755)
    os.symlink("/opt/hermes/current/bin/hermes", kit.WRAPPER)


def user() -> None:
    """The user, and a volume's directory that also the group 0 may write: some platforms give any user that group."""
    with open("/etc/passwd", "a", encoding="utf-8") as stream:
        stream.write(f"{USER}:x:{UID}:{UID}::{DATA}:/bin/bash\n")
    with open("/etc/group", "a", encoding="utf-8") as stream:
        stream.write(f"{USER}:x:{UID}:\n")
    os.mkdir(DATA)
    os.chown(DATA, UID, 0)
    os.chmod(DATA, 0o770)
    # The day on which each password was changed: that of the installation of its package.
    shadow = Path("/etc/shadow")
    shadow.write_text(re.sub(r"(?m)^([^:]*:[^:]*:)\d+", rf"\g<1>{EPOCH // 86400}", shadow.read_text()))


def byte_code() -> None:
    """Compile all modules, so that no start does; without times, which Python would compare at each import."""
    for path in [path for path in everything() if path.name == "__pycache__"]:
        shutil.rmtree(path)
    release = os.path.realpath("/opt/hermes/current")
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    # A release from git has Hermes in src, with much that the gateway never imports.
    left_out = re.compile(r"/src/(tests|website|skills|optional-skills)/")
    places = (sysconfig.get_path("stdlib"), "/usr/lib/python3/dist-packages", KIT, f"{release}/lib", f"{release}/src")
    for directory in places:
        # Packages may hold files that are no valid Python: templates. With more processes some byte code would differ
        # from build to build: whether it repeats or references a constant depends on what was compiled before.
        compileall.compile_dir(directory, rx=left_out, quiet=2, force=True, workers=1, invalidation_mode=unchecked)


def bill() -> dict[str, object]:
    (packages,) = Path("/opt/hermes/current/lib").glob("python*/site-packages")
    found = importlib.metadata.distributions(path=[str(packages)])
    return sbom.document(
        Path("/var/lib/dpkg/status").read_text(encoding="utf-8"),
        platform.freedesktop_os_release(),
        [(each.metadata["Name"], each.version) for each in found],
        browsers(),
        __version__,
        EPOCH,
    )


def browsers() -> list[tuple[str, str]]:
    """Name and version of agent-browser, if the variant has it."""
    if shutil.which("agent-browser") is None:
        return []
    done = subprocess.run(["agent-browser", "--version"], stdout=subprocess.PIPE, text=True, check=True)
    name, version = done.stdout.split()
    return [(name, version)]


def close() -> None:
    """No file lends its owner's or group's rights."""
    for path in everything():
        mode = path.lstat().st_mode
        if mode & (stat.S_ISUID | stat.S_ISGID) and not path.is_symlink():
            path.chmod(stat.S_IMODE(mode) & 0o1777)


def everything() -> Iterator[Path]:
    """All that is in the image."""
    for directory, directories, files in os.walk("/"):
        yield from (path for name in (*files, *directories) if (path := Path(directory, name)) not in MOUNTED)
        directories[:] = [name for name in directories if Path(directory, name) not in MOUNTED]


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.umask(0o022)
    main()
