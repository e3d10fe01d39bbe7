#!/bin/sh
# The baseline of bench.py: the steps of site.yml for one agent, by hand, inside a bare host.
set -eu
export DEBIAN_FRONTEND=noninteractive SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
export PIP_CERT=$SSL_CERT_FILE UV_SYSTEM_CERTS=true
home=/var/lib/hermes/.hermes release=/opt/hermes/releases/0.19.0

apt-get update -qq
apt-get install -qq --yes --no-install-recommends dbus-user-session libpam-systemd ca-certificates python3-venv \
    python3-yaml git >/dev/null 2>&1
useradd --system --create-home --home-dir /var/lib/hermes --shell /bin/bash hermes
loginctl enable-linger hermes

python3 -m venv /tmp/uv
/tmp/uv/bin/pip install -q uv
mkdir -p /opt/hermes/tools /opt/hermes/releases
cp /tmp/uv/bin/uv /opt/hermes/tools/uv
/opt/hermes/tools/uv venv -q "$release"
VIRTUAL_ENV=$release /opt/hermes/tools/uv pip install -q --compile-bytecode 'hermes-agent[homeassistant]==0.19.0'
ln -s releases/0.19.0 /opt/hermes/current
"$release/bin/hermes" --version >/dev/null

install -d -o hermes -g hermes -m 0700 "$home" "$home/memories"
cat >"$home/config.yaml" <<'YAML'
model: {provider: custom, default: stub-model, base_url: "http://127.0.0.1:18080/v1", api_key: "${MODEL_API_KEY}"}
approvals: {mode: "off"}
security: {allow_lazy_installs: false, tirith_enabled: false}
platforms: {webhook: {enabled: true, extra: {host: 127.0.0.1, port: 8644}}}
YAML
key=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
printf 'API_SERVER_ENABLED=true\nAPI_SERVER_KEY=%s\nMODEL_API_KEY=sk-bench\n' "$key" >"$home/.env"
cat >"$home/webhook_subscriptions.json" <<'JSON'
{"claude-context": {"prompt": "{body}", "secret": "bench-secret", "events": [], "deliver": "log"}}
JSON
chown hermes:hermes "$home"/* "$home/.env"
chmod 0600 "$home/config.yaml" "$home/.env" "$home/webhook_subscriptions.json"

cat >/etc/systemd/system/hermes-gateway@.service <<'UNIT'
[Service]
User=hermes
Environment=HERMES_HOME=/var/lib/hermes/.hermes
ExecStart=/opt/hermes/current/bin/hermes --profile %i gateway run
Restart=always
[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable -q --now hermes-gateway@default
until curl -sf http://127.0.0.1:8642/health >/dev/null; do sleep 0.1; done
curl -sf http://127.0.0.1:8642/v1/chat/completions -H "Authorization: Bearer $key" \
    -H 'Content-Type: application/json' -d '{"messages": [{"role": "user", "content": "hello"}]}'
