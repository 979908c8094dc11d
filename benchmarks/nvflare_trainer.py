"""The example's trainer, which also records the accuracy of the received model."""

import argparse
import json
import time
from pathlib import Path

import nvflare.client as flare
import torch
from client import train  # type: ignore[import-not-found]
from digits_model import DigitsNet, accuracy, shard


def main() -> None:
    """Train until the job ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--report", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    flare.init()
    site = int(flare.get_site_name().rpartition("-")[2]) - 1
    pixels, labels = shard(site, args.sites)
    model = DigitsNet(args.width)
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        # Encrypted entries come back flat, and in double precision.
        params = {
            name: torch.as_tensor(received.params[name]).reshape(own.shape).to(own.dtype)
            for name, own in model.state_dict().items()
        }
        model.load_state_dict(params)
        reached = accuracy(model)
        torch.manual_seed(1000 * (received.current_round or 0) + site)
        began = time.monotonic()
        steps = train(model, pixels, labels)
        with Path(args.report).open("a") as file:
            line = {"round": received.current_round, "accuracy": reached, "train_seconds": time.monotonic() - began}
            file.write(json.dumps(line | {"site": site}) + "\n")
        flare.send(
            flare.FLModel(
                params=model.state_dict(), metrics={"accuracy": reached}, meta={"NUM_STEPS_CURRENT_ROUND": steps}
            )
        )


if __name__ == "__main__":
    main()
