"""The parameters that both sides agree on before a session starts. All ranges are checked here, once."""

import struct
from dataclasses import dataclass
from enum import Enum, unique
from typing import TypeAlias

from secagg.algebra import packing, ring, shamir
from secagg.errors import CodecError, PlanError

ClientId: TypeAlias = int
"""Number of a client, 0 <= id < 2^32, given by the channel or the application; public."""

MAX_CLIENT_ID = 2**32 - 1

# A message's length must fit 32 bits, in msgpack and in frames, with a little around the vector.
_MAX_PACKED_BYTES = 2**32 - 2**12

MAX_CLIENTS = 2**24

# Each component halves the noise beyond the target: with 16 less than a thousandth is left.
MAX_NOISE_COMPONENTS = 16

_FORM = struct.Struct(">IIIQBBBBBI")

PARAMETERS_BYTES = _FORM.size


@unique
class Adversary(Enum):
    """The server that a session is safe against, alone or together with corrupt clients.

    HONEST_BUT_CURIOUS: a server that follows the protocol and studies everything it sees.
    SEMI_MALICIOUS: a server that exchanges the clients' keys honestly and may lie from then on (Bell et al. 2020).
        Clients sign the survivors, with keys that were exchanged like the others.
    MALICIOUS: a server that may lie at any time. Clients sign keys and survivors with identities that their peers know.
    """

    HONEST_BUT_CURIOUS = "honest-but-curious"
    SEMI_MALICIOUS = "semi-malicious"
    MALICIOUS = "malicious"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Public parameters of a session. They are equal on all machines; otherwise session ids differ and nothing works.

    Use `secagg.plan` to get them from a threat model.

    Attributes:
        num_clients: largest number of clients that take part (n).
        threshold: number of clients that must remain at each step, and of shares that reconstruct a secret (t).
        degree: number of neighbours that each client shares masks with; ``num_clients - 1`` is the complete graph,
            a smaller degree must be even.
        vector_length: number of elements of each input vector (m).
        value_bits: elements of an input are integers in [0, 2^value_bits).
        ring_bits: sums are computed modulo 2^ring_bits (R in the paper).
        modular: whether the sum may wrap around on purpose; otherwise the ring must hold any sum of inputs.
        adversary: the server that the session is safe against.
        noise_components: number of components of each client's noise whose seeds are shared, so that those that a sum
            does not need can be taken off (`secagg.noise`); 0 for none. For the complete graph only.
        corrupt_clients: with noise components, the number of clients whose noise does not count, since they may tell
            it; otherwise 0.

    Raises:
        PlanError: a value is out of range; the error names all of them.
    """

    num_clients: int
    threshold: int
    degree: int
    vector_length: int
    value_bits: int
    ring_bits: int
    modular: bool = False
    adversary: Adversary = Adversary.HONEST_BUT_CURIOUS
    noise_components: int = 0
    corrupt_clients: int = 0

    def __post_init__(self) -> None:
        reasons = tuple(_broken_types(self)) or tuple(_broken_ranges(self))
        if reasons:
            raise PlanError(reasons)

    def to_bytes(self) -> bytes:
        """Return the canonical encoding, PARAMETERS_BYTES bytes: equal parameters give equal bytes."""
        return _FORM.pack(
            self.num_clients,
            self.threshold,
            self.degree,
            self.vector_length,
            self.value_bits,
            self.ring_bits,
            self.modular,
            _ADVERSARIES.index(self.adversary),
            self.noise_components,
            self.corrupt_clients,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Parameters":
        """Return the parameters that `to_bytes` encoded.

        Raises:
            CodecError: another length, an unknown adversary, or a flag that is neither 0 nor 1.
            PlanError: the numbers are out of range.
        """
        if len(data) != PARAMETERS_BYTES:
            raise CodecError(f"parameters have {PARAMETERS_BYTES} bytes, not {len(data)}")
        *numbers, modular, adversary, noise_components, corrupt_clients = _FORM.unpack(data)
        if modular > 1 or adversary >= len(_ADVERSARIES):
            raise CodecError("the parameters are not in their canonical form")
        return cls(
            **dict(zip(_NUMBERS, (*numbers, noise_components, corrupt_clients), strict=True)),
            modular=bool(modular),
            adversary=_ADVERSARIES[adversary],
        )

    @property
    def modulus(self) -> int:
        """Return 2^ring_bits."""
        return 1 << self.ring_bits

    @property
    def is_complete(self) -> bool:
        """Return whether each client is a neighbour of all others."""
        return self.degree == self.num_clients - 1

    @property
    def is_signed(self) -> bool:
        """Return whether clients sign keys and run ConsistencyCheck: in both modes where the server may lie."""
        return self.adversary is not Adversary.HONEST_BUT_CURIOUS

    @property
    def has_identities(self) -> bool:
        """Return whether clients sign with long-term identities (malicious mode), not with keys of the session."""
        return self.adversary is Adversary.MALICIOUS

    @property
    def hands_over_pairwise_keys(self) -> bool:
        """Return whether a client that answers hands over the keys of its pairwise masks with peers that vanished.

        Not where a server that lies may tell neighbours of different survivors: on a sparse graph in the signed modes.
        """
        return self.is_complete or not self.is_signed

    @property
    def quorum(self) -> int:
        """Return the smallest neighbourhood, the client itself included, with which a client continues.

        In the complete graph each client holds shares of all secrets, its own among them, as in the paper. In a sparse
        graph it holds shares of its neighbours' secrets alone, so the threshold must be reached without it.
        """
        return self.threshold if self.is_complete else self.threshold + 1


_NUMBERS = (
    "num_clients",
    "threshold",
    "degree",
    "vector_length",
    "value_bits",
    "ring_bits",
    "noise_components",
    "corrupt_clients",
)

# In the order of their codes.
_ADVERSARIES = (Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS, Adversary.MALICIOUS)


def required_ring_bits(num_clients: int, value_bits: int) -> int:
    """Return ceil(log2(n (2^value_bits - 1) + 1)), the bits of the smallest ring that holds any sum of n inputs."""
    return (num_clients * ((1 << value_bits) - 1)).bit_length()


def _broken_types(params: Parameters) -> list[str]:
    reasons = [
        f"{name} must be an int, not {type(getattr(params, name)).__name__}"
        for name in _NUMBERS
        if type(getattr(params, name)) is not int
    ]
    if not isinstance(params.modular, bool):
        reasons.append("modular must be a bool")
    if not isinstance(params.adversary, Adversary):
        reasons.append("adversary must be a secagg.Adversary")
    return reasons


def _broken_ranges(params: Parameters) -> list[str]:
    reasons: list[str] = []

    def require(name: str, low: int, high: int, why: str) -> None:
        value = getattr(params, name)
        if not low <= value <= high:
            reasons.append(f"{name} is {value}, but must be between {low} and {high} ({why})")

    require("num_clients", 2, MAX_CLIENTS, "the sum of a single client's input is that input")
    require("degree", 1, max(1, params.num_clients - 1), "a client's neighbours are other clients")
    if params.degree % 2 and params.degree < params.num_clients - 1:
        reasons.append(f"degree is {params.degree}, but that of a sparse graph is even")
    if params.degree >= shamir.MAX_HOLDERS:
        reasons.append(f"degree is {params.degree}, but a secret has at most {shamir.MAX_HOLDERS} shares")
    holders = params.num_clients if params.is_complete else params.degree
    require("threshold", 2, max(2, holders), "at least two, so that no client alone holds a secret; "
            "at most as many as hold shares")  # fmt: skip
    if params.adversary is not Adversary.HONEST_BUT_CURIOUS and 2 * params.threshold <= holders:
        reasons.append(
            f"threshold is {params.threshold}, but against a server that lies more than half of the {holders} holders "
            "of a secret must be needed: of two halves it could get one secret each"
        )
    require("value_bits", 1, ring.MAX_RING_BITS, "an element fits 64 bits")
    require("ring_bits", ring.MIN_RING_BITS, ring.MAX_RING_BITS, "an element fits 64 bits")
    if params.vector_length < 1:
        reasons.append(f"vector_length is {params.vector_length}, but must be at least 1")
    elif (size := packing.packed_size(params.vector_length, params.ring_bits)) > _MAX_PACKED_BYTES:
        reasons.append(f"a masked input would be {size} bytes, above the {_MAX_PACKED_BYTES} of one message")
    if params.value_bits > params.ring_bits:
        reasons.append(f"value_bits is {params.value_bits}, above ring_bits {params.ring_bits}")
    elif not params.modular and not reasons:
        needed = required_ring_bits(params.num_clients, params.value_bits)
        if needed > params.ring_bits:
            reasons.append(
                f"ring_bits is {params.ring_bits}, but the sum of {params.num_clients} inputs of "
                f"{params.value_bits} bits needs {needed}; give modular=True if it is meant to wrap"
            )
    return reasons + _broken_noise(params)


def _broken_noise(params: Parameters) -> list[str]:
    count, corrupt = params.noise_components, params.corrupt_clients
    if not 0 <= count <= MAX_NOISE_COMPONENTS:
        return [f"noise_components is {count}, but must be between 0 and {MAX_NOISE_COMPONENTS}"]
    if not count:
        return [f"corrupt_clients is {corrupt}, but must be 0 without noise components"] if corrupt else []
    reasons = []
    if not params.is_complete:
        reasons.append("noise components need the complete graph: only there do all clients know the survivors")
    if params.threshold >= params.num_clients:
        reasons.append(
            f"with a threshold of {params.threshold} of {params.num_clients} clients no noise is too much: set "
            "noise_components to 0"
        )
    if not 0 <= corrupt < params.threshold:
        reasons.append(f"corrupt_clients is {corrupt}, but must be at least 0 and below the threshold")
    elif params.is_signed and 2 * params.threshold <= params.num_clients + corrupt:
        reasons.append(
            f"threshold is {params.threshold}, but twice the threshold must be above the {params.num_clients} clients "
            f"and the {corrupt} corrupt ones, who may sign two lists of survivors"
        )
    return reasons
