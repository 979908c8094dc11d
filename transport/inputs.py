"""The inputs of a simulated session's clients: vectors, or objects that compute them in the clients' workers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from secagg import ClientId
from transport.driver import InputVector, KeyedInput


class PortableInputs(ABC):
    """A function that makes inputs and that may be pickled: where clients are in workers, the workers call it.

    Define the class in a module: workers cannot import a script or a notebook, so its classes are called here.
    """

    @abstractmethod
    def __call__(self, client_id: ClientId) -> InputVector | KeyedInput:
        """Return the client's input, the same in each process; InputWithheldError if it has none."""


class DeferredInput(ABC):
    """An input that is not computed yet and that may be pickled: where clients are in workers, the workers compute it.

    For inputs that are made in one process, such as updates of a training, and encoded in any. Define the class in a
    module, as for `PortableInputs`. Do not change its arrays: they are sent without a copy.
    """

    @abstractmethod
    def __call__(self) -> InputVector | KeyedInput:
        """Return the input; InputWithheldError if the client has none to send."""


MakeInput: TypeAlias = Callable[[ClientId], InputVector | KeyedInput | DeferredInput]
"""A function that makes a client's input, here."""


def computed(made: InputVector | KeyedInput | DeferredInput) -> InputVector | KeyedInput:
    """Return an input, computed now if it was deferred."""
    return made() if isinstance(made, DeferredInput) else made


def sendable(made: InputVector | KeyedInput | DeferredInput, value_bits: int) -> object:
    """Return an input as it is sent to a worker."""
    if isinstance(made, DeferredInput) and is_importable(made):
        return made
    return _compact(computed(made), value_bits)


def is_importable(made: object) -> bool:
    """Return whether workers can import the object's class."""
    return type(made).__module__ != "__main__"


def _compact(vector: Any, value_bits: int) -> object:
    """Return a copy of a valid input in its smallest dtype, and anything else as it is: the client refuses it."""
    is_integer = type(vector) is np.ndarray and vector.dtype.kind in "iu" and vector.size
    if is_integer and vector.min() >= 0 and int(vector.max()) >> value_bits == 0:
        return vector.astype(np.min_scalar_type((1 << value_bits) - 1))
    return vector
