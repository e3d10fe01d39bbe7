# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared of updates."""

from __future__ import annotations

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.settings import Settings

DECLARED = {"version": ">=0.18,<0.30"}


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({}, "release is missing"),
        ({"release": {}}, "version: is missing"),
        ({"release": {"version": "0.19.0"}}, "declared exactly"),
        ({"release": {"version": "newest"}}, "neither a version nor a range"),
        ({"release": {"method": "git", "url": "https://example.org/h.git"}}, "is not a tag"),
        ({"release": DECLARED, "keep": 0}, "keep is less than 1"),
        ({"release": DECLARED, "channels": "x"}, "'channels' is not a setting"),
        ({"release": {**DECLARED, "channels": "x"}}, "release: 'channels' is not a setting"),
        ({"release": {**DECLARED, "extras": "all"}}, "extras is not of type tuple"),
    ],
)
def test_settings_that_cannot_work(values, error):
    with pytest.raises(OpsError, match=error):
        settings.parse(Settings, values, "update.json")
