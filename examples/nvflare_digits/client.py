"""A site's trainer on NVFlare's Client API, without any code for secure aggregation."""

import argparse

import nvflare.client as flare
import torch
from digits_model import DigitsNet, accuracy, shard
from torch import nn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
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
        model.load_state_dict(received.params)
        metrics = {"accuracy": accuracy(model)}
        torch.manual_seed(1000 * (received.current_round or 0) + site)
        steps = train(model, pixels, labels)
        flare.send(flare.FLModel(params=model.state_dict(), metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": steps}))


def train(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, epochs: int = 2, batch_size: int = 32) -> int:
    """Train by plain SGD; return the number of steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps = 0
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pixels[batch]), labels[batch]).backward()
            optimizer.step()
            steps += 1
    return steps


if __name__ == "__main__":
    main()
