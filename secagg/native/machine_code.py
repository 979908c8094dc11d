"""Compile functions for this processor with LLVM, in memory: nothing is written to disk or read from it."""

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

try:
    from llvmlite import binding as llvm
    from llvmlite import ir as ir
except ImportError:
    llvm = ir = None

Function = Callable[..., None]
"""A compiled function of addresses and 64-bit integers. It releases the interpreter lock."""


def available() -> bool:
    """Return whether there is a compiler, and the words of memory are little-endian, as all ours are."""
    return llvm is not None and sys.byteorder == "little"


def architecture() -> str:
    """Return ``x86_64``, ``aarch64``, or the system's name of another architecture."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def features() -> frozenset[str]:
    """Return LLVM's names of this processor's features."""
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


def new_function(name: str, num_pointers: int, num_integers: int) -> tuple[Any, Any, list[Any], list[Any]]:
    """Begin a module with one function of pointers, which do not overlap, and 64-bit integers.

    Returns:
        The module, a builder in the function's first block, the pointers, and the integers.
    """
    module = ir.Module(name)
    kinds = [ir.PointerType()] * num_pointers + [ir.IntType(64)] * num_integers
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    for argument in function.args[:num_pointers]:
        argument.add_attribute("noalias")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    return module, builder, list(function.args[:num_pointers]), list(function.args[num_pointers:])


def variable(builder: Any, kind: Any) -> Any:
    """Emit a variable in the function's first block, from where LLVM moves it to a register."""
    with builder.goto_entry_block():
        place = builder.alloca(kind)
    # Like all pointers here, without the type of what it points to; that is given with each access.
    place.type = ir.PointerType()
    return place


@contextmanager
def loop(builder: Any, start: Any, stop: Any) -> Iterator[Any]:
    """Emit a loop around what the body emits, for the index from ``start`` up to ``stop`` - 1; yield the index."""
    counter = variable(builder, start.type)
    builder.store(start, counter)
    test = builder.append_basic_block("test")
    body = builder.append_basic_block("body")
    after = builder.append_basic_block("after")
    builder.branch(test)
    builder.position_at_end(test)
    index = builder.load(counter, typ=start.type)
    builder.cbranch(builder.icmp_unsigned("<", index, stop), body, after)
    builder.position_at_end(body)
    yield index
    builder.store(builder.add(index, ir.Constant(start.type, 1)), counter)
    builder.branch(test)
    builder.position_at_end(after)


def at(builder: Any, pointer: Any, offset: Any) -> Any:
    """Emit the address ``offset`` bytes (an int or a 64-bit value) behind a pointer."""
    if isinstance(offset, int):
        offset = ir.Constant(ir.IntType(64), offset)
    return builder.gep(pointer, [offset], source_etype=ir.IntType(8))


def intrinsic(module: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Return LLVM's intrinsic function of this name, declared in the module."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def assembly(module: Any, triple: str | None = None, cpu: str | None = None, features: str | None = None) -> str:
    """Return the assembly of a module, by default for this processor."""
    machine, parsed = _optimized(module, triple, cpu, features)
    return str(machine.emit_assembly(parsed))


def compiled(module: Any) -> Function:
    """Return the module's function, compiled for this processor."""
    machine, parsed = _optimized(module, None, None, None)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    (function,) = (function for function in module.functions if not function.is_declaration)
    kinds = [
        ctypes.c_void_p if isinstance(argument.type, ir.PointerType) else ctypes.c_uint64 for argument in function.args
    ]
    call = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address(function.name))

    def run(*arguments: int) -> None:
        # The closure keeps the engine, which owns the code.
        assert engine  # noqa: S101
        call(*arguments)

    return run


def _optimized(module: Any, triple: str | None, cpu: str | None, features: str | None) -> tuple[Any, Any]:
    """Return the target machine, and the module after LLVM's standard optimizations."""
    if triple is None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        triple, cpu = llvm.get_default_triple(), llvm.get_host_cpu_name()
        features = llvm.get_host_cpu_features().flatten()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu or "", features=features or "", opt=2)
    module.triple = triple
    module.data_layout = str(machine.target_data)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    # Variables become registers. The whole pipeline of optimizations takes five times as long for the same speed.
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.run(parsed, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    return machine, parsed
