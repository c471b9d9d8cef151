"""What stands for one household on the network, and which addresses a setting names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def address_of(text: str) -> Ip | None:
    """The address that `text` writes, an IPv4 address also where IPv6 wraps one; None if it writes none."""
    try:
        ip = ipaddress.ip_address(text.split("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def is_among(text: str, networks: Iterable[Network]) -> bool:
    """Whether `text` writes an address of one of `networks`."""
    ip = address_of(text)
    return ip is not None and any(ip in block for block in networks)


def network(text: str) -> str:
    """What stands for one household: an IPv4 address, or the first 64 bits of an IPv6 one. Empty if unknown."""
    ip = address_of(text)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return "" if ip is None else str(ip)
