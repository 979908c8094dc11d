"""A client's examples in two parts, the same in all rounds: those that it trains on, and those that it holds out."""

import struct

import numpy as np
import torch

from fl.aggregation.session_policy import PolicyError
from fl.config.seeds import HOLDOUT_SEED, derived_seed
from fl.network.local_data import LocalData
from secagg import ClientId
from transport import ClientRecord

MOST_HELD_OUT = 0.5
"""The largest fraction that a client holds out because the server asks for it."""


class OwnExamples:
    """The parts of a client's examples.

    Args:
        data: all of them.
        client_id: the client, whose id decides which examples are held out, also after a restart.
        fraction: the fraction to hold out. None: as the server's first announcement asks.
        record: the client's record, which keeps that first word over restarts. None: it is kept in this object.
    """

    def __init__(
        self, data: LocalData, client_id: ClientId, fraction: float | None, record: ClientRecord | None = None
    ) -> None:
        self.all = data
        self._client_id = client_id
        self._is_own = fraction is not None
        self._record = record
        self._fraction = fraction
        self._parts = (data, data) if fraction is None else self._split(fraction)

    @property
    def training(self) -> LocalData:
        """The examples to train on."""
        return self._parts[0]

    @property
    def held_out(self) -> LocalData:
        """The examples to measure on; may be none."""
        return self._parts[1]

    def follow(self, asked: float) -> None:
        """Hold out the fraction that an announcement asks for, unless the client has its own.

        Raises:
            PolicyError: it is too large, or not that of the announcements before.
        """
        if self._is_own or asked == self._fraction:
            return
        if asked > MOST_HELD_OUT:
            raise PolicyError(
                f"{asked:g} of the examples to be held out, but this client holds out at most {MOST_HELD_OUT:g} when "
                "asked (--holdout)"
            )
        if self._fraction is not None:
            raise PolicyError(f"{asked:g} of the examples to be held out, but before it was {self._fraction:g}")
        # Else examples that were held out could be trained on.
        if self._record is not None and not self._record.settle("fraction held out", struct.pack(">d", asked)):
            raise PolicyError(
                f"{asked:g} of the examples to be held out, but in this training it was another fraction before this "
                "client was started again: --training names a new training"
            )
        self._fraction, self._parts = asked, self._split(asked)

    def _split(self, fraction: float) -> tuple[LocalData, LocalData]:
        count = len(self.all.labels)
        order = np.random.default_rng(derived_seed(0, HOLDOUT_SEED, self._client_id)).permutation(count)
        first = int(fraction * count)
        held_out, training = (torch.from_numpy(np.sort(part)) for part in (order[:first], order[first:]))
        return tuple(LocalData(self.all.images[part], self.all.labels[part]) for part in (training, held_out))  # type: ignore[return-value]
