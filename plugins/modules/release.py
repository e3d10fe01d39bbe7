#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release; the host's kit does the work (hermes_ops.modules.release)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Install a release of Hermes beside the others and make it current
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - A release is one installed version of Hermes in a directory of its own, C(ROOT/releases/ID), with its own virtual
    environment. It is built under another name with uv, proved to start for an unprivileged user, renamed into place,
    and never changed again. One that was built without the lock that is shipped for it now, or whose interpreter is
    gone, is built anew beside it.
  - C(ROOT/current) is a symbolic link to one release, switched by a rename. A broken or half-built release never
    becomes current. After a run that was killed at any moment, the next one finishes or cleans up.
  - The files C(release.json) alone decide whether there is anything to do, without starting Hermes and without network.
  - The pinned uv is installed at C(ROOT/tools/uv), from the same index and checked against its hash.
  - The module restarts nothing. See RV(switched).
options:
  method:
    description:
      - V(pypi) installs the published package O(version) from the index.
      - V(git) installs the tree at O(ref) of O(url), which must be at O(commit). The tree is exported without history,
        so that Hermes' own updater leaves it alone. A C(uv.lock) in it is used frozen.
      - V(path) installs from O(path) on the host.
    type: str
    choices: [pypi, git, path]
    default: pypi
  version:
    description:
      - Exact version such as V(0.19.0), or a range such as V(>=0.18,<0.20). V(0.19) is V(0.19.0).
      - An installed release within the range is kept, without using the network. It is never replaced by an older one,
        and moving up is left to updates. If none is installed, the newest in the range is taken.
      - Required with O(method=pypi). With O(method=path) and a directory of wheels it defaults to the newest there.
    type: str
  extras:
    description:
      - Extras of hermes-agent to install.
      - V(homeassistant) is the smallest that includes aiohttp, without which the gateway has neither API server nor
        webhooks. V(messaging) adds Discord, Telegram and Slack.
    type: list
    elements: str
    default: [homeassistant]
  url:
    description:
      - Repository for O(method=git).
      - A user, token or password in it is refused, except for the user of SSH. Use a credential helper, C(~/.netrc) or
        an SSH key.
    type: str
  ref:
    description: Tag or branch for O(method=git).
    type: str
  commit:
    description: Full commit that O(ref) must be at.
    type: str
  channel:
    description:
      - Pattern of tags for O(method=git), such as V(v2026.*), instead of O(ref) and O(commit).
      - An installed release of the channel is kept, without using the network. It is never replaced by an older one,
        and moving up is left to updates. If none is installed, the newest tag is taken, at its current commit.
        Branches, and tags that are not a version, are ignored, and so are pre-releases unless the pattern names one.
    type: str
  path:
    description:
      - Directory on the host for O(method=path).
      - Either a source tree, identified by its contents, or, for a host without network, a directory with the wheels of
        hermes-agent, its dependencies and uv.
    type: path
  lock:
    description:
      - V(auto) uses the lock shipped for the version (0.18.2 and 0.19.0, every extra but C(dev), x86-64 and
        arm64), or the C(uv.lock) of a tree. If there is neither, the release is not locked, see RV(locked).
      - V(none) ignores them.
      - Otherwise the absolute path of a requirements file with hashes on the host, or its text. The
        C(requirements.lock) of any release can be used.
    type: str
    default: auto
  python:
    description:
      - Interpreter, as an absolute path or as a version such as V(3.12).
      - It must satisfy the release's own C(requires-python), and the agent's user must be able to run it.
      - Without it uv picks a suitable one from the system's directories.
    type: str
  python_downloads:
    description: Let uv download an interpreter to C(ROOT/tools/python) if the host has none that fits.
    type: bool
    default: false
  patches:
    description:
      - Patches to apply to the build, in this order, as absolute paths of files on the host or as texts (from
        C(git diff) or C(git format-patch), paths such as C(a/gateway/run.py)).
      - Each must apply exactly. A patch that does not apply, or that the release already has, fails the run before
        anything is changed.
      - They are part of a release's identity, so other patches make another release.
    type: list
    elements: str
    default: []
  index_url:
    description:
      - Package index that replaces the default one; the URL must not contain a password.
      - Without it C(UV_DEFAULT_INDEX), C(PIP_INDEX_URL) and the host's configuration files of uv and pip apply.
    type: str
  index_username:
    description: User name for O(index_url).
    type: str
  index_password:
    description: Password for O(index_url). It is passed in the environment only, and never stored.
    type: str
  ca_bundle:
    description:
      - PEM file on the host with the certificate authorities to trust.
      - Without it C(SSL_CERT_FILE), C(PIP_CERT), pip's C(cert), then the host's own certificates are used.
    type: path
  wheels:
    description: Directory of wheels on the host that is used instead of any index.
    type: path
  root:
    description: Directory below which releases are installed.
    type: path
    default: /opt/hermes
  current:
    description: Make the release the current one.
    type: bool
    default: true
  keep:
    description:
      - How many other releases to keep beside the current one, the most recently used ones. At least V(1).
      - A release that a running process uses always stays.
    type: int
    default: 2
  timeout:
    description: Seconds that each step of a build may take, and seconds to wait for another build.
    type: int
    default: 900
requirements:
  - Python >= 3.9 with venv on the host (Debian's python3-venv)
  - git on the host for O(method=git) and O(patches)
attributes:
  check_mode:
    support: full
    description: Says what would be done, also without network and on a bare host.
  diff_mode:
    support: full
    description: Shows the releases that come and go, and the current one.
  idempotent:
    support: full
    description: A second run changes nothing, even after an interrupted one.
"""

EXAMPLES = r"""
- name: Install an exact version
  alwayson.hermes.release:
    version: 0.19.0
    extras: [messaging]

- name: Install the newest version in a range, and keep it once installed
  alwayson.hermes.release:
    version: ">=0.18,<0.20"

- name: Install a tag of the repository, pinned to its commit
  alwayson.hermes.release:
    method: git
    url: https://github.com/NousResearch/hermes-agent.git
    ref: v2026.7.20
    commit: "{{ hermes_commit }}"

- name: Install the newest of this year's tags with a patch, and keep it once installed
  alwayson.hermes.release:
    method: git
    url: https://github.com/NousResearch/hermes-agent.git
    channel: v2026.*
    patches:
      - "{{ lookup('ansible.builtin.file', 'longer-timeout.patch', rstrip=false) }}"

# The directory holds the wheels that the shipped lock names; docs/releases.md says how to collect them.
- name: Install without network, from wheels
  alwayson.hermes.release:
    method: path
    path: /srv/hermes-wheels

- name: Build the next release, without switching to it
  alwayson.hermes.release:
    version: 0.19.0
    index_url: https://packages.example.com/simple/
    index_username: hermes
    index_password: "{{ vault_index_password }}"
    ca_bundle: /etc/ssl/certs/example-root.pem
    current: false
"""

RETURN = r"""
release:
  description: Name of the release's directory. Null in check mode if only the build can tell the version.
  type: str
  returned: success
  sample: 0.19.0-22c8bba0
version:
  description: Version that Hermes reports. Null in check mode if only the build can tell it.
  type: str
  returned: success
  sample: 0.19.0
directory:
  description: Directory of the release; null if RV(release) is null.
  type: str
  returned: success
  sample: /opt/hermes/releases/0.19.0-22c8bba0
method:
  description: How it was installed.
  type: str
  returned: success
  sample: pypi
built:
  description: Whether this run built the release (in check mode, would build it).
  type: bool
  returned: success
switched:
  description: Whether C(current) was switched (in check mode, would be switched). If so, running gateways are outdated.
  type: bool
  returned: success
previous:
  description: The release that was current before; null if there was none.
  type: str
  returned: success
  sample: 0.18.2-100a5b6a
locked:
  description: Whether all packages were pinned by a lock with hashes. Null in check mode before a build.
  type: bool
  returned: success
commit:
  description: The commit that was installed, with O(method=git).
  type: str
  returned: success
patches:
  description: Names of the patches that were applied. Null in check mode before a build.
  type: list
  elements: str
  returned: success
  sample: [longer-timeout.patch]
python:
  description: Interpreter that the release uses. Null in check mode before a build.
  type: str
  returned: success
  sample: /usr/bin/python3.11
removed:
  description: Releases that were removed because of O(keep) (in check mode, would be removed).
  type: list
  elements: str
  returned: success
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    **arguments.RELEASE,
    "index_url": {"type": "str"},
    "index_username": {"type": "str"},
    "index_password": {"type": "str", "no_log": True},
    "ca_bundle": {"type": "path"},
    "wheels": {"type": "path"},
    "root": {"type": "path", "default": "/opt/hermes"},
    "current": {"type": "bool", "default": True},
    "keep": {"type": "int", "default": 2},
    "timeout": {"type": "int", "default": 900},
}
SPECIFICATION: dict[str, Any] = {
    "argument_spec": ARGUMENTS,
    "required_if": [
        ("method", "pypi", ("version",)),
        ("method", "git", ("url",)),
        ("method", "path", ("path",)),
    ],
    "required_by": {"index_username": ("index_url",), "index_password": ("index_url",)},
}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
