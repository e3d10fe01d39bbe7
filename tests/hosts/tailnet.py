#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Tailscale, and its makers' control server, for tests: built from their modules with Go, and kept in .cache.

Prints the directory, which has the programs, and the same as users get them: Tailscale's archive for Linux, and a
package repository with its keyring.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

from built import ROOT, go_build, once, run

SOURCES = ROOT / "tests/fakes/control_server"
PROGRAMS = ("tailscale", "tailscaled")
# Half of what takes time to build is never used here: other systems, clouds, files, proxies, a user interface.
LEFT_OUT = (
    "aws appconnectors bird captiveportal capture cliconndiag clientupdate cloud colorable completion "
    "completion_scripts conn25 dbus debugeventbus debugportmapper desktop_sessions doctor drive "
    "flashappliance hujsonconf identityfederation kube linkspeed listenrawdisco netlog networkmanager "
    "outboundproxy portmapper posture qrcodes relayserver resolved synology syspolicy systray taildrop "
    "tap tpm tundevstats wakeonlan webbrowser webclient "
)
SUITE = "debian/dists/bookworm"
KEYRING = "debian/bookworm.noarmor.gpg"
UNIT = """\
[Unit]
Description=Tailscale node agent
[Service]
Type=notify
EnvironmentFile=-/etc/default/tailscaled
ExecStart=/usr/sbin/tailscaled --state=/var/lib/tailscale/tailscaled.state $FLAGS
ExecStopPost=/usr/sbin/tailscaled --cleanup
Restart=on-failure
RuntimeDirectory=tailscale
StateDirectory=tailscale
StateDirectoryMode=0700
[Install]
WantedBy=multi-user.target
"""
# As that of Tailscale's own package: the daemon runs, and starts at boot.
POSTINST = """\
#!/bin/sh
set -e
systemctl daemon-reload
systemctl enable --now tailscaled.service
"""


def build(target: Path) -> None:
    """Build everything in *target*. It takes three minutes of a core once; Go keeps what did not change."""
    tags = ",".join(f"ts_omit_{name}" for name in LEFT_OUT.split())
    go_build(SOURCES, target, *(f"tailscale.com/cmd/{name}" for name in PROGRAMS), options=["-tags", tags])
    go_build(SOURCES, target, ".")
    version = re.search(r"tailscale\.com v([\d.]+)", (SOURCES / "go.mod").read_text())[1]
    with tarfile.open(target / "tailscale.tgz", "w:gz") as archive:
        for name in PROGRAMS:
            archive.add(target / name, f"tailscale_{version}_amd64/{name}")
    make_repository(target, version)


def make_repository(target: Path, version: str) -> None:
    """A repository with the package, where Tailscale's own has its files, signed by a key made for this one time."""
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    control = (
        f"Package: tailscale\nVersion: {version}\nArchitecture: {architecture.stdout.strip()}\n"
        "Maintainer: The tests <tests@example.org>\nDescription: Tailscale, built by the tests\n"
    )
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        content = {
            "DEBIAN/control": (control.encode(), 0o644),
            "DEBIAN/postinst": (POSTINST.encode(), 0o755),
            "usr/lib/systemd/system/tailscaled.service": (UNIT.encode(), 0o644),
            "usr/bin/tailscale": ((target / "tailscale").read_bytes(), 0o755),
            "usr/sbin/tailscaled": ((target / "tailscaled").read_bytes(), 0o755),
        }
        for name, (data, mode) in content.items():
            path = work / "package" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(mode)
        packages = target / SUITE / f"main/binary-{architecture.stdout.strip()}"
        packages.mkdir(parents=True)
        package = target / "debian/tailscale.deb"
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", work / "package", package)
        entry = (
            f"{control}Filename: tailscale.deb\nSize: {package.stat().st_size}\nSHA256: {_sum(package.read_bytes())}\n"
        )
        (packages / "Packages").write_text(entry)
        name = (packages / "Packages").relative_to(target / SUITE)
        release = f"Suite: bookworm\nCodename: bookworm\nComponents: main\nArchitectures: {packages.name[7:]}\n"
        release += f"SHA256:\n {_sum(entry.encode())} {len(entry)} {name}\n"
        (target / SUITE / "Release").write_text(release)
        home = {"GNUPGHOME": f"{work}/keys"}
        (work / "keys").mkdir(mode=0o700)
        gpg = ("gpg", "--batch", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")
        run(*gpg, "--quick-generate-key", "Tests <tests@example.org>", "ed25519", "sign", "never", env=home)
        run(*gpg, "--output", target / KEYRING, "--export", env=home)
        signed = target / SUITE / "InRelease"
        run(*gpg, "--output", signed, "--clearsign", target / SUITE / "Release", env=home)
        run("gpgconf", "--kill", "gpg-agent", env=home)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    print(once("tailnet", [Path(__file__), *sorted(SOURCES.iterdir())], build))
