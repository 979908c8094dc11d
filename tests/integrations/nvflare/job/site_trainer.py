"""A trainer on NVFlare's Client API whose updates are known: site-k adds k / 8 + round / 64, with 10 k steps."""

import argparse

import numpy as np
import nvflare.client as flare


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broken", default="", help="site:round[,site:round] that returns what is not finite")
    broken = parser.parse_args().broken.split(",")
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2])
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        weights = model.params["numpy_key"]
        # In place, as trainers do.
        weights += number / 8 + model.current_round / 64
        if f"{number}:{model.current_round}" in broken:
            weights[0] = np.nan
        metrics = {"accuracy": number / 4, "secret": 1.0}
        flare.send(
            flare.FLModel(params={"numpy_key": weights}, metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": 10 * number})
        )


if __name__ == "__main__":
    main()
