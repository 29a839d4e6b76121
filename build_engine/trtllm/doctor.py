"""Compares the names that this package uses (names.py) with the TensorRT-LLM that is installed.

    python -m build_engine.trtllm.doctor

The first command on real hardware: one line per name, PASS or FAIL with what differs. Exit code 0: all agree; 1: something
differs; 2: TensorRT-LLM is not installed. It builds nothing, but importing TensorRT-LLM needs a GPU driver.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from build_engine.trtllm.names import NAMES, OUR_KEYS, VERSION, Name

_PACKAGE = "tensorrt_llm"


def main(arguments: list[str]) -> int:
    """Print the comparison; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m build_engine.trtllm.doctor",
        description="Compare the names that the build uses with the installed TensorRT-LLM.",
    ).parse_args(arguments)
    if importlib.util.find_spec(_PACKAGE) is None:
        print(
            f"{_PACKAGE} is not installed in {sys.executable}: nothing to compare. Run this in the container that builds the "
            "engines (docs/gpu.md)"
        )
        return 2
    try:
        installed = importlib.import_module(_PACKAGE)
    except (ImportError, OSError, RuntimeError) as error:
        print(f"{_PACKAGE} is installed but cannot be imported: {error}. It needs a GPU driver and TensorRT")
        return 2
    compared = [(f"{_PACKAGE} {VERSION}", _version(str(getattr(installed, "__version__", "unknown"))))]
    compared += [(f"{name.path} ({name.source})", differences(name)) for name in NAMES]
    for subject, wrong in compared:
        print(f"FAIL  {subject}: {'; '.join(wrong)}" if wrong else f"PASS  {subject}")
    failed = sum(bool(wrong) for _, wrong in compared)
    print(f"{failed} of {len(compared)} differ" if failed else f"all {len(compared)} agree")
    return 1 if failed else 0


def differences(name: Name) -> list[str]:
    """What the installed TensorRT-LLM has otherwise than `name` says; empty: it agrees."""
    try:
        found = _resolve(name.path)
    except (ImportError, AttributeError) as error:
        return [f"not found: {error}"]
    accepted, any_keyword = _parameters(found)
    missing = [
        f"no keyword {keyword!r}" for keyword in name.keywords if keyword not in (*accepted, *name.positional)
    ]
    leading = tuple(accepted[: len(name.positional)])
    if leading != name.positional:
        missing.append(f"parameters begin with {leading}, not {name.positional}")
    if name.takes_any and not any_keyword:
        missing.append(f"refuses unknown keywords; {', '.join(OUR_KEYS)} would be lost")
    missing += [f"no attribute {attribute!r}" for attribute in name.attributes if not _has(found, attribute)]
    return missing


def _version(installed: str) -> list[str]:
    same = installed.split(".")[:2] == VERSION.split(".")
    return [] if same else [f"{installed} is installed; the list was made for {VERSION}.x"]


def _resolve(path: str) -> Any:
    """Import the longest prefix that is a module, then follow attributes."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module exists, but not what it imports itself
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ImportError(path)


def _parameters(found: Any) -> tuple[list[str], bool]:
    """Names that a call accepts, in order, and whether it takes any keyword."""
    fields = getattr(found, "model_fields", None)
    if isinstance(fields, dict):  # pydantic
        return list(fields), False
    accepted: dict[str, None] = {}
    any_keyword = False
    for called in _constructors(found) if inspect.isclass(found) else [found]:
        any_keyword = False  # the last constructor that is reached decides
        for parameter in inspect.signature(called).parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                any_keyword = True
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL and parameter.name != "self":
                accepted[parameter.name] = None
    return list(accepted), any_keyword


def _constructors(cls: type) -> Iterator[Any]:
    """The class's own __init__ first: a base's counts only if keywords are handed on to it."""
    for base in cls.__mro__:
        init = base.__dict__.get("__init__")
        if not inspect.isfunction(init):
            continue
        yield init
        kinds = {parameter.kind for parameter in inspect.signature(init).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return


def _has(found: Any, attribute: str) -> bool:
    if hasattr(found, attribute):
        return True
    return inspect.isclass(found) and attribute in set(_assigned(found.__mro__))


def _assigned(classes: Iterable[type]) -> Iterator[str]:
    """Attributes that methods of the classes assign to `self`, and annotated fields."""
    for cls in classes:
        if cls is object:
            continue
        try:
            source = inspect.getsource(cls)
        except (OSError, TypeError):  # a class of an extension module
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(source))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.attr
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
