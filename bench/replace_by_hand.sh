#!/bin/sh
# The baseline of bench.py's replace: the steps of site.yml for one agent on a used volume, by hand, inside a host that
# has the packages and the release.
set -eu
data=/var/lib/hermes home=/var/lib/hermes/agents/default
mkdir -p "$data"
mount -L hermes-data "$data"
useradd --system --no-create-home --uid "$(stat --format %u "$home")" --home-dir "$home" hermes-default
ln -s "releases/$(ls /opt/hermes/releases)" /opt/hermes/current

cat >/etc/systemd/system/hermes-gateway@.service <<UNIT
[Service]
User=hermes-%i
Environment=HERMES_HOME=$home/.hermes
ExecStart=/opt/hermes/current/bin/hermes --profile %i gateway run
Restart=always
[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable -q --now hermes-gateway@default
until curl -sf http://127.0.0.1:8642/health >/dev/null; do sleep 0.1; done
