"""The public names of `fl`: all present, each once, and none loads torch before it is used."""

import subprocess
import sys

import pytest

import fl


def test_each_name_is_there_once() -> None:
    assert sorted(set(fl.__all__)) == sorted(fl.__all__)
    assert set(fl._MODULES) < set(fl.__all__)
    for name in fl.__all__:
        assert getattr(fl, name).__name__ == name


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="module 'fl' has no attribute 'Nothing'"):
        fl.Nothing  # noqa: B018 - the access is what is tested


def test_importing_fl_loads_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, fl; sys.exit('torch' in sys.modules)"], check=False, timeout=60
    )
    assert done.returncode == 0
