"""Compare NVFlare plain, with its homomorphic encryption, and with secagg: the same model, data and rounds.

    .venv-nvflare/bin/python -m benchmarks.compare_nvflare             # and write the table
    python -m benchmarks.compare_nvflare --table                       # only write the table

All three are jobs of NVFlare's recipes in its simulator, with a process for each of three sites.  The recipe with
homomorphic encryption refuses the simulator, since no keys are provisioned there.  Here the code that makes its
contexts for startup kits (`HEBuilder`) makes them, and its job runs like the others.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.blocks import REPOSITORY, write_results

EXAMPLE = REPOSITORY / "examples" / "nvflare_digits"
METHODS = ("plain", "HE", "secagg")
NUM_SITES = 3
_VERSIONS = ("nvflare", "tenseal", "torch")


def main() -> None:
    """Measure, or (--one) run one method in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 2048])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--interval", type=float, default=0.1, help="seconds after which a site asks for a task again")
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "WIDTH", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        method, width, folder = args.one
        run(method, int(width), args.rounds, args.interval, Path(folder))
        return
    write_results("nvflare", _measure_all(args))


def _measure_all(args: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for width in args.widths:
        for method in args.methods:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(method, width, args.rounds, args.interval, Path(folder)))
                print(json.dumps(rows[-1]))
    names = ("nvflare", "tenseal", "torch", "numpy", "secagg-fl")
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), **{name: version(name) for name in names}}
    return {"machine": machine, "sites": NUM_SITES, "rounds": args.rounds, "interval": args.interval, "rows": rows}


def measure(method: str, width: int, rounds: int, interval: float, folder: Path) -> dict[str, Any]:
    """Run one method in separate processes, since the recipe's class registers encoders permanently."""
    command = [sys.executable, "-m", "benchmarks.compare_nvflare"]
    command += ["--one", method, str(width), str(folder)]
    command += ["--rounds", str(rounds), "--interval", str(interval)]
    paths = os.pathsep.join((str(REPOSITORY), str(EXAMPLE)))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    began = time.monotonic()
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"{method} failed:\n" + (folder / "log").read_text()[-4000:])
    starts = [line["began"] for line in _lines(folder / "rounds")]
    trained = _lines(folder / "trained")
    wire = _lines(folder / "wire")
    # Leave out the first round, in which sites start, and the last, whose end is only partly recorded.
    between = [after - before for before, after in itertools.pairwise(starts[1:])]
    last = max(line["round"] for line in trained)
    settled = [line for line in wire if starts[1] <= line["at"] < starts[-1]]
    per_site = NUM_SITES * (len(starts) - 2)
    return {
        "method": method,
        "parameters": sum(array.numel() for array in _model(width).state_dict().values()),
        "seconds_a_round": round(statistics.median(between), 2),
        "seconds_a_round_all": [round(seconds, 2) for seconds in between],
        "train_seconds": round(statistics.median(line["train_seconds"] for line in trained), 2),
        "bytes_up_a_site": round(sum(line.get("up", 0) for line in settled) / per_site),
        "bytes_down_a_site": round(sum(line.get("down", 0) for line in settled) / per_site),
        "accuracy": round(statistics.mean(line["accuracy"] for line in trained if line["round"] == last), 4),
        "accuracy_after_rounds": last,
        "job_seconds": round(time.monotonic() - began, 1),
    }


def run(method: str, width: int, rounds: int, interval: float, folder: Path) -> None:
    """Run the job of one method, in NVFlare's environment."""
    import torch
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.app_opt.pt.recipes.fedavg_he import FedAvgRecipeWithHE

    from benchmarks.nvflare_instruments import HEContexts, RoundClock, WireMeter, write_he_contexts
    from fl.integrations.nvflare import add_secure_aggregation

    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "name": "job",
        "model": _model(width),
        "min_clients": NUM_SITES,
        "num_rounds": rounds,
        "train_script": str(Path(__file__).parent / "nvflare_trainer.py"),
        "train_args": f"--sites {NUM_SITES} --width {width} --report {folder / 'trained'}",
    }
    recipe = FedAvgRecipeWithHE(**arguments) if method == "HE" else FedAvgRecipe(**arguments)
    recipe.add_client_config({"default_task_fetch_interval": interval})
    recipe.add_server_config({"server": {"task_request_interval": interval}})
    if method == "secagg":
        add_secure_aggregation(recipe, clip=2.0, max_steps=64)
    # The recipes have no interface for these, but the job has.
    job = recipe._job
    job.to_server(RoundClock(str(folder / "rounds")), id="clock")
    job.to_clients(WireMeter(str(folder / "wire")), id="meter")
    if method == "HE":
        write_he_contexts(folder)
        job.to_server(HEContexts(str(folder)), id="contexts")
        job.to_clients(HEContexts(str(folder)), id="contexts")
    job.set_app_packages(["benchmarks", "fl", "secagg", "transport"])
    code = job.simulator_run(str(folder / "workspace"), n_clients=NUM_SITES, threads=NUM_SITES)
    if code:
        sys.exit(code)


def _model(width: int) -> Any:
    sys.path.insert(0, str(EXAMPLE))
    from digits_model import DigitsNet

    return DigitsNet(width)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(results: dict[str, Any]) -> str:
    """Return a Markdown table with a row for each method and size of model, and a line about the set-up."""
    lines = [
        "| parameters | average | seconds a round | of which training | up, a site and round | down | accuracy |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in results["rows"]:
        cells = (
            f"{row['parameters']:,}",
            "`secagg`" if row["method"] == "secagg" else row["method"],
            f"{row['seconds_a_round']:.1f}",
            f"{row['train_seconds']:.1f}",
            _size(row["bytes_up_a_site"]),
            _size(row["bytes_down_a_site"]),
            f"{row['accuracy']:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    machine = results["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in _VERSIONS)
    lines += [
        "",
        f"{results['rounds']} rounds, the medians without the first, in which the sites start; "
        f"{machine['cpus']} cores, Python {machine['python']}, {versions}.",
    ]
    return "\n".join(lines) + "\n"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"


if __name__ == "__main__":
    main()
