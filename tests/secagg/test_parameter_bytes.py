"""Parameters as bytes: one encoding, read back exactly; all other bytes are refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import Adversary, CodecError, Parameters, PlanError
from secagg.params import PARAMETERS_BYTES
from tests.support.sessions import make_params

ADVERSARIES = {Adversary.HONEST_BUT_CURIOUS: 0, Adversary.SEMI_MALICIOUS: 1, Adversary.MALICIOUS: 2}


@given(
    st.builds(
        make_params,
        st.integers(11, 2**20).map(lambda half: 2 * half),
        st.integers(15, 20),
        degree=st.just(20),
        vector_length=st.integers(1, 2**28),
        value_bits=st.integers(1, 24),
        ring_bits=st.just(50),
        adversary=st.sampled_from(Adversary),
        modular=st.booleans(),
    )
)
def test_parameters_come_back_as_they_were(params):
    data = params.to_bytes()
    numbers = (params.num_clients, params.threshold, params.degree, params.vector_length)
    flags = (params.value_bits, params.ring_bits, params.modular, ADVERSARIES[params.adversary])
    assert data == struct.pack(">IIIQBBBBBI", *numbers, *flags, 0, 0)
    assert Parameters.from_bytes(data) == params


@given(st.integers(5, 10), st.integers(1, 16), st.integers(0, 4))
def test_parameters_with_noise_components_come_back_as_they_were(threshold, components, corrupt):
    params = make_params(11, threshold, noise_components=components, corrupt_clients=corrupt)
    assert params.to_bytes()[-5:] == struct.pack(">BI", components, corrupt)
    assert Parameters.from_bytes(params.to_bytes()) == params


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"noise_components": 17}, "between 0 and 16"),
        ({"noise_components": -1}, "between 0 and 16"),
        ({"noise_components": 0, "corrupt_clients": 1}, "must be 0 without noise components"),
        ({"degree": 6, "threshold": 4}, "complete graph"),
        ({"threshold": 10}, "set noise_components to 0"),
        ({"corrupt_clients": 6}, "below the threshold"),
        ({"corrupt_clients": -1}, "at least 0"),
        ({"corrupt_clients": 2, "adversary": Adversary.MALICIOUS}, "may sign two lists"),
        ({"noise_components": True}, "must be an int"),
        ({"corrupt_clients": 1.0}, "must be an int"),
    ],
)
def test_noise_components_that_cannot_work_are_refused(changes, reason):
    with pytest.raises(PlanError, match=reason):
        make_params(**{"num_clients": 10, "threshold": 6, "noise_components": 3, **changes})


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [(22, 2, CodecError), (23, 3, CodecError), (23, 255, CodecError), (7, 1, PlanError), (21, 65, PlanError)],
)
def test_bytes_of_no_parameters_are_refused(at, value, error):
    data = bytearray(make_params(10, 6).to_bytes())
    data[at] = value
    with pytest.raises(error):
        Parameters.from_bytes(bytes(data))


@pytest.mark.parametrize("size", [0, 1, PARAMETERS_BYTES - 1, PARAMETERS_BYTES + 1, 1 << 16])
def test_parameters_have_one_length(size):
    with pytest.raises(CodecError, match=f"{PARAMETERS_BYTES} bytes, not {size}"):
        Parameters.from_bytes(bytes(size))
