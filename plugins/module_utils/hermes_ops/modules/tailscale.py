# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the host the declared node of a tailnet."""

from __future__ import annotations

import shutil
from typing import Any

from ..host import firewall, nftables, tailnet, tailnet_files, tailnet_state
from ..system.errors import OpsError
from ..system.plan import Difference, Plan
from ..system.services import plan_started
from ..system.systemd import Manager
from .call import Call, agents_of, node


def work(call: Call) -> dict[str, Any]:
    params = call.params
    manager = Manager.of_host()
    settings = tailnet.Settings(
        hostname=params["hostname"],
        tags=tuple(params["tags"]),
        ssh=params["ssh"],
        accept_routes=params["accept_routes"],
        accept_dns=params["accept_dns"],
        login_server=params["login_server"],
    )
    key = tailnet.key_of(params["auth_key"], params["auth_key_file"], settings.tags)
    missing = lacking(params, manager)
    if missing:
        # In check mode, nothing more can be said: what follows needs the programs.
        what = "nftables" if missing == "nftables" else "Tailscale"
        planned = Plan([Difference(what, None, f"installed ({params['install']})")] if call.check_mode else [])
        return {**call.done(planned, "tailscale"), "missing": missing, "on_trial": False}
    return {**Converging(call, manager, settings, key).work(), "missing": ""}


def lacking(params: dict[str, Any], manager: Manager) -> str:
    """What has to be brought to the host first: ``package``, ``nftables``, ``archive`` or nothing.

    :raises OpsError: it is to be there, and is not
    """
    if params["install"] == "files":
        tailnet_files.check(params["archive_sha256"], params["root"])
        there = tailnet_files.is_there(params["root"], params["archive_sha256"])
        return "" if there or params["archive"] else "archive"
    there = shutil.which("tailscale") and manager.units([tailnet.UNIT])[tailnet.UNIT].load == "loaded"
    if there and shutil.which(nftables.NFT):
        return ""
    if params["install"] == "apt":
        # Who has Tailscale from elsewhere gets neither its repository nor its package.
        return "nftables" if there else "package"
    raise OpsError(
        f"tailscale, {tailnet.UNIT} or nft is missing on {node()}",
        where="tailscale_install",
        fix="install them, or declare apt or files",
    )


class Converging:
    """One run: each part is planned from what the parts before it have made.

    :ivar done: the differences so far
    """

    def __init__(self, call: Call, manager: Manager, settings: tailnet.Settings, key: str | None) -> None:
        self.call = call
        self.manager = manager
        self.settings = settings
        self.key = key
        self.done = Plan()

    def work(self) -> dict[str, Any]:
        params, manager = self.call.params, self.manager
        units: dict[str, str] = {}
        if params["install"] == "files":
            self.do(tailnet_files.plan_files(params["root"], params["archive_sha256"], params["archive"]))
            units = tailnet_files.unit_files(params["root"], params["archive_sha256"])
        self.do(tailnet.plan_daemon(params["data_dir"], manager, units))
        self.do(tailnet_state.plan_moved(params["data_dir"], manager))
        start = Plan()
        plan_started(start, manager, manager.units([tailnet.UNIT])[tailnet.UNIT])
        self.do(start)
        if units:
            # A killed run leaves a unit whose programs are there.
            self.do(tailnet_files.plan_pruned(params["root"], params["archive_sha256"]))
        # In check mode, a tailscaled that is yet to start cannot be asked.
        asleep = self.call.check_mode and self.done.changed
        found = None if asleep else tailnet.settled(tailnet.observe())
        on_trial = self.at_node(found)
        return {
            "changed": self.done.changed,
            "diff": self.done.diff("tailscale"),
            "on_trial": on_trial,
            "node": {"id": found.id, "name": found.name, "addresses": list(found.addresses)} if found else None,
        }

    def do(self, plan: Plan) -> bool:
        """:returns: whether something was changed, and not only planned"""
        self.done.differences += plan.differences
        if not self.call.check_mode:
            plan.apply()
        return plan.changed and not self.call.check_mode

    def at_node(self, found: tailnet.Node | None) -> bool:
        """:returns: whether a trial of the packet filter has begun"""
        params = self.call.params
        record = tailnet.recorded(params["ops_dir"])
        if found and found.state in tailnet.UNSURE:
            why = "; ".join(found.troubles) or found.state
            self.call.warn(
                f"{node()}: its tailnet's control server does not answer ({why}), so nothing was converged there"
            )
            return False
        if self.do(tailnet.plan_login(self.settings, found, record, self.key)):
            found = tailnet.settled(tailnet.observe())
        if found and not found.out and found.state != "Running":
            # tailscaled has no addresses now. Rules without them would let neighbours in.
            what, fix = tailnet.IDLE.get(found.state, (f"tailscaled is in the state {found.state}", "tailscale status"))
            self.call.warn(f"{node()}: {what}, so its ports and packet filter stay as they are. Fix: {fix}")
            return False
        agents = agents_of(self.call)
        ports = [
            server.port for agent in agents if agent.present for server in agent.servers.values() if server.tailnet
        ]
        self.do(tailnet.plan_served(ports, found, record))
        if found is None or found.out:
            return False
        self.warn(found, record)
        self.do(tailnet.plan_recorded(params["ops_dir"], found, record, ports))
        rules = firewall.Filter(found.addresses, params["firewall"], tuple(params["firewall_ports"]))
        if params["confirm"]:
            self.do(firewall.plan_confirmed(self.manager))
        plan, on_trial = firewall.plan_filter(rules, self.manager)
        self.do(plan)
        return on_trial and not self.call.check_mode

    def warn(self, found: tailnet.Node, record: dict[str, Any]) -> None:
        if set(found.tags) != set(self.settings.tags):
            there, declared = (", ".join(tags) or "(none)" for tags in (found.tags, self.settings.tags))
            self.call.warn(
                f"{node()} has the tags {there} in the tailnet, and {declared} are declared: tags are changed in the "
                "tailnet's console"
            )
        if record.get("id") not in (None, "", found.id):
            self.call.warn(f"{node()} is the node {found.id} and not {record['id']}: see hermes-ops check")
