"""names.py lists everything of TensorRT-LLM that the package uses, and the doctor finds what an installation has otherwise."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import build_engine.trtllm
from build_engine.trtllm import doctor
from build_engine.trtllm.config import text_config
from build_engine.trtllm.engine_config import _FORBIDDEN_FEATURES
from build_engine.trtllm.names import NAMES, OUR_KEYS, Name
from build_engine.trtllm.options import WEIGHTS, EngineOptions
from tests.trtllm.engine_json import facts

PACKAGE = Path(build_engine.trtllm.__file__).parent
LISTED = {name.path: name for name in NAMES}
KEYWORDS = {keyword for name in NAMES for keyword in name.keywords}
MEMBERS = {name.path.rpartition(".")[2] for name in NAMES} | {a for name in NAMES for a in name.attributes}


def unlisted(source: str) -> Iterator[str]:
    """What a module uses of tensorrt_llm that names.py does not list."""
    tree = ast.parse(source)
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "tensorrt_llm")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tensorrt_llm":
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    yield from (path for path in imported.values() if path not in LISTED)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported:
            path = imported[node.func.id]
            yield from _unlisted_arguments(path, LISTED.get(path, Name(path, "")), node)
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported
        ):
            path = imported[node.value.id]
            if node.attr not in LISTED.get(path, Name(path, "")).attributes:
                yield f"{path}.{node.attr}"
        elif (
            isinstance(node, ast.Attribute)
            and _is_super(node.value)
            and node.attr not in (*MEMBERS, "__init__")
        ):
            yield f"super().{node.attr}"


def _unlisted_arguments(path: str, listed: Name, call: ast.Call) -> Iterator[str]:
    for keyword in call.keywords:
        # **config is allowed where the list says that any keyword is taken; another test compares the keys.
        if keyword.arg is None and not listed.takes_any:
            yield f"{path}(**...)"
        if keyword.arg is not None and keyword.arg not in (*listed.keywords, *listed.positional):
            yield f"{path}({keyword.arg}=)"
    if len(call.args) > len(listed.positional):
        yield f"{path} with {len(call.args)} arguments by position"


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


@pytest.mark.parametrize("module", sorted(path.name for path in PACKAGE.glob("*.py")))
def test_every_import_and_keyword_is_listed(module: str) -> None:
    assert list(unlisted((PACKAGE / module).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tensorrt_llm", "tensorrt_llm"),
        ("from tensorrt_llm.functional import gelu", "tensorrt_llm.functional.gelu"),
        (
            "def f():\n from tensorrt_llm.builder import build\n build(1, 2, tune=3)",
            "tensorrt_llm.builder.build(tune=)",
        ),
        (
            "from tensorrt_llm.builder import build as b\nb(1, 2, 3)",
            "tensorrt_llm.builder.build with 3 arguments",
        ),
        ("from tensorrt_llm.builder import build\nbuild(**x)", "tensorrt_llm.builder.build(**...)"),
        (
            "from tensorrt_llm.builder import KVCacheType\nKVCacheType.FAST",
            "tensorrt_llm.builder.KVCacheType.FAST",
        ),
        ("class A(B):\n def f(self):\n  super().compile()", "super().compile"),
    ],
)
def test_an_unlisted_name_would_be_found(source: str, found: str) -> None:
    (made,) = unlisted(source)
    assert made.startswith(found)


def test_every_key_of_the_model_configuration_is_listed() -> None:
    text, architecture = facts("4B")
    config = LISTED["tensorrt_llm.models.qwen.config.QWenConfig"]
    quantization = LISTED["tensorrt_llm.models.modeling_utils.QuantConfig"]
    mapping = LISTED["tensorrt_llm.mapping.Mapping"]
    algorithms = LISTED["tensorrt_llm.quantization.QuantAlgo"].attributes
    for weights in WEIGHTS:
        made = text_config(text, architecture, 3, EngineOptions(weights=weights), 8192)
        assert set(made) <= {*config.keywords, *OUR_KEYS}
        assert set(OUR_KEYS) <= set(made)
        assert set(made["quantization"]) <= set(quantization.keywords)
        assert set(made["mapping"]) <= set(mapping.keywords)
        assert made["quantization"]["quant_algo"] in (None, *algorithms)


def test_every_key_read_from_an_engine_is_listed() -> None:
    source = (PACKAGE / "engine_config.py").read_text(encoding="utf-8")
    readers = ("integer", "flag", "text", "text_or_none", "child", "at")
    read = {
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in readers
        if isinstance(node.args[0], ast.Constant)
    }
    # "type" is a key of rotary_scaling; the sections themselves are attributes of EngineConfig.
    known = {*KEYWORDS, *OUR_KEYS, "type", *LISTED["tensorrt_llm.builder.EngineConfig"].attributes}
    assert read | set(_FORBIDDEN_FEATURES) <= known
    assert len(read) > 25, "the test no longer sees how keys are read"


@pytest.mark.usefixtures("model_module")
def test_the_strict_stand_in_has_the_listed_signatures() -> None:
    agreeing = [name.path for name in NAMES if not doctor.differences(name)]
    for path in (
        "functional.Tensor", "functional.cast", "functional.embedding", "functional.expand", "functional.shape",
        "functional.unsqueeze", "functional.where", "models.modeling_utils.DecoderLayerList",
        "models.modeling_utils.DecoderLayerList.forward", "models.qwen.model.QWenDecoderLayer",
        "models.qwen.model.QWenDecoderLayer.forward", "models.qwen.model.QWenModel",
        "models.qwen.model.QWenModel.forward", "models.qwen.model.QWenForCausalLM",
        "models.model_weights_loader.ModelWeightsLoader",
        "models.model_weights_loader.ModelWeightsLoader.generate_tllm_weights",
    ):  # fmt: skip
        assert f"tensorrt_llm.{path}" in agreeing


# The doctor, on package trees made from the list: one that agrees, and others spoilt on purpose.


def tree(directory: Path) -> Path:
    """A package with everything in the list, written as source files; returns its directory."""
    root = directory / "tensorrt_llm"
    sources: dict[str, dict[str, list[str]]] = {}
    for name in sorted(NAMES, key=lambda name: name.path.count(".")):
        module, holder, method = _split(name.path)
        objects = sources.setdefault(module, {})
        if method:
            objects.setdefault(holder, [f"class {holder}:"]).append(
                f"    def {method}({_parameters('self', name)}): ..."
            )
        elif holder[0].islower():
            objects[holder] = [f"def {holder}({_parameters('', name)}): ..."]
        elif holder == "PluginConfig":  # pydantic
            objects[holder] = [f"class {holder}:", f"    model_fields = {dict.fromkeys(name.keywords)!r}"]
        else:
            assigned = [f"        self.{attribute} = None" for attribute in name.attributes]
            head = [f"class {holder}:", f"    def __init__({_parameters('self', name)}):", "        pass"]
            objects[holder] = [*head, *assigned]
    for module, objects in sources.items():
        folder = directory.joinpath(*module.split("."))
        folder.mkdir(parents=True, exist_ok=True)
        text = "\n\n".join("\n".join(lines) for lines in objects.values())
        (folder / "__init__.py").write_text(text, encoding="utf-8")
    for folder in (path for path in root.rglob("*") if path.is_dir()):
        (folder / "__init__.py").touch()
    (root / "__init__.py").write_text("__version__ = '1.2.1'", encoding="utf-8")
    return root


def _split(path: str) -> tuple[str, str, str]:
    """Module, class or function, method."""
    parts = path.split(".")
    at = next((i for i, part in enumerate(parts) if part[0].isupper()), len(parts) - 1)
    return ".".join(parts[:at]), parts[at], ".".join(parts[at + 1 :])


def _parameters(first: str, name: Name) -> str:
    optional = [f"{keyword}=None" for keyword in name.keywords] + ["**rest"] * name.takes_any
    return ", ".join([first, *name.positional, *optional]).removeprefix(", ")


def examine(directory: Path) -> tuple[int, str]:
    """Run the doctor as a command with `directory` in front of all packages."""
    made = subprocess.run(
        [sys.executable, "-m", doctor.__name__],
        env={**os.environ, "PYTHONPATH": str(directory)},
        cwd=PACKAGE.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not made.stderr, made.stderr
    return made.returncode, made.stdout


def test_an_installation_that_agrees(tmp_path: Path) -> None:
    tree(tmp_path)
    code, said = examine(tmp_path)
    assert (code, said.count("PASS"), "FAIL" in said) == (0, len(NAMES) + 1, False), said
    assert "all" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("__init__.py", "1.2.1", "1.3.0", "1.3.0 is installed; the list was made for 1.2.x"),
        ("functional/__init__.py", "where(condition, left, right", "where(left, right, condition",
         "where (tensorrt_llm/functional.py): parameters begin with ('left', 'right', 'condition')"),
        ("functional/__init__.py", "def cast", "def cast_to", "cast (tensorrt_llm/functional.py): not found"),
        ("builder/__init__.py", "use_mrope=None", "mrope=None", "BuildConfig (tensorrt_llm/builder.py): no keyword 'use_mrope'"),
        ("builder/__init__.py", "self.PAGED", "self.CONTINUOUS", "no attribute 'PAGED'"),
        ("plugin/__init__.py", "'reduce_fusion'", "'fuse'", "no keyword 'reduce_fusion'"),
        ("models/qwen/config/__init__.py", ", **rest", "", "refuses unknown keywords; qwen_type"),
        ("layers/attention/__init__.py", "self.q_layernorm", "self.q_norm", "no attribute 'q_layernorm'"),
        ("models/modeling_utils/__init__.py", "mrope_rotary_cos_sin_size", "mrope_size",
         "prepare_inputs (tensorrt_llm/models/modeling_utils.py): no keyword 'mrope_rotary_cos_sin_size'"),
        ("models/qwen/model/__init__.py", "class QWenModel", "import nothing_such\nclass QWenModel",
         "QWenModel (tensorrt_llm/models/qwen/model.py): not found: No module named 'nothing_such'"),
    ],
)  # fmt: skip
def test_an_installation_that_differs(file: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tree(tmp_path) / file
    source = path.read_text(encoding="utf-8")
    assert old in source
    path.write_text(source.replace(old, new), encoding="utf-8")
    code, said = examine(tmp_path)
    failed = [line for line in said.splitlines() if line.startswith("FAIL")]
    assert code == 1
    assert any(message in line for line in failed), said
    assert said.splitlines()[-1] == f"{len(failed)} of {len(NAMES) + 1} differ"


def test_without_an_installation_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 2
    assert "tensorrt_llm is not installed" in capsys.readouterr().out


def test_an_installation_that_cannot_be_imported(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "__init__.py").write_text("raise OSError('libcuda.so.1: cannot open')", encoding="utf-8")
    code, said = examine(tmp_path)
    assert code == 2
    assert "cannot be imported: libcuda.so.1" in said


def test_inherited_fields_and_constructors_count() -> None:
    class Base:
        kept: int = 0

        def __init__(self, width: int = 0) -> None: ...

    class Open(Base):
        def __init__(self, depth: int = 0, **rest: Any) -> None: ...

    class Closed(Base):
        def __init__(self, depth: int = 0) -> None: ...

    module = ModuleType("tensorrt_llm_trial")
    vars(module).update(Open=Open, Closed=Closed)
    sys.modules[module.__name__] = module
    try:

        def wanted(cls: str) -> Name:
            path = f"{module.__name__}.{cls}"
            return Name(path, "", keywords=("depth", "width"), attributes=("kept",))

        assert doctor.differences(wanted("Open")) == []
        assert doctor.differences(wanted("Closed")) == ["no keyword 'width'"]
        (lost,) = doctor.differences(replace(wanted("Open"), takes_any=True))
        assert lost.startswith("refuses unknown keywords"), "the base refuses what the class hands on"
    finally:
        del sys.modules[module.__name__]
