"""The damage from one leaking site: with one key on all sites everything, with secagg nothing."""

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")
pytest.importorskip("tenseal", reason="needs TenSEAL, for NVFlare's homomorphic encryption: make test-nvflare")

from benchmarks import nvflare_leak as leak

TRUTH = leak.updates(20_000)


def test_the_key_of_one_site_decrypts_anothers_update_from_the_servers_wire() -> None:
    attack = leak.attack_encrypted(TRUTH)
    assert attack.largest_error < 1e-6
    assert attack.correlation > 0.999999


def test_with_secagg_all_secrets_of_one_site_do_not_decrypt_anothers_update() -> None:
    attack = leak.attack_masked(TRUTH)
    # Five deviations of a correlation of independent vectors of this length.
    assert abs(attack.correlation) < 5 / 20_000**0.5
    # And of chi-square over 63 degrees of freedom.
    assert attack.uniformity is not None
    assert attack.uniformity < 1 + 5 * (2 / 63) ** 0.5


def test_the_attack_is_a_good_one() -> None:
    """With the secrets of both other sites nothing hides the third: no protocol for a sum could."""
    attack = leak.attack_masked(TRUTH, (leak.LEAKING, leak.THIRD))
    assert attack.largest_error < 1e-6
