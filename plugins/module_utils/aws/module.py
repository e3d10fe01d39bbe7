# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module for AWS does around its work, on the controller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..hermes_ops.system.errors import OpsError


def run(specification: dict[str, Any], converge: Callable[..., dict[str, Any]]) -> None:
    """Be a module: read its arguments, and exit with the result of *converge* or with its error.

    :param specification: arguments of AnsibleModule, besides check mode, which *converge* takes as ``check``
    """
    module = AnsibleModule(**specification, supports_check_mode=True)
    try:
        result = converge(module.params, check=module.check_mode)
    except OpsError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)
