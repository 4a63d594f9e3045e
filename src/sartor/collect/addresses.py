"""Which machines a crawler may talk to: public ones, whatever a name or a redirect says."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any

from sartor.extract import NotTaken

Lookup = Callable[..., Sequence[tuple[Any, ...]]]

#: IPv6 that carries an IPv4 address inside: mapped, compatible, NAT64, 6to4 and Teredo lead wherever that one leads.
_CARRIERS = tuple(
    map(ipaddress.IPv6Network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
)


def resolved(host: str, port: int, *, private: bool, lookup: Lookup = socket.getaddrinfo) -> list[str]:
    """The addresses of a host, to connect to as they are: asking again could give others.

    Args:
        host: a name or an address.
        port: the port.
        private: the user said that this host may be on a private network.
        lookup: how names are looked up.

    Raises:
        NotTaken: `private_address` if any of them is not public, or `unknown_host`.
    """
    try:
        found = lookup(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise NotTaken("unknown_host", f"{host} has no address: {error}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses:
        raise NotTaken("unknown_host", f"{host} has no address")
    for address in addresses:
        kind = kind_of(address)
        if kind and not private:
            raise NotTaken("private_address", f"{host} is at {address}, which is {kind}")
    return addresses


def kind_of(address: str) -> str:
    """What an address is that is not public; "" where it is."""
    try:
        number = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "no address"
    if isinstance(number, ipaddress.IPv6Address) and any(number in network for network in _CARRIERS):
        return "loopback" if number == ipaddress.IPv6Address("::1") else "an IPv4 address inside of IPv6"
    kinds = {
        "this network": number.is_unspecified,
        "loopback": number.is_loopback,
        "link-local": number.is_link_local,
        "multicast": number.is_multicast,
        "private": number.is_private,
        "reserved": number.is_reserved,
        "not on the public internet": not number.is_global,
    }
    return next((name for name, is_so in kinds.items() if is_so), "")
