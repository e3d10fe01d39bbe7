# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes `import ansible_collections.alwayson.hermes…` find this checkout, wherever it lies."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[2]

# script/bootstrap places the checkout there under the name that Ansible wants.
COLLECTIONS = ROOT / ".cache" / "collections"

if (COLLECTIONS / "ansible_collections/alwayson/hermes").resolve() != ROOT:
    raise RuntimeError(f"{COLLECTIONS} does not lead back to this checkout. Fix: run script/bootstrap")

sys.path.insert(0, str(COLLECTIONS))

# The machine may be busy with other tests: time says nothing about ours.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
