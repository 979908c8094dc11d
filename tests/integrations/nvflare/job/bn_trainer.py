"""A trainer on NVFlare's Client API whose updates are known: site-k adds k / 8 + round / 64, with 10 k steps."""

import argparse

import nvflare.client as flare
import torch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--diff", action="store_true")
    parser.add_argument("--broken", action="store_true", help="an entry of another shape")
    parser.add_argument("--plain", action="store_true", help="NVFlare's own average, which makes floats of counters")
    args = parser.parse_args()
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2])
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics={"accuracy": float(model.params["layers.0.bias"].mean())}))
            continue
        counter = torch.as_tensor(model.params["layers.1.num_batches_tracked"])
        # Counters come back unchanged, in every round.
        assert args.plain or (counter.dtype == torch.int64 and counter == 0), (counter.dtype, counter)
        change = number / 8 + model.current_round / 64
        params = {}
        for name, entry in model.params.items():
            entry = torch.as_tensor(entry)
            params[name] = entry + 10 * number if name.endswith("tracked") else entry + change
            if args.diff:
                params[name] = params[name] - entry
        if args.broken:
            params["layers.0.bias"] = params["layers.0.bias"][:1]
        flare.send(
            flare.FLModel(
                params=params,
                params_type="DIFF" if args.diff else "FULL",
                metrics={"accuracy": number / 4},
                meta={"NUM_STEPS_CURRENT_ROUND": 10 * number},
            )
        )


if __name__ == "__main__":
    main()
