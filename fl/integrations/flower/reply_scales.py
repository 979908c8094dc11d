"""The bounds of the replies to one kind of message, which the server updates from round to round."""

from fl.aggregation.scales import MAX_WEIGHT, Exceeded, Ranges, Scales, ScaleTracker
from fl.integrations.flower.settings import SecAggSettings
from fl.integrations.record_layout import Arrays, RecordLayout, float_sizes
from fl.integrations.records import Average, RecordEncoding

NOT_SENT = "all arrays that were not sent"
"""The name in a report for arrays that were not sent; all of them share one bound."""


class ReplyScales:
    """The encoding of replies to messages with given arrays.

    Args:
        settings: the grid's settings.
        sent: the arrays that are sent; None: replies have metrics only.
        num_clients: clients of a round.
    """

    def __init__(self, settings: SecAggSettings, sent: Arrays | None, num_clients: int) -> None:
        self._settings = settings
        sizes, capacity = float_sizes(sent or {}), settings.capacity
        own = sum(sizes.values())
        self._own = sizes.keys()
        self._sizes: tuple[int, ...] = ()
        if sent is None or not (own or capacity):
            # Metrics are exact for any bound on weights.
            most = MAX_WEIGHT if settings.max_examples is None else settings.max_examples
            self._tracker = ScaleTracker(1, 1, clip=1.0, max_weight=most)
            return
        self._tracker = settings.tracker(len(sizes) + 1, num_clients)
        room = own * self.must_measure if capacity is None else max(0, capacity - own)
        self._sizes = (*sizes.values(), room)

    @property
    def must_measure(self) -> bool:
        """Return whether the size of replies is still unknown, so that the next session must measure it."""
        return self._tracker.scales is None

    def encoding(self, num_clients: int, weight: str) -> RecordEncoding:
        """Return the encoding of the next session's replies."""
        scales = self._tracker.scales
        if scales is not None:
            scales = Scales(scales.bounds[: len(self._sizes)], scales.max_weight)
        return self._settings.encoding(sizes=self._sizes, num_clients=num_clients, scales=scales, weight=weight)

    def follow_measured(self, ranges: Ranges, layout: RecordLayout) -> None:
        """Take a measuring session's result: the sizes of replies, and the elements of arrays that were not sent."""
        self._tracker.follow(ranges)
        if self._settings.capacity is None:
            places = (((one.record, one.name), one.size) for one in layout.arrays)
            room = sum(size for place, size in places if place not in self._own)
            self._sizes = (*self._sizes[:-1], room)

    def follow(self, average: Average) -> tuple[dict[str, Exceeded], Exceeded | None]:
        """Take a round's ranges; return the arrays that exceeded their bounds, by name, and whether weights did."""
        assert average.ranges is not None  # noqa: S101 - every session says them
        *arrays, weights = self._tracker.exceeded(average.ranges)
        self._tracker.follow(average.ranges, average.total_weight)
        return {name: one for name, one in zip(self._names(), arrays, strict=False) if one is not None}, weights

    def _names(self) -> list[str]:
        """Return the names of the arrays for a report, with their records if there are several."""
        several = len({record for record, _ in self._own}) > 1
        return [f"{record}/{name}" if several else name for record, name in self._own] + [NOT_SENT]
