# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch agent-browser, with which Hermes drives Chromium, into the directory bin, in a stage of the Containerfile.

Its package has it as a program for each architecture; npm and Node.js only choose among them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import platform
import ssl
import sys
import tarfile
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The version that Hermes 0.19.0 was written for (tools/browser_tool.py), with the registry's checksum of it.
VERSION = "0.26.0"
SHA512 = "pdqSfjwbFSp+qnwlb2g23e9wXveIOfMi19xpPA9xZUbzEAUp6W4YBZj6Ybj8z4M7WkcbGDDYc+oDIHDt9R3EDQ=="
URL = f"https://registry.npmjs.org/agent-browser/-/agent-browser-{VERSION}.tgz"
# Python's names of architectures, and npm's.
ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}


def main() -> None:
    target = HERE / "bin"
    target.mkdir()
    if os.environ["VARIANT"] != "browser":
        return
    authorities = HERE / "ca.crt"
    context = ssl.create_default_context(cafile=str(authorities) if authorities.exists() else None)
    with urllib.request.urlopen(URL, timeout=120, context=context) as response:
        archive = response.read()
    found = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if found != SHA512:
        sys.exit(f"{URL}: has the checksum {found}, not {SHA512}")
    program = f"package/bin/agent-browser-linux-{ARCHITECTURES[platform.machine()]}"
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        (target / "agent-browser").write_bytes(package.extractfile(program).read())
    (target / "agent-browser").chmod(0o755)


if __name__ == "__main__":
    main()
