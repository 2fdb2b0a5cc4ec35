"""Machine code kept on disk: a function is compiled by numba once, and loaded by LLVM alone ever after.

Importing numba takes longer than a small training and more memory than its data, so nothing imports it where all code is at hand. What numba
compiles is an object file; its name is a digest of the function's text, of the processor and of the versions that compile. It holds
a SHA-256 of itself: a damaged file is compiled again.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from nnc.compiler.diagnostics import SpecError

from .files import write_bytes

on_compiling: list[Callable[[], None]] = []  # each is called once, before the next function is compiled that is not kept yet
_HEAD = b"nnc machine code 1\n"
# What comes of importing numba or LLVM where there is none, a library of theirs is missing, or their versions or NumPy's do not fit.
_UNFIT = (ImportError, OSError, RuntimeError, SystemError, AttributeError)
_engines: list[Any] = []  # the code lives as long as they


@contextmanager
def announcing(listener: Callable[[], None]) -> Iterator[None]:
    """Have a listener told, once, of compilation while inside, and nobody after."""
    on_compiling[:] = [listener]
    try:
        yield
    finally:
        on_compiling.clear()


class Definition(Protocol):
    """A function that is not compiled yet."""

    def compiled(self) -> tuple[str, bytes]:
        """Its name in the object file, and the file."""


class Code:
    """A function, by its digest; `define` is asked where it is not kept yet."""

    def __init__(self, text: str, name: str, define: Callable[[], Definition]):
        self.text, self.name, self.define = text, name, define

    @property
    def _path(self) -> Path:
        key = hashlib.sha256(f"{_conditions()} {self.name} {self.text}".encode()).hexdigest()[:32]
        return folder() / f"{self.name}-{key}.o"

    @property
    def kept(self) -> bool:
        """Whether it is at hand without compiling."""
        return self._path.is_file()

    @cached_property
    def address(self) -> int:
        path = self._path
        found = _kept(path)
        if found is None:
            _announced()
            found = self.define().compiled()
            name, code = found
            content = name.encode() + b"\n" + code
            with suppress(SpecError):  # a full disk: it runs all the same, and is compiled again next time
                write_bytes(path, _HEAD + hashlib.sha256(content).digest() + content, "free some space, or name another place in the variable NNC_CACHE")
        return _loaded(*found)

    def callable(self, parameters: int) -> Callable[..., int]:
        """The function, which takes so many integers and gives one, for Python; it runs without the interpreter's lock."""
        made: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * parameters)(self.address)
        return made


class Codes:
    """The functions of a module that imports numba, by name; the module is imported only to compile."""

    def __init__(self, module: str):
        self._module = module
        modules.append(self)

    def __getattr__(self, name: str) -> Code:
        if name.startswith("_"):
            raise AttributeError(name)
        code = Code(text_of(self._module), name, lambda: getattr(importlib.import_module(f".{self._module}", __package__), name))
        self.__dict__[name] = code
        return code

    def every(self) -> list[Code]:
        """All functions of the module; imports it."""
        held = vars(importlib.import_module(f".{self._module}", __package__))
        return [getattr(self, name) for name, value in held.items() if hasattr(value, "compiled") and hasattr(value, "signature")]


modules: list[Codes] = []


@cache
def text_of(module: str) -> str:
    """A module's text and that of its siblings that it takes functions from."""
    text = Path(__file__).with_name(f"{module}.py").read_text("utf-8")
    siblings = re.findall(r"^from \.(\w+) import", text, re.MULTILINE)
    return "\n".join([*(text_of(sibling) for sibling in siblings if sibling not in ("blas", "machine_code")), text])


def folder() -> Path:
    """Where compiled code is kept: NNC_CACHE, or the user's cache."""
    given = os.environ.get("NNC_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nnc" / "code"


@cache
def numba() -> Any:
    """numba, with LLVM told to check as many arrays for overlap as a loop has: else it gives up on long ones."""
    import llvmlite.binding as llvm
    import numba as package

    llvm.set_option("nnc", "--runtime-memory-check-threshold=512")
    return package


def compiles() -> str:
    """Why numba cannot compile here, empty where it can: not installed, or not made for this NumPy. Found out once for its version."""
    try:
        known = folder() / f"compiles-{hashlib.sha256(_conditions().encode()).hexdigest()[:16]}"
        if not known.is_file():
            numba()
            known.touch()
    except _UNFIT as error:
        return f"numba cannot be used: {str(error) or type(error).__name__}"
    return ""


@cache
def has_wide_registers() -> bool:
    """Whether the processor has 32 registers of sixteen numbers of float32."""
    import llvmlite.binding as llvm

    return bool(llvm.get_host_cpu_features().get("avx512f"))


@cache
def _conditions() -> str:
    import llvmlite.binding as llvm

    versions = f"{sys.version} numba {metadata.version('numba')} numpy {metadata.version('numpy')}"
    return f"{versions} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


def _kept(path: Path) -> tuple[str, bytes] | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, content = data[len(_HEAD) : len(_HEAD) + 32], data[len(_HEAD) + 32 :]
    if not data.startswith(_HEAD) or hashlib.sha256(content).digest() != digest:
        return None
    name, _, code = content.partition(b"\n")
    return name.decode(), code


@cache
def _llvm() -> Any:
    """LLVM, ready to load. Code refers to numba for exceptions, which kernels have none of: should one come after all, the process ends there."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    end = ctypes.cast(ctypes.pythonapi.Py_FatalError, ctypes.c_void_p).value
    for name in ("numba_gil_ensure", "numba_gil_release", "numba_do_raise", "numba_unpickle", "numba_runtime_build_excinfo_struct", "NRT_MemInfo_call_dtor",
                 "NRT_Free", "NRT_incref", "NRT_decref"):  # fmt: skip
        if llvm.address_of_symbol(name) is None:
            llvm.add_symbol(name, end)
    return llvm


def _loaded(name: str, code: bytes) -> int:
    """The function's address. Each file has an engine of its own: what they hold may have equal names."""
    llvm = _llvm()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), llvm.Target.from_default_triple().create_target_machine(jit=True))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(name))


def _announced() -> None:
    while on_compiling:
        on_compiling.pop()()
