#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes' programs and etcd, for tests: built from their modules with Go, and kept in .cache.

Prints the directory with the programs.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from built import ROOT, go_build, once

SOURCES = ROOT / "tests/fakes/kubernetes"
ETCD = "go.etcd.io/etcd/server/v3"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
PACKAGES = (*(f"k8s.io/kubernetes/cmd/{name}" for name in PROGRAMS), ETCD, "./pause")


def build(target: Path) -> None:
    """Build the programs in *target*. It takes some eight minutes of a core once; Go keeps what did not change."""
    go_build(SOURCES, target, *PACKAGES)
    # Go calls it after the last part of its path.
    (target / "server").rename(target / "etcd")
    # As an engine of containers takes it.
    with tarfile.open(target / "pause.tar", "w") as image:
        image.add(target / "pause", "pause")


if __name__ == "__main__":
    print(once("kubernetes", [Path(__file__), *sorted(each for each in SOURCES.rglob("*") if each.is_file())], build))
