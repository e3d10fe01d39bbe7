# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the release, in a stage of the Containerfile: HERMES_VERSION, and more of a request in HERMES_RELEASE."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from hermes_ops.release.build import ensure
from hermes_ops.release.request import Request
from hermes_ops.release.uv import Index
from hermes_ops.system.errors import OpsError

HERE = Path(__file__).resolve().parent
ROOT = "/opt/hermes"


def main() -> None:
    given = json.loads(os.environ["HERMES_RELEASE"])
    authorities = HERE / "ca.crt"
    index = Index(url=given.pop("index_url", None), ca_bundle=str(authorities) if authorities.exists() else None)
    request = Request(**{"version": os.environ["HERMES_VERSION"], **given})
    if request.method == "git":
        subprocess.run(["apt-get", "install", "--yes", "--no-install-recommends", "git"], check=True)
    # finish.py compiles the modules, the same each time.
    stamp = ensure(request, index, root=ROOT, compiled=False).stamp or {}
    wanted = os.environ["HERMES_VERSION"]
    if stamp["version"] != wanted:
        # The image's label names HERMES_VERSION.
        raise OpsError(
            f"is {wanted}, but what was built is {stamp['version']}", where="HERMES_VERSION", fix="correct it"
        )
    # Only builds need these.
    shutil.rmtree(f"{ROOT}/tools")
    os.unlink(f"{ROOT}/.lock")


if __name__ == "__main__":
    try:
        main()
    except (OpsError, TypeError, ValueError) as error:
        # TypeError: a key that no request has. ValueError: no JSON.
        sys.exit(f"the release cannot be built: {error}")
