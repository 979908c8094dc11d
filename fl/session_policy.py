"""What a client asks of a session before it takes part: the server proposes, and is not believed."""

from dataclasses import dataclass

from fl.errors import FLError
from secagg import Adversary, Parameters

_ORDER = (Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS, Adversary.MALICIOUS)


class PolicyError(FLError):
    """A session that this client declines, with every reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """What a client insists on.

    Attributes:
        adversary: the weakest adversary that a session may be safe against.
        min_inputs: the fewest inputs that a sum may be of, this client's included; a threshold below is refused.
        max_elements: the longest vectors to take part with: the server says how long they are, and a client needs some
            30 bytes of memory for each element.
    """

    adversary: Adversary = Adversary.HONEST_BUT_CURIOUS
    min_inputs: int = 2
    max_elements: int = 1 << 27

    def check(self, params: Parameters) -> None:
        """PolicyError unless the session's parameters are what this client agrees to."""
        reasons = []
        holders = params.num_clients if params.is_complete else params.degree
        if 2 * params.threshold <= holders:
            reasons.append(
                f"the threshold is {params.threshold} of {holders}, but more than half must be needed to unmask anyone"
            )
        if params.threshold < self.min_inputs:
            reasons.append(f"a sum of {params.threshold} inputs would do, but this client asks for {self.min_inputs}")
        if _ORDER.index(params.adversary) < _ORDER.index(self.adversary):
            reasons.append(
                f"the session is safe against a {params.adversary.value} server, but this client asks for "
                f"{self.adversary.value}"
            )
        if params.vector_length > self.max_elements:
            reasons.append(f"vectors of {params.vector_length} elements, but this client takes {self.max_elements}")
        if params.modular:
            reasons.append("sums may wrap, and what wraps is no mean")
        if reasons:
            raise PolicyError("; ".join(reasons))
