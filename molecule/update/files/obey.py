# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a test act at an exact moment of an update.

Every Python of the box imports this file as it starts (obey.pth). Python reports its next action to an audit hook
(sys.addaudithook). After the journal of an update has named the step of an order, and the given number of events has
passed, a shell runs the order's command. There ``$PPID`` is the updater, which the command may kill.

An order is an object: ``step`` (``undo`` for the way back), ``after``, ``command``. The file has a list of orders,
which are executed in order.
"""

import json
import os
import sys
import threading

ORDERS = "/run/orders"


class Obedience:
    def __init__(self, orders):
        self.orders = orders
        self.here = False
        self.left = 0
        self.busy = False
        self.thread = threading.get_ident()

    def __call__(self, event, arguments):
        # The hook's own actions are reported as well, and must be ignored.
        if self.busy or not self.orders or threading.get_ident() != self.thread:
            return
        self.busy = True
        try:
            self.look(event, arguments)
        finally:
            self.busy = False

    def look(self, event, arguments):
        order = self.orders[0]
        if event == "os.rename" and str(arguments[1]).endswith("/update/journal.json"):
            with open(arguments[0]) as stream:
                journal = json.load(stream)
            self.here = order["step"] == ("undo" if journal["problem"] else journal["step"])
            self.left = order["after"]
        elif self.here:
            self.left -= 1
            if self.left < 0:
                self.here = False
                self.orders.pop(0)
                # The process may run as the agent's user at this moment.
                user = os.geteuid()
                os.seteuid(0)
                with open(ORDERS + ".new", "w") as stream:
                    json.dump(self.orders, stream)
                os.rename(ORDERS + ".new", ORDERS)
                os.system(order["command"])
                os.seteuid(user)


try:
    with open(ORDERS) as stream:
        sys.addaudithook(Obedience(json.load(stream)))
except FileNotFoundError:
    pass
