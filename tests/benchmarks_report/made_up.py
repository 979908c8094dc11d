"""A small made-up results document with entries of all groups."""

from typing import Any

ROUNDS = ("AdvertiseKeys", "ShareKeys", "MaskedInputCollection", "Unmasking", "total")


def spread(seconds: float) -> dict[str, Any]:
    return {"median": seconds, "min": seconds, "max": seconds, "rounds": 1}


def entry(group: str, name: str, params: dict[str, Any], seconds: float, **values: Any) -> dict[str, Any]:
    return {"group": group, "name": name, "params": params, "seconds": spread(seconds), **values}


def ratio(value: float, goal: float | None = None, *, higher_is_better: bool = True) -> dict[str, Any]:
    return {"value": value, "of": "one over the other", "goal": goal, "higher_is_better": higher_is_better}


def figure8_row(role: str, dropout: float, published: tuple[int, ...], speed_up: float) -> dict[str, Any]:
    return entry(
        "figure8",
        role,
        {"clients": 500, "dropout": dropout},
        0.05,
        milliseconds=dict.fromkeys(ROUNDS, 12.5),
        published_milliseconds=dict(zip(ROUNDS, published, strict=True)),
        ratio=ratio(speed_up, goal=8.0),
    )


def point(name: str, clients: int, length: int, **values: Any) -> dict[str, Any]:
    return entry(
        "scaling",
        name,
        {"clients": clients, "length": length},
        clients * length / 1e6,
        degree=12,
        threshold=6,
        ring_bits=23,
        included=clients,
        exact=True,
        client_seconds=0.002,
        server_seconds=0.07,
        client_bytes_up=3 * length,
        client_bytes_down=1664,
        peak_rss_bytes=68_000_000,
        ratio=ratio(1.58, higher_is_better=False),
        **values,
    )


FIGURE8 = [
    figure8_row("client", 0.0, (1, 154, 694, 1, 849), 17.0),
    figure8_row("server", 0.3, (1, 28, 514, 142847, 143389), 7.0),
]
COMMUNICATION = [
    entry(
        "communication",
        "bytes_of_a_client",
        {"clients": 1024},
        0.1,
        published=1.73,
        ratio=ratio(1.72, 1.73, higher_is_better=False),
    ),
]
PEERS = [
    entry(
        "peers",
        "flower_round",
        {"clients": 100, "vanish": 10},
        2.0,
        peer="Flower",
        peer_version="1.41.0",
        work="whole round",
        peer_seconds=343.0,
        secagg_seconds=2.18,
        peer_stages={"setup_stage": 0.07, "share_keys_stage": 200.0},
        peer_max_abs_error=1e-6,
        max_abs_error=1e-6,
        ratio=ratio(157.0, 100.0),
        note="It survives <little> & warns.",
    ),
]
SCALING = [
    *(point("clients", clients, 100_000) for clients in (100, 1000)),
    point("clients", 10_000, 100_000, limits={"seconds": {"value": 84.0, "most": 60.0}}),
    *(point("length", 20, length) for length in (10_000, 100_000)),
    entry(
        "scaling",
        "degree",
        {"plans": 3},
        0.1,
        curve=[{"clients": 10**k, "degree": 10 + 4 * k, "threshold": 5 + k} for k in (3, 4, 5)],
    ),
]
MALICIOUS = [
    entry("malicious", "client", {"clients": 500}, 0.3, honest_seconds=0.1, ratio=ratio(3.0, None)),
    entry("malicious", "server", {"clients": 500}, 2.0, honest_seconds=1.6, ratio=ratio(1.25, None)),
]
NETWORK = [
    entry(
        "network",
        "session",
        {"clients": 200, "journal": False},
        9.0,
        frames=2720,
        ratio=ratio(1.3, 1.5, higher_is_better=False),
    ),
    entry("network", "memory_of_the_server", {"clients": 200}, 9.0, peak_bytes=92_000_000, ratio=ratio(0.5, None)),
]
MICRO = [
    entry("micro", "masked_add", {"elements": 1000}, 1e-3, gigabytes_per_second=7.5, ratio=ratio(0.65, 0.6)),
    entry("micro", "threads", {"elements": 1000}, 1e-3, ratio=ratio(0.97, 1.6)),
    entry("micro", "pair", {"pairs": 300}, 1e-3, ratio=ratio(1.13, 1.25, higher_is_better=False)),
]


def document(*groups: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A document of these groups' entries, by default of all."""
    chosen = groups or (MICRO, FIGURE8, COMMUNICATION, PEERS, SCALING, MALICIOUS, NETWORK)
    return {
        "format": 1,
        "mode": "full",
        "created": "2026-01-02T03:04:05+00:00",
        "version": "0.1.0",
        "commit": "abc1234",
        "machine": {"cpu": "Some CPU", "cores": 2, "cpu_flags": ["aes"], "memory_bytes": 8_000_000_000},
        "results": [item for group in chosen for item in group],
        "skipped": [{"name": "declearn_masking[100]", "reason": "not installed"}],
    } | changes
