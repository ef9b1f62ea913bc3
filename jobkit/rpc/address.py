"""How an address is written."""

from __future__ import annotations


def host_port(host: str, port: int | str) -> str:
    """host:port, where an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
