"""Train each hospital's model without the others, for as many epochs on its own patients, and print its accuracy.

python alone.py
"""

from pathlib import Path

from fl.config.config_file import read_config_file
from fl.config.run_config import RunConfig
from fl.data.partition import partition
from fl.learning.own_code import make_dataset, make_model
from fl.learning.training import evaluate, train

if __name__ == "__main__":
    config = RunConfig.of(**read_config_file(Path("hospitals.toml")))
    data = make_dataset(config.data.dataset)
    parts = partition(data, config.partition, config.data.clients, seed=config.seed)
    for number, patients in sorted(enumerate(parts), key=lambda part: -len(part[1])):
        model = make_model(config.model, image_shape=data.image_shape, num_classes=data.num_classes, seed=config.seed)
        for round_ in range(1, config.rounds + 1):
            settings = config.local.in_round(round_)
            train(model, data.train_images[patients], data.train_labels[patients], settings, seed=round_)
        measured = evaluate(model, data.test_images, data.test_labels)
        result = f"{measured.accuracy:.2%}, loss {measured.loss:.3f}"
        print(f"hospital {number} with {len(patients):3} patients alone: {result}")
