# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes are read as systemd reads them."""

from __future__ import annotations

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import typed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("512", 512), ("1K", 1024), ("4G", 4 * 2**30)])
def test_sizes_as_systemd_writes_them(text, expected):
    assert typed.size(text, "x") == expected


@pytest.mark.parametrize("text", ["", "4GB", "-1", "1.5G", "G"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(OpsError, match="is not a size"):
        typed.size(text, "x")
