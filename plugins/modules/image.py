#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module image; the host's kit does the work (hermes_ops.modules.image)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Build the image of an agent
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Builds the image that docs/image.md describes, with podman or docker, and optionally pushes it to a registry.
  - The tag says all that the image is made of, this collection included. If there is an image with that tag, nothing is
    done. Older images are left alone.
  - Each build starts from nothing, so that Debian's packages are those of the day.
options:
  name:
    description: Repository of the image, with its registry if it has one, and without a tag.
    type: str
    default: localhost/hermes-agent
  release:
    description:
      - The release in the image, with the options of the module M(alwayson.hermes.release) that tell one release from
        another, and from the same locks. The role common has what a host declares, as C(common_release).
      - An image holds one exact release, from an index or from git, so a range of versions, a channel, and C(path) are
        refused. The interpreter is that of O(base).
      - In git, C(ref) is a tag. The image's tag and its label name it as the version.
    type: dict
    required: true
  base:
    description:
      - The image to build on, a Debian whose Python fits the release.
      - It is pulled if the host does not have it. A tag of one day, such as V(debian:trixie-20261117-slim), or a digest
        always means the same, and the next one brings Debian's later packages.
    type: str
    default: docker.io/library/debian:trixie-slim
  variant:
    description: V(browser) adds Chromium without a screen, and the program with which Hermes drives it.
    type: str
    choices: [slim, browser]
    default: slim
  packages:
    description: More packages of Debian.
    type: list
    elements: str
    default: []
  engine:
    description: The program that builds. Without it podman is used if the host has it, else docker.
    type: str
    choices: [podman, docker]
  push:
    description:
      - Whether the registry in O(name) has to have the image. Then the registry alone decides whether there is anything
        to do.
      - Log in before, as root on the host that builds, with C(podman login) or C(docker login).
    type: bool
    default: false
  index_url:
    description: Package index that replaces the default one. The build cannot log in there.
    type: str
  ca_bundle:
    description:
      - PEM file on the host with the certificate authorities to trust during the build.
      - Without it, these are the host's. The image does not have them.
    type: path
requirements:
  - Python >= 3.9 on the host
  - podman or docker on the host
attributes:
  check_mode:
    support: full
    description: Says whether the image would be built and pushed. With O(push) it asks the registry.
  diff_mode:
    support: full
    description: Shows what would be built, and from what.
  idempotent:
    support: full
    description: A second run changes nothing.
"""

EXAMPLES = r"""
- name: The image is built
  alwayson.hermes.image:
    release:
      version: 0.19.0
      extras: [messaging]

- name: An image with a browser is in the registry
  alwayson.hermes.image:
    name: registry.example.org/hermes-agent
    push: true
    base: docker.io/library/debian:trixie-20261117-slim
    variant: browser
    release:
      version: 0.19.0
"""

RETURN = r"""
image:
  description: Name of the image, with its tag.
  type: str
  returned: success
  sample: localhost/hermes-agent:0.19.0-slim-3f1c0a9b52de
engine:
  description: The program that builds.
  type: str
  returned: success
  sample: podman
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "default": "localhost/hermes-agent"},
    "release": {"type": "dict", "required": True},
    "base": {"type": "str", "default": "docker.io/library/debian:trixie-slim"},
    "variant": {"type": "str", "choices": ["slim", "browser"], "default": "slim"},
    "packages": {"type": "list", "elements": "str", "default": []},
    "engine": {"type": "str", "choices": ["podman", "docker"]},
    "push": {"type": "bool", "default": False},
    "index_url": {"type": "str"},
    "ca_bundle": {"type": "path"},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
