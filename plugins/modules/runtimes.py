#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module runtimes; the host's kit does the work (hermes_ops.modules.runtimes)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: runtimes
short_description: An agent in a container for each user
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Prepares a host for agents in containers, one for each user, all of one description. A call wakes an agent; it is
    stopped when nobody calls it and it has no work of its own.
  - systemd does that with a socket for each user; C(hermes-proxy.service), an nginx, is the one address for callers;
    podman runs the containers, in a network whose walls are rules of nftables.
  - A changed image, description, secret, limit or plugin is rolled out to the agents that run, O(canaries) first, when
    they have no work. If one of them is not healthy with it, all go back to the former one, and the module fails with
    the reason. It is not tried again until another is declared, or by C(hermes-ops runtime rollout --again).
attributes:
  check_mode:
    support: full
    description: Can run in check mode and says what would change.
  diff_mode:
    support: full
    description: Shows units, rules and the configuration of the server. Not the declaration, which may hold secrets.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  state:
    description: >-
      V(absent) stops all users' agents, and removes their units, the network and the server. The users' data stay, and
      another V(present) goes on with them.
    type: str
    choices: [present, absent]
    default: present
  data_dir:
    description: Directory of the agents' data. The users' volumes are in C(users) below it.
    type: path
    default: /var/lib/hermes
  ops_dir:
    description: Directory of the records.
    type: path
    default: /var/lib/hermes/ops
  image:
    description: >-
      The image of all containers, with its tag. It is fetched if the host does not have it; a call never fetches it.
    type: str
  secret:
    description: >-
      From which the users' keys are derived, 32 characters or more. The applications that call the agents need it, and
      nobody else.
    type: str
  versions:
    description: >-
      The versions of keys that are accepted. The first one is given out by C(hermes-ops runtime key).
    type: list
    elements: int
    default: [1]
  agent:
    description: >-
      What all users' agents are, as an entry of C(hermes_agents), without C(name), C(home), C(secrets_from),
      C(secrets), and the C(host) of C(api) and C(webhook).
    type: dict
  secrets:
    description: The C(secrets) of that entry, which all users' agents get.
    type: dict
    default: {}
  webhook_secrets:
    description: Each C(secret) of the webhooks in O(agent) again, so that no output shows it.
    type: list
    elements: str
    default: []
  users:
    description: >-
      The ids of users who have an agent from the start. Others get theirs by C(hermes-ops runtime ensure).
    type: list
    elements: str
    default: []
  idle:
    description: >-
      Seconds without a call after which an agent that has no work of its own is stopped, from 10 to 86400.
    type: int
    default: 600
  start:
    description: >-
      Seconds within which an agent has to be healthy, from 5 to 600.
    type: int
    default: 60
  canaries:
    description: >-
      The ids of users whose agents get a changed declaration first; those that sleep are started for it. Without any,
      it is one user whose agent is free.
    type: list
    elements: str
    default: []
  plugins:
    description: >-
      Directories of the host that all containers see, read-only, as C(/opt/plugins/NAME); by NAME.
    type: dict
    default: {}
  listen:
    description: >-
      Address and port of the server that all callers use.
    type: str
    default: 127.0.0.1:8640
  certificate:
    description: >-
      Path on the host of that server's certificate, with its chain. Without one it speaks HTTP.
    type: str
    default: ""
  certificate_key:
    description: >-
      Path on the host of the certificate's key.
    type: str
    default: ""
  network:
    description: >-
      The range of addresses of the containers. It cannot be changed while the host has users.
    type: str
    default: 10.210.0.0/16
  egress:
    description: >-
      Private ranges of addresses that agents may reach. All public ones are open to them.
    type: list
    elements: str
    default: []
  first_uid:
    description: >-
      The number of the first user's container's UNIX user; the others follow. It cannot be changed while the host has
      users.
    type: int
    default: 700000
  disk:
    description: >-
      The most that each agent may store, such as V(5G), 64M or more, and one file for each 16 KiB of it. Empty for no
      limit; a limit that a UNIX user of theirs has is then removed. The file system of O(data_dir) needs user quotas.
    type: str
    default: ""
requirements:
  - the Debian packages podman, crun, netavark, nftables, iptables, nginx and libnginx-mod-http-js on the host
"""

EXAMPLES = r"""
- name: Users have their agents
  alwayson.hermes.runtimes:
    image: registry.example.com/hermes-agent:0.19.0-slim-3f1c0a9b52de
    secret: "{{ vault_runtimes_secret }}"
    agent:
      config:
        model: {provider: openrouter, default: anthropic/claude-sonnet-4.5}
    secrets:
      OPENROUTER_API_KEY: "{{ vault_openrouter_api_key }}"
"""

RETURN = r"""
url:
  description: The address of the server that all callers use.
  returned: when the state is V(present)
  type: str
  sample: http://127.0.0.1:8640
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "data_dir": {"type": "path", "default": "/var/lib/hermes"},
    "ops_dir": {"type": "path", "default": "/var/lib/hermes/ops"},
    "image": {"type": "str"},
    "secret": {"type": "str", "no_log": True},
    "versions": {"type": "list", "elements": "int", "default": [1]},
    "agent": {"type": "dict"},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "webhook_secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "users": {"type": "list", "elements": "str", "default": []},
    "idle": {"type": "int", "default": 600},
    "start": {"type": "int", "default": 60},
    "canaries": {"type": "list", "elements": "str", "default": []},
    "plugins": {"type": "dict", "default": {}},
    "listen": {"type": "str", "default": "127.0.0.1:8640"},
    "certificate": {"type": "str", "default": ""},
    "certificate_key": {"type": "str", "no_log": False, "default": ""},
    "network": {"type": "str", "default": "10.210.0.0/16"},
    "egress": {"type": "list", "elements": "str", "default": []},
    "first_uid": {"type": "int", "default": 700000},
    "disk": {"type": "str", "default": ""},
}
SPECIFICATION: dict[str, Any] = {
    "argument_spec": ARGUMENTS,
    "required_if": [("state", "present", ["image", "secret", "agent"])],
}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
