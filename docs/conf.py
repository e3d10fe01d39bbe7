# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx' configuration for these pages. `script/test docs` builds them, with the generated reference beside them."""

from __future__ import annotations

project = "alwayson.hermes"
author = "The alwayson.hermes authors"
copyright = "2026, the alwayson.hermes authors"

extensions = ["myst_parser", "sphinx_antsibull_ext"]
# Anchors for headings as GitHub makes them, so that links to a heading of another page work in both places.
myst_heading_anchors = 3

html_theme = "sphinx_ansible_theme"
html_title = "alwayson.hermes"
# Without this, a double hyphen (`--check`) becomes a dash.
smartquotes = False
html_static_path = ["_static"]
# For printing: docs/recovery.md has to fit on one sheet.
html_css_files = [("print.css", {"media": "print"})]
