"""The public names of `import secagg`, and the modules that it must not load."""

import subprocess
import sys
import types
from typing import Any

import secagg

# The lean core embeds anywhere: it loads no learning framework, event loop, network or processes.
HEAVY = ("torch", "sklearn", "asyncio", "ssl", "socket", "selectors", "multiprocessing", "typer", "rich", "matplotlib")


def imported_with(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after the statement."""
    code = f"import sys; before = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603 - ours
    return set(result.stdout.split())


def test_importing_the_library_loads_nothing_heavy():
    loaded = imported_with("import secagg")
    assert {"secagg", "numpy", "msgpack"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_a_whole_session_loads_nothing_heavy():
    """Nothing is loaded later either, on first use."""
    session = """
import secagg, numpy
params = secagg.plan(num_clients=3, vector_length=4, value_bits=8).parameters
server = secagg.Server(params)
clients = [secagg.Client(params, i) for i in range(3)]
for c in clients: server.receive(c.client_id, c.start()[0].message)
for e in server.close_round(): server.receive(e.to, clients[e.to].receive(e.message)[0].message)
for e in server.close_round():
    clients[e.to].receive(e.message)
    server.receive(e.to, clients[e.to].submit_input(numpy.arange(4))[0].message)
for e in server.close_round(): server.receive(e.to, clients[e.to].receive(e.message)[0].message)
(ready,) = server.close_round()
(end,) = server.finish(ready.job.run())
assert end.sum.tolist() == [0, 3, 6, 9]
"""
    assert imported_with(session).isdisjoint(HEAVY)


def test_all_names_are_exactly_the_public_ones():
    public = {
        name
        for name, value in vars(secagg).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(secagg.__all__) == public


def test_all_is_sorted_without_repetition():
    """Constants, then classes, then functions: the linter's order."""

    def kind(name):
        return 0 if name.isupper() else 1 if name[0].isupper() else 2

    assert secagg.__all__ == sorted(set(secagg.__all__), key=lambda name: (kind(name), name))


def test_every_name_can_be_imported_with_a_docstring():
    for name in secagg.__all__:
        namespace: dict[str, Any] = {}
        exec(f"from secagg import {name}", namespace)  # noqa: S102 - as a user would write it
        value = namespace[name]
        if isinstance(value, type | types.FunctionType):
            assert value.__doc__, f"{name} has no docstring"
