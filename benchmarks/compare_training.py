"""Compare the training engines with one model that is trained on the same images: `make bench-training`.

Each row times a plain loop over all images, and each engine over the clients that hold them, in turn. It takes ten
minutes on two idle cores. The table goes into docs/scaling.md (`scaling_plan --write`). With --quick it takes half a
minute and writes nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmarks.blocks import new_document, write_results
from benchmarks.interleave import by_turns
from fl.config.run_config import RunConfig
from fl.data import Dataset, load_dataset
from fl.data.client_data import DealtOut
from fl.data.partition import partition
from fl.engines import Resources, RoundTraining, TrainingEngine, open_engine
from fl.engines.local_worker import LocalWorker
from fl.errors import ConfigError
from fl.learning.cpu import torch_threads
from fl.learning.serialization import model_to_bytes
from fl.learning.training import train

ENGINES = ("serial", "processes", "batched")


@dataclass(frozen=True, slots=True)
class Row:
    """A training to time: ``clients`` clients with ``images`` images each, one epoch."""

    model: str
    batch_size: int
    clients: int
    images: int = 100


FULL = (
    Row("logistic", 10, 300),
    Row("2nn", 10, 300),
    Row("small-cnn", 10, 300),
    Row("cnn", 10, 100),
    Row("cnn", 50, 100),
)
QUICK = (Row("logistic", 10, 60), Row("2nn", 10, 60))


def measure(row: Row, *, rounds: int, engines: tuple[str, ...] = ENGINES) -> dict[str, Any]:
    """Return the images per second of each engine, and their ratio to the plain loop: medians over the rounds.

    The plain loop trains one model on all images, with the faster number of threads in each round.
    """
    worker = _worker(row)
    cores = os.cpu_count() or 1
    works: dict[str, Callable[[], object]] = {
        f"plain, {threads} threads" if threads > 1 else "plain, 1 thread": _plain_loop(worker, row, threads)
        for threads in sorted({1, cores})
    }
    plain = tuple(works)
    with ExitStack() as opened:
        for name in engines:
            try:
                engine = open_engine(name, worker, Resources())
            except ConfigError:
                continue
            opened.callback(engine.close)
            works[name] = _engine_round(engine, worker, row)
        taken = by_turns(list(works.values()), rounds=rounds, sample_seconds=0)
        seconds = dict(zip(works, taken, strict=True))
    total = row.clients * row.images
    speeds = {name: [total / second for second in taken] for name, taken in seconds.items()}
    best = [max(speeds[name][index] for name in plain) for index in range(rounds)]
    return {
        "params": {"model": row.model, "batch_size": row.batch_size, "clients": row.clients, "images": row.images},
        "rounds": rounds,
        "images_per_second": {name: round(median(values), 1) for name, values in speeds.items()},
        "over_plain": {
            name: round(median(value / reference for value, reference in zip(values, best, strict=True)), 3)
            for name, values in speeds.items()
            if name not in plain
        },
    }


def _worker(row: Row) -> LocalWorker:
    full = load_dataset("fashion-mnist", None)
    count = row.clients * row.images
    data = Dataset(
        full.name,
        full.train_images[:count].clone(),
        full.train_labels[:count].clone(),
        full.test_images[:100].clone(),
        full.test_labels[:100].clone(),
        full.num_classes,
    )
    config = RunConfig.of(
        dataset="fashion-mnist",
        model=row.model,
        clients=row.clients,
        epochs=1,
        batch_size=row.batch_size,
        learning_rate=0.05,
        momentum=0.5,
    )
    parts = partition(data, "iid", row.clients, seed=0, alpha=1.0, shards_per_client=2)
    return LocalWorker(config, DealtOut(data, parts))


def _plain_loop(worker: LocalWorker, row: Row, threads: int) -> Callable[[], object]:
    training = worker.config.local.in_round(1)

    def loop() -> None:
        model = copy.deepcopy(worker.model)
        with torch_threads(threads):
            train(model, worker.data.dataset.train_images, worker.data.dataset.train_labels, training, seed=1)

    return loop


def _engine_round(engine: TrainingEngine, worker: LocalWorker, row: Row) -> Callable[[], object]:
    clients = tuple(range(row.clients))
    training = RoundTraining(1, dict.fromkeys(clients, model_to_bytes(worker.model)), clients)

    def one_round() -> None:
        with engine.round(training) as trainer:
            for due, client_id in enumerate(clients):
                trainer.announce(client_id, due)
            for client_id in clients:
                trainer(client_id)

    return one_round


def main() -> None:
    """Measure the rows, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and clients; nothing is written")
    parser.add_argument("--rounds", type=int, default=3, help="number of timings of each")
    options = parser.parse_args()
    results = []
    for row in QUICK if options.quick else FULL:
        results.append(measure(row, rounds=options.rounds))
        print(json.dumps(results[-1]), flush=True)
    versions = {"torch": torch.__version__, "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    document = new_document(results, **versions)
    if not options.quick:
        write_results("training", document)
    print(table(document))


def table(document: dict[str, Any]) -> str:
    """Return a Markdown table with a line for each row."""
    lines = [
        "| model | batch | clients | plain loop, images/s | " + " | ".join(ENGINES) + " | fastest over plain |",
        "| :--- | ---: | ---: | ---: |" + " ---: |" * (len(ENGINES) + 1),
    ]
    for row in document["results"]:
        speeds, ratios, params = row["images_per_second"], row["over_plain"], row["params"]
        plain = max(speed for name, speed in speeds.items() if name.startswith("plain"))
        cells = [f"{speeds[name]:,.0f} ({ratios[name]:.2f})" if name in speeds else "–" for name in ENGINES]
        lines.append(
            f"| {params['model']} | {params['batch_size']} | {params['clients']} | {plain:,.0f} | "
            + " | ".join(cells)
            + f" | {max(ratios.values()):.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
