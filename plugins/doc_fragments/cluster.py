# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of every module that works on the tenants of a cluster."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  namespace:
    description: The namespace of the tenants.
    type: str
    default: hermes
  kubeconfig:
    description: A kubeconfig on the controller; without one, as C(kubectl) finds it.
    type: path
    default: ""
  context:
    description: A context of the kubeconfig; without one, its current one.
    type: str
    default: ""
requirements:
  - Python's package kubernetes on the controller
"""
