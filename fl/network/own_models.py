"""A participant's models in its folder: the global one that it received last, and one of its own."""

import copy
from collections.abc import Callable
from pathlib import Path

import safetensors
from torch import nn

from fl.config.run_config import ACCURACY
from fl.config.seeds import PERSONALIZATION_SEED, derived_seed
from fl.errors import ConfigError, FLError
from fl.files import replace_file
from fl.formatting import percent
from fl.learning.cpu import torch_threads, worthwhile_threads
from fl.learning.serialization import load_model, model_to_bytes
from fl.learning.settings import Personal
from fl.learning.task import Task
from fl.learning.training import evaluate
from fl.network.announcement import RoundAnnouncement
from fl.network.own_examples import OwnExamples
from fl.personalization.ditto import Ditto
from fl.personalization.scores import personal_method

_GLOBAL, _PERSONAL, _RUN = "model.safetensors", "personal.safetensors", "checkpoint.safetensors"


class OwnModels:
    """The models that a client keeps.

    Args:
        folder: where they are kept. None: nothing is kept.
        personal: how the client's own model is made, if it wants one.
        examples: the client's examples.
        say: prints one line for the user.

    Raises:
        ConfigError: a personal model is wanted without a folder; or the folder holds a run, or is not writable.
    """

    def __init__(
        self, folder: Path | None, personal: Personal, examples: OwnExamples, say: Callable[[str], None]
    ) -> None:
        if personal.method is not None and folder is None:
            raise ConfigError("--personalize makes a model of this client's own: give --out, a folder for it")
        if folder is not None:
            try:
                if (folder / _RUN).exists():
                    raise ConfigError(f"{folder} holds a run: give another folder with --out")
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot write to {folder}: {error.strerror}") from None
        self._folder = folder
        self._personal = personal
        self._examples = examples
        self._say = say
        self._received: RoundAnnouncement | None = None
        self._steps_done = 0
        self._own: nn.Module | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether the client waits for the final model."""
        return self._folder is not None

    def receive(self, announced: RoundAnnouncement, model: nn.Module) -> None:
        """Keep a round's global model, and take ditto's step in a round of training; `model` is not changed.

        What fails is said, and costs no update.
        """
        if self._folder is None:
            return
        try:
            self._keep(_GLOBAL, model)
            self._received = announced
            is_new = announced.purpose == "update" and announced.round > self._steps_done
            if is_new and self._personal.method == "ditto":
                self._improve(announced, model)
        except FLError as error:
            self._say(f"round {announced.round}/{announced.rounds}: this client's own model stays as it was: {error}")

    def finish(self, final: RoundAnnouncement, model: nn.Module) -> None:
        """Keep the final global model, and make the personal one.

        Raises:
            ConfigError: the folder is not writable.
            FLError: the personal model cannot be trained.
        """
        self._keep(_GLOBAL, model)
        self._received = final
        if self._personal.method is None:
            return
        before = copy.deepcopy(model)
        self._improve(final, model)
        held_out = self._examples.held_out.shaped_for(final.image_shape, final.input_type)
        if len(held_out.labels) and self._own is not None:
            task = Task(final.loss, final.metrics)
            measured = [evaluate(one, held_out.images, held_out.labels, task=task) for one in (before, self._own)]
            shown = [percent(one.accuracy) if ACCURACY in one.totals else f"{one.loss:.4f}" for one in measured]
            self._say(
                f"on {len(held_out.labels)} examples held out: {ACCURACY if ACCURACY in task.metrics else 'loss'} "
                f"{shown[0]}, of the personal model ({self._personal.method}) {shown[1]}"
            )

    def tell(self) -> None:
        """Say where the models are."""
        if self._folder is None or self._received is None:
            return
        what = "the final model" if self._received.purpose == "over" else f"the model of round {self._received.round}"
        paths = [f"{what}: {self._folder / _GLOBAL}"]
        if self._own is not None:
            paths.append(f"the personal model: {self._folder / _PERSONAL}")
        self._say(f"{', '.join(paths)} (secagg evaluate FILE --model {self._received.model} --dataset NAME)")

    def _improve(self, announced: RoundAnnouncement, model: nn.Module) -> None:
        """Train the personal model with a received one, and keep it."""
        # The policy has accepted the task's names.
        method = personal_method(self._personal, announced.training, Task(announced.loss, announced.metrics))
        data = self._examples.training.shaped_for(announced.image_shape, announced.input_type)
        seed = derived_seed(0, PERSONALIZATION_SEED, announced.round)
        batch_size = announced.training.batch_size
        with torch_threads(worthwhile_threads(model, data.image_shape, batch_size, data.images.dtype)):
            if isinstance(method, Ditto):
                # A copy, since a failed step leaves no usable model.
                own = self._stored_or(copy.deepcopy(model)) if self._own is None else copy.deepcopy(self._own)
                method.improve(own, model, data.images, data.labels, seed=seed)
            else:
                own = copy.deepcopy(model)
                method.personalize(own, data.images, data.labels, seed=seed)
        self._own, self._steps_done = own, announced.round
        self._keep(_PERSONAL, self._own)

    def _stored_or(self, model: nn.Module) -> nn.Module:
        """Return the personal model that an earlier process of this client kept, or else the given one."""
        assert self._folder is not None  # noqa: S101 - a personal model needs a folder
        try:
            load_model(model, (self._folder / _PERSONAL).read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            why = " ".join(str(error).split())
            raise ConfigError(
                f"{self._folder / _PERSONAL} is not a model of this training: {why}; move it away"
            ) from None
        return model

    def _keep(self, name: str, model: nn.Module) -> None:
        assert self._folder is not None  # noqa: S101 - only called with a folder
        try:
            replace_file(self._folder / name, model_to_bytes(model))
        except OSError as error:
            raise ConfigError(f"cannot write to {self._folder}: {error.strerror}") from error
