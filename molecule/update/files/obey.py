# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a test act at an exact moment of an update.

Imported by every Python of the box as it starts (obey.pth). Python says what it is about to do (sys.addaudithook): when
the journal of an update has named the step that an order is about, and the given number of events are over, the
order's command is run by a shell, of which ``$PPID`` is the updater. It may be the end of it.

An order is an object: ``step`` (``undo`` for the way back), ``after``, ``command``; the file has a list of them, in
their order.
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
        # What we do ourselves is told as well.
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
                # It may act as the agent at this moment.
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
