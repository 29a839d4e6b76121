"""What can be known about the container images without building them."""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
SERVERS = ("Dockerfile.cpu", "Dockerfile.gpu")
DOCKERFILES = (*SERVERS, "Dockerfile.gateway")
# Import names that differ from the distribution's.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "grpc": "tritonclient",
    "google": "tritonclient",
    "botocore": "boto3",
    "ml_dtypes": "ml-dtypes",
    "cv2": "opencv-python-headless",
    "yaml": "pyyaml",
    "starlette": "fastapi",
    "multipart": "python-multipart",
    "confluent_kafka": "confluent-kafka",
    "prometheus_client": "prometheus-client",
    "pydantic_settings": "pydantic-settings",
    "pytriton": "nvidia-pytriton",
    "gevent": "locust",
    "pydantic_core": "pydantic",
    "opentelemetry": "opentelemetry-sdk",
}
# Packages of the base image that must stay as they are, and those of the other target.
IMAGE = {
    "numpy",
    "torch",
    "transformers",
    "tensorrt_llm",
    "tensorrt",
    "modelopt",
    "tensorrt_rtx",
    "cuda",
    "mpi4py",
    "typing_extensions",
}
OPENVINO = {"openvino", "pytriton"}
BACKEND = {"triton_python_backend_utils"}
TYPES = {"typing_extensions"}  # for type checkers only
CLIENT = {"tritonclient", "numpy"}
# Of the demo only what draws pictures and clips; `architecture`, which has their numbers, imports torch where it learns.
LOADTEST_FILES = (
    "loadtests",
    *(f"build_engine/demo/{name}.py" for name in ("clips", "screens")),
)


# The same parser as that of the trial installation.
TRIAL = runpy.run_path(str(ROOT / "docker" / "trial.py"))
Instruction, instructions, stages = TRIAL["Instruction"], TRIAL["instructions"], TRIAL["stages"]


def environment(stage: list[Any]) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(item.text for item in stage if item.name == "ENV")))


def sent(path: str) -> bool:
    """Whether .dockerignore lets a path of the repository into the build."""
    included = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        wanted = pattern.startswith("!")
        if (
            pattern.lstrip("!") == "*"
            or path == pattern.lstrip("!")
            or path.startswith(pattern.lstrip("!") + "/")
        ):
            included = wanted
    return included


@pytest.mark.parametrize("name", DOCKERFILES)
def test_everything_copied_exists_and_is_sent_to_the_builder(name: str) -> None:
    copied = [
        item.text.split() for item in instructions(name) if item.name == "COPY" and "--from" not in item.text
    ]
    assert copied
    for *sources, _ in copied:
        for source in sources:
            assert (ROOT / source).exists(), source
            assert sent(source), f"{source} is kept out by .dockerignore"


def test_nothing_heavy_is_sent_to_the_builder() -> None:
    for path in (".git", ".venv", "engines", "docs", "model.safetensors"):
        assert not sent(path), path
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    packages = {
        path.split("/")[0] for path in tracked if path.endswith("__init__.py") and path.count("/") == 1
    }
    assert {"build_engine", "ensemble", "gateway", "loadtests"} <= packages
    assert all(sent(package) for package in packages)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_bases_are_pinned(name: str) -> None:
    own = set(stages(name))
    for item in instructions(name):
        if item.name == "FROM" and (base := item.text.split()[0]) not in own:
            assert re.search(r":\d+\.\d+", base), f"{base} has no version"


@pytest.mark.parametrize("name", SERVERS)
def test_the_image_is_served_by_a_user_under_an_init_that_passes_signals_on(name: str) -> None:
    *_, (_, last) = stages(name).items()
    by_name = {item.name: item for item in last}  # the last one of each counts
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", by_name["USER"].text), (
        "a numeric user: Kubernetes cannot check a name"
    )
    assert by_name["ENTRYPOINT"].command[:2] == ["/usr/bin/tini", "--"]
    assert by_name["CMD"].command[1:4] == ["-m", "ensemble", "serve"]
    assert by_name["EXPOSE"].text == "8000 8001 8002"
    assert "/v2/health/ready" in by_name["HEALTHCHECK"].text
    assert json.loads(by_name["HEALTHCHECK"].text.split("CMD ")[1])[1] == "-c"
    assert "licenses" in by_name["LABEL"].text


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_health_check_is_a_program(name: str) -> None:
    (check,) = (item for item in instructions(name) if item.name == "HEALTHCHECK")
    compile(json.loads(check.text.split("CMD ")[1])[2], name, "exec")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_read_only_container_has_its_caches_under_tmp(name: str) -> None:
    *_, (_, last) = stages(name).items()
    assert all(item.name != "VOLUME" for item in last), "would be written on the node's disk, uncounted"
    given = environment(last)
    caches = {
        key: value
        for key, value in given.items()
        if key == "HOME" or (not key.startswith("PIP_") and key.endswith(("_HOME", "_DIR", "CONFIGDIR")))
    }
    assert "HOME" in caches
    assert all(value == "/tmp" or value.startswith("/tmp/") for value in caches.values()), caches
    assert given["PYTHONDONTWRITEBYTECODE"] == "1"


@pytest.mark.parametrize("name", SERVERS)
def test_commands_in_the_images_take_the_options_they_are_given(name: str) -> None:
    text = (ROOT / "docker" / name).read_text().replace("\\\n", " ")
    (served,) = (
        item.command for item in instructions(name) if item.name == "CMD" and "ensemble" in item.text
    )
    commands = [
        served[3:],
        *(match.split() for match in re.findall(r"-m build_engine (build_engine/.*)", text)),
    ]
    for words in commands:
        module = "ensemble" if words[0] == "serve" else "build_engine"
        command = [sys.executable, "-m", module, *(["serve"] if module == "ensemble" else []), "--help"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for option in (word for word in words if word.startswith("--")):
            assert option in shown, option


def test_the_gpu_image_has_the_last_container_with_engines_and_a_python_we_support() -> None:
    base = stages("Dockerfile.gpu")["base"][0].text.split()[0]
    assert base == "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
    assert base in (ROOT / "docs" / "gpu.md").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.10,<3.13"' in project, "Ubuntu 24.04 in the container has Python 3.12"


def test_the_gpu_image_installs_under_constraints_and_checks_them() -> None:
    for stage in stages("Dockerfile.gpu").values():
        for item in stage:
            for command in (part for part in item.text.split("&&") if "pip install" in part):
                assert "--constraint" in command or "--no-deps" in command, command
                assert item.text.rindex("pins.py check") > item.text.rindex("pip install")


def test_what_the_gpu_image_imports_is_installed_in_it() -> None:
    required = {
        re.split(r"[\[=><]", line)[0].lower()
        for line in (ROOT / "docker" / "requirements-gpu.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert not required & {name.lower() for name in IMAGE}, (
        "the image's own packages must not be installed again"
    )
    ours = {"build_engine", "ensemble", "qwen3vl_client", "tests"}
    known = set(sys.stdlib_module_names) | ours | IMAGE | OPENVINO | BACKEND
    files = [
        path for folder in ("ensemble", "client", "build_engine") for path in (ROOT / folder).rglob("*.py")
    ]
    for path in files:
        if "demo" in path.parts:
            continue
        for name in _imported(path) - known:
            assert DISTRIBUTIONS.get(name, name).lower() in required, (
                f"{path.relative_to(ROOT)} imports {name}"
            )


# What is imported only where it is: by development and calibration commands, on machines with the repository.
NOT_IN_IMAGES = (
    "gateway/dev",
    "gateway/confidence/demo_set.py",
    "loadtests/benchmarks",
    "loadtests/gateway_soak",
)
# Image, stage, extras, and what of the repository runs in it.
PYTHON_IMAGES = [
    ("Dockerfile.cpu", "serve", {"serve", "fetch"}, ("ensemble", "client", "model_repository")),
    ("Dockerfile.cpu", "build", {"serve", "fetch", "build"}, ("build_engine/volume", "ensemble", "client")),
    ("Dockerfile.gateway", "gateway", {"gateway", "s3", "otel"}, ("gateway", "client")),
    ("Dockerfile.gateway", "loadtest", {"loadtest"}, ("client", *LOADTEST_FILES)),
]


@pytest.mark.parametrize(("name", "stage", "extras", "runs"), PYTHON_IMAGES)
def test_what_an_image_imports_is_installed_in_it(
    name: str, stage: str, extras: set[str], runs: tuple[str, ...]
) -> None:
    installed = " ".join(item.text for item in stages(name)[stage] if item.name == "RUN")
    assert set(",".join(re.findall(r"-e '?\.\[([\w,-]+)\]", installed)).split(",")) == extras
    copied = {
        source
        for item in stages(name)[stage]
        if item.name == "COPY" and "--from" not in item.text
        for source in item.text.split()[:-1]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        line for extra in extras for line in project["optional-dependencies"][extra]
    ]
    required = {re.split(r"[\[=><]", line)[0].lower() for line in wanted} | CLIENT
    ours = {"build_engine", "ensemble", "gateway", "loadtests", "model_repository"} & copied
    known = (
        set(sys.stdlib_module_names)
        | ours
        | BACKEND
        | TYPES
        | ({"qwen3vl_client"} if "client" in copied else set())
    )
    files = {
        file
        for path in runs
        for file in ([ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py"))
        if not str(file.relative_to(ROOT)).startswith(NOT_IN_IMAGES)
    }
    assert files
    for file in files:
        here = str(file.relative_to(ROOT))
        assert here.startswith(tuple(copied)), f"{here} is not in the image"
        for module in _imported(file) - known - (IMAGE if name == "Dockerfile.cpu" else set()):
            assert DISTRIBUTIONS.get(module, module).lower() in required, f"{here} imports {module}"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_image_that_is_run_has_a_user_by_number_an_init_and_a_title(name: str) -> None:
    run = {stage: found for stage, found in stages(name).items() if any(item.name == "CMD" for item in found)}
    assert len(run) >= 2
    for stage, found in run.items():
        by_name = {item.name: item for item in found}  # the last one of each counts
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", by_name["USER"].text), stage
        assert by_name["ENTRYPOINT"].command[:2] == ["/usr/bin/tini", "--"], stage
        assert by_name["CMD"].command, stage
        labels = " ".join(item.text for item in found if item.name == "LABEL")
        for label in ("title", "description", "licenses"):
            assert f"org.opencontainers.image.{label}=" in labels, stage
        assert environment(found)["HOME"] == "/tmp", stage


def test_the_gateway_image_serves_to_the_network_on_the_port_that_is_checked() -> None:
    *_, (stage, last) = stages("Dockerfile.gateway").items()
    assert stage == "gateway", "the last stage is what a build without --target makes"
    by_name = {item.name: item for item in last}
    assert by_name["CMD"].command[1:4] == ["-m", "gateway", "serve"]
    shown = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(option in shown for option in by_name["CMD"].command if option.startswith("--"))
    from gateway.settings import Settings

    ports = [str(port) for port in (Settings().http.port, Settings().kafka.worker_port)]
    assert by_name["EXPOSE"].text.split() == ports
    assert f"'{ports[0]}'" in by_name["HEALTHCHECK"].text
    assert "/healthz" in by_name["HEALTHCHECK"].text


@pytest.mark.parametrize("package", ["gateway", "build_engine.trtllm"])
def test_data_beside_the_code_is_package_data(package: str) -> None:
    """An installation that is not editable takes only what is named."""
    folder = ROOT / package.replace(".", "/")
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        package
    ]
    tracked = subprocess.run(
        ["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    named = {str(path.relative_to(ROOT)) for pattern in patterns for path in folder.glob(pattern)}
    data = {path for path in tracked if not path.endswith((".py", ".md")) or "/sample/" in path}
    assert data
    # What confidence was calibrated with, and the picture of it, are for readers of the repository.
    assert data - named <= {"gateway/confidence/demo.jsonl", "gateway/confidence/demo.svg"}


def test_the_trial_installation_repeats_what_the_dockerfile_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, list[str]]] = []
    install = TRIAL["install"]
    monkeypatch.setitem(
        install.__globals__,
        "_run",
        lambda command, directory, trial: ran.append(
            (command[-1], sorted(path.name for path in directory.iterdir()))
        ),
    )
    monkeypatch.setattr("venv.create", lambda *_, **__: None)
    install(stages("Dockerfile.gateway")["gateway"], tmp_path)
    assert [command for command, _ in ran] == [
        "pip install -e ./client -e .",
        "pip install -e '.[gateway,s3,otel]'",
        "pip install --no-deps -e .",
    ]
    before, _, after = (names for _, names in ran)
    assert before == ["LICENSE", "README.md", "client", "pyproject.toml"]
    assert set(after) - set(before) == {"gateway"}
    assert (tmp_path / "code" / "gateway" / "page" / "static").is_dir()


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("page", ["gpu.md", "gpu.zh-CN.md"])
def test_commands_in_the_guide_take_the_options_they_are_given(page: str) -> None:
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
    commands = re.findall(
        r"-m ((?:build_engine|ensemble)(?:\.\S+)?(?: (?:plan|serve|compile-check|verify)\b)?)([^\n#]*)",
        blocks,
    )
    assert len(commands) >= 4
    for module, rest in commands:
        command = [sys.executable, "-m", *module.split(), "--help"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for option in re.findall(r"(?<= )--[a-z-]+", rest):
            assert option in shown, f"{module}{rest}: no {option}"
    for profile in re.findall(r"--profile (\S+?)`?[\s`]", blocks):
        from ensemble.profiles import PROFILES

        assert profile in PROFILES, profile


@pytest.mark.parametrize("page", ["gpu.md", "gpu.zh-CN.md"])
def test_links_and_fields_in_the_guide_exist(page: str) -> None:
    from ensemble.config import BackendOptions, LlmApiOptions

    text = (ROOT / "docs" / page).read_text()
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link
    for holder, name in re.findall(r"(tensorrt_llm|llm_api)\.(\w+)=", text):
        assert hasattr(BackendOptions() if holder == "tensorrt_llm" else LlmApiOptions(), name), name
    for stage in re.findall(r"--target (\w+) \.", text):
        assert stage in stages("Dockerfile.gpu"), stage


def test_pins_tell_what_an_installation_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pins = runpy.run_path(str(ROOT / "docker" / "pins.py"))["main"]
    file = tmp_path / "constraints.txt"
    assert pins(["write", str(file)]) == 0
    assert "\nnumpy==1." in file.read_text()
    assert pins(["check", str(file)]) == 0
    file.write_text(re.sub(r"numpy==.*", "numpy==0.9", file.read_text()) + "never-installed==1.0\n")
    assert pins(["check", str(file)]) == 1
    shown = capsys.readouterr().err
    assert "numpy 0.9 -> 1." in shown
    assert "never-installed 1.0 -> gone" in shown
    assert pins(["write"]) == 2


def test_pins_are_constraints_that_pip_reads(tmp_path: Path) -> None:
    from packaging.requirements import Requirement

    pins = runpy.run_path(str(ROOT / "docker" / "pins.py"))["main"]
    pins(["write", str(tmp_path / "constraints.txt")])
    for line in (tmp_path / "constraints.txt").read_text().splitlines():
        Requirement(line)
    pattern = runpy.run_path(str(ROOT / "docker" / "pins.py"))["_VERSION"]
    for version in ("2.10.0a0+b4e4ee8.nv25.12", "10.14.1.48", "4.57.1", "2.7.7+ubuntu5"):
        assert pattern.fullmatch(version), version
    assert not pattern.fullmatch("1.2.3-1ubuntu1")
