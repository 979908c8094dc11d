"""A server that lies at random for hundreds of sessions learns no more than docs/threat-model.md says.

`random_lies` has the campaign, and runs it at any size: ``python -m tests.adversarial.random_lies``.
"""

import pytest

from secagg import Adversary
from tests.adversarial.lies.figures import OF_FRAMEWORKS, Figures, Lie
from tests.adversarial.random_lies import MakeFront, assert_held, campaign, hosts, library, played

pytestmark = pytest.mark.slow

SEED = "13"

# A machine of the library has no connection on which another session could be offered.
WITHOUT = {"library": OF_FRAMEWORKS | {Lie.OTHER_OFFER}, "host": OF_FRAMEWORKS}


@pytest.mark.parametrize("front", WITHOUT)
def test_random_lies_get_no_wrong_sum_no_second_secret_and_no_second_answer(front, tmp_path):
    make_front: MakeFront = library if front == "library" else hosts(tmp_path)
    assert_held(played(make_front, sessions=150, seed=SEED, without=WITHOUT[front]), WITHOUT[front])


@pytest.mark.parametrize("graph", ["complete", "sparse"])
def test_the_lies_reach_the_bound(graph):
    """If the server learned less than the threat model allows, this would not show that it learns no more."""

    def reached(figures: Figures) -> bool:
        return any(least == fewest for (_, least), fewest in figures.smallest.items())

    modes = (Adversary.MALICIOUS,)
    figures = campaign(library, sessions=600, seed=SEED, modes=modes, graphs=(graph,), stop=reached)
    assert reached(figures), figures.smallest
    assert figures.is_clean
