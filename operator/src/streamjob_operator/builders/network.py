"""How a job is reached, and what it may reach."""

from __future__ import annotations

from streamjob_operator import names
from streamjob_operator.builders.base import Inputs, Manifest, child

_ALIBABA, _AWS, _AZURE, _GCP = "100.100.100.200/32", "fd00:ec2::254/128", "168.63.129.16/32", "fd20:ce::254/128"
"""Where clouds tell a machine of itself, with its credentials, beside link-local addresses."""
_REACHED = {"0.0.0.0/0": ["169.254.0.0/16", _ALIBABA, _AZURE], "::/0": ["fe80::/10", _AWS, _GCP]}
"""All addresses, each family with those that are left out: link-local ones, and where clouds keep credentials."""


def client_service(inputs: Inputs) -> Manifest:
    """The Service that clients post to and query."""
    spec = {"type": "ClusterIP", "selector": names.selector(inputs.name), "ports": [_port()]}
    return child(inputs, "v1", "Service", inputs.name, spec=spec)


def nodes_service(inputs: Inputs) -> Manifest:
    """The headless Service that gives each pod a name, also before it is ready."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": names.selector(inputs.name),
        "ports": [_port()],
    }
    return child(inputs, "v1", "Service", names.nodes_service(inputs.name), spec=spec)


def network_policy(inputs: Inputs) -> Manifest:
    """In: the one listener. Out: all but where clouds keep the credentials of their machines; names are asked anywhere.

    A name server may be at just such an address.
    """
    peers = [{"ipBlock": {"cidr": cidr, "except": refused}} for cidr, refused in _REACHED.items()]
    dns = {"ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]}
    spec = {
        "podSelector": {"matchLabels": names.selector(inputs.name)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": names.PORT, "protocol": "TCP"}]}],
        "egress": [dns, {"to": peers}],
    }
    return child(inputs, "networking.k8s.io/v1", "NetworkPolicy", inputs.name, spec=spec)


def _port() -> Manifest:
    return {"name": "http", "port": names.PORT, "targetPort": "http", "protocol": "TCP"}
