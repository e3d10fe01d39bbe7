# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real API server of Kubernetes with its etcd, and what acts on what it holds."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TOKEN = "the-token-of-the-tests"
# Seconds for it to be ready on a busy machine.
PATIENCE = 180


class ApiServer:
    """:attr:`count` namespaces were given to tests.

    :param address: of this machine, at which it is asked
    :param options: more of them for the API server
    """

    def __init__(self, programs: Path, directory: Path, address: str = "127.0.0.1", *options: str) -> None:
        self.programs, self.directory, self.address = programs, directory, address
        self.port, self.count, self.options = free_port(), 0, options
        self.processes: list[subprocess.Popen[bytes]] = []
        # The server makes it at its first start.
        self.authority = str(directory / "certificates/apiserver.crt")

    @property
    def kubeconfig(self) -> str:
        return str(self.directory / "kubeconfig")

    def __enter__(self) -> ApiServer:
        key = self.directory / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (self.directory / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
        self.write_kubeconfig(self.kubeconfig)
        clients, peers = free_port(), free_port()
        self._run(
            *("etcd", f"--data-dir={self.directory}/etcd", f"--listen-client-urls=http://127.0.0.1:{clients}"),
            *(f"--advertise-client-urls=http://127.0.0.1:{clients}", f"--listen-peer-urls=http://127.0.0.1:{peers}"),
            # What it holds may be lost with the machine.
            "--unsafe-no-fsync",
        )
        self.words = (
            *("kube-apiserver", f"--etcd-servers=http://127.0.0.1:{clients}", f"--secure-port={self.port}"),
            *(f"--bind-address={self.address}", f"--cert-dir={self.directory}/certificates"),
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
            *("--service-account-issuer=https://tests.example", f"--token-auth-file={self.directory}/tokens.csv"),
            *("--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16"),
            # Nobody knows the names of nodes.
            "--kubelet-preferred-address-types=InternalIP",
            # A controller would make the accounts that pods have.
            "--disable-admission-plugins=ServiceAccount",
            *self.options,
        )
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()

    def start(self) -> None:
        """Start the API server, and wait until it is ready."""
        process = self._run(*self.words)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.ask("GET", "/readyz", timeout=5)
                return
            except OSError:
                assert process.poll() is None, (self.directory / "kube-apiserver.log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the API server is not ready"
                time.sleep(0.2)

    def control(self) -> None:
        """Start what brings a cluster to what its API server holds."""
        key = self.directory / "accounts.key"
        # Nobody asks them how they are, and another cluster may run beside this one.
        login = (f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0")
        self._run(
            *("kube-controller-manager", *login, f"--service-account-private-key-file={key}"),
            # A lost node is noticed soon.
            *("--node-monitor-period=1s", "--node-monitor-grace-period=10s"),
        )
        self._run("kube-scheduler", *login)

    def kill(self) -> None:
        """Kill the API server. What it holds stays in etcd."""
        process = self.processes.pop()
        process.kill()
        process.wait()

    def _run(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(
                [self.programs / program, *options], stdout=log, stderr=log, cwd=self.directory, start_new_session=True
            )
        self.processes.append(process)
        return process

    def write_kubeconfig(self, path: str, *, token: str = TOKEN, port: int = 0, authority: str = "") -> None:
        there = {
            "server": f"https://{self.address}:{port or self.port}",
            "certificate-authority": authority or self.authority,
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": there}],
            "users": [{"name": "tests", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
            "current-context": "tests",
        }
        Path(path).write_text(json.dumps(content))

    def ask(self, method: str, path: str, body: Any = None, *, kind: str = "json", timeout: float = 60) -> Any:
        """What the API says, asked as somebody else than the collection.

        :param kind: of the body: ``json``, ``merge-patch+json`` or ``apply-patch+yaml``
        :raises OSError: the status is an error, or there is no answer
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": f"application/{kind}"}
        request = urllib.request.Request(f"https://{self.address}:{self.port}{path}", data, headers, method=method)
        trusting = ssl.create_default_context(cafile=self.authority)
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=trusting) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            # It is the open answer.
            error.close()
            raise
        return json.loads(text) if text.startswith("{") else text


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
