"""Who of a round's clients came how far."""

from fl.runs.records import RoundRecord
from secagg import Round

_INCLUDED_ALREADY = (Round.CONSISTENCY_CHECK, Round.UNMASKING)


def stayed(record: RoundRecord) -> int:
    """How many clients are in the sum and stayed to the end; those who vanish after their update are in it too."""
    late = sum(record.dropped.get(round_.value, 0) for round_ in _INCLUDED_ALREADY)
    return max(0, len(record.included) - late)


def stayed_for_nothing(record: RoundRecord) -> int:
    """How many clients were there when the round was aborted."""
    return 0 if record.included else max(0, record.sampled - sum(record.dropped.values()))
