# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""uv, pinned: how it is installed on the host, how it is called, and what its errors mean.

Read from uv 0.13.8. uv does not read pip's settings, so those that name an index or a certificate bundle are passed
on. Credentials are passed in the environment only, never in an argument that ``ps`` shows.
"""

from __future__ import annotations

import configparser
import contextlib
import glob
import importlib.util
import os
import re
import shutil
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..system.errors import OpsError
from ..system.files import ensure_directory, sync_directory
from ..system.process import Completed, run

# The host's certificates on Debian and Ubuntu, including those that the operator added.
SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# Where interpreters are searched. The caller's PATH is not used, because it may lead into somebody's home.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Variables that would make uv, pip or the interpreter build something other than what was asked for.
_MISLEADING = (
    "CONDA_PREFIX", "PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_TARGET", "PIP_USER", "PYTHONHOME", "PYTHONPATH",
    "UV_BUILD_CONSTRAINT", "UV_CONSTRAINT", "UV_FROZEN", "UV_LINK_MODE", "UV_OVERRIDE", "UV_PROJECT",
    "UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "UV_PYTHON_DOWNLOADS", "UV_PYTHON_PREFERENCE", "UV_WORKING_DIRECTORY",
    "VIRTUAL_ENV",
)  # fmt: skip


@dataclass(frozen=True)
class Index:
    """Where packages come from.

    :param url: a PEP 503 index; None: as set by the environment, or by the host's configuration of pip or uv
    :param username: for *url*; never stored
    :param password: for *url*; never stored
    :param ca_bundle: PEM file that replaces the host's certificates
    :param wheels: directory on the host that replaces the index entirely
    """

    url: str | None = None
    username: str | None = None
    password: str | None = None
    ca_bundle: str | None = None
    wheels: str | None = None

    def __post_init__(self) -> None:
        if self.url and "@" in urllib.parse.urlsplit(self.url).netloc:
            raise OpsError(
                "holds a user name or a password",
                where="index_url",
                fix="move them to index_username and index_password, which are kept out of sight",
            )


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """``index-url``, ``extra-index-url`` and ``cert`` as pip reads them: from its files, then from its variables."""
    home = environ.get("HOME", "/root")
    files = [
        "/etc/pip.conf",
        f"{home}/.pip/pip.conf",
        f"{environ.get('XDG_CONFIG_HOME', f'{home}/.config')}/pip/pip.conf",
        environ.get("PIP_CONFIG_FILE", ""),
    ]
    parser = configparser.RawConfigParser(strict=False)
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):
        parser.read([name for name in files if name])
    found: dict[str, str] = {}
    for key in ("index-url", "extra-index-url", "cert"):
        for section in ("global", "install"):
            value = parser.get(section, key, fallback="").strip()
            if value:
                found[key] = value
        value = environ.get("PIP_" + key.upper().replace("-", "_"), "").strip()
        if value:
            found[key] = value
    return found


def index_environment(index: Index, environ: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """The variables that make uv and pip use the same index and trust the same certificates.

    The declaration (*index*) takes precedence over uv's own variables, and these over pip's settings (*pip*).
    """
    variables: dict[str, str] = {"UV_SYSTEM_CERTS": environ.get("UV_SYSTEM_CERTS", "true")}
    if index.url:
        url = _with_credentials(index)
        variables.update(UV_DEFAULT_INDEX=url, UV_INDEX="", PIP_INDEX_URL=url, PIP_EXTRA_INDEX_URL="")
    else:
        url = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL") or pip.get("index-url")
        if url:
            variables.update(UV_DEFAULT_INDEX=url, PIP_INDEX_URL=url)
        extra = environ.get("UV_INDEX") or environ.get("UV_EXTRA_INDEX_URL") or pip.get("extra-index-url")
        if extra:
            extra = " ".join(extra.split())
            variables.update(UV_INDEX=extra, PIP_EXTRA_INDEX_URL=extra)
    bundle = index.ca_bundle or environ.get("SSL_CERT_FILE") or pip.get("cert")
    if bundle:
        variables.update(SSL_CERT_FILE=bundle, PIP_CERT=bundle, GIT_SSL_CAINFO=bundle)
    elif os.path.exists(SYSTEM_CERTIFICATES):
        variables["PIP_CERT"] = SYSTEM_CERTIFICATES
    return variables


def _with_credentials(index: Index) -> str:
    if not index.username and not index.password:
        return index.url or ""
    parts = urllib.parse.urlsplit(index.url or "")
    login = urllib.parse.quote(index.username or "", safe="")
    if index.password:
        login += ":" + urllib.parse.quote(index.password, safe="")
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))


def redact(text: str) -> str:
    """*text* without the credentials of any URL in it."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Set a umask with which the agent's user can read the files, and ignore misleading variables of the caller."""
    before = dict(os.environ)
    mask = os.umask(0o022)
    for name in _MISLEADING:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.umask(mask)
        os.environ.clear()
        os.environ.update(before)


class Uv:
    """uv at ``<root>/tools/uv``.

    :param root: usually ``/opt/hermes``
    :param work: directory of this build, removed after it; holds temporary files, and the cache unless the caller
        sets one (``UV_CACHE_DIR``)
    :param timeout: seconds for one call
    :param lock: descriptor of the builder's lock. Every child inherits it, so after a builder was killed the next one
        waits until its last child is gone
    """

    def __init__(self, root: str, work: str, index: Index, *, timeout: float, lock: int) -> None:
        self.path = os.path.join(root, "tools", "uv")
        self.work = work
        self.index = index
        self.timeout = timeout
        self.lock = lock
        self.version = ""
        shared = os.environ.get("UV_CACHE_DIR")
        self.env = {
            **index_environment(index, os.environ, pip_settings(os.environ)),
            # Keeps each error in one line: uv wraps its errors to the width of a terminal even without one.
            "COLUMNS": "1000",
            "PATH": SEARCH_PATH,
            "TMPDIR": os.path.join(work, "tmp"),
            "UV_CACHE_DIR": shared or os.path.join(work, "cache"),
            # With hard links, anybody who may write a shared cache could change a release. Our own cache is removed
            # with the build.
            "UV_LINK_MODE": "copy" if shared else "hardlink",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_INSTALL_DIR": os.path.join(root, "tools", "python"),
            "UV_PYTHON_PREFERENCE": "system",
        }

    def ensure(self) -> None:
        """Install the pinned uv if it is missing, from the same index, checked against its hash.

        Runs pip from the wheel that comes with every ``venv`` module. This is two seconds faster than making a venv
        for it, and leaves nothing behind.

        :raises OpsError: no pip on the host, the index cannot be reached, or it offers another file than the pinned one
        """
        from .pins import UV, UV_VERSION

        self.version = UV_VERSION
        with contextlib.suppress(OpsError):
            if run([self.path, "--version"], timeout=20).stdout.split()[1:2] == [UV_VERSION]:
                return
        requirements = os.path.join(self.work, "uv.txt")
        target = os.path.join(self.work, "uv")
        with open(requirements, "w", encoding="utf-8") as stream:
            stream.write(UV)
        source = ["--no-index", "--find-links", self.index.wheels] if self.index.wheels else []
        done = self._run(
            [sys.executable, "-I", *_pip(), "install", "--quiet", "--no-deps", "--no-input", "--no-cache-dir",
             "--disable-pip-version-check", "--retries=2", "--only-binary=:all:", "--require-hashes",
             "--target", target, "--requirement", requirements, *source],
        )  # fmt: skip
        if not done.ok:
            raise explain(done, f"uv {UV_VERSION}", self.env.get("UV_DEFAULT_INDEX"))
        os.replace(os.path.join(target, "bin", "uv"), self.path)
        sync_directory(os.path.dirname(self.path))
        shutil.rmtree(target)

    def __call__(self, *arguments: str, about: str, cwd: str | None = None) -> str:
        """Run ``uv`` with *arguments* and return its standard output.

        :param about: what is being installed, for the error message
        """
        done = self._run([self.path, *arguments], cwd=cwd)
        if not done.ok:
            raise explain(done, about, self.env.get("UV_DEFAULT_INDEX"))
        return done.stdout

    def own_lock(self) -> None:
        """Replace uv's lock on its interpreters by one that only root can open; uv makes it writable for everybody.

        An agent may enter that directory, since releases run from there. The builder's lock keeps other builders away.
        """
        directory = self.env["UV_PYTHON_INSTALL_DIR"]
        ensure_directory(directory, mode=0o755)
        path = os.path.join(directory, ".lock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    @property
    def source(self) -> list[str]:
        """Arguments for commands that install or resolve."""
        return ["--no-index", "--find-links", self.index.wheels, "--offline"] if self.index.wheels else []

    def _run(self, argv: Sequence[str], cwd: str | None = None) -> Completed:
        # From an empty directory, uv finds neither a stray pyproject.toml nor the caller's uv.toml.
        cwd = cwd or os.path.join(self.work, "tmp")
        try:
            return run(argv, timeout=self.timeout, check=False, env=self.env, cwd=cwd, pass_fds=(self.lock,))
        except OpsError as error:
            raise OpsError(
                f"{error.what}; nothing was changed",
                where=error.where,
                fix="check the network and the index, or allow more time (timeout)",
            ) from None


def _pip() -> list[str]:
    wheels = sorted(glob.glob("/usr/share/python-wheels/pip-*.whl"))
    # Outside Debian the wheel is part of the standard library. Where venv is a separate package, both are missing.
    ensurepip = importlib.util.find_spec("ensurepip")
    if not wheels and ensurepip is not None and ensurepip.origin:
        wheels = sorted(glob.glob(os.path.join(os.path.dirname(ensurepip.origin), "_bundled", "pip-*.whl")))
    if wheels:
        return [os.path.join(wheels[-1], "pip")]
    if importlib.util.find_spec("pip"):
        return ["-m", "pip"]
    raise OpsError("the host's Python comes without pip", where=sys.executable, fix="apt install python3-venv")


# A pattern in the output of uv 0.13 or pip -> the cause, and the fix. The first match counts.
_CAUSES = (
    (
        r"No space left on device|os error 28\b|Errno 28\b",
        "the disk is full",
        "free space below the install root",
    ),
    (
        r"Hash mismatch for [`']?(?P<it>[^`'\s]+)|DO NOT MATCH THE HASHES|(?i:hash(es)? mismatch)",
        "another file than the pinned one was offered{it}",
        "find out why the index serves a different file; if it is right, give the new hash in lock",
    ),
    (
        r"no trusted hash was provided for: [`']?(?P<it>[^`'\s]+)",
        "the lock has no hash{it}",
        "add it to the lock, or use lock: none",
    ),
    (
        r"Failed to extract archive: (?P<it>\S+)",
        "a broken file was offered{it}",
        "nothing is wrong on this host: ask the operator of the index",
    ),
    (
        r"(?i:invalid peer certificate|certificate verify failed|unknown ?issuer|self.signed certificate)",
        "the certificate{host} is not trusted",
        "name your certificate authority in ca_bundle, or add it to the host's certificates",
    ),
    (
        r"(?i:40[13] (Forbidden|Unauthorized)|HTTP status client error \(40[13]|Authentication failed)",
        "the index{host} refuses access",
        "check index_username and index_password",
    ),
    (
        r"HTTP status (?:client|server) error \((?P<it>[^)]+)\)",
        "the index{host} answers with an error{it}",
        "correct index_url, or ask the operator of the index",
    ),
    (
        r"(?i:Failed to fetch|error sending request|dns error|Connection refused|timed out|Network is unreachable"
        r"|Temporary failure in name resolution|NewConnectionError|Max retries exceeded|Could not resolve host"
        r"|Failed to connect to|Connection reset)",
        "the index{host} cannot be reached",
        "check the host's network, name service and proxy, name another index in index_url, or bring wheels",
    ),
    (
        r"[Nn]o space|Read-only file system|os error 30\b",
        "the install root cannot be written",
        "mount it writable",
    ),
    (
        r"there (?:is|are) no versions? of (?P<it>hermes-agent\S*)|was not found in the package registry"
        r"|No matching distribution found for (?P<that>\S+)"
        r"|Because (?P<only>only hermes-agent\S+) (?:is|are) available",
        "the index has no such version{it}",
        "correct version, or name an index that has it",
    ),
)
# uv words it the second way when it has read the file itself, not only the metadata of the index.
_MISMATCH = (
    re.compile(r"Python version \((?P<python>[^)]+)\) does not satisfy Python(?P<requires>\S+)"),
    re.compile(r"(?P<python>)hermes-agent==\S+ requires Python (?P<requires>[<>=!~]\S+)"),
)


class PythonMismatch(OpsError):
    """The interpreter does not suit the release; names both versions."""

    def __init__(self, about: str, python: str, requires: str, where: str | None = None) -> None:
        self.requires = requires
        super().__init__(
            f"{about} requires Python {requires}, this interpreter is Python {python}",
            where=where,
            fix=f"install a Python {requires} and name it in python (path or version), or allow python_downloads",
        )


def explain(done: Completed, about: str, index: str | None = None) -> OpsError:
    """The error of a failed run of uv or pip, as cause and fix, with the host of the index, without credentials."""
    said = redact(f"{done.stderr}\n{done.stdout}")
    for pattern in _MISMATCH:
        mismatch = pattern.search(said)
        if mismatch:
            return PythonMismatch(about, mismatch["python"] or "another", mismatch["requires"])
    host = re.search(r"https?://([^/\s:`')]+(?::\d+)?)", f"{redact(index or '')} {said}")
    host = host or re.search(r"host='([^']+)'", said)
    for pattern, what, fix in _CAUSES:
        match = re.search(pattern, said)
        if match:
            it = next((value for value in match.groupdict().values() if value), None)
            text = what.format(it=f" ({it})" if it else "", host=f" {host[1]}" if host else "")
            return OpsError(f"{about}: {text}; nothing was changed", fix=fix)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    tool = os.path.basename(done.argv[0])
    return OpsError(f"{about}: {tool} failed: {' | '.join(lines[-6:]) or done.last_words}; nothing was changed")
