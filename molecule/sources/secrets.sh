#!/bin/sh
# Makes the secrets of the scenario, and their sources. /run/made holds a copy of each for the tests, in memory.
set -eu
umask 077
mkdir -p /run/made /run/told /etc/sealed
DEBIAN_FRONTEND=noninteractive apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends age >/dev/null
python3 - <<'TEXT'
import json, secrets, time, urllib.request

# Every character that a shell, systemd, JSON or Hermes could read as something else.
HOSTILE = "'\"\\$HOME`id`%i #;=\t\n\\n é☃ end\\"
made = {
    agent: {
        "API_SERVER_KEY": secrets.token_hex(20),
        "MODEL_API_KEY": f"model-{secrets.token_hex(20)}",
        "HOSTILE": f"{secrets.token_hex(12)}{HOSTILE}",
    }
    for agent in ("default", "sealed", "told")
}
# More than a page.
made["default"].update({f"MORE_{number}": secrets.token_hex(12) for number in range(17)})
# Lines hold no line breaks.
made["sealed"]["HOSTILE"] = made["sealed"]["HOSTILE"].replace("\n", "")
with open("/run/made/made.json", "w") as stream:
    json.dump(made, stream)
with open("/run/told/secrets.json", "w") as stream:
    json.dump(made["told"], stream)
with open("/run/made/sealed", "w") as stream:
    stream.write("# comment\n\n" + "".join(f"{name}={value}\n" for name, value in made["sealed"].items()))
parameters = {f"/hermes/test/default/{name}": value for name, value in made["default"].items()}
put = urllib.request.Request(
    "http://127.0.0.1:14566/parameters", json.dumps(parameters).encode(), method="PUT"
)
for _attempt in range(50):
    try:
        urllib.request.urlopen(put).close()
        break
    except OSError:
        time.sleep(0.1)
else:
    raise SystemExit("the parameter store does not answer")
TEXT
age-keygen --output /etc/sealed/identity 2>/dev/null
age --encrypt --recipient "$(age-keygen -y /etc/sealed/identity)" --output /etc/sealed/sealed.env.age /run/made/sealed
rm /run/made/sealed
cat >/usr/local/sbin/tell-secrets <<'TEXT'
#!/bin/sh
# As given, nothing expanded.
[ "$1 $2" = '$HOME 100%' ] || exit 9
echo "noise, never shown" >&2
cat /run/told/secrets.json
TEXT
chmod 0755 /usr/local/sbin/tell-secrets
