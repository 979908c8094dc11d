"""A run's folder: what is needed to go on, and what came out of it.

    config.json             the run's config, to read
    checkpoint.safetensors  the models after the last whole round, what the server's optimizers remember, the bounds
                            of updates, the config and the round's number
    metrics.jsonl           a line a round and aggregator
    model.safetensors       the trained model, for use elsewhere
    accuracy.png            accuracy and dropouts by round
    serve.lock              held by the process that goes on with it, of `secagg serve`
    report.html, tensorboard/                   what `secagg report` and --tensorboard write
    series.json, personalization.json           more for the report, from whoever has it: `fl.report.extras`

The checkpoint is one file that is replaced in one step: whenever the run ends, it is whole. It is written before the
others, so that none of them is ever without it.
"""

import base64
import json
import shlex
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from fl.config.run_config import RunConfig
from fl.errors import ConfigError
from fl.files import held, replace_file
from fl.formatting import json_line
from fl.learning.serialization import model_to_bytes, own_tensors
from fl.runs.records import RoundRecord, record_to_json
from fl.runs.run import Run
from secagg import ClientId

_CHECKPOINT, _METRICS, _MODEL, _CONFIG = "checkpoint.safetensors", "metrics.jsonl", "model.safetensors", "config.json"
# Another one where what is stored already means something else than it did; names may be added without.
_FORMAT = 2
_MODEL_STATE, _SERVER_STATE = "model", "server-optimizer"
_LOCK = "serve.lock"
# In the checkpoint longer lists of clients are packed, so that its size does not follow their number: it holds those of
# all rounds.
_LISTED = 64
# Of a list that was packed: two million clients.
_MOST_BYTES = 1 << 24
PLOT = "accuracy.png"


class RunFolder:
    """Writes and reads a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def plot_path(self) -> Path:
        """Where the figure goes."""
        return self.path / PLOT

    @property
    def model_path(self) -> Path:
        """Where the trained model goes."""
        return self.path / _MODEL

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process alone, and make it if it is not there. ConfigError if another one does."""
        with held(self.path, _LOCK):
            yield

    def create(self) -> None:
        """Make the folder for a new run; ConfigError if there is one in it already."""
        try:
            if (self.path / _CHECKPOINT).exists():
                going_on = f"go on with it by --resume {shlex.quote(str(self.path))}"
                raise ConfigError(f"{self.path} holds a run already: {going_on}, or choose another folder")
            for name in (_CONFIG, _METRICS, _MODEL, PLOT):
                if (self.path / name).exists():
                    raise ConfigError(
                        f"{self.path} holds a file {name} already: choose another folder, or move it away"
                    )
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}") from error

    def save(self, config: RunConfig, runs: Sequence[Run], records: list[RoundRecord]) -> None:
        """Store the state after a round, and all records so far. ConfigError if the folder cannot be written to."""
        lines = [record_to_json(record) for record in records]
        tensors = {}
        for run in runs:
            for kind, state in ((_MODEL_STATE, own_tensors(run.model)), (_SERVER_STATE, run.server_optimizer.state())):
                tensors.update({f"{run.name}/{kind}/{name}": tensor for name, tensor in state.items()})
        metadata = {
            "format": str(_FORMAT),
            "config": json.dumps(config.to_json()),
            "rounds_done": str(runs[0].rounds_done),
            "scales": json.dumps({run.name: run.tracker.to_json() for run in runs}),
            "records": json_line([{**line, "included": _packed(line["included"])} for line in lines]),
        }
        try:
            self._replace(_CHECKPOINT, safetensors.torch.save(tensors, metadata))
            self._replace(_CONFIG, (json.dumps(config.to_json(), indent=2) + "\n").encode())
            self._replace(_METRICS, "".join(json_line(line) + "\n" for line in lines).encode())
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}") from error
        except safetensors.SafetensorError as error:
            raise ConfigError(f"cannot write {self.path / _CHECKPOINT}: {error}") from error

    def save_model(self, run: Run) -> None:
        """Store the trained model by itself. ConfigError if it cannot be written."""
        try:
            self._replace(_MODEL, model_to_bytes(run.model))
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}") from error

    def remove_model(self) -> None:
        """Take away the model that was stored by itself; the checkpoint has it too. ConfigError as above."""
        try:
            self.model_path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}") from error

    def load_config(self) -> tuple[RunConfig, int]:
        """The stored run's config and how many rounds it did; ConfigError if there is none."""
        metadata = self._metadata()
        try:
            # The first version wrote none.
            if (stored := int(metadata.get("format", "1"))) > _FORMAT:
                raise ConfigError(
                    f"a stored run of another version, of format {stored}: this one knows formats up to {_FORMAT}; go "
                    "on with the version that wrote it, or a later one"
                )
            return RunConfig.from_json(json.loads(metadata["config"])), int(metadata["rounds_done"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._foreign(error) from error

    def restore(self, runs: Sequence[Run], rounds_done: int) -> list[RoundRecord]:
        """Put the stored models into ``runs``; returns the records of the rounds done. ConfigError as above."""
        try:
            records = [
                RoundRecord(**{**line, "included": _unpacked(line["included"])})
                for line in json.loads(self._metadata()["records"])
            ]
            # In the first version all bounds were fixed, which the settings say already.
            scales = json.loads(self._metadata().get("scales", "{}"))
            tensors = safetensors.torch.load_file(self.path / _CHECKPOINT)
            for run in runs:
                run.tracker.restore(scales.get(run.name))
                run.model.load_state_dict(_part(tensors, f"{run.name}/{_MODEL_STATE}/"))
                run.server_optimizer.load_state(_part(tensors, f"{run.name}/{_SERVER_STATE}/"))
                run.rounds_done = rounds_done
        except (KeyError, TypeError, ValueError, RuntimeError, ConfigError, safetensors.SafetensorError) as error:
            raise self._foreign(error) from error
        return records

    def _metadata(self) -> dict[str, str]:
        path = self.path / _CHECKPOINT
        try:
            found = path.is_file()
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror}") from error
        if not found:
            raise ConfigError(f"there is no run to resume in {self.path}: it has no {_CHECKPOINT}")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata: dict[str, str] | None = file.metadata()
        except (safetensors.SafetensorError, OSError) as error:
            raise self._foreign(error) from error
        return metadata or {}

    def _foreign(self, error: Exception) -> ConfigError:
        why = " ".join(str(error).split())
        return ConfigError(f"{self.path / _CHECKPOINT} is no checkpoint of this program, or is damaged: {why}")

    def _replace(self, name: str, data: bytes) -> None:
        replace_file(self.path / name, data)


@lru_cache(maxsize=4096)
def _packed(ids: tuple[ClientId, ...]) -> list[ClientId] | str:
    """A list of clients for a record; a longer one as Base64 of its compressed differences, 64-bit little-endian."""
    if len(ids) <= _LISTED:
        return list(ids)
    differences = np.diff(np.array(ids, "<i8"), prepend=0)
    return base64.b64encode(zlib.compress(differences.tobytes())).decode()


def _unpacked(stored: Any) -> tuple[ClientId, ...]:
    """The same again. ValueError, or TypeError, if it is none."""
    if not isinstance(stored, str):
        return tuple(stored)
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(base64.b64decode(stored, validate=True), _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"a list of clients that is none: {error}") from None
    if not unpacker.eof:
        raise ValueError("a list of clients that is cut short, or too long")
    return tuple(np.cumsum(np.frombuffer(data, "<i8")).tolist())


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
