# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The support bundle: everything needed to diagnose a host from afar, without its secrets and without the memories and
conversations of its agents.

Workers read whatever an agent can write (:mod:`inside`). Each text is then searched for known secrets and for text that
looks like a secret, and the finished archive is searched for known secrets again. A part that may still hold a secret
is left out and listed, so one agent cannot prevent the rest of the bundle.
"""

from __future__ import annotations

import glob
import io
import itertools
import os
import platform
import re
import sqlite3
import stat
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

from .. import __version__
from ..agent import config, dotenv
from ..description.agent import Agent
from ..description.hiding import redact_text, shown
from ..host import jobs, kit, settings
from ..host.installation import Installation
from ..secrets import store
from ..supervise import gateway
from ..system import yaml_edit
from ..system.errors import OpsError
from ..system.files import Account, read_bytes, read_json
from ..system.plan import HIDDEN
from ..system.process import run_tail
from ..system.text import moment, printable
from ..system.worker import Limits, work
from . import inside
from .redaction import KnownSecrets

# Limits of one command (seconds), and of a worker that reads a home.
TIMEOUT = 60.0
_LIMITS = Limits(seconds=20.0, answer=8 * 2**20)
# Limits of one part of the bundle and of the bundle, in bytes. The output of a command is cut at its beginning.
PART_LIMIT = 2**19
TOTAL_LIMIT = 24 * 2**20
# How often a part that still holds a secret is searched again before it is left out.
_AGAIN = 3

# Member of the bundle -> the command that prints it.
COMMANDS: dict[str, tuple[str, ...]] = {
    "check.json": (kit.COMMAND, "check", "--json"),
    "status.json": (kit.COMMAND, "status", "--json"),
    "status.txt": (kit.COMMAND, "status"),
    "system/clock.txt": ("timedatectl",),
    "system/disk.txt": ("df", "--human-readable", "--print-type"),
    "system/failed_units.txt": ("systemctl", "list-units", "--failed", "--no-pager", "--plain"),
    "system/inodes.txt": ("df", "--inodes"),
    "system/kernel.txt": ("uname", "--all"),
    # Of /proc, read_bytes reads nothing.
    "system/load.txt": ("cat", "/proc/loadavg"),
    "system/memory.txt": ("cat", "/proc/meminfo"),
    "system/ports.txt": ("ss", "--listening", "--tcp", "--numeric", "--processes"),
    "system/timers.txt": ("systemctl", "list-timers", "--all", "--no-pager", "hermes-*"),
}
FILES = {"system/os.txt": "/etc/os-release"}
# Fingerprints, by which changed values are recognised.
_FINGERPRINT = re.compile(r"[0-9a-f]{32,}")


@dataclass
class Bundle:
    """An archive that may leave the host.

    :param data: the ``tar.gz``
    :param members: names of its members
    :param left_out: name of a part that is not in it -> the reason
    """

    data: bytes = b""
    members: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def bundle(host: Installation, name: str, lines: int) -> Bundle:
    """Make a bundle about *host*, searched for secrets.

    :param name: name of the directory in the archive
    :param lines: number of lines from each journal
    """
    homes = {
        agent.name: Home(agent.name, agent.home, host.account_of(agent), _copies(host, agent)) for agent in host.agents
    }
    return assemble(name, _collect(host, homes, lines), known_of(host, list(homes.values())))


def assemble(name: str, parts: Iterable[tuple[str, Home | None, str]], secrets: KnownSecrets) -> Bundle:
    """Make a bundle of *parts*, searched for *secrets*.

    :param parts: each member's name, the home of the agent it is about, and its text
    """
    made = Bundle()
    texts: dict[str, str] = {}
    total = 0
    for member, agent, text in parts:
        if agent and agent.unknown:
            why = f"not all secrets of the agent {agent.name} are known: {agent.unknown}"
            made.left_out[member] = redact_text(secrets.hide(why), 500)
            continue
        text = redact_text(secrets.hide(text))
        total += len(text)
        if total > TOTAL_LIMIT:
            made.left_out[member] = f"the bundle is full ({TOTAL_LIMIT} bytes)"
            continue
        texts[member] = text
    for again in itertools.count():
        made.data = _archive(name, {**texts, "left_out.txt": _left_out(made.left_out)})
        found = _with_secrets(made.data, secrets)
        if not found:
            break
        for member in found:
            # Hiding one secret can make another one recognisable. An agent chooses its own, and must not thereby have
            # the parts about others left out.
            if again < _AGAIN:
                texts[member] = redact_text(secrets.hide(texts[member]))
                continue
            del texts[member]
            made.left_out[member] = "a secret of this host is in it, in a form that could not be hidden"
    made.members = sorted([*texts, "left_out.txt"])
    return made


def _with_secrets(archive: bytes, secrets: KnownSecrets) -> list[str]:
    """The parts of *archive*, in its final form, that hold one of *secrets*."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        texts = {member.name.partition("/")[2]: opened.extractfile(member).read().decode() for member in opened}
    return [member for member, text in texts.items() if member != "left_out.txt" and secrets.stand_in(text)]


def _left_out(members: dict[str, str]) -> str:
    return "".join(f"{member}: {why}\n" for member, why in sorted(members.items())) or "nothing\n"


def _archive(name: str, members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in sorted(members):
            data = members[member].encode("utf-8", "replace")
            header = tarfile.TarInfo(f"{name}/{member}")
            header.size, header.mode, header.mtime = len(data), 0o600, int(time.time())
            archive.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


class Home:
    """An agent's home, as read by workers.

    :param name: of the agent that lives in it
    :param copies: name and text of further files of the agent, stored elsewhere
    :ivar unknown: why not all of its secrets are known; ``""`` when they are
    """

    def __init__(self, name: str, home: str, account: Account, copies: list[list[str]]) -> None:
        self.name = name
        self.unknown = ""
        self._home, self._account, self._copies = home, account, copies

    def _ask(self, function: str, *arguments: Any) -> Any:
        return work(self._account, f"watch.inside:{function}", self._home, *arguments, limits=_LIMITS, where=self._home)

    def secrets(self) -> tuple[list[str], list[str]]:
        """The secrets of the home, and values that may be secret. Sets :attr:`unknown` when some are missing."""
        try:
            found = self._ask("secrets_in", self._copies)
            secrets, private, incomplete = (_texts(found[key]) for key in ("secrets", "private", "incomplete"))
        except (OpsError, TypeError, KeyError) as error:
            self.unknown = printable(str(error))
            return [], []
        if incomplete:
            self.unknown = f"too much to read in {printable(', '.join(incomplete))[:200]}"
        return secrets, private

    def members(self) -> dict[str, str]:
        """Parts of the bundle from this home. Their content is the agent's, so it is not trusted."""
        try:
            found = self._ask("members_of")
            return {name: found[name] for name in inside.MEMBERS if isinstance(found.get(name), str)}
        except (OpsError, AttributeError) as error:
            return {"home.txt": f"not available: {error}\n"}


def _copies(host: Installation, agent: Agent) -> list[list[str]]:
    """The files of an agent that are not in its home, see :class:`Home`."""
    kept = os.path.join(host.records(agent.name).directory, "kept")
    return [
        [f"{os.path.basename(directory)}/{name}", _text(os.path.join(directory, name), inside.FILE_LIMIT)]
        for directory in (agent.managed_dir, kept)
        for name in (dotenv.FILE_NAME, config.FILE_NAME)
    ]


# Member of a bundle -> the home of the agent it is about, and what makes its text.
Makers = dict[str, tuple[Optional[Home], Callable[[], str]]]


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise TypeError("is no list of texts")
    return value


def known_of(host: Installation, homes: list[Home]) -> KnownSecrets:
    """All secrets of the host's agents and jobs, from every place that holds some."""
    secrets, private = list(_private_values(settings.DIRECTORY)), []
    for home in homes:
        its_secrets, its_private = home.secrets()
        secrets += [*its_secrets, *(store.secrets_of(home.name) or {}).values()]
        private += its_private
    return KnownSecrets(secrets, private)


def _private_values(top: str) -> Iterator[str]:
    """The secrets in files below *top* that only root may read."""
    for directory, _directories, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            if stat.S_IMODE(os.lstat(path).st_mode) & 0o077:
                continue
            text = _text(path, inside.FILE_LIMIT)
            yield from inside.json_secrets(text) if name.endswith(".json") else [text, *text.splitlines()]


# Further units that may have a journal, besides jobs and gateways.
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


def _collect(host: Installation, homes: dict[str, Home], lines: int) -> Iterator[tuple[str, Home | None, str]]:
    """Yield each member's name, the home of the agent it is about, and its text, or the reason why there is none."""
    makers: Makers = {}

    def add(members: dict[str, Callable[[], str]], home: Home | None = None) -> None:
        makers.update({member: (home, make) for member, make in members.items()})

    add({"about.txt": lambda: _about(host, homes), "releases.json": lambda: inside.as_json(_releases(host))})
    add({member: lambda argv=argv: output(*argv) for member, argv in COMMANDS.items()})
    add({member: lambda path=path: file(path) for member, path in FILES.items()})
    add({f"jobs/{os.path.basename(path)}": lambda path=path: file(path) for path in _job_files(host)})
    for job in jobs.JOBS.values():
        add(_unit(job.service, lambda *arguments: output("systemctl", *arguments)))
        add({f"journal/{job.service}.txt": lambda job=job: _journal(lines, "--unit", job.service)})
    # Updates by hand, recoveries, the canary, the dashboard, the journal upload.
    add({"journal/others.txt": lambda: _journal(lines, *OTHER_UNITS)})
    for agent in host.agents:
        name, home = agent.name, homes[agent.name]
        add(_unit(agent.unit, lambda *arguments, agent=agent: _systemctl(host, agent, *arguments)), home)
        add({f"journal/hermes-gateway-{name}.txt": lambda agent=agent: _own_journal(host, agent, lines)}, home)
        add({f"agents/{name}/{member}": make for member, make in _remembered(host, agent).items()})
        for member, text in home.members().items():
            add({f"agents/{name}/{member}": lambda text=text: text}, home)
    yield from made_by(makers)


def made_by(makers: Makers) -> Iterator[tuple[str, Home | None, str]]:
    """The parts of a bundle, see :func:`assemble`."""
    for member, (home_of, make) in makers.items():
        try:
            yield member, home_of, make()
        except (OpsError, OSError, ValueError, RecursionError) as error:
            yield member, home_of, f"not available: {error}\n"


def _about(host: Installation, homes: dict[str, Home]) -> str:
    unknown = {home.name: home.unknown for home in homes.values() if home.unknown}
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
            "agents": "; ".join(f"{p.name}: {p.home}, user {p.user}" for p in host.agents) or "none",
            "never in it": f"secrets (shown as {HIDDEN}), sessions, memories, context, logs of Hermes itself",
            "searched for": "the secrets that the host knows, and values whose name or form is that of a secret",
            "agents whose secrets are not all known": inside.as_json(unknown).strip() if unknown else "none",
        }.items()
    )


def _unit(unit: str, ask: Callable[..., str]) -> dict[str, Callable[[], str]]:
    return {
        f"units/{unit}.txt": lambda: ask("cat", "--no-pager", unit),
        f"units/{unit}.properties.txt": lambda: ask("show", "--no-pager", unit),
    }


def _remembered(host: Installation, agent: Agent) -> dict[str, Callable[[], str]]:
    """Makers of the members about an agent that come from root's records and from its managed scope."""
    records, managed = host.records(agent.name), agent.managed_dir
    members = {
        "managed_config.yaml.json": lambda: _managed_config(os.path.join(managed, config.FILE_NAME)),
        "managed_env_names.txt": lambda: inside.env_names(_file_or_none(os.path.join(managed, dotenv.FILE_NAME))),
        "restart.json": lambda: inside.as_json(records.restart_reasons()),
    }
    for kind in ("config", "env", "gateway", "webhooks"):
        members[f"applied_{kind}.json"] = lambda kind=kind: inside.as_json(without_fingerprints(records.applied(kind)))
    return members


def without_fingerprints(value: Any) -> Any:
    """*value* from our records of an agent, without salts and with placeholders for fingerprints."""
    if isinstance(value, dict):
        return {name: without_fingerprints(part) for name, part in value.items() if name != "salt"}
    if isinstance(value, list):
        return [without_fingerprints(part) for part in value]
    return "(fingerprint)" if isinstance(value, str) and _FINGERPRINT.fullmatch(value) else value


def _managed_config(path: str) -> str:
    text = _file_or_none(path)
    return "there is none\n" if text is None else inside.as_json(shown((), yaml_edit.load(text, path)))


def _releases(host: Installation) -> dict[str, Any]:
    directory = os.path.join(host.root, "releases")
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    stamps = {name: read_json(os.path.join(directory, name, "release.json")) for name in names}
    return {"current": gateway.current_release(host.root), "releases": stamps}


def _job_files(host: Installation) -> list[str]:
    """The status files of all jobs, and the journal of an unfinished update."""
    patterns = ("status/*.json", "update/*.json")
    return sorted(path for pattern in patterns for path in glob.glob(os.path.join(glob.escape(host.ops_dir), pattern)))


def _journal(lines: int, *matches: str) -> str:
    return output("journalctl", "--no-pager", "--output", "short-iso", "--lines", str(lines), *matches)


def _own_journal(host: Installation, agent: Agent, lines: int) -> str:
    return _journal(lines, *host.manager_of(agent).journal(agent.unit))


def _systemctl(host: Installation, agent: Agent, *arguments: str) -> str:
    if host.scope == "system":
        return output("systemctl", *arguments)
    # The user's manager is under the agent's control: it may answer anything.
    account = host.account_of(agent)
    return output("systemctl", "--user", *arguments, user=account, env={"XDG_RUNTIME_DIR": f"/run/user/{account.uid}"})


def output(*argv: str, user: Account | None = None, env: dict[str, str] | None = None) -> str:
    return run_tail(argv, timeout=TIMEOUT, limit=PART_LIMIT, user=user, env=env)


def _file_or_none(path: str) -> str | None:
    data = read_bytes(path, PART_LIMIT)
    return None if data is None else data.decode("utf-8", "replace")


def file(path: str) -> str:
    text = _file_or_none(path)
    return "there is none\n" if text is None else text


def _text(path: str, limit: int) -> str:
    """The text of a file of root's; ``""`` when it cannot be read."""
    try:
        return (read_bytes(path, limit) or b"").decode("utf-8", "replace")
    except OpsError:
        return ""
