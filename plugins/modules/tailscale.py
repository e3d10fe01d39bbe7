#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module tailscale; the host's kit does the work (hermes_ops.modules.tailscale)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tailscale
short_description: Make the host the declared node of a tailnet
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Keeps the identity of the node on the data volume. C(/var/lib/tailscale) becomes a link to C(tailscale) in
    O(data_dir); a state that exists already is moved once, while tailscaled is stopped. systemd does that, so it is
    finished even if the connection to the host is lost with tailscaled.
  - Lets tailscaled wait for the data volume (C(RequiresMountsFor=)).
  - Logs in only if the host is not a node yet, or its key has expired. Changed flags need no login.
  - Lets the tailnet reach the servers of agents that are declared with the host V(tailnet), through C(tailscale serve).
  - Keeps neighbours on the host's other networks away from its addresses in the tailnet, with a table of nftables of
    its own. On request, the table closes everything but the tailnet.
  - While the control server cannot be reached, it warns and leaves the node as it is. While the node is switched off
    or waits for its approval, it warns and leaves its ports and the table as they are.
attributes:
  check_mode:
    support: full
    description: Can run in check mode and says what would change. Before tailscaled runs, it cannot be asked.
  diff_mode:
    support: full
    description: Shows the differences; it never shows a key.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  install:
    description:
      - Where Tailscale comes from. If it is missing, nothing is done, and RV(missing) says what to bring.
      - V(present) is satisfied with what the host has. V(apt) as well, if it has any.
      - V(files) runs the programs of O(archive).
    type: str
    choices: [apt, files, present]
    default: apt
  archive:
    description: Tailscale's own archive for Linux, on the host; needed until its programs are installed.
    type: path
  archive_sha256:
    description: Its SHA-256 sum, which also selects the installed version.
    type: str
    default: ""
  hostname:
    description: Name of the node in the tailnet.
    type: str
    required: true
  tags:
    description: Tags of the node. They are given at the login; an administrator of the tailnet changes them later.
    type: list
    elements: str
    default: []
  ssh:
    description: Run Tailscale's SSH server.
    type: bool
    default: false
  accept_routes:
    description: Use the routes that other nodes advertise.
    type: bool
    default: false
  accept_dns:
    description: Let the tailnet configure the host's DNS.
    type: bool
    default: true
  login_server:
    description: URL of the control server.
    type: str
    default: https://controlplane.tailscale.com
  auth_key:
    description: An authorization key, or the secret of an OAuth client, which needs O(tags).
    type: str
  auth_key_file:
    description: >-
      A file on the host that holds it instead, which only root may read. It may be missing once the host is a node.
    type: path
  agents:
    description:
      - The C(gateway) parts of the descriptions of all declared agents, from the filter
        P(alwayson.hermes.resolve_agents#filter).
    type: list
    elements: dict
    default: []
  firewall:
    description:
      - Drop everything that comes neither from the tailnet nor to O(firewall_ports).
      - New rules are only tried, and RV(on_trial) is V(true). After two minutes they are taken back, unless a call with
        O(confirm) over a new connection keeps them.
    type: bool
    default: false
  firewall_ports:
    description: TCP ports that stay open to all networks.
    type: list
    elements: int
    default: []
  confirm:
    description: Keep the rules on trial.
    type: bool
    default: false
  data_dir:
    description: Directory that outlives the host.
    type: path
    required: true
  ops_dir:
    description: Directory of the collection's records.
    type: path
    required: true
  root:
    description: Directory of what is installed from O(archive).
    type: path
    default: /opt/hermes
requirements:
  - nftables on the host
"""

EXAMPLES = r"""
- name: The host is a node
  alwayson.hermes.tailscale:
    hostname: bridge
    tags: [tag:hermes]
    ssh: true
    auth_key: "{{ vault_tailscale_auth_key }}"
    data_dir: /var/lib/hermes
    ops_dir: /var/lib/hermes/ops
"""

RETURN = r"""
missing:
  description: What has to be installed first, V(package), V(nftables) or V(archive); empty if all is there.
  returned: always
  type: str
  sample: ""
on_trial:
  description: Whether new rules of the packet filter wait to be confirmed.
  returned: always
  type: bool
  sample: false
node:
  description: C(id), C(name) and C(addresses) of the node; null if it cannot be known in check mode.
  returned: when Tailscale is there
  type: dict
  sample:
    id: nGnFDFoyNb11CNTRL
    name: bridge
    addresses: [100.64.0.1]
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    "install": {"type": "str", "choices": ["apt", "files", "present"], "default": "apt"},
    "archive": {"type": "path"},
    "archive_sha256": {"type": "str", "default": ""},
    "hostname": {"type": "str", "required": True},
    "tags": {"type": "list", "elements": "str", "default": []},
    "ssh": {"type": "bool", "default": False},
    "accept_routes": {"type": "bool", "default": False},
    "accept_dns": {"type": "bool", "default": True},
    "login_server": {"type": "str", "default": "https://controlplane.tailscale.com"},
    "auth_key": {"type": "str", "no_log": True},
    # A path, not a secret.
    "auth_key_file": {"type": "path", "no_log": False},
    "agents": {"type": "list", "elements": "dict", "default": []},
    "firewall": {"type": "bool", "default": False},
    "firewall_ports": {"type": "list", "elements": "int", "default": []},
    "confirm": {"type": "bool", "default": False},
    "data_dir": {"type": "path", "required": True},
    "ops_dir": {"type": "path", "required": True},
    "root": {"type": "path", "default": "/opt/hermes"},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
