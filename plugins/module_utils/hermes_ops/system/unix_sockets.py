# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to Unix sockets, asked of the kernel: in /proc/net/unix, a name with an end of line looks like a row."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

# sock_diag(7); Linux, include/uapi/linux/{netlink,sock_diag,unix_diag}.h and include/net/tcp_states.h.
_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x001, 0x300
_ESTABLISHED = 1
_SHOW_FILE, _FILE = 2, 1
_ANY_COOKIE = 0xFFFFFFFF
# Bytes of the headers: of a message, and of a socket in it.
_MESSAGE, _SOCKET = 16, 16
# Seconds until the kernel has answered, and bytes of which it makes a part of its answer at most.
_SECONDS, _PART = 2.0, 1 << 16


def accepted(path: str) -> int:
    """How many open connections the server has accepted whose socket is the file *path*; 0 if there is none.

    Those that wait in the socket are not counted. By the file, since anybody can have a socket of that name: where a
    user may make name spaces, *path* can be another file there.

    :raises OSError: the kernel does not answer
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0
    # As the kernel writes both: 32 bits, of which 20 are the minor number.
    device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
    wanted = struct.pack("=II", status.st_ino & 0xFFFFFFFF, device)
    question = struct.pack("=BBxxIII", socket.AF_UNIX, 0, 1 << _ESTABLISHED, 0, _SHOW_FILE)
    question += struct.pack("=II", _ANY_COOKIE, _ANY_COOKIE)
    head = struct.pack("=IHHII", _MESSAGE + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0)
    found = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
        kernel.settimeout(_SECONDS)
        kernel.sendto(head + question, (0, 0))
        while True:
            for kind, message in _messages(kernel.recv(_PART)):
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", message)[0]
                    raise OSError(number, "the kernel does not list Unix sockets")
                found += sum((kind, value) == (_FILE, wanted) for kind, value in _attributes(message[_SOCKET:]))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        size, kind = struct.unpack_from("=IH", data)
        yield kind, data[_MESSAGE:size]
        data = data[_aligned(size) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        size, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:size]
        data = data[_aligned(size) :]


def _aligned(size: int) -> int:
    """Messages and attributes begin at multiples of four bytes."""
    return -(-size // 4) * 4
