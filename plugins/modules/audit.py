#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module audit; the host's kit does the work (hermes_ops.modules.audit)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: audit
short_description: Ship the journal off the host
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Lets C(systemd-journal-upload) ship the whole journal to a C(systemd-journal-remote), with TLS on both sides. It
    never gives up, and continues where it stopped.
  - Makes the journal persistent, so that entries that are not shipped yet survive a reboot.
attributes:
  check_mode:
    support: full
    description: Can run in check mode and says what would change.
  diff_mode:
    support: full
    description: Shows the texts; for certificates and keys it only shows that they differ.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  state:
    description: V(absent) stops the upload and removes the files of this module. The package and the journal stay.
    type: str
    choices: [present, absent]
    default: present
  url:
    description: URL of the receiver. C(http) is accepted on loopback only, for a tunnel.
    type: str
  ca:
    description: The certificate of the authority that signed the receiver's certificate, as PEM.
    type: str
    default: ""
  certificate:
    description: The certificate that the host presents to the receiver, as PEM.
    type: str
    default: ""
  key:
    description: The private key of O(certificate), as PEM.
    type: str
    default: ""
requirements:
  - the Debian package systemd-journal-remote on the host
"""

EXAMPLES = r"""
- name: The journal is shipped
  alwayson.hermes.audit:
    url: https://logs.example.org:19532
    ca: "{{ lookup('ansible.builtin.file', 'ca.pem') }}"
    certificate: "{{ lookup('ansible.builtin.file', inventory_hostname ~ '.pem') }}"
    key: "{{ vault_audit_key }}"
"""

RETURN = r"""
unit:
  description: The name of the unit.
  returned: always
  type: str
  sample: systemd-journal-upload.service
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "url": {"type": "str"},
    "ca": {"type": "str", "default": ""},
    "certificate": {"type": "str", "default": ""},
    "key": {"type": "str", "default": "", "no_log": True},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS, "required_if": [("state", "present", ["url"])]}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
