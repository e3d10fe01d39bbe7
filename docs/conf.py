# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx builds these pages; `script/test docs` does, and puts the generated reference beside them."""

from __future__ import annotations

project = "alwayson.hermes"
author = "The alwayson.hermes authors"
copyright = "2026, the alwayson.hermes authors"

extensions = ["myst_parser", "sphinx_antsibull_ext"]
# Links to a heading of another page, as GitHub makes them.
myst_heading_anchors = 3

html_theme = "sphinx_ansible_theme"
html_title = "alwayson.hermes"
# A double hyphen is a double hyphen.
smartquotes = False
html_static_path = ["_static"]
# For paper; docs/recovery.md is made to fit on one sheet.
html_css_files = [("print.css", {"media": "print"})]
