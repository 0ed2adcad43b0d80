"""Normalize the host names, addresses and model names in the settings, or raise ValueError."""

from __future__ import annotations

import ipaddress
import re

LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
HOST_NAME = re.compile(rf"{LABEL}(\.{LABEL})*")
MAX_NAME = 253
"""Characters of a host name or of a model name."""


def host_name(text: object) -> str:
    """A host name or an IP address as a Host header has it: lower case, without port, "[]" or a
    final dot. Raises ValueError for anything else, such as a URL or "*"."""
    if not isinstance(text, str):
        raise ValueError("not a text")
    name = text.lower().removesuffix(".")
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if _is_address(name):
        return name
    if len(name) > MAX_NAME or not HOST_NAME.fullmatch(name) or _numbers_alone(name):
        raise ValueError("not a host name")
    return name


def model_name(text: object) -> str:
    """A name that a request can give as its model. Raises ValueError for blanks, control characters
    and very long texts."""
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_NAME:
        raise ValueError("not a name")
    if text != text.strip() or not text.isprintable():
        raise ValueError("not a name")
    return text


def is_loopback(host: str) -> bool:
    """Whether an address or a name is reachable from this machine only."""
    if not _is_address(host):
        return host == "localhost"
    return ipaddress.ip_address(host).is_loopback


def url_host(host: str) -> str:
    """Return a host as it is written in a URL: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _numbers_alone(name: str) -> bool:
    """Whether a name looks like an address that does not exist, such as 256.1.1.1."""
    return re.fullmatch(r"[0-9.]+", name) is not None
