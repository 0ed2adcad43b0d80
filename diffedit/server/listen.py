"""Bind the server's address before the model is loaded, which can take minutes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from engine.errors import DiffEditError

REASONS = {
    errno.EADDRINUSE: "another program listens there; stop it, or pass another --port (0 picks a "
    "free one)",
    errno.EACCES: "this user may not use that port; pass a --port of 1024 or more",
    errno.EADDRNOTAVAIL: "it is not an address of this machine; pass another --host",
    errno.EAFNOSUPPORT: "this machine does not support this kind of address; pass another --host",
}


class AddressError(DiffEditError, OSError):
    """The server cannot listen on its address or port."""


@contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Yield a socket for every address of `host`, bound to one port; close them at the end.

    Args:
        host: an address or a name.
        port: TCP port; 0 picks a free one.

    Raises:
        AddressError: the name is unknown, or an address or the port cannot be used.
    """
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        try:
            for family, address in _addresses(host, port):
                bound = sockets[0].getsockname()[1] if sockets else port
                new = _bound(family, (address[0], bound, *address[2:]))
                sockets.append(stack.enter_context(new))
        except OSError as error:
            reason = REASONS.get(error.errno or 0, error.strerror or str(error))
            raise AddressError(
                f"The server cannot listen on {host}, port {port}: {reason}."
            ) from None
        yield sockets


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Return the family and the address of every entry of a name, without repetitions."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:  # not a valid DNS name
        raise OSError(f"{host!r} is not a host name ({error})") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Return a socket that listens on one address."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.listen()
    except BaseException:
        bound.close()
        raise
    return bound
