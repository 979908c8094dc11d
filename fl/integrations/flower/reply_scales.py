"""The bounds of the replies to one kind of message, on the server's side, from round to round."""

from fl.aggregation.scales import MAX_WEIGHT, Exceeded, Ranges, Scales, ScaleTracker
from fl.integrations.flower.settings import SecAggSettings
from fl.integrations.record_layout import Arrays, RecordLayout, float_sizes
from fl.integrations.records import Average, RecordEncoding

NOT_SENT = "all arrays that were not sent"
"""What these are called in a report: they have one bound together."""


class ReplyScales:
    """How the replies to messages with such arrays are encoded.

    Args:
        settings: the grid's.
        sent: the arrays; None: replies have metrics alone.
        num_clients: of a round.
    """

    def __init__(self, settings: SecAggSettings, sent: Arrays | None, num_clients: int) -> None:
        self._settings = settings
        sizes, capacity = float_sizes(sent or {}), settings.capacity
        own = sum(sizes.values())
        self._own = sizes.keys()
        self._sizes: tuple[int, ...] = ()
        if sent is None or not (own or capacity):
            # Metrics are exact, whatever the bound on weights is.
            most = MAX_WEIGHT if settings.max_examples is None else settings.max_examples
            self._tracker = ScaleTracker(1, 1, clip=1.0, max_weight=most)
            return
        self._tracker = settings.tracker(len(sizes) + 1, num_clients)
        room = own * self.must_measure if capacity is None else max(0, capacity - own)
        self._sizes = (*sizes.values(), room)

    @property
    def must_measure(self) -> bool:
        """Whether nobody knows how large replies are, so that the next session must find out."""
        return self._tracker.scales is None

    def encoding(self, num_clients: int, weight: str) -> RecordEncoding:
        """Of the next session's replies."""
        scales = self._tracker.scales
        if scales is not None:
            scales = Scales(scales.bounds[: len(self._sizes)], scales.max_weight)
        return self._settings.encoding(sizes=self._sizes, num_clients=num_clients, scales=scales, weight=weight)

    def follow_measured(self, ranges: Ranges, layout: RecordLayout) -> None:
        """Take what a session said that measured: how large replies are, and how much of them was not sent."""
        self._tracker.follow(ranges)
        if self._settings.capacity is None:
            places = (((one.record, one.name), one.size) for one in layout.arrays)
            room = sum(size for place, size in places if place not in self._own)
            self._sizes = (*self._sizes[:-1], room)

    def follow(self, average: Average) -> tuple[dict[str, Exceeded], Exceeded | None]:
        """Take what a round said; which arrays exceeded their bounds in it, by name, and whether weights did."""
        assert average.ranges is not None  # noqa: S101 - every session says them
        *arrays, weights = self._tracker.exceeded(average.ranges)
        self._tracker.follow(average.ranges, average.total_weight)
        return {name: one for name, one in zip(self._names(), arrays, strict=False) if one is not None}, weights

    def _names(self) -> list[str]:
        """What the arrays are called in a report; with their record where there are several."""
        several = len({record for record, _ in self._own}) > 1
        return [f"{record}/{name}" if several else name for record, name in self._own] + [NOT_SENT]
