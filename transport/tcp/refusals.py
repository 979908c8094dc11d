"""The rate at which refusals are logged: a flood of connections must not fill the disk with log lines."""

import ipaddress
from dataclasses import dataclass

_BURST = 32.0
_PER_SECOND = 0.2
# Rate for unidentified peers: a health check without TLS comes every few seconds, for months.
STRANGERS_PER_SECOND = 1 / 60
_ADDRESSES = 1024


@dataclass(slots=True)
class _Bucket:
    allowance: float
    counted_at: float
    untold: int = 0


class RefusalRate:
    """A limit that passes some lines for each address at once, and then one every few seconds.

    Addresses beyond the first thousand share one allowance until others have been quiet long enough to be forgotten.
    The addresses of one IPv6 network (/64) share one too.

    Args:
        per_second: number of lines for an address after the first ones.
    """

    def __init__(self, per_second: float = _PER_SECOND) -> None:
        self._per_second = per_second
        self._buckets: dict[str, _Bucket] = {}

    def untold(self, peer: str, now: float) -> int | None:
        """Return None if this refusal must not be logged, else the number of unlogged refusals before it."""
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
            # The address that has been quiet for longest comes first.
            oldest = next(iter(self._buckets))
            if now - self._buckets[oldest].counted_at < _BURST / self._per_second:
                network = ""
                bucket = self._buckets.pop(network, None)
            else:
                del self._buckets[oldest]
        # Move it to the end, since it is the latest.
        self._buckets[network] = bucket or _Bucket(_BURST, now)
        return self._buckets[network]


def network_of(peer: str) -> str:
    """Return the address, or for IPv6 its /64 network, since one computer may have all its addresses."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else peer
