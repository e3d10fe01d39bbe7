# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that tests build from their makers' Go modules: once, and kept in .cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What *command* prints.

    :raises SystemExit: it failed, with what it said
    """
    words, environment = [str(part) for part in command], {**os.environ, **(env or {})}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def go_build(sources: Path, target: Path, *packages: str, options: Iterable[str] = ()) -> None:
    """Build the *packages* of the module in *sources* into *target*.

    :param target: a directory that is there, or else the name of the one program
    :param options: more of them for the compiler
    """
    # Nobody debugs them, and to leave out what debuggers read saves a tenth of the time.
    words = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false", "-ldflags=-s -w", *options)
    run("nice", "go", "build", *words, "-o", target, *packages, cwd=sources, env={"CGO_ENABLED": "0"})


def once(name: str, ingredients: Iterable[Path], build: Callable[[Path], None]) -> Path:
    """The directory with what *build* made of *ingredients*; it is made anew if one of them changed.

    Whoever asks while it is being made waits.

    :param build: gets an empty directory, which is renamed when it is complete
    :raises SystemExit: there is no Go
    """
    cache = ROOT / ".cache" / name
    target = cache / hashlib.sha256(b"".join(path.read_bytes() for path in ingredients)).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            if shutil.which("go") is None:
                raise SystemExit(f"there is no Go to build {name} with")
            for older in (path for path in cache.iterdir() if path.is_dir()):
                shutil.rmtree(older)
            partial = cache / f"{target.name}.partial"
            partial.mkdir()
            build(partial)
            partial.rename(target)
    return target
