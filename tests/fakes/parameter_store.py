#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An instance's metadata service and AWS' parameter store for tests, inside a box.

The metadata service (IMDSv2 only) answers at its real address, 169.254.169.254, which it adds to the loopback
interface. The store answers ``GetParametersByPath`` with pages of ten, to requests that carry what the metadata service
handed out. tests/unit/secrets compares the client with botocore and moto; this one misbehaves on request.

Control, for tests, on the store's port:

``PUT /parameters``     replace all parameters: an object of names and values
``POST /faults``        a list; each entry spoils the next ``times`` (default 1, 0: all) requests for parameters with
                        ``status`` (an error) or ``hold`` (no answer before ``DELETE /faults``)
``DELETE /faults``      forget the faults, release held requests
``GET /asked``          the number of requests for parameters so far
"""

from __future__ import annotations

import argparse
import json
import subprocess
import threading
from typing import Any

from handler import Faults, Handler, Server

METADATA = "169.254.169.254"
TOKEN, KEY_ID, SESSION, ROLE = "metadata-token", "ASIAIOSFODNN7EXAMPLE", "session-token", "hermes-instance"
PAGE = 10


class State(Faults):
    def __init__(self) -> None:
        super().__init__()
        self.parameters: dict[str, str] = {}
        self.asked = 0


class MetadataHandler(Handler):
    def do_PUT(self) -> None:
        good = self.path == "/latest/api/token" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self.reply(200 if good else 400, TOKEN if good else "", "text/plain")

    def do_GET(self) -> None:
        top = "/latest/meta-data/"
        credentials = {"AccessKeyId": KEY_ID, "SecretAccessKey": "the-instance-s-key", "Token": SESSION}
        answers = {
            f"{top}placement/region": "eu-west-1",
            f"{top}iam/security-credentials/": ROLE,
            f"{top}iam/security-credentials/{ROLE}": json.dumps(credentials),
        }
        if self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            self.reply(401, "", "text/plain")
        elif self.path in answers:
            self.reply(200, answers[self.path], "text/plain")
        else:
            self.reply(404, "", "text/plain")


class StoreHandler(Handler):
    def do_PUT(self) -> None:
        self.server.state.parameters = json.loads(self.body())
        self.answer({})

    def do_DELETE(self) -> None:
        self.server.state.forget()
        self.answer({})

    def do_GET(self) -> None:
        self.answer(self.server.state.asked)

    def do_POST(self) -> None:
        state, asked = self.server.state, json.loads(self.body() or b"null")
        if self.path == "/faults":
            state.faults = asked
            self.answer({})
            return
        with state.lock:
            state.asked += 1
        released, fault = state.released, state.next_fault()
        if fault.get("hold"):
            released.wait()
        signed = f"AWS4-HMAC-SHA256 Credential={KEY_ID}/"
        good = self.headers.get("Authorization", "").startswith(signed)
        if not good or self.headers.get("X-Amz-Security-Token") != SESSION:
            self.answer({"__type": "UnrecognizedClientException", "message": "The token is invalid."}, 400)
        elif "status" in fault:
            self.answer({"__type": "InternalServerError", "message": "told to fail"}, fault["status"])
        else:
            self.answer(self.page(asked))

    def page(self, asked: dict[str, Any]) -> dict[str, Any]:
        top = asked["Path"].rstrip("/")
        found = sorted(name for name in self.server.state.parameters if name.rpartition("/")[0] == top)
        start = int(asked.get("NextToken", 0))
        page = [{"Name": name, "Value": self.server.state.parameters[name]} for name in found[start : start + PAGE]]
        more = {"NextToken": str(start + PAGE)} if len(found) > start + PAGE else {}
        return {"Parameters": page, **more}

    def answer(self, value: Any, status: int = 200) -> None:
        self.reply(status, json.dumps(value), "application/x-amz-json-1.1")


def main() -> None:
    parser = argparse.ArgumentParser(description="A metadata service and a parameter store for tests.")
    parser.add_argument("--port", type=int, default=14566, help="port of the store, on loopback (%(default)s)")
    arguments = parser.parse_args()
    subprocess.run(["ip", "address", "replace", f"{METADATA}/32", "dev", "lo"], check=True)
    metadata = Server((METADATA, 80), MetadataHandler, None)
    threading.Thread(target=metadata.serve_forever, daemon=True).start()
    Server(("127.0.0.1", arguments.port), StoreHandler, State()).serve_forever()


if __name__ == "__main__":
    main()
