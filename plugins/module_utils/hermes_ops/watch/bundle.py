# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody needs who is to find out from afar what is wrong with a host: all about it, nothing of its secrets,
and nothing of what its agents remember or say."""

from __future__ import annotations

import glob
import io
import json
import os
import platform
import re
import sqlite3
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from .. import __version__
from ..agent import config, dotenv, webhooks
from ..host import jobs, kit
from ..host.installation import Installation
from ..supervise import gateway
from ..system.errors import OpsError
from ..system.files import Owner, acting_as, read_bytes, read_json
from ..system.plan import HIDDEN
from ..system.process import run
from ..system.text import moment, printable
from .redaction import Secrets, known

# Seconds that one command may take.
TIMEOUT = 60.0
# A home's listing: so deep each entry, below that sums; and so many lines at most.
DEPTH = 2
MAX_ENTRIES = 2000

# Member -> the command whose output it is.
COMMANDS: dict[str, tuple[str, ...]] = {
    "check.json": (kit.COMMAND, "check", "--json"),
    "status.json": (kit.COMMAND, "status", "--json"),
    "status.txt": (kit.COMMAND, "status"),
    "system/clock.txt": ("timedatectl",),
    "system/disk.txt": ("df", "--human-readable", "--print-type"),
    "system/failed_units.txt": ("systemctl", "list-units", "--failed", "--no-pager", "--plain"),
    "system/inodes.txt": ("df", "--inodes"),
    "system/kernel.txt": ("uname", "--all"),
    "system/ports.txt": ("ss", "--listening", "--tcp", "--numeric", "--processes"),
    "system/timers.txt": ("systemctl", "list-timers", "--all", "--no-pager", "hermes-*"),
}
FILES = {"system/load.txt": "/proc/loadavg", "system/memory.txt": "/proc/meminfo", "system/os.txt": "/etc/os-release"}
# What is remembered of a value to see that it was changed.
_FINGERPRINT = re.compile(r"[0-9a-f]{32,}")


def bundle(host: Installation, name: str, lines: int) -> tuple[bytes, list[str]]:
    """A ``tar.gz`` about *host*, searched for secrets.

    :param name: of the directory in it
    :param lines: so many of each journal
    :returns: the archive, and the names of what is in it
    :raises OpsError: when a secret is in it; names the member
    """
    secrets = known(host)
    members = {printable(member).replace("\n", " "): secrets.hidden(text) for member, text in _collect(host, lines)}
    data = _archive(name, members)
    search(data, secrets)
    return data, sorted(members)


def search(archive: bytes, secrets: Secrets) -> None:
    """Look for *secrets* in the *archive* as it will leave the host: names and contents.

    :raises OpsError: when one is found; names the member, not the secret
    """
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        for number, member in enumerate(opened.getmembers()):
            content = opened.extractfile(member)
            text = content.read().decode("utf-8", "replace") if content else ""
            if secrets.found_in(member.name):
                raise _leak(f"the name of member {number}")
            if secrets.found_in(text):
                raise _leak(member.name)


def _leak(what: str) -> OpsError:
    return OpsError(
        f"a secret of this host is in {what}; no bundle was written",
        fix="look at that part on the host itself; if the word is no secret, give the secret a value that is one",
    )


def _archive(name: str, members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in sorted(members):
            data = members[member].encode("utf-8", "replace")
            header = tarfile.TarInfo(f"{name}/{member}")
            header.size, header.mode, header.mtime = len(data), 0o600, int(time.time())
            archive.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


# Units of which there may be a journal, beside jobs and gateways.
OTHER_UNITS = [
    f"--unit={pattern}"
    for pattern in (
        "hermes-update-*",
        "hermes-restore-*",
        "hermes-canary*",
        "hermes-dashboard*",
        "hermes-logrotate*",
        "systemd-journal-upload*",
    )
]


def _collect(host: Installation, lines: int) -> Iterator[tuple[str, str]]:
    """Each member's name and content; one that cannot be had says why, and keeps no other from being there."""
    makers: dict[str, Callable[[], str]] = {
        "about.txt": lambda: _about(host),
        "releases.json": lambda: _json(_releases(host)),
        **{member: lambda argv=argv: _output(*argv) for member, argv in COMMANDS.items()},
        **{member: lambda path=path: _file(path) for member, path in FILES.items()},
        **{f"jobs/{os.path.basename(path)}": lambda path=path: _file(path) for path in _job_files(host)},
    }
    for job in jobs.JOBS.values():
        makers |= _unit(job.service, lambda *arguments: _output("systemctl", *arguments))
        makers[f"journal/{job.service}.txt"] = lambda job=job: _journal(lines, "--unit", job.service)
    # Whatever else there is: updates by hand, recoveries, the canary, the dashboard, what ships the journal.
    makers["journal/others.txt"] = lambda: _journal(lines, *OTHER_UNITS)
    for profile in host.profiles:
        name = profile["name"]
        manager = host.manager_of(profile)
        makers |= _unit(profile["unit"], lambda *arguments, ask=manager.call: ask(*arguments, check=False).stdout)
        identifier = f"hermes-gateway-{name}"
        makers[f"journal/{identifier}.txt"] = lambda word=identifier: _journal(lines, "--identifier", word)
        for member, make in _profile(host, profile).items():
            makers[f"profiles/{name}/{member}"] = make
    for member, make in makers.items():
        try:
            yield member, make()
        except (OpsError, OSError, ValueError, RecursionError) as error:
            yield member, f"could not be had: {error}\n"


def _about(host: Installation) -> str:
    return "".join(
        f"{name}: {value}\n"
        for name, value in {
            "made": moment(time.time()),
            "host": platform.node(),
            "hermes-ops": __version__,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "scope": host.scope,
            "data directory": host.data_dir,
            "ops directory": host.ops_dir,
            "agents": "; ".join(f"{p['name']}: {p['home']}, user {p['user']}" for p in host.profiles) or "none",
            "left out": f"secrets (shown as {HIDDEN}), sessions, memories, context, logs of Hermes itself",
        }.items()
    )


def _unit(unit: str, ask: Callable[..., str]) -> dict[str, Callable[[], str]]:
    return {
        f"units/{unit}.txt": lambda: ask("cat", "--no-pager", unit),
        f"units/{unit}.properties.txt": lambda: ask("show", "--no-pager", unit),
    }


def _profile(host: Installation, profile: dict[str, Any]) -> dict[str, Callable[[], str]]:
    """About one profile: its files without values that are secret, its home as a list, what is remembered of it."""
    home, owner, current = profile["home"], host.owner_of(profile), Owner.current()
    records = host.records(profile["name"])
    members = {
        "config.yaml.json": lambda: _config(os.path.join(home, config.FILE_NAME), owner),
        "managed_config.yaml.json": lambda: _config(os.path.join(profile["managed_dir"], config.FILE_NAME), current),
        "env_names.txt": lambda: _env_names(os.path.join(home, dotenv.FILE_NAME), owner),
        "managed_env_names.txt": lambda: _env_names(os.path.join(profile["managed_dir"], dotenv.FILE_NAME), current),
        "webhooks.json": lambda: _webhooks(os.path.join(home, webhooks.FILE_NAME), owner),
        "gateway_state.json": lambda: _file(os.path.join(home, "gateway_state.json"), owner),
        "home.txt": lambda: _listing(home, owner),
        "restart.json": lambda: _json(records.restart_reasons()),
    }
    for kind in ("config", "env", "gateway", "webhooks"):
        members[f"applied_{kind}.json"] = lambda kind=kind: _json(without_fingerprints(records.applied(kind)))
    return members


def without_fingerprints(value: Any) -> Any:
    """What we remember of a profile, without what stands for its values."""
    if isinstance(value, dict):
        return {name: without_fingerprints(part) for name, part in value.items() if name != "salt"}
    if isinstance(value, list):
        return [without_fingerprints(part) for part in value]
    return "(fingerprint)" if isinstance(value, str) and _FINGERPRINT.fullmatch(value) else value


def _config(path: str, owner: Owner) -> str:
    """A config.yaml as its values are, secrets hidden; without its comments, which may hold some."""
    with acting_as(owner):
        if not os.path.lexists(path):
            return "there is none\n"
        return _json(config.shown((), config.read_config(path)))


def _env_names(path: str, owner: Owner) -> str:
    with acting_as(owner):
        data = read_bytes(path)
    if data is None:
        return "there is none\n"
    return "".join(f"{binding.name}\n" for binding in dotenv.parse(data.decode("utf-8", "replace")))


def _webhooks(path: str, owner: Owner) -> str:
    with acting_as(owner):
        entries = webhooks.read_subscriptions(path)
    return _json(
        {name: {**entry, **({"secret": HIDDEN} if "secret" in entry else {})} for name, entry in entries.items()}
    )


def _listing(home: str, owner: Owner) -> str:
    """What lies in a home, with mode, owner, size and time; of what lies deeper how much it is."""
    lines: list[str] = []
    deeper: dict[str, list[int]] = {}
    with acting_as(owner):
        for directory, directories, names in os.walk(home):
            directories.sort()
            relative = os.path.relpath(directory, home)
            depth = 0 if relative == "." else relative.count(os.sep) + 1
            for name in sorted([*directories, *names]):
                try:
                    status = os.lstat(os.path.join(directory, name))
                except FileNotFoundError:
                    continue  # the running agent removed it meanwhile
                path = os.path.normpath(os.path.join(relative, name))
                if depth < DEPTH:
                    about = f"{stat.filemode(status.st_mode)} {status.st_uid:>6} {status.st_size:>12}"
                    lines.append(f"{about} {moment(status.st_mtime)} {printable(path)}")
                else:
                    total = deeper.setdefault(os.sep.join(path.split(os.sep)[:DEPTH]), [0, 0])
                    total[0] += 1
                    total[1] += status.st_size
    more = [f"{printable(path)}/…: {number} entries, {size} bytes" for path, (number, size) in sorted(deeper.items())]
    left_out = len(lines) - MAX_ENTRIES
    return "\n".join([*lines[:MAX_ENTRIES], *([f"and {left_out} more"] if left_out > 0 else []), *more]) + "\n"


def _releases(host: Installation) -> dict[str, Any]:
    directory = os.path.join(host.root, "releases")
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    stamps = {name: read_json(os.path.join(directory, name, "release.json")) for name in names}
    return {"current": gateway.current_release(host.root), "releases": stamps}


def _job_files(host: Installation) -> list[str]:
    """How the jobs ended, and the journal of an update that has not."""
    patterns = ("status/*.json", "update/*.json")
    return sorted(path for pattern in patterns for path in glob.glob(os.path.join(glob.escape(host.ops_dir), pattern)))


def _journal(lines: int, *matches: str) -> str:
    return _output("journalctl", "--no-pager", "--output", "short-iso", "--lines", str(lines), *matches)


def _output(*argv: str) -> str:
    done = run(argv, timeout=TIMEOUT, check=False)
    ended = f"[exit status {done.rc}]\n" if done.rc else ""
    return done.stdout + done.stderr + ended


def _file(path: str, owner: Owner | None = None) -> str:
    with acting_as(owner or Owner.current()):
        data = read_bytes(path)
    return "there is none\n" if data is None else data.decode("utf-8", "replace")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
