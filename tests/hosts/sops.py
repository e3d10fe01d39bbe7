#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real SOPS, and age-keygen, for tests: built from their modules with Go, and kept in .cache.

SOPS' clients of clouds, Vault and GnuPG are most of what takes time to build, and are not used here: tests/fakes/sops
has a file in place of each of these packages. Prints the directory that has the programs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from built import ROOT, go_build, once, run

SOURCES = ROOT / "tests/fakes/sops"
MODULE = "github.com/getsops/sops/v3@v3.13.3"
# Go's checksum of the module; its go.sum has those of all others.
SUM = "h1:saYczbT88kD1saNChe1cAbFQe5mrRhTIfEw3TaEcmK0="


def build(target: Path) -> None:
    """Build the programs in *target*. It takes 30 s of a core, and twice that without Go's own packages built."""
    module = json.loads(run("go", "mod", "download", "-json", MODULE, cwd=target))
    if module["Sum"] != SUM:
        raise SystemExit(f"{MODULE} has the checksum {module['Sum']}, not {SUM}")
    source = target / "source"
    shutil.copytree(module["Dir"], source, copy_function=shutil.copyfile)
    # Go keeps its modules read-only.
    for directory in (source, *(path for path in source.rglob("*") if path.is_dir())):
        directory.chmod(0o755)
    for path in SOURCES.iterdir():
        package = source / path.stem
        for other in package.glob("*.go"):
            # The interface of keys is SOPS' own.
            if path.stem != "keys":
                other.unlink()
        shutil.copyfile(path, package / "left_out.go")
    go_build(source, target, "./cmd/sops", "filippo.io/age/cmd/age-keygen")
    shutil.rmtree(source)


if __name__ == "__main__":
    print(once("sops", [Path(__file__), *sorted(SOURCES.iterdir())], build))
