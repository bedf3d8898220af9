"""Client addresses, as far as one client has one."""

from ipaddress import IPv6Address, ip_network


def network_of(address: str) -> str:
    """What to count an address by: the /64 of an IPv6 address, since whoever has one address of it has all."""
    try:
        return str(ip_network((IPv6Address(address), 64), strict=False))
    except ValueError:
        return address  # of IPv4, or of something else, as a server behind a Unix socket has it
