"""The project works: run `python -m pytest` after each change."""

from pathlib import Path

from fl.config.config_file import read_config_file
from fl.config.run_config import RunConfig
from fl.learning.own_code import make_dataset
from fl.runs.rounds import start_runs

SETTINGS = Path(__file__).parent / "experiment.toml"


def test_the_model_learns_and_the_secure_sum_is_the_plain_one() -> None:
    config = RunConfig.of(**read_config_file(SETTINGS))
    secure, plain = start_runs(config, make_dataset(config.data.dataset))
    for _ in range(5):
        record = secure.run_round()
        plain.run_round()
        assert record.aborted is None
        assert record.ring_difference == 0
    assert (record.accuracy or 0) > 0.8
