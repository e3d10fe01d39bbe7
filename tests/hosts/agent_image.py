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
import sys

from box import CA_BUNDLES, ROOT, VERSIONS, BoxError, alone, base_of, ensure_engine, run, say

sys.path.insert(0, str(ROOT / "plugins/module_utils"))
from hermes_ops.modules.image import recipe
from hermes_ops.release import image
from hermes_ops.release.request import Request
from hermes_ops.system.errors import OpsError

SUITE = "trixie"
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
    bundle = next((str(path) for path in CA_BUNDLES if path.is_file()), None)
    wanted = image.Image("hermes-test-image", Request(version=VERSIONS[-1]), base, variant, ca_bundle=bundle)
    files = recipe({path.name: path.read_bytes() for path in (ROOT / "image").iterdir() if path.is_file()})
    with alone("agent-image"):
        say(f"building {name} on {base}")
        before = set(stages())
        image.build(wanted, image.context(wanted, files), "docker", name, anew=anew)
        if anew:
            run("docker", "image", "rm", *(set(stages()) - before), check=False)
        run("docker", "image", "prune", "--force", *STAGES, "--filter", "until=24h")
    return name


def stages() -> list[str]:
    return run("docker", "image", "ls", "--quiet", "--no-trunc", *STAGES).stdout.split()


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the image of an agent from this checkout, and print its name.")
    parser.add_argument("variant", nargs="?", choices=image.VARIANTS, default="slim")
    arguments = parser.parse_args()
    try:
        ensure_engine()
        print(build(arguments.variant))
    except (BoxError, OpsError) as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
