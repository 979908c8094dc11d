"""Measure a leak: one of three sites gives all its secrets to the server, which has stored all messages.

    .venv-nvflare/bin/python -m benchmarks.nvflare_leak

With NVFlare's homomorphic encryption all sites hold one secret key, which decrypts each site's update of each round.
With secagg the leak reveals only the leaking site's masks; the masks that the other two sites share still hide their
updates.  As a control, the same attack with the secrets of two sites must succeed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.shareable import Shareable
from nvflare.app_common.decomposers import common_decomposers
from nvflare.app_opt.he import decomposers
from nvflare.app_opt.he.homomorphic_encrypt import serialize_nested_dict
from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
from nvflare.fuel.utils import fobs

import secagg
from benchmarks.nvflare_instruments import HEContexts, write_he_contexts
from fl.aggregation.encoding import ClientUpdate, UpdateEncoding
from fl.aggregation.scales import Scales
from secagg import Client, Completed, Send, Server, UnmaskReady
from secagg._client.states import InputAwaited
from secagg.algebra import ring
from secagg.masking import accumulate, mask_secret_key, pairwise_mask, self_mask
from secagg.messages import MaskedInput

LEAKING, VICTIM, THIRD = 0, 1, 2
STEPS = 30

Updates = Mapping[int, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Attack:
    """The result of an attack: how close the guess is to the victim's update.

    Attributes:
        largest_error: the largest difference between an element and its true value.
        correlation: the correlation of the guess and the true update.
        uniformity: chi-square over 64 bins, divided by its degrees of freedom, of the vector after the leaked masks are
            removed; about 1 if it is uniform. None if nothing is masked.
    """

    largest_error: float
    correlation: float
    uniformity: float | None


def updates(length: int = 100_000) -> Updates:
    """Return made-up updates of the sites, as small as real ones."""
    rng = np.random.default_rng(1)
    return {site: rng.normal(scale=0.02, size=length).astype(np.float32) for site in (LEAKING, VICTIM, THIRD)}


def attack_encrypted(truth: Updates) -> Attack:
    """Encrypt the victim's result by NVFlare's own filter, and decrypt it with the leaking site's file."""
    common_decomposers.register()
    with TemporaryDirectory() as folder:
        contexts = write_he_contexts(Path(folder))
        HEContexts(folder)
        wire = encrypted_result(truth[VICTIM])
        # Clients send no secret keys; the key used here is the leaking site's.
        leaked = tenseal.context_from(contexts["client"])
        assert leaked.is_private()
    decomposers.register()
    data = serialize_nested_dict(from_shareable(fobs.loads(wire)).data)
    guess = np.array(tenseal.ckks_vector_from(leaked, data["weights"]).decrypt()) / STEPS
    return _judged(guess, truth[VICTIM], None)


def encrypted_result(update: npt.NDArray[np.float32]) -> bytes:
    """Return a site's result as the server receives it."""
    engine = SimpleNamespace()
    fl_ctx = FLContextManager(engine, "site-2", "job", {}, {}).new_context()
    fl_ctx.set_prop("__secure_mode__", False, private=True, sticky=True)
    peer = FLContext()
    fl_ctx.set_peer_context(peer)
    encryptor = HEModelEncryptor()
    encryptor.handle_event("_start_run", fl_ctx)
    dxo = DXO(DataKind.WEIGHT_DIFF, data={"weights": update.copy()}, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS})
    result = encryptor.process(dxo.to_shareable(), fl_ctx)
    assert isinstance(result, Shareable)
    return bytes(fobs.dumps(result))


def attack_masked(truth: Updates, leaking: tuple[int, ...] = (LEAKING,)) -> Attack:
    """Attack a session whose server stores all messages, all recovered masks, and all secrets of ``leaking``."""
    length = len(truth[VICTIM])
    clip = 0.25
    encoding = UpdateEncoding(sizes=(length,), num_clients=3, value_bits=24, scales=Scales((clip,), 64))
    params = secagg.plan(num_clients=3, vector_length=encoding.vector_length, value_bits=24).parameters
    server = Server(params, context=b"round 1")
    clients = {site: Client(params, site, context=b"round 1") for site in truth}
    inputs = {
        site: encoding.encode(ClientUpdate(update, STEPS, 0.0, ((0, STEPS),)), np.random.default_rng(site))
        for site, update in truth.items()
    }
    leaks: dict[int, InputAwaited] = {}
    seen: dict[int, npt.NDArray[Any]] = {}
    job = None

    def to_server(site: int, events: tuple[secagg.events.ClientEvent, ...]) -> None:
        for event in events:
            if isinstance(event, Send):
                message = secagg.decode_client_message(secagg.encode(event.message, params), params)
                if isinstance(message, MaskedInput):
                    seen[site] = message.masked_input.copy()
                server.receive(site, message)
            else:
                if site in leaking:
                    state = clients[site]._state
                    assert isinstance(state, InputAwaited)
                    leaks[site] = state
                to_server(site, clients[site].submit_input(inputs[site]))

    for site, client in clients.items():
        to_server(site, client.start())
    outcome = None
    while outcome is None:
        for event in server.close_round():
            if isinstance(event, Send):
                data = secagg.encode(event.message, params)
                assert isinstance(event.to, int)
                to_server(event.to, clients[event.to].receive(secagg.decode_server_message(data, params)))
            elif isinstance(event, UnmaskReady):
                job = event.job
                (outcome,) = server.finish(job.run())
    assert isinstance(outcome, Completed)
    assert job is not None
    # Check the round itself: the attacked session must work.
    assert np.array_equal(outcome.sum, sum(inputs.values()))

    residue = seen[VICTIM].astype(ring.word_dtype(params.ring_bits))
    masks = [self_mask(dict(job.self_mask_seeds)[VICTIM], server.session_id, VICTIM)]
    for state in leaks.values():
        own = mask_secret_key(state.mask_key_seed, server.session_id, state.setup.client_id)
        place = state.client_ids.index(VICTIM)
        # The mask as the leaking site applies it; the victim applied its negative, so adding it removes that.
        key = state.neighborhood.mask_public_key(place)
        accumulate(residue, [pairwise_mask(own, key, server.session_id, state.setup.client_id, VICTIM)])
    taken_off = np.zeros_like(residue)
    accumulate(taken_off, masks)
    residue -= taken_off
    ring.reduce_in_place(residue, params.ring_bits)
    step = 2 * clip / ((1 << 24) - 1)
    guess = residue[:length].astype(np.float64) * step * 64 / STEPS - clip
    counts = np.bincount((residue[:length].astype(np.uint64) << np.uint64(6)) >> np.uint64(params.ring_bits), None, 64)
    expected = length / 64
    uniformity = float(((counts - expected) ** 2 / expected).sum()) / 63
    return _judged(guess, truth[VICTIM], uniformity)


def _judged(guess: npt.NDArray[np.float64], truth: npt.NDArray[np.float32], uniformity: float | None) -> Attack:
    return Attack(
        largest_error=float(np.abs(guess - truth).max()),
        correlation=float(np.corrcoef(guess, truth)[0, 1]),
        uniformity=uniformity,
    )


def main() -> None:
    """Attack both methods, and print the results."""
    truth = updates()
    attacks = {
        "HE, one site leaks": attack_encrypted(truth),
        "secagg, one site leaks": attack_masked(truth),
        "secagg, both other sites leak (control)": attack_masked(truth, (LEAKING, THIRD)),
    }
    for name, attack in attacks.items():
        figures = {field: getattr(attack, field) for field in Attack.__slots__}
        print(name, json.dumps(figures))


if __name__ == "__main__":
    main()
