"""Client addresses, as far as one client has one."""

from ipaddress import IPv6Address, ip_network


def network_of(address: str) -> str:
    """Return the network to count ``address`` by: the /64 of an IPv6 address, as a client has all addresses of it.

    An IPv4 address is its own network, in IPv6's form too: a socket for both protocols shows ``::ffff:192.0.2.1``.
    """
    try:
        parsed = IPv6Address(address)
    except ValueError:
        return address  # of IPv4, or of something else, as a server behind a Unix socket has it
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((parsed, 64), strict=False))
