# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the release, in a stage of the Containerfile: HERMES_VERSION, and more of a request in release.json."""

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
    version, more, authorities = os.environ["HERMES_VERSION"], HERE / "release.json", HERE / "ca.crt"
    given = json.loads(more.read_text(encoding="utf-8")) if more.exists() else {}
    index = Index(url=given.pop("index_url", None), ca_bundle=str(authorities) if authorities.exists() else None)
    if given.get("method") == "git" or given.get("patches"):
        subprocess.run(["apt-get", "install", "--yes", "--no-install-recommends", "git"], check=True)
    if given.get("method") != "git":
        given["version"] = version
    request = Request(**given)
    # finish.py compiles the modules, the same each time.
    stamp = ensure(request, index, root=ROOT, compiled=False).stamp or {}
    if version not in (stamp["version"], request.ref):
        # The image's label names HERMES_VERSION.
        raise OpsError(
            f"is {version}, but what was built is {request.ref or stamp['version']}",
            where="HERMES_VERSION",
            fix="correct it",
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
