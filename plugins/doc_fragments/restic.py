# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that keep backups of tenants in a repository of restic."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  restic:
    description: A repository of restic, which has to be installed on the controller.
    type: dict
    default: {}
    suboptions:
      repository:
        description: The repository, in restic's syntax, such as V(s3:https://s3.eu-west-1.amazonaws.com/bucket/tenants).
        type: str
        default: ""
      password:
        description: Password of the repository. Nothing in the repository can be read without it.
        type: str
        default: ""
      environment:
        description: Environment variables for restic's back end, e.g. C(AWS_ACCESS_KEY_ID).
        type: dict
        default: {}
      keep_daily:
        description: For how many days one snapshot each of a tenant stays.
        type: int
        default: 7
      keep_weekly:
        description: For how many weeks one snapshot each stays.
        type: int
        default: 4
      keep_monthly:
        description: For how many months one snapshot each stays.
        type: int
        default: 6
"""
