"""A run's folder: the checkpoint from which a run continues, and the run's results.

    config.json             the run's config, for readers
    checkpoint.safetensors  the models after the last complete round (of frozen parameters, their digest), the states of
                            the server's optimizers, the bounds of updates, the clip of a private run, the config,
                            the round's number and the records
    metrics.jsonl           one line per round and aggregator
    model.safetensors       the trained model, for use elsewhere
    accuracy.png            accuracy and dropouts by round
    journal.txt             where the journals of a served run are, if they are in a database
    serve.lock              locked by the process of `secagg serve` that runs in this folder
    sent/                   the models with which the rounds began, if clients train personal models by ditto
    report.html, tensorboard/                   written by `secagg report` and --tensorboard
    series.json, personalization.json           optional figures for the report: `fl.report.extras`

The checkpoint is a single file that is replaced in one step, so it is complete whenever the process ends. It is written
before the other files, so that they never exist without it.
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
from fl.learning.parameter_layout import travelling_state
from fl.learning.serialization import load_travelling, model_to_bytes, own_tensors
from fl.runs.records import RoundRecord, record_to_json
from fl.runs.run import Run, SentModel
from secagg import ClientId

_CHECKPOINT, _METRICS, _MODEL, _CONFIG = "checkpoint.safetensors", "metrics.jsonl", "model.safetensors", "config.json"
STATE_FILES = (_CHECKPOINT, _CONFIG, _METRICS)
"""The files of a run's state; the first one suffices to resume it."""
# Raise this number if stored values change their meaning; new names do not need it.
_FORMAT = 2
_MODEL_STATE, _SERVER_STATE = "model", "server-optimizer"
_LOCK = "serve.lock"
_SENT = "sent"
# The checkpoint holds the lists of clients of all rounds; longer lists than this are compressed in it.
_LISTED = 64
# The most bytes of a list after decompression: two million clients.
_MOST_BYTES = 1 << 24
PLOT = "accuracy.png"


class RunFolder:
    """A run's folder, to write and to read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def plot_path(self) -> Path:
        """The path of the figure."""
        return self.path / PLOT

    @property
    def model_path(self) -> Path:
        """The path of the trained model."""
        return self.path / _MODEL

    @property
    def has_run(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / _CHECKPOINT).exists()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder if needed, and lock it for this process; ConfigError if another process has locked it."""
        with held(self.path, _LOCK):
            yield

    def create(self) -> None:
        """Make the folder for a new run; ConfigError if it already holds a run."""
        try:
            if self.has_run:
                going_on = f"continue it with --resume {shlex.quote(str(self.path))}, in Python with resume=True"
                raise ConfigError(f"{self.path} already holds a run: {going_on}, or choose another folder")
            for name in (_CONFIG, _METRICS, _MODEL, PLOT):
                if (self.path / name).exists():
                    raise ConfigError(
                        f"{self.path} already holds a file {name}: choose another folder, or move the file away"
                    )
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}") from error

    def save(self, config: RunConfig, runs: Sequence[Run], records: list[RoundRecord]) -> None:
        """Store the state after a round, and all records so far; ConfigError if the folder is not writable."""
        lines = [record_to_json(record) for record in records]
        tensors = {}
        for run in runs:
            model_state = own_tensors(travelling_state(run.model))
            for kind, state in ((_MODEL_STATE, model_state), (_SERVER_STATE, run.server_optimizer.state())):
                tensors.update({f"{run.name}/{kind}/{name}": tensor for name, tensor in state.items()})
        metadata = {
            "format": str(_FORMAT),
            "config": json.dumps(config.to_json()),
            "rounds_done": str(runs[0].rounds_done),
            "frozen": json.dumps(runs[0].frozen.hex()),
            "scales": json.dumps({run.name: run.tracker.to_json() for run in runs}),
            "l2_clips": json.dumps({run.name: run.clipping.to_json() for run in runs}),
            "records": json_line([{**line, "included": _packed(line["included"])} for line in lines]),
        }
        try:
            self._save_sent(runs[0].sent)
            self._replace(_CHECKPOINT, safetensors.torch.save(tensors, metadata))
            self._replace(_CONFIG, (json.dumps(config.to_json(), indent=2) + "\n").encode())
            self._replace(_METRICS, "".join(json_line(line) + "\n" for line in lines).encode())
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}") from error
        except safetensors.SafetensorError as error:
            raise ConfigError(f"cannot write {self.path / _CHECKPOINT}: {error}") from error

    def save_model(self, run: Run) -> None:
        """Store the trained model in a file of its own; ConfigError if the folder is not writable."""
        try:
            self._replace(_MODEL, model_to_bytes(run.model))
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}") from error

    def remove_model(self) -> None:
        """Delete the file of the trained model, which the checkpoint has too; ConfigError as for `save_model`."""
        try:
            self.model_path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}") from error

    def load_config(self) -> tuple[RunConfig, int]:
        """Return the stored run's config and its number of completed rounds; ConfigError if there is no run."""
        metadata = self._metadata()
        try:
            # The first version wrote no format.
            if (stored := int(metadata.get("format", "1"))) > _FORMAT:
                raise ConfigError(
                    f"a stored run of another version, of format {stored}: this one knows formats up to {_FORMAT}; go "
                    "on with the version that wrote it, or a later one"
                )
            return RunConfig.from_json(json.loads(metadata["config"])), int(metadata["rounds_done"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._foreign(error) from error

    def restore(self, runs: Sequence[Run], rounds_done: int) -> list[RoundRecord]:
        """Load the stored models into ``runs``, and return the records so far.

        Raises:
            ConfigError: as for `load_config`, or the models' frozen parameters are not those of the stored run.
        """
        # Earlier versions stored no digest, but the frozen parameters themselves.
        frozen = self._metadata().get("frozen")
        if frozen is not None and any(frozen != json.dumps(run.frozen.hex()) for run in runs):
            raise ConfigError(
                f"the frozen parameters (requires_grad=False) of {runs[0].config.model} are not those of the run in "
                f"{self.path}: give it the same code and weights"
            )
        try:
            records = [
                RoundRecord(**{**line, "included": _unpacked(line["included"])})
                for line in json.loads(self._metadata()["records"])
            ]
            # In the first version all bounds were fixed, and are in the settings.
            scales = json.loads(self._metadata().get("scales", "{}"))
            clips = json.loads(self._metadata().get("l2_clips", "{}"))
            tensors = safetensors.torch.load_file(self.path / _CHECKPOINT)
            for run in runs:
                run.tracker.restore(scales.get(run.name))
                run.clipping.restore(clips.get(run.name))
                stored = _part(tensors, f"{run.name}/{_MODEL_STATE}/")
                # Earlier versions stored more.
                load_travelling(run.model, {name: stored[name] for name in travelling_state(run.model)})
                run.server_optimizer.load_state(_part(tensors, f"{run.name}/{_SERVER_STATE}/"))
                run.rounds_done = rounds_done
            if runs and runs[0].sent is not None:
                own = [record for record in records if record.aggregator == runs[0].name]
                runs[0].sent = [self._load_sent(record) for record in own]
        except (KeyError, TypeError, ValueError, RuntimeError, ConfigError, safetensors.SafetensorError) as error:
            raise self._foreign(error) from error
        return records

    def _save_sent(self, sent: list[SentModel] | None) -> None:
        if sent:
            path = self._sent_path(len(sent))
            path.parent.mkdir(exist_ok=True)
            replace_file(path, sent[-1].message)

    def _load_sent(self, record: RoundRecord) -> SentModel:
        path = self._sent_path(record.round)
        try:
            return SentModel(path.read_bytes(), record.included)
        except OSError as error:
            raise ConfigError(f"cannot read {path}, which ditto needs: {error.strerror}") from error

    def _sent_path(self, number: int) -> Path:
        return self.path / _SENT / f"{number:05d}.safetensors"

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
        return ConfigError(f"{self.path / _CHECKPOINT} is not a checkpoint of this program, or is damaged: {why}")

    def _replace(self, name: str, data: bytes) -> None:
        replace_file(self.path / name, data)


@lru_cache(maxsize=4096)
def _packed(ids: tuple[ClientId, ...]) -> list[ClientId] | str:
    """Return a list of clients as stored: if it is long, Base64 of its compressed differences, 64-bit little-endian."""
    if len(ids) <= _LISTED:
        return list(ids)
    differences = np.diff(np.array(ids, "<i8"), prepend=0)
    return base64.b64encode(zlib.compress(differences.tobytes())).decode()


def _unpacked(stored: Any) -> tuple[ClientId, ...]:
    """Return the list that `_packed` stored; ValueError or TypeError if it is not valid."""
    if not isinstance(stored, str):
        return tuple(stored)
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(base64.b64decode(stored, validate=True), _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"a stored list of clients is damaged: {error}") from None
    if not unpacker.eof:
        raise ValueError("a stored list of clients is incomplete or too long")
    return tuple(np.cumsum(np.frombuffer(data, "<i8")).tolist())


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
