"""Noise components: their seeds are shared, and the server gets those of noise that the sum does not need.

Each client's noise is a base and components 1, 2, .., B with variances in the ratio 1 : 2 : 4 : .. : 2^(B-1).  The
machines draw no noise and know no variance: they give the client's host one key for each component, and the server's
host the keys of components that the sum does not need (docs/privacy.md has the numbers).

A seed is shared by Shamir's scheme with the threshold of the other secrets.  Holders store nothing of it: holder v has
a *pad*, field elements from a key that it agreed on with the owner, and its share is the pad plus a public correction.
The polynomial goes through the pads of the first t - 1 holders, whose corrections are 0 and are not sent.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from secagg.algebra import shamir
from secagg.algebra.field import PRIME
from secagg.params import ClientId, Parameters
from secagg.primitives import digest, kdf, labels, prg
from secagg.primitives.digest import DIGEST_BYTES
from secagg.sharing import (
    LIMBS,
    SEED_BYTES,
    SHARE_BYTES,
    ShareArray,
    seed_to_limbs,
    shares_to_bytes,
    uniform_field_elements,
)


def removed_components(params: Parameters, num_survivors: int) -> tuple[int, ...]:
    """Return the components, ascending, whose noise is taken off a sum of this many inputs.

    With n clients, threshold t and A corrupt clients, all components together are for t survivors, and none for n.
    Those that are kept for s survivors have the weights of the binary digits of

        ceil( (2^B - 1) (n - s) (t - A) / ((n - t) (s - A)) ),

    the least sum of weights with which the s - A honest survivors have the whole noise together.
    """
    count, corrupt = params.noise_components, params.corrupt_clients
    if not count:
        return ()
    missing = ((1 << count) - 1) * (params.num_clients - num_survivors) * (params.threshold - corrupt)
    kept = -(-missing // ((params.num_clients - params.threshold) * (num_survivors - corrupt)))
    return tuple(component for component in range(1, count + 1) if not kept >> (component - 1) & 1)


def corrections_bytes(params: Parameters, num_holders: int) -> int:
    """Return the size of the corrections that a client sends for this many holders."""
    return SHARE_BYTES * params.noise_components * (num_holders - params.threshold + 1)


def commitments_bytes(params: Parameters) -> int:
    """Return the size of a client's commitments to its components' seeds."""
    return DIGEST_BYTES * params.noise_components


def seeds(noise_seed: bytes, params: Parameters, session_id: bytes, client_id: ClientId) -> tuple[bytes, ...]:
    """Return the seed of each component, 16 bytes each, from the one that the client drew."""
    return tuple(
        kdf.derive(
            noise_seed,
            salt=session_id,
            label=labels.NOISE_SEED,
            context=_context(client_id, component),
            length=SEED_BYTES,
        )
        for component in range(1, params.noise_components + 1)
    )


def commitment(seed: bytes, session_id: bytes, client_id: ClientId, component: int) -> bytes:
    """Return a commitment to a component's seed, 32 bytes."""
    return digest.labelled(labels.NOISE_COMMITMENT, session_id, _context(client_id, component), seed)


def noise_key(seed: bytes, session_id: bytes, client_id: ClientId, component: int) -> bytes:
    """Return the key, 16 bytes, from which the hosts draw a component's noise."""
    context = _context(client_id, component)
    return kdf.derive(seed, salt=session_id, label=labels.NOISE_KEY, context=context, length=prg.KEY_BYTES)


def own_pad_key(sharing_seed: bytes, session_id: bytes, client_id: ClientId) -> bytes:
    """Return the key of the pads for the owner's own place, 16 bytes; the others are those of `ShareChannel`."""
    context = client_id.to_bytes(4, "big")
    return kdf.derive(sharing_seed, salt=session_id, label=labels.OWN_NOISE_PADS, context=context, length=prg.KEY_BYTES)


def noise_keys(noise_seed: bytes, params: Parameters, session_id: bytes, client_id: ClientId) -> tuple[bytes, ...]:
    """Return `noise_key` of each component, ascending."""
    return tuple(
        noise_key(seed, session_id, client_id, component)
        for component, seed in enumerate(seeds(noise_seed, params, session_id, client_id), 1)
    )


def share(
    noise_seed: bytes, pad_keys: Sequence[bytes], params: Parameters, session_id: bytes, client_id: ClientId
) -> tuple[bytes, bytes]:
    """Return the fields ``noise_commitments`` and ``noise_corrections`` of `ShareKeys`.

    Args:
        noise_seed: the owner's.
        pad_keys: of the pads of each holder for this owner, 16 bytes each, in the order of their places.
        params: the session's; without noise components both fields are empty.
    """
    if not params.noise_components:
        return b"", b""
    component_seeds = seeds(noise_seed, params, session_id, client_id)
    commitments = [commitment(seed, session_id, client_id, at) for at, seed in enumerate(component_seeds, 1)]
    all_pads = np.stack([pads(key, params) for key in pad_keys])
    return b"".join(commitments), shares_to_bytes(corrections(component_seeds, all_pads, params.threshold))


def released_pads(pad_keys: Iterable[bytes], params: Parameters, num_survivors: int) -> bytes:
    """Return the field ``noise_pads`` of `UnmaskingShares`: of each owner, the pads of the removed components."""
    rows = np.array(removed_components(params, num_survivors), dtype=np.intp) - 1
    return b"".join(shares_to_bytes(pads(key, params)[rows]) for key in pad_keys if rows.size)


def pads(key: bytes, params: Parameters) -> ShareArray:
    """Return the pads of one holder for one owner, shape (components, LIMBS)."""
    elements = uniform_field_elements(params.noise_components * LIMBS, prg.KeystreamReader(key))
    return elements.reshape(params.noise_components, LIMBS)


def corrections(component_seeds: Sequence[bytes], all_pads: ShareArray, threshold: int) -> ShareArray:
    """Return the differences between shares and pads of the holders from place t - 1 on.

    Args:
        component_seeds: 16 bytes each.
        all_pads: the pads of all holders, shape (holders, components, LIMBS).
        threshold: t, at most the number of holders.

    Returns:
        Shape (holders - t + 1, components, LIMBS).
    """
    holders, components, _ = all_pads.shape
    # The secret is at point 0, before the holders' 1, 2, ..; interpolation at equal distances gives equal values.
    points = np.empty((1, holders + 1, components * LIMBS), dtype=np.uint16)
    points[0, 0] = np.concatenate([seed_to_limbs(seed) for seed in component_seeds])
    points[0, 1:] = all_pads.reshape(holders, -1)
    known = np.arange(holders + 1)[None, :] < threshold
    shares = shamir.evaluate(known, points, np.arange(threshold, holders + 1))[0]
    return subtract(shares.reshape(-1, components, LIMBS), all_pads[threshold - 1 :])


def subtract(left: ShareArray, right: ShareArray) -> ShareArray:
    """Return left - right in the field."""
    return ((left.astype(np.uint32) + PRIME - right) % PRIME).astype(np.uint16)


def add(left: ShareArray, right: ShareArray) -> ShareArray:
    """Return left + right in the field."""
    return ((left.astype(np.uint32) + right) % PRIME).astype(np.uint16)


def _context(client_id: ClientId, component: int) -> bytes:
    return client_id.to_bytes(4, "big") + component.to_bytes(1, "big")
