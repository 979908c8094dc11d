"""The user's own model and data, given as ``package.module:attribute``, checked before anything is trained.

A model is made by a factory, `ModelFactory`; a data set by a loader, `DatasetLoader`. Modules are looked for in the
working directory too. Naming one means running its code: names come from the user's command line or config, and never
from a server (`fl.network` knows the models of `fl.learning.models` alone).
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from fl.data import Dataset, load_dataset
from fl.errors import ConfigError, DataError, FLError
from fl.learning.cpu import seeded_global_generator
from fl.learning.models import build_model
from fl.learning.parameter_layout import ParameterLayout, has_lazy_layers
from secagg import SecAggError

_Result = TypeVar("_Result")

_OWN_REFERENCE = "_secagg_reference"
# Whose lines tell the user nothing: Python's own library, and this package.
_NOT_THE_USERS = (Path(os.__file__).parent, Path(__file__).parent)


class ModelFactory(Protocol):
    """Makes an untrained model: ``factory(example_shape, num_classes)``.

    The model takes float32 examples (N, *example_shape) and gives logits (N, num_classes). It is made under the run's
    seed: weights drawn from torch's global generator are the same for everyone. Lazy layers (`nn.LazyLinear`) get their
    shapes by one forward pass. Its float parameters and buffers travel, are averaged, and must be finite.
    """

    def __call__(self, example_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A new model."""
        ...


class DatasetLoader(Protocol):
    """Loads a data set: ``loader(data_dir)``, where ``data_dir`` is what ``--data-dir`` says, or None.

    It gives a `fl.data.Dataset`. With ``train_writers`` in it, which say whose each training example is,
    ``--partition by-owner`` makes each owner a client.
    """

    def __call__(self, data_dir: Path | None) -> Dataset:
        """The data set."""
        ...


def is_reference(name: str) -> bool:
    """Whether a name is ``package.module:attribute``, and none of those that are known here."""
    return ":" in name


def make_model(name: str, *, image_shape: tuple[int, ...], num_classes: int, seed: int) -> nn.Module:
    """A model of `fl.learning.models`, or the user's own.

    Raises:
        ConfigError: unknown, or not what `ModelFactory` says; what was wrong with it, and in which line where its own
            code failed.
    """
    if not is_reference(name):
        return build_model(name, image_shape=image_shape, num_classes=num_classes, seed=seed)
    factory: ModelFactory = load_reference(name, "model")
    with seeded_global_generator(seed):
        model = _call(name, lambda: factory(image_shape, num_classes))
        _check_model(name, model, image_shape, num_classes)
    # In the object itself: it is copied, and sent to the processes that train it.
    vars(model)[_OWN_REFERENCE] = name
    return model


@contextmanager
def own_code_of(model: nn.Module) -> Iterator[None]:
    """Around what runs a model: where it is the user's own (`make_model`), what it raises becomes one line.

    Raises:
        ConfigError: which model, what it raised, and in which line.
    """
    try:
        yield
    except (FLError, SecAggError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        name = vars(model).get(_OWN_REFERENCE)
        if name is None:
            raise
        raise _failed(f"model {name}", error) from error


def make_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """A data set of `fl.data`, or the user's own.

    Raises:
        ConfigError: unknown, or not what `DatasetLoader` says.
        DataError: the data are missing, damaged, or do not fit each other.
    """
    if not is_reference(name):
        return load_dataset(name, data_dir)
    loader: DatasetLoader = load_reference(name, "dataset")
    dataset = _call(name, lambda: loader(data_dir))
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"dataset {name}: it must give a fl.data.Dataset, not {type(dataset).__name__}")
    first = dataset.train_labels[0]
    if (dataset.train_labels == first).all():
        raise DataError(f"dataset {name}: every training label is {first}: a model would have nothing to tell apart")
    return dataset


def load_reference(reference: str, what: str) -> Any:
    """The callable that ``package.module:attribute`` names. ConfigError that says which part of it is not there."""
    module_name, _, attribute = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise ConfigError(f"{what} {reference!r}: write package.module:name, such as my_models:make_model")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise ConfigError(f"{what} {reference}: {module_name} needs {error.name}, which is not installed") from None
        raise ConfigError(f"{what} {reference}: there is no module {error.name} here or among the installed") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _failed(f"{what} {reference}", error) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{what} {reference}: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{what} {reference}: it must be callable, and is of type {type(found).__name__}")
    return found


def _check_model(name: str, model: Any, image_shape: tuple[int, ...], num_classes: int) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {name}: it must give a torch.nn.Module, not {type(model).__name__}")
    if has_lazy_layers(model):
        # Their tensors have shapes, and can be looked at, after one forward pass.
        _trial(name, model, image_shape)
    try:
        size = ParameterLayout.of(model).size
    except FLError as error:
        raise ConfigError(f"model {name}: {error}") from None
    if not any(parameter.requires_grad and parameter.numel() for parameter in model.parameters()):
        raise ConfigError(f"model {name}: it has nothing to train")
    if any(tensor.device.type != "cpu" for tensor in model.state_dict().values()):
        raise ConfigError(f"model {name}: its {size} values must be on the CPU")
    if not all(torch.isfinite(tensor).all() for tensor in model.state_dict().values() if tensor.is_floating_point()):
        raise ConfigError(f"model {name}: it begins with values that are not finite")
    logits = _trial(name, model, image_shape)
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (2, num_classes):
        raise ConfigError(
            f"model {name}: for 2 examples of shape {image_shape} it must give logits (2, {num_classes}), not {shape}"
        )


def _trial(name: str, model: nn.Module, image_shape: tuple[int, ...]) -> Any:
    """What the model gives for two examples."""
    was_training = model.training
    with torch.no_grad():
        logits = _call(name, lambda: model.eval()(torch.zeros(2, *image_shape)))
    model.train(was_training)
    return logits


def _call(name: str, step: Callable[[], _Result]) -> _Result:
    """The user's code; what it raises, SystemExit too, becomes one line that says where."""
    try:
        return step()
    except (FLError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise _failed(name, error) from error


def _failed(what: str, error: BaseException) -> FLError:
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    text = ": ".join(filter(None, (type(error).__name__, " ".join(said.split()))))
    file, line = _place(error)
    kind = DataError if isinstance(error, OSError) else ConfigError
    return kind(f"{what}: {text} ({Path(file).name}, line {line})")


def _place(error: BaseException) -> tuple[str, int | None]:
    """File and line: the user's last one, and where there is none, such as in a model of torch's layers, the last."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if _is_the_users(frame.filename)), frames[-1])
    return frame.filename, frame.lineno


def _is_the_users(filename: str) -> bool:
    path = Path(filename)
    return not (
        filename.startswith("<")
        or {"site-packages", "dist-packages"} & set(path.parts)
        or any(path.is_relative_to(folder) for folder in _NOT_THE_USERS)
    )
