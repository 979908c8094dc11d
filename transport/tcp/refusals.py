"""How often refusals are logged: a flood of connections must not fill the disk with lines about it."""

import ipaddress
from dataclasses import dataclass

_BURST = 32.0
_PER_SECOND = 0.2
# Of those who have not shown who they are: a health check that speaks no TLS comes every few seconds, for months.
STRANGERS_PER_SECOND = 1 / 60
_ADDRESSES = 1024


@dataclass(slots=True)
class _Bucket:
    allowance: float
    counted_at: float
    untold: int = 0


class RefusalRate:
    """Lets some lines of each address through at once, and then one every few seconds.

    Addresses beyond the first thousand share one allowance, until others have been quiet for long enough to be
    forgotten; so do those of one IPv6 network (/64).

    Args:
        per_second: how many lines of an address, after the first, are let through.
    """

    def __init__(self, per_second: float = _PER_SECOND) -> None:
        self._per_second = per_second
        self._buckets: dict[str, _Bucket] = {}

    def untold(self, peer: str, now: float) -> int | None:
        """None: say nothing of this one. Otherwise log it, with the number of those before it that were not logged."""
        bucket = self._bucket(network_of(peer), now)
        bucket.allowance = min(_BURST, bucket.allowance + (now - bucket.counted_at) * self._per_second)
        bucket.counted_at = now
        if bucket.allowance < 1:
            bucket.untold += 1
            return None
        bucket.allowance -= 1
        untold, bucket.untold = bucket.untold, 0
        return untold

    def _bucket(self, network: str, now: float) -> _Bucket:
        bucket = self._buckets.pop(network, None)
        if bucket is None and len(self._buckets) >= _ADDRESSES:
            # The one that has been quiet for longest comes first.
            oldest = next(iter(self._buckets))
            if now - self._buckets[oldest].counted_at < _BURST / self._per_second:
                network = ""
                bucket = self._buckets.pop(network, None)
            else:
                del self._buckets[oldest]
        # Put at the end: it is the latest.
        self._buckets[network] = bucket or _Bucket(_BURST, now)
        return self._buckets[network]


def network_of(peer: str) -> str:
    """Where an IP address belongs: itself, or for IPv6 its /64 network, all of which one machine may have."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else peer
