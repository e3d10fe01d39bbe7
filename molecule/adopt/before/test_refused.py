# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two gateways on one home would lose messages: nothing is touched while the manually started one runs."""

from __future__ import annotations

from control import differences

PATHS = (
    "/etc",
    "/opt",
    "/usr/local",
    "/var/lib/dpkg/status",
    "/var/lib/systemd/linger",
    "/home/alice/*",
    "/home/alice/.hermes/profiles",
    *(f"/home/alice/.hermes/{name}" for name in (".*", "*.yaml", "*.md", "webhook_subscriptions.json", "memories")),
)
SYSTEMCTL = "runuser -u alice -- env XDG_RUNTIME_DIR=/run/user/$(id -u alice) systemctl --user"


def test_refused_while_the_one_by_hand_runs(controller, alices):
    pid = controller.shell(f"{SYSTEMCTL} show --property MainPID --value hermes-gateway").strip()
    before = controller.manifest(PATHS)
    run = controller.run()
    assert run.rc != 0
    fix = "Fix: stop the Hermes that was started by hand (hermes gateway stop), or declare another port"
    assert f"{controller.box}: agent default: api.port 8642 is taken by pid {pid} (python). {fix}" in run.text
    assert f"agent default: webhook.port 8644 is taken by pid {pid} (python). {fix}" in run.text
    assert not differences(before, controller.manifest(PATHS))
    assert alices.is_healthy()


def test_then_it_is_stopped(controller, alices):
    controller.shell(f"{SYSTEMCTL} disable --now hermes-gateway")
    assert not alices.is_healthy()
