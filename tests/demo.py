# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows the way from a bare host to an agent that answers; called by script/demo."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Where inventories/demo keeps the secrets that it makes.
SECRETS = ROOT / ".cache" / "demo"
BOX = "hermes-demo"
# The host of --runtimes; box.py's options let it run containers.
USERS_BOX = "hermes-demo-users"
CONTAINERS = ("--docker=--security-opt=systempaths=unconfined", "--docker=--volume=/var/lib/containers")
USERS = ("ada@example.com", "bob", "6ba7b810-9dad-41d1-80b4-00c04fd430c8")
TENANTS = ("acme", "globex", "Initech GmbH")
# What --tenants keeps: the cluster's own files, and the ids of its processes on this machine.
CLUSTER = ROOT / ".cache" / "demo-cluster"
PROCESSES = CLUSTER / "processes"
MODEL = "hermes-demo-model"
NETWORK = "hermes-demo"
SUITE = "bookworm"
API_PORT = 8642
WEBHOOK_PORT = 8644
USERS_PORT = 8640
MODEL_PORT = 18080
WEBHOOK = "claude-context"
ANSWER_SECONDS = 60
# The agent's answer to a webhook goes to the log if the subscription names no delivery (0.19.0
# gateway/platforms/webhook.py); an entry ends where the next one begins.
RESPONSE = re.compile(r"Response for webhook:\S+: (.*?)(?=^\d{4}-\d\d-\d\d |\Z)", re.M | re.S)


class DemoError(Exception):
    """Why the demo cannot go on."""


phases: list[tuple[str, float]] = []


@contextlib.contextmanager
def phase(text: str) -> Iterator[None]:
    print(f"\n== {text}", flush=True)
    started = time.monotonic()
    yield
    phases.append((text, time.monotonic() - started))


def run(*command: str | Path, show: bool = False) -> str:
    """Run *command*.

    :param show: let what it prints pass through instead of returning it
    :raises DemoError: when it fails
    """
    done = subprocess.run(
        [str(part) for part in command], stdout=None if show else subprocess.PIPE, text=True, check=False, cwd=ROOT
    )
    if done.returncode:
        raise DemoError(f"{Path(command[0]).name} ended with status {done.returncode}")
    return (done.stdout or "").strip()


def box(*arguments: str) -> str:
    return run(sys.executable, ROOT / "tests/hosts/box.py", *arguments)


def docker(*arguments: str) -> str:
    return run("docker", *arguments)


def ask(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    """What *url* answers, as JSON.

    :raises DemoError: when it refuses or is not there
    """
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **(headers or {})})
    # The box is on this machine, so a proxy must not be used.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise DemoError(f"{url} answered {error.code}: {error.read().decode(errors='replace')[:300]}") from None
    except OSError as error:
        raise DemoError(f"{url}: {error}") from None


def start_model_server(image: str) -> None:
    """Start the model server in a container of its own; the agent reaches it by the container's name."""
    names = docker("network", "ls", "--filter", f"name=^{NETWORK}$", "--format", "{{.Name}}")
    if not names:
        docker("network", "create", NETWORK)
    if docker("ps", "--filter", f"name=^{MODEL}$", "--filter", f"ancestor={image}", "--format", "{{.Names}}") != MODEL:
        box("down", MODEL)
        source = ROOT / "tests/fakes"
        docker(
            *("run", "--detach", "--name", MODEL, "--network", NETWORK, "--volume", f"{source}:/fakes:ro"),
            *(image, "python3", "/fakes/model_server.py", "--host", "0.0.0.0", "--port", str(MODEL_PORT)),
        )


def converge(inventory: str, playbook: str = "site") -> None:
    # The checkout's own Ansible and settings, whatever the current directory is.
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "PATH": os.pathsep.join([str(ROOT / ".venv/bin"), os.environ["PATH"]]),
    }
    os.environ.update(environment)
    run("ansible-playbook", "--inventory", inventory, f"playbooks/{playbook}.yml", show=True)


def chat(url: str, key: str) -> None:
    """Ask the agent whose API is at *url*."""
    # A random token, so the answer cannot be prepared.
    token = secrets.token_hex(4)
    question = f"Hello agent, please say {token} back."
    body = {"model": "hermes-agent", "messages": [{"role": "user", "content": question}]}
    answer = ask(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Authorization": f"Bearer {key}"})
    reply = answer["choices"][0]["message"]["content"]
    print(f"you:   {question}\nagent: {reply}")
    if answer["choices"][0]["finish_reason"] != "stop" or token not in reply:
        raise DemoError("that is no answer to the question")


def send_webhook(address: str) -> None:
    secret = (SECRETS / "webhook_secret").read_text().strip()
    token = secrets.token_hex(4)
    body = json.dumps({"topic": "the demo", "body": f"the build {token} is green"}).encode()
    stamp = str(int(time.time()))
    signature = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"X-Webhook-Timestamp": stamp, "X-Webhook-Signature-V2": signature}
    accepted = ask(f"http://{address}:{WEBHOOK_PORT}/webhooks/{WEBHOOK}", body, headers)
    print(f"you:   POST /webhooks/{WEBHOOK}, signed: {body.decode()}\nhost:  {accepted.get('status')}")
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        log = docker("exec", BOX, "cat", "/var/lib/hermes/agents/default/.hermes/logs/gateway.log")
        for reply in RESPONSE.findall(log):
            if token in reply:
                print(f"agent: {reply.strip()}")
                return
        if time.monotonic() > deadline:
            raise DemoError("the webhook was accepted, but the agent said nothing to it")
        time.sleep(0.1)


def up() -> None:
    phases.append(("The environment in .venv", time.time() - float(os.environ["DEMO_STARTED"])))
    with phase("Docker's engine, and the image of a bare Debian 12 host"):
        box("engine")
        image = box("image", SUITE)
    with phase("A model server, and a bare host beside it"):
        start_model_server(image)
        address = box("up", BOX, SUITE, f"--docker=--network={NETWORK}")
        print(f"host {BOX} at {address}: systemd, Python and nothing else")
    with phase("Converge: ansible-playbook --inventory inventories/demo playbooks/site.yml"):
        converge("inventories/demo")
    with phase("Ask the agent through its API"):
        chat(f"http://{address}:{API_PORT}", (SECRETS / "api_server_key").read_text().strip())
    with phase("Post a signed webhook"):
        send_webhook(address)
    print_seconds()
    root = "sudo " if "SUDO_USER" in os.environ else ""
    print(f"""
Go on:
  {root}docker exec -it {BOX} hermes           talk to the agent on its host
  {root}docker exec {BOX} hermes-ops status    what runs there
  curl http://{address}:{API_PORT}/v1/chat/completions \\
    -H "Authorization: Bearer $(cat {SECRETS}/api_server_key)" -H "Content-Type: application/json" \\
    -d '{{"model": "hermes-agent", "messages": [{{"role": "user", "content": "hello"}}]}}'
  script/demo           again: nothing changes
  script/demo --down    remove it all""")


def up_runtimes() -> None:
    """A host with an agent for each of three users, who all sleep until they are called."""
    phases.append(("The environment in .venv", time.time() - float(os.environ["DEMO_STARTED"])))
    with phase("Docker's engine, and the image of a bare Debian 12 host"):
        box("engine")
        image = box("image", SUITE)
    with phase("The image of an agent"):
        agent = run(sys.executable, ROOT / "tests/hosts/agent_image.py")
    with phase("A model server, and a bare host beside it, which gets the image"):
        start_model_server(image)
        address = box("up", USERS_BOX, SUITE, f"--docker=--network={NETWORK}", *CONTAINERS)
        install = (
            "apt-get update -qq && apt-get install -qq --yes --no-install-recommends podman crun netavark iptables"
        )
        docker("exec", "--env=DEBIAN_FRONTEND=noninteractive", USERS_BOX, "sh", "-c", f"{install} >/dev/null")
        run("sh", "-c", f"docker save {agent} | docker exec --interactive {USERS_BOX} podman load --quiet")
    network = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
    os.environ["DEMO_MODEL"] = docker("inspect", "--format", network, MODEL)
    os.environ["DEMO_IMAGE"] = f"localhost/{agent}"
    with phase("Converge: ansible-playbook --inventory inventories/users playbooks/site.yml"):
        converge("inventories/users")
    for user in USERS:
        # An application computes it from the secret.
        key = docker("exec", USERS_BOX, "hermes-ops", "runtime", "key", user)
        with phase(f"Call the agent of {user}, which sleeps"):
            url = f"http://{address}:{USERS_PORT}/u/{urllib.parse.quote(user, safe='')}"
            chat(url, key)
    print_seconds()
    print(f"""
Go on:
  docker exec {USERS_BOX} hermes-ops runtime list
  docker exec {USERS_BOX} hermes-ops runtime ensure eve
  docs/runtimes.md           how an application calls them
  script/demo --down         remove it all""")


def up_tenants() -> None:
    """A cluster of two nodes, with an agent for each of three tenants."""
    down_tenants()
    phases.append(("The environment in .venv", time.time() - float(os.environ["DEMO_STARTED"])))
    with phase("Docker's engine, and the image of an agent"):
        box("engine")
        image = run(sys.executable, ROOT / "tests/hosts/agent_image.py")
    with phase("Kubernetes 1.34, from its sources: some minutes the first time"):
        programs = run(sys.executable, ROOT / "tests/hosts/kubernetes_programs.py")
    sys.path[:0] = [str(ROOT / "tests/hosts"), str(ROOT / "tests/tenants"), str(ROOT / ".cache/collections")]
    import whole
    from ansible_collections.alwayson.hermes.plugins.filter.runtime_key import runtime_key

    CLUSTER.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        with phase("A model server, a control plane on this machine, and two nodes in boxes"):
            start_model_server(box("image", SUITE))
            made = whole.cluster(stack, Path(programs), CLUSTER, MODEL, network=NETWORK)
            PROCESSES.write_text(" ".join(str(each.pid) for each in made.server.processes))
        network = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
        os.environ.update(DEMO_MODEL=docker("inspect", "--format", network, MODEL), DEMO_IMAGE=f"localhost/{image}")
        os.environ.update(DEMO_KUBECONFIG=made.server.kubeconfig, DEMO_STORAGE_CLASS=whole.CLASS)
        with phase("Converge: ansible-playbook --inventory inventories/tenants playbooks/tenants.yml"):
            converge("inventories/tenants", "tenants")
        secret = (SECRETS / "tenants_secret").read_text().strip()
        for tenant in TENANTS:
            with phase(f"Call the agent of {tenant}"):
                token = secrets.token_hex(4)
                question = f"Hello agent, please say {token} back."
                pod = made.pod("hermes", tenant.lower().replace(" ", "-"))
                reply = made.reply(pod, runtime_key(tenant, secret), question)
                print(f"you:   {question}\nagent: {reply}")
                if token not in reply:
                    raise DemoError("that is no answer to the question")
        # It keeps running.
        stack.pop_all()
    print_seconds()
    print(f"""
Go on:
  export DEMO_KUBECONFIG={made.server.kubeconfig} DEMO_STORAGE_CLASS={whole.CLASS}
  .venv/bin/ansible-playbook --inventory inventories/tenants playbooks/tenants_status.yml
  kubectl --kubeconfig $DEMO_KUBECONFIG --namespace hermes get pods --output wide
  docs/tenants.md            what can be declared
  script/demo --down         remove it all""")


def down_tenants() -> None:
    """Remove the cluster of --tenants."""
    with contextlib.suppress(FileNotFoundError):
        for each in PROCESSES.read_text().split():
            # It may have ended, and its number be another program's by now.
            with contextlib.suppress(OSError):
                if str(CLUSTER) in Path(f"/proc/{each}/cmdline").read_text():
                    os.kill(int(each), signal.SIGKILL)
    if shutil.which("docker"):
        nodes = docker("ps", "--all", "--filter", f"name=^{NETWORK}-node", "--format", "{{.Names}}").split()
        if nodes:
            box("down", *nodes)
    shutil.rmtree(CLUSTER, ignore_errors=True)


def print_seconds() -> None:
    print("\nSeconds:")
    for text, seconds in phases:
        print(f"  {seconds:6.1f}  {text}")


def down() -> None:
    down_tenants()
    if shutil.which("docker"):
        box("down", BOX, USERS_BOX, MODEL)
        if docker("network", "ls", "--filter", f"name=^{NETWORK}$", "--format", "{{.Name}}"):
            docker("network", "rm", NETWORK)
    shutil.rmtree(SECRETS, ignore_errors=True)
    print("The demo's host, model server and secrets are gone; images and .venv stay.")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/demo",
        description="Start a bare Debian 12 host (a container with systemd), converge it with playbooks/site.yml, "
        "ask the agent something and post a signed webhook. Installs and starts Docker's engine where there is none. "
        "Status 0 only when the agent really answered.",
    )
    parser.add_argument("--runtimes", action="store_true", help="show a host with an agent for each of three users")
    parser.add_argument("--tenants", action="store_true", help="show a cluster with an agent for each of three tenants")
    parser.add_argument("--down", action="store_true", help="remove what the demo made")
    arguments = parser.parse_args()
    try:
        if arguments.down:
            down()
        elif arguments.runtimes:
            up_runtimes()
        elif arguments.tenants:
            up_tenants()
        else:
            up()
    except DemoError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
