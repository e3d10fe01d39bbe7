#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node that only executes commands, for tests: built from the kubelet's modules with Go, and kept in .cache.

Prints the program.
"""

from __future__ import annotations

from pathlib import Path

from built import ROOT, go_build, once

SOURCES = ROOT / "tests/fakes/kubelet"


def build(target: Path) -> None:
    go_build(SOURCES, target / "kubelet")


if __name__ == "__main__":
    print(once("kubelet", [Path(__file__), *sorted(SOURCES.iterdir())], build) / "kubelet")
