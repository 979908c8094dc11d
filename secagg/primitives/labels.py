"""All domain-separation labels of the protocol, and its version. No label serves two purposes."""

from typing import Final

PROTOCOL_VERSION: Final = 1

SESSION_ID: Final = b"secagg/1 session id"
CHANNEL_KEYS: Final = b"secagg/1 channel keys"
SHARE_DATA: Final = b"secagg/1 encrypted shares"
SHARING_COEFFICIENTS: Final = b"secagg/1 sharing coefficients"
MASK_KEY_PAIR: Final = b"secagg/1 mask key pair"
PAIRWISE_MASK: Final = b"secagg/1 pairwise mask"
SELF_MASK: Final = b"secagg/1 self mask"
SEED_COMMITMENT: Final = b"secagg/1 seed commitment"
NOISE_SEED: Final = b"secagg/1 noise seed"
NOISE_COMMITMENT: Final = b"secagg/1 noise commitment"
NOISE_KEY: Final = b"secagg/1 noise key"
OWN_NOISE_PADS: Final = b"secagg/1 own noise pads"
ADVERTISED_KEYS: Final = b"secagg/1 advertised keys"
MEMBER_KEYS: Final = b"secagg/1 member keys"
MEMBER: Final = b"secagg/1 member"
VIEW_DIGEST: Final = b"secagg/1 view digest"
VIEW: Final = b"secagg/1 view of survivors"
