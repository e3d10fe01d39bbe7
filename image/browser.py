# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch agent-browser, with which Hermes drives Chromium, into the directory bin, in a stage of the Containerfile.

Its package has it as a program for each architecture; npm, which is in this stage only, fetches it from its registry.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The version that Hermes 0.19.0 was written for (tools/browser_tool.py), with the registry's checksum of it.
VERSION = "0.26.0"
SHA512 = "pdqSfjwbFSp+qnwlb2g23e9wXveIOfMi19xpPA9xZUbzEAUp6W4YBZj6Ybj8z4M7WkcbGDDYc+oDIHDt9R3EDQ=="
# Python's names of architectures, and npm's.
ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}


def main() -> None:
    target = HERE / "bin"
    target.mkdir()
    if os.environ["VARIANT"] != "browser":
        return
    subprocess.run(["apt-get", "install", "--yes", "--no-install-recommends", "npm"], check=True)
    authorities = HERE / "ca.crt"
    trusted = {"NODE_EXTRA_CA_CERTS": str(authorities)} if authorities.exists() else {}
    pack = ["npm", "pack", "--ignore-scripts", f"agent-browser@{VERSION}"]
    subprocess.run(pack, check=True, cwd=HERE, env={**os.environ, **trusted})
    (archive,) = HERE.glob("*.tgz")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != SHA512:
        sys.exit(f"{archive.name} has the checksum {found}, not {SHA512}")
    program = f"package/bin/agent-browser-linux-{ARCHITECTURES[platform.machine()]}"
    with tarfile.open(archive) as package:
        (target / "agent-browser").write_bytes(package.extractfile(program).read())
    (target / "agent-browser").chmod(0o755)


if __name__ == "__main__":
    main()
