# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lookup hosts: the hosts of a play, of which there must be some."""

from __future__ import annotations

DOCUMENTATION = r"""
name: hosts
short_description: The hosts of a play, of which there must be some
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Returns a pattern for C(hosts) of a play as it is. If no host of the inventory matches it, the run ends with an
    error. Ansible itself only warns, skips the play, and reports success.
  - C(ansible-playbook --syntax-check) needs no inventory, so nothing is refused there.
options:
  _terms:
    description: The pattern, or a list of patterns.
    required: true
"""

EXAMPLES = r"""
- name: Our own play for the hosts of the collection's playbooks
  hosts: "{{ lookup('alwayson.hermes.hosts', hermes_hosts | default('hermes')) }}"
  tasks: []
"""

RETURN = r"""
_raw:
  description: The patterns.
  type: list
  elements: str
"""

from typing import Any

from ansible import context
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader
from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **options: Any) -> list[str]:
        patterns = [str(each) for term in terms for each in (term if isinstance(term, (list, tuple)) else [term])]
        matching = lookup_loader.get("ansible.builtin.inventory_hostnames", loader=self._loader, templar=self._templar)
        if not context.CLIARGS.get("syntax") and not matching.run(patterns, variables):
            shown = ",".join(patterns)
            raise AnsibleLookupError(
                f"no host of the inventory matches {shown}. Fix: name your inventory with -i, and put the hosts into "
                f"the group {shown} there, or name others with -e hermes_hosts=…"
            )
        return patterns
