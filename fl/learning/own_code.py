"""The user's own model and data, given as ``package.module:attribute``, checked before anything is trained.

A `ModelFactory` makes a model, a `DatasetLoader` loads a data set. Modules are also searched in the working directory.
Naming a module runs its code, so names come from the user's command line or config, and never from a server
(`fl.network` knows the models of `fl.learning.models` only).
"""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import nn

from fl.data import Dataset, load_dataset
from fl.errors import ConfigError, DataError, FLError
from fl.learning.cpu import seeded_global_generator
from fl.learning.models import build_model
from fl.learning.parameter_layout import ParameterLayout, has_lazy_layers
from fl.learning.settings import IN_PROGRAM
from secagg import SecAggError

_Result = TypeVar("_Result")

_OWN_REFERENCE = "_secagg_reference"
# Lines of Python's own library and of this package do not help the user.
_NOT_THE_USERS = (Path(os.__file__).parent, Path(__file__).parent)


class ModelFactory(Protocol):
    """A function that makes an untrained model: ``factory(example_shape, num_classes)``.

    The model takes examples (N, *example_shape) of the data set's type, and returns logits (N, num_classes), or what
    the task's loss takes (`fl.data.Dataset` says what ``num_classes`` then is). It is made under the run's seed, so
    weights drawn from torch's global generator are the same for all parties. Lazy layers (`nn.LazyLinear`) get their
    shapes by one forward pass. Its trained parameters and float buffers are sent and averaged, and must be finite.
    Frozen parameters (``requires_grad=False``) are not sent, so all parties must make the same.
    """

    def __call__(self, example_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return a new model."""
        ...


ModelSource: TypeAlias = str | nn.Module | type[nn.Module] | Callable[..., nn.Module]
"""A model as `make_model` takes it."""


class DatasetLoader(Protocol):
    """A function that loads a data set: ``loader(data_dir)``, with ``data_dir`` the value of ``--data-dir``, or None.

    It returns a `fl.data.Dataset`. If that has ``train_writers``, the owner of each training example, then
    ``--partition by-owner`` makes each owner a client.
    """

    def __call__(self, data_dir: Path | None) -> Dataset:
        """Return the data set."""
        ...


def is_reference(name: str) -> bool:
    """Return whether a name has the form ``package.module:attribute``; built-in names do not."""
    return ":" in name


def make_model(
    model: ModelSource,
    *,
    image_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    check: Callable[[Any], None] | None = None,
) -> nn.Module:
    """Return a model of `fl.learning.models`, or the user's own.

    Args:
        model: a name of `fl.learning.models`; ``package.module:name`` of a class, factory or model; or one of these.
            A class or factory that needs arguments is called as `ModelFactory` says, any other without arguments; a
            model is copied.
        image_shape, num_classes: the shape of one example, and the number of outputs.
        seed: the seed of torch's generator while the model is made.
        dtype: the type of the two examples on which the model is tried.
        check: raises ConfigError if the output for them does not fit the task. None: the user's own model must return
            logits.

    Raises:
        ConfigError: the name is unknown, or the model is not as `ModelFactory` says. The text names the reason, and the
            line if the user's code failed.
    """
    if isinstance(model, str) and not is_reference(model):
        if dtype != torch.float32:
            raise ConfigError(f"{model} takes float inputs, not {dtype}: give floats, or your own model")
        built = build_model(model, image_shape=image_shape, num_classes=num_classes, seed=seed)
        if check is not None:
            _check_output(model, _trial(model, built, image_shape, dtype), check)
        return built
    name = shown_name(reference_to(model))
    source = load_reference(model, "model") if isinstance(model, str) else model
    with seeded_global_generator(seed):
        made: nn.Module
        made, is_told = call_own(name, lambda: _made(source, image_shape, num_classes))
        _check_model(name, made, image_shape, num_classes, dtype, check, is_told=is_told)
    # Kept in the object itself, since it is copied and sent to the processes that train it.
    vars(made)[_OWN_REFERENCE] = name
    return made


def _made(source: Any, image_shape: tuple[int, ...], num_classes: int) -> tuple[Any, bool]:
    """Return a new model, and whether it was told the number of classes."""
    if isinstance(source, nn.Module):
        return copy.deepcopy(source), False
    if not callable(source):
        raise ConfigError(f"a model is a name, a class, a factory or a torch.nn.Module, not {source!r}")
    try:
        inspect.signature(source).bind()
    except TypeError:
        return source(image_shape, num_classes), True
    except ValueError:
        pass  # it has no signature
    return source(), False


def reference_to(value: Any) -> str:
    """Return a name as it is, ``package.module:name`` of a class or function, and ``python:name`` of anything else.

    The last is for what no other program can import.
    """
    if isinstance(value, str):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if module != "__main__" and getattr(sys.modules.get(module or ""), name, None) is value:
        return f"{module}:{name}"
    return f"{IN_PROGRAM}:{getattr(value, '__name__', type(value).__name__)}"


@contextmanager
def own_code_of(model: nn.Module) -> Iterator[None]:
    """Turn errors of the user's own model (`make_model`) inside the context into one line.

    Raises:
        ConfigError: the model raised an error. The text names the model, the error and its line.
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


def is_in_program(name: str) -> bool:
    """Return whether a name stands for an object that only the program that has it knows."""
    return name.startswith(f"{IN_PROGRAM}:")


def shown_name(reference: str) -> str:
    """Return a name of a model or data set for people."""
    return reference.removeprefix(f"{IN_PROGRAM}:")


def make_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """Return a data set of `fl.data`, or the user's own.

    Raises:
        ConfigError: the name is unknown, or the data set is not as `DatasetLoader` says.
        DataError: the data are missing, damaged, or do not fit each other.
    """
    if not is_reference(name):
        return load_dataset(name, data_dir)
    loader: DatasetLoader = load_reference(name, "dataset")
    dataset = call_own(name, lambda: loader(data_dir))
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"dataset {name}: it must return a fl.data.Dataset, not {type(dataset).__name__}")
    first = dataset.train_labels[0]
    if dataset.has_classes and (dataset.train_labels == first).all():
        raise DataError(f"dataset {name}: all training labels are {first}: at least two classes are needed")
    return dataset


def load_reference(reference: str, what: str) -> Any:
    """Return the callable ``package.module:attribute``. Raises ConfigError with the part that is missing."""
    module_name, _, attribute = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise ConfigError(f"{what} {reference!r}: write package.module:name, such as my_models:make_model")
    if is_in_program(reference):
        raise ConfigError(
            f"{what} {attribute} was an object of a Python program, and has no name here: go on in that program, with "
            "fl.federated(..., resume=True)"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        # Last, since child processes search there too: a folder `transport` here must not run in their place.
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise ConfigError(f"{what} {reference}: {module_name} needs {error.name}, which is not installed") from None
        raise ConfigError(f"{what} {reference}: no module {error.name} is here or installed") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _failed(f"{what} {reference}", error) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{what} {reference}: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{what} {reference}: it must be callable, not of type {type(found).__name__}")
    return found


def _check_model(
    name: str,
    model: Any,
    image_shape: tuple[int, ...],
    num_classes: int,
    dtype: torch.dtype,
    check: Callable[[Any], None] | None,
    *,
    is_told: bool,
) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {name}: it must return a torch.nn.Module, not {type(model).__name__}")
    if has_lazy_layers(model):
        # Lazy tensors have shapes, and can be checked, after one forward pass.
        _trial(name, model, image_shape, dtype)
    try:
        size = ParameterLayout.of(model).size
    except FLError as error:
        raise ConfigError(f"model {name}: {error}") from None
    if not any(parameter.requires_grad and parameter.numel() for parameter in model.parameters()):
        raise ConfigError(f"model {name}: it has nothing to train")
    if any(tensor.device.type != "cpu" for tensor in model.state_dict().values()):
        raise ConfigError(f"model {name}: its {size} values must be on the CPU")
    if not all(torch.isfinite(tensor).all() for tensor in model.state_dict().values() if tensor.is_floating_point()):
        raise ConfigError(f"model {name}: its initial values are not all finite")
    logits = _trial(name, model, image_shape, dtype)
    if check is not None:
        _check_output(name, logits, check)
        return
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    # A model that chooses its number of classes may know of some that nobody has an example of.
    if shape != (2, num_classes) and (is_told or len(shape) != 2 or shape[0] != 2 or int(shape[1]) < num_classes):
        raise ConfigError(
            f"model {name}: for 2 examples of shape {image_shape} it must return logits (2, {num_classes}), not {shape}"
        )


def _check_output(name: str, output: Any, check: Callable[[Any], None]) -> None:
    try:
        check(output)
    except ConfigError as error:
        raise ConfigError(f"model {name}: {error}") from error


def _trial(name: str, model: nn.Module, image_shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """Return the model's output for two examples."""
    was_training = model.training
    with torch.no_grad():
        logits = call_own(name, lambda: model.eval()(torch.zeros(2, *image_shape, dtype=dtype)))
    model.train(was_training)
    return logits


def call_own(name: str, step: Callable[[], _Result]) -> _Result:
    """Call the user's code. Its exceptions, including SystemExit, become one line that says where."""
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
    """Return file and line: the user's last one, or the last one if none is the user's (a model of torch's layers)."""
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
