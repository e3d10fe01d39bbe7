#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``talk.py PORT HOME ANSWERED``: talk to an agent from several places at once, until the file ANSWERED.stop exists.

Each message that the agent answered is a line in the file ANSWERED.
"""

import json
import os
import sys
import threading
import time
import urllib.request
import uuid

PLACES = 4


def ask(port: str, key: str, text: str) -> bool:
    """Whether the agent answered *text*."""
    body = json.dumps({"model": "hermes-agent", "messages": [{"role": "user", "content": text}]}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            (choice,) = json.load(response)["choices"]
    except (OSError, ValueError):
        return False
    return choice["finish_reason"] == "stop" and text in choice["message"]["content"]


def talk(port: str, key: str, answered: str) -> None:
    while not os.path.exists(f"{answered}.stop"):
        text = f"message {uuid.uuid4()}"
        if ask(port, key, text):
            # Appended by one write, so that the lines of several threads stay whole.
            with open(answered, "a", encoding="utf-8") as stream:
                stream.write(f"{text}\n")
        else:
            time.sleep(0.1)


def main(port: str, home: str, answered: str) -> None:
    with open(f"{home}/.env", encoding="utf-8") as stream:
        (key,) = (line.partition("=")[2].strip("\"'\n") for line in stream if line.startswith("API_SERVER_KEY="))
    threads = [threading.Thread(target=talk, args=(port, key, answered)) for _each in range(PLACES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main(*sys.argv[1:])
