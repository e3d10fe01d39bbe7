#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package index with made-up releases of Hermes, which are good or fail in a chosen way.

It speaks the simple repository API (PEP 503 with PEP 691's JSON, and PEP 658) at ``/simple/``. For hermes-agent it
offers the real releases and the made-up ones; for every other project it redirects to the real index. A made-up release
is the real 0.19.0 with another version and, at the end of some files, a few more lines (:data:`WRONG`). The file
:data:`TOLD` on a host chooses the fault, so one release, built once, can fail in every way.

Control, for tests:

``POST /control/offer``    an object: version -> ``good``, or ``broken`` for a file that does not match its hash;
                           replaces the previous offer
``POST /control/fault``    the fault of every request except control requests, as text: ``gone`` (the connection
                           breaks), ``hang`` (no answer before the fault is over), ``error`` (status 503); empty: none
``GET /control/requests``  the paths that were asked for so far
``DELETE /control``        forget offer, fault and requests

``package_index.py real-index`` prints the address of the real index, as uv sees it.

``package_index.py repository DIRECTORY`` makes a git repository of the published sources of 0.18.2 and 0.19.0 instead,
with the tags that upstream has for them.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import textwrap
import threading
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from handler import Handler, Server

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
BASE = "0.19.0"
TAGS = {"v2026.7.7": "0.18.2", "v2026.7.20": "0.19.0"}
# Seconds after which the release ``dies``.
DIES_AFTER = 20.0

# Runs before the gateway does anything; "outside" is false in a canary, which Hermes runs in its safe mode.
_AT_START = """

import os as _os, sqlite3 as _sqlite3, threading as _threading
_as_published = start_gateway


async def start_gateway(*arguments, **options):
    outside = _os.environ.get("HERMES_SAFE_MODE") != "1"
    {action}
    return await _as_published(*arguments, **options)
"""
# A file on the host with the fault of a made-up release there, a key of WRONG; empty or missing means no fault.
TOLD = "/run/made-up"
_READ_TOLD = f"""

try:
    with open("{TOLD}") as _stream:
        _told = _stream.read().strip()
except OSError:
    _told = ""
"""
# Fault -> the file to change, and the lines to add.
WRONG: dict[str, tuple[str, str]] = {
    "no_start": ("gateway/run.py", '\nraise SystemExit("made up: it does not start")\n'),
    "dies": ("gateway/run.py", _AT_START.format(action="_threading.Timer({dies_after}, _os._exit, [1]).start()")),
    "no_reply": (
        "gateway/platforms/api_server.py",
        "\n\nasync def _no_reply(self, request):\n"
        '    return web.json_response({"error": {"message": "made up: no chat"}}, status=500)\n\n\n'
        "APIServerAdapter._handle_chat_completions = _no_reply\n",
    ),
    "no_stop": (
        "gateway/run.py",
        "\n\nasync def _never(self, *arguments, **options):\n"
        "    await asyncio.sleep(86400)\n\n\nGatewayRunner.stop = _never\n",
    ),
    # Passes a canary.
    "fails_later": (
        "gateway/run.py",
        _AT_START.format(action='if outside: raise SystemExit("made up: it fails where it counts")'),
    ),
    # Works, and migrates the data to a schema that an earlier release does not know.
    "upgrades": (
        "gateway/run.py",
        _AT_START.format(
            action="""if outside:
        database = _sqlite3.connect(_hermes_home / "state.db")
        if not database.execute("SELECT 1 FROM pragma_table_info('messages') WHERE name = 'of_later'").fetchone():
            database.execute("ALTER TABLE messages ADD COLUMN of_later")
            database.commit()
        database.close()"""
        ),
    ),
    # Passes a canary, then leaves data with which no earlier release can work.
    "migrates": (
        "gateway/run.py",
        _AT_START.format(
            action="""if outside:
        database = _sqlite3.connect(_hermes_home / "state.db")
        if database.execute("SELECT 1 FROM pragma_table_info('messages') WHERE name = 'content'").fetchone():
            database.execute("UPDATE schema_version SET version = version + 1")
            database.execute("ALTER TABLE messages RENAME COLUMN content TO content_of_a_later_release")
            database.commit()
        database.close()
        raise SystemExit("made up: it migrated the database, and fails")"""
        ),
    ),
}


class Page(HTMLParser):
    """A project's page of PEP 503."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.files: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a" and values.get("href"):
            url, _, fragment = urllib.parse.urljoin(self.url, values["href"]).partition("#sha256=")
            file = {"filename": url.rpartition("/")[2], "url": url, "hashes": {"sha256": fragment}}
            if values.get("data-requires-python"):
                file["requires-python"] = values["data-requires-python"]
            self.files.append(file)


def real_index() -> str:
    """The default index of uv, which has to be installed.

    :returns: the address of its simple API
    """
    command = ["uv", "pip", "compile", "--quiet", "--offline", "--no-header", "--emit-index-url", "-"]
    said = subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout
    return said.split()[1]


class RealIndex:
    """The published files of hermes-agent; the index is asked only once.

    :param directory: where fetched files are kept
    """

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self._files: list[dict[str, Any]] = []

    def files(self) -> list[dict[str, Any]]:
        """Its files, as PEP 691 describes them."""
        if not self._files:
            # HTML, because every index has it.
            with urllib.request.urlopen(f"{self.url}/hermes-agent/", timeout=60) as answer:
                page = Page(answer.url)
                page.feed(answer.read().decode())
            self._files = page.files
        return self._files

    def fetch(self, filename: str) -> Path:
        path = self.directory / filename
        if not path.exists():
            file = next(file for file in self.files() if file["filename"] == filename)
            with urllib.request.urlopen(file["url"], timeout=60) as answer:
                data = answer.read()
            if hashlib.sha256(data).hexdigest() != file["hashes"]["sha256"]:
                raise ValueError(f"{file['url']} is not what the index says")
            self.directory.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".fresh")
            fresh.write_bytes(data)
            fresh.replace(path)
        return path


def name_of(version: str) -> str:
    return f"hermes_agent-{version}-py3-none-any.whl"


def added(dies_after: float = DIES_AFTER) -> dict[str, str]:
    """The additions of a made-up release: file -> the lines at its end."""
    lines: dict[str, str] = {}
    for wrong, (place, text) in WRONG.items():
        text = textwrap.indent(text.replace("{dies_after}", str(dies_after)), "    ")
        lines[place] = f"{lines.get(place, _READ_TOLD)}\nif _told == {wrong!r}:\n{text}"
    return lines


def make_up(published: Path, version: str, dies_after: float = DIES_AFTER) -> bytes:
    """A wheel that claims to be *version*.

    :param published: the real wheel of :data:`BASE`
    """
    before, after = f"hermes_agent-{BASE}.dist-info", f"hermes_agent-{version}.dist-info"
    edits: dict[str, Callable[[str], str]] = {
        f"{before}/METADATA": lambda text: replaced(text, f"\nVersion: {BASE}\n", f"\nVersion: {version}\n"),
        "hermes_cli/__init__.py": lambda text: replaced(text, f'__version__ = "{BASE}"', f'__version__ = "{version}"'),
        **{place: lambda text, lines=lines: text + lines for place, lines in added(dies_after).items()},
    }
    record = []
    result = io.BytesIO()
    with zipfile.ZipFile(published) as source, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED, True, 1) as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename in edits:
                data = edits[entry.filename](data.decode()).encode()
            entry.filename = entry.filename.replace(before, after)
            if entry.filename == f"{after}/RECORD":
                # RECORD is the last entry of a wheel, because it lists all others.
                data = "".join([*record, f"{entry.filename},,\n"]).encode()
            target.writestr(entry, data, compresslevel=1)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            record.append(f"{entry.filename},sha256={digest},{len(data)}\n")
    return result.getvalue()


def replaced(text: str, before: str, after: str) -> str:
    if text.count(before) != 1:
        raise ValueError(f"{before!r} is not once in the published file")
    return text.replace(before, after)


def make_repository(path: Path, real: RealIndex, prepare: Callable[[str], None] = lambda tag: None) -> dict[str, str]:
    """A git repository with the sources of :data:`TAGS`, one commit and one annotated tag each.

    :param prepare: called with the tag after its tree was written to *path*, before the commit
    :returns: tag -> commit
    """
    path.mkdir(parents=True, exist_ok=True)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(path)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    commits = {}
    for tag, version in TAGS.items():
        for entry in path.iterdir():
            if entry.name != ".git":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        with tempfile.TemporaryDirectory(dir=path.parent) as unpacked:
            with tarfile.open(real.fetch(f"hermes_agent-{version}.tar.gz")) as packed:
                # Debian 12's Python has no filters yet.
                packed.extractall(unpacked, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
            for entry in (Path(unpacked) / f"hermes_agent-{version}").iterdir():
                shutil.move(str(entry), path / entry.name)
        prepare(tag)
        subprocess.run([*git, "add", "--all", "--force"], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", version], check=True)
        subprocess.run([*git, "tag", "--annotate", "--message", tag, tag], check=True)
        done = subprocess.run([*git, "rev-parse", f"{tag}^0"], check=True, capture_output=True, text=True)
        commits[tag] = done.stdout.strip()
    return commits


class State:
    """What the server was told and asked; shared by the threads that serve requests."""

    def __init__(self, real: RealIndex, dies_after: float) -> None:
        self.real = real
        self.dies_after = dies_after
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.made: dict[str, bytes] = {}
        self.forget()

    def forget(self) -> None:
        self.offer: dict[str, str] = {}
        self.requests: list[str] = []
        self.set_fault("")

    def set_fault(self, fault: str) -> None:
        self.fault = fault
        self.over.set()
        self.over = threading.Event()

    def wheel(self, version: str) -> bytes:
        """The undamaged wheel of an offered made-up release."""
        with self.lock:
            if version not in self.made:
                self.made[version] = make_up(self.real.fetch(name_of(BASE)), version, self.dies_after)
            return self.made[version]


class IndexHandler(Handler):
    server: PackageIndex

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        state = self.server.state
        if self.path == "/control/requests":
            self.answer(200, json.dumps(state.requests).encode())
            return
        state.requests.append(self.path)
        if state.fault == "hang":
            state.over.wait()
        if state.fault in ("gone", "hang"):
            self.close_connection = True
            return
        if state.fault == "error":
            self.answer(503, b"told to fail")
            return
        place, _, name = self.path.strip("/").partition("/")
        if (place, name) == ("simple", "hermes-agent"):
            page = {"meta": {"api-version": "1.0"}, "name": name, "files": self.files()}
            self.answer(200, json.dumps(page).encode(), JSON_TYPE)
        elif place == "simple" and name:
            self.answer(302, b"", headers={"Location": f"{state.real.url}/{name}/"})
        elif place == "files":
            self.send_file(name)
        else:
            self.answer(404, b"no such page")

    def files(self) -> list[dict[str, Any]]:
        state = self.server.state
        ours = [
            {
                "filename": name_of(version),
                "url": f"/files/{name_of(version)}",
                "hashes": {"sha256": hashlib.sha256(state.wheel(version)).hexdigest()},
                "requires-python": ">=3.11,<3.14",
                "core-metadata": True,
            }
            for version in state.offer
        ]
        return [*state.real.files(), *ours]

    def send_file(self, name: str) -> None:
        state = self.server.state
        wanted = name.removesuffix(".metadata")
        version = next((version for version in state.offer if name_of(version) == wanted), None)
        if version is None:
            self.answer(404, b"no such file")
            return
        data = state.wheel(version)
        if wanted != name:
            with zipfile.ZipFile(io.BytesIO(data)) as wheel:
                data = wheel.read(f"hermes_agent-{version}.dist-info/METADATA")
        elif state.offer[version] == "broken":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
        self.answer(200, data, "application/octet-stream")

    def do_POST(self) -> None:
        state = self.server.state
        body = self.body()
        try:
            value = json.loads(body)
        except ValueError as error:
            self.answer(400, f"the body is not JSON: {error}".encode())
            return
        if self.path == "/control/offer" and isinstance(value, dict) and set(value.values()) <= {"good", "broken"}:
            state.offer = value
        elif self.path == "/control/fault" and value in ("", "gone", "hang", "error"):
            state.set_fault(value)
        else:
            self.answer(400, f"{self.path} does not take {body.decode(errors='replace')}".encode())
            return
        self.answer(200, b"{}")

    def do_DELETE(self) -> None:
        self.server.state.forget()
        self.answer(200, b"{}")

    def answer(
        self, status: int, data: bytes, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        self.reply(status, data, kind, headers)


class PackageIndex(Server):
    def __init__(self, address: tuple[str, int], real: RealIndex, dies_after: float = DIES_AFTER) -> None:
        super().__init__(address, IndexHandler, State(real, dies_after))


def main() -> None:
    parser = argparse.ArgumentParser(description="Made-up releases of Hermes, for tests: good ones and bad ones.")
    parser.add_argument("--cache", type=Path, default=Path("/var/cache/package-index"), help="%(default)s")
    parser.add_argument("--real-index", metavar="URL", help="where it is, for a machine without uv")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="be a package index")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=int, default=18090, help="port; 0 takes a free one (%(default)s)")
    serve.add_argument("--dies-after", type=float, default=DIES_AFTER, help="seconds (%(default)s)")
    commands.add_parser("real-index", help="print where that is")
    repository = commands.add_parser("repository", help="make a git repository, print its tags and commits as JSON")
    repository.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    url = arguments.real_index or real_index()
    if arguments.command == "real-index":
        print(url)
        return
    real = RealIndex(url, arguments.cache)
    if arguments.command == "repository":
        print(json.dumps(make_repository(arguments.directory, real)))
        return
    address = (arguments.host, arguments.port)
    with PackageIndex(address, real, arguments.dies_after) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"listening on http://{arguments.host}:{server.server_port}/simple", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
