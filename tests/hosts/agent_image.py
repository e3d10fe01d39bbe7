#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of an agent, built for tests with the machine's docker; its base is made as those of boxes are.

Prints its name. What is built is the checkout, as docs/image.md says; only the base and the authorities that this
machine trusts are added.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from box import CA_BUNDLES, ROOT, BoxError, alone, base_of, ensure_engine, run, say

SUITE = "trixie"
VARIANTS = ("slim", "browser")
# What the Containerfile wants of a checkout, as in .dockerignore.
CONTEXT = ("image", "plugins/module_utils/hermes_ops")
# The label of its stages, which docker keeps to build faster.
STAGES = ("--filter", "dangling=true", "--filter", "label=io.alwayson.hermes.stage")


def build(variant: str = "slim", *, anew: bool = False) -> str:
    """Build the image.

    :param anew: from nothing, whatever docker kept; nothing of it is kept either
    :returns: its name
    """
    with alone(f"image-{SUITE}"):
        base = base_of(SUITE)
    name = f"hermes-test-image:{variant}{'-anew' if anew else ''}"
    with alone("agent-image"), tempfile.TemporaryDirectory() as context:
        for part in CONTEXT:
            shutil.copytree(ROOT / part, Path(context, part), ignore=shutil.ignore_patterns("__pycache__"))
        for bundle in CA_BUNDLES:
            if bundle.is_file():
                shutil.copyfile(bundle, Path(context, "ca.crt"))
        say(f"building {name} on {base}")
        before = set(stages())
        run(
            *("docker", "build", "--tag", name, "--file", f"{context}/image/Containerfile"),
            *("--build-arg", f"BASE={base}", "--build-arg", f"VARIANT={variant}"),
            *(["--no-cache"] if anew else []),
            context,
            # The same with every docker: newer ones have another builder only as a plugin.
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
        )
        if anew:
            run("docker", "image", "rm", *(set(stages()) - before), check=False)
        run("docker", "image", "prune", "--force", *STAGES, "--filter", "until=24h")
    return name


def stages() -> list[str]:
    return run("docker", "image", "ls", "--quiet", "--no-trunc", *STAGES).stdout.split()


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the image of an agent from this checkout, and print its name.")
    parser.add_argument("variant", nargs="?", choices=VARIANTS, default="slim")
    arguments = parser.parse_args()
    try:
        ensure_engine()
        print(build(arguments.variant))
    except BoxError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
