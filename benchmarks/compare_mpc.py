"""Measure the cost of encrypted evaluation on MNIST, and of its slow parts.

    make bench-mpc                                              # all, ten minutes on two idle cores
    .venv-mpc/bin/python -m benchmarks.compare_mpc --quick

Missing models are trained by `secagg train` first. Results go to results/mpc.json after each run, and from there as
tables into docs/how-to/encrypted-evaluation.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.blocks import REPOSITORY, read_results, write_results
from benchmarks.machine import commit, describe
from fl.data import Dataset, load_dataset
from fl.encrypted import EncryptedTask, MpycEvaluator
from fl.encrypted.jobs import Arithmetic, Opening
from fl.learning.own_code import make_model
from fl.learning.serialization import load_model

MODELS_FOLDER = REPOSITORY / "runs" / "encrypted"

# Adam with its usual learning rate suits both activations.
_TRAINING = {"clients": 10, "rounds": 4, "epochs": 1, "batch-size": 32, "optimizer": "adam", "lr": 0.001, "seed": 1}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run; `quick_images` is its number of images with --quick."""

    name: str
    model: str
    images: int
    quick_images: int
    batch: int
    opening: Opening = "predictions"
    tls: bool = True
    arithmetic: Arithmetic = "words"


CASES = (
    Case(name="ReLU", model="mlp-500", images=1000, quick_images=200, batch=50),
    Case(name="square", model="mlp-500-square", images=1000, quick_images=200, batch=50),
    Case(name="CNN, ReLU", model="small-cnn", images=1000, quick_images=10, batch=10),
    Case(name="CNN, square", model="small-cnn-square", images=1000, quick_images=50, batch=25),
    Case(name="only the accuracy", model="mlp-500", images=1000, quick_images=200, batch=50, opening="accuracy"),
    Case(name="batch 1", model="mlp-500", images=50, quick_images=10, batch=1),
    Case(name="batch 10", model="mlp-500", images=200, quick_images=50, batch=10),
    Case(name="batch 200", model="mlp-500", images=1000, quick_images=200, batch=200),
    Case(name="without TLS", model="mlp-500", images=1000, quick_images=200, batch=50, tls=False),
    Case(name="MPyC's own arrays", model="mlp-500", images=20, quick_images=5, batch=10, arithmetic="objects"),
    Case(
        name="MPyC's own arrays, square",
        model="mlp-500-square",
        images=20,
        quick_images=5,
        batch=10,
        arithmetic="objects",
    ),
)


def main() -> None:
    """Run the cases whose names are given, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer images")
    parser.add_argument("cases", nargs="*", help="names of cases: " + ", ".join(case.name for case in CASES))
    options = parser.parse_args()
    if unknown := set(options.cases) - {case.name for case in CASES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    results = read_results("mpc")
    dataset = load_dataset("mnist")
    for case in CASES:
        if not options.cases or case.name in options.cases:
            results["machine"] = {**describe(), "commit": commit(REPOSITORY)}
            measured = {**results["cases"], case.name: measure(case, dataset, quick=options.quick)}
            results["cases"] = {known.name: measured[known.name] for known in CASES if known.name in measured}
            write_results("mpc", results)


def measure(case: Case, dataset: Dataset, *, quick: bool) -> dict[str, Any]:
    """Run a case; return its figures and those of the plain model."""
    path = trained(case.model)
    task = EncryptedTask(
        model_path=path,
        model=case.model,
        dataset="mnist",
        images=case.quick_images if quick else case.images,
        batch=case.batch,
        opening=case.opening,
    )
    load_before = os.getloadavg()[0]
    result = MpycEvaluator(timeout=1200, tls=case.tls, arithmetic=case.arithmetic).evaluate(
        task, lambda done, total: print(f"\r{case.name}: {done} of {total}", end="", flush=True)
    )
    print(f"  {result.milliseconds_per_image:.1f} ms an image")
    model = make_model(case.model, image_shape=dataset.image_shape, num_classes=10, seed=0)
    load_model(model, path.read_bytes())
    with torch.no_grad():
        plain = torch.cat([model.eval()(part).argmax(dim=1) for part in dataset.test_images.split(500)])
    images = result.images
    agreement = None
    if result.predictions is not None:
        agreement = (plain[:images] == torch.tensor(result.predictions)).double().mean().item()
    return {
        "model": case.model,
        "images": images,
        "batch": case.batch,
        "tls": case.tls,
        "arithmetic": case.arithmetic,
        "opened": case.opening,
        "milliseconds_per_image": result.milliseconds_per_image,
        "cpu_milliseconds_per_image": 1000 * sum(result.cpu_seconds) / images,
        "start_seconds": result.start_seconds,
        "bytes_per_image": sum(result.bytes_sent) / images,
        "accuracy": result.accuracy,
        "agreement": agreement,
        "plain_accuracy": (plain[:images] == dataset.test_labels[:images]).double().mean().item(),
        "plain_accuracy_all": (plain == dataset.test_labels).double().mean().item(),
        "load_before": load_before,
        "widths": result.widths,
    }


def trained(model: str) -> Path:
    """Return the file of a model that `secagg train` trained on MNIST: 10 clients, 4 rounds, secure aggregation."""
    path = MODELS_FOLDER / model / "model.safetensors"
    if not path.exists():
        command = [sys.executable, "-m", "fl", "train", "--dataset", "mnist", "--model", model]
        for option, value in _TRAINING.items():
            command += [f"--{option}", str(value)]
        subprocess.run([*command, "--out", str(path.parent)], check=True, cwd=REPOSITORY)  # noqa: S603 - our own
    return path


def tables(results: dict[str, Any]) -> str:
    """Return Markdown tables with a row for each case, and a line about the machine."""
    lines = [
        "| case | model | images | batch | ms an image | processor ms, all three | start, s | MB an image | accuracy "
        "| same image in plain text | predictions that agree |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, case in results["cases"].items():
        agreement = "-" if case["agreement"] is None else f"{100 * case['agreement']:.1f}%"
        lines.append(
            f"| {name} | `{case['model']}` | {case['images']:,} | {case['batch']} | "
            f"**{case['milliseconds_per_image']:.1f}** | {case['cpu_milliseconds_per_image']:.1f} | "
            f"{case['start_seconds']:.1f} | {case['bytes_per_image'] / 1e6:.2f} | {100 * case['accuracy']:.1f}% | "
            f"{100 * case['plain_accuracy']:.1f}% | {agreement} |"
        )
    lines += ["", "| model, in plain text on all 10,000 test images | accuracy |", "|---|--:|"]
    accuracies = {case["model"]: case["plain_accuracy_all"] for case in results["cases"].values()}
    lines += [f"| `{model}` | {100 * accuracy:.2f}% |" for model, accuracy in accuracies.items()]
    machine = results["machine"]
    loads = [case["load_before"] for case in results["cases"].values()]
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, numpy {machine['numpy']}; processes "
        f"that wanted a core before a case began (load average): {min(loads):.1f} to {max(loads):.1f}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
