"""The front doors: whatever a network comes as, it ends as a :class:`~lissom.network.Network`."""

from lissom.networks.doors import open_network
from lissom.networks.preprocess import read_preprocess

__all__ = ["open_network", "read_preprocess"]
