"""Every check and the demonstration: plain ``nox`` runs the conformance matrix, ``nox -l`` lists the rest."""

import argparse
import shutil
from pathlib import Path

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
GROUPS = PROJECT["dependency-groups"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
CONSTRAINTS = str(Path("constraints.txt").absolute())

# session: (what to install beside the project and the test tools, backends of the suite, Keras's own backend)
BACKENDS: dict[str, tuple[list[str], str, str]] = {
    "core": ([], "numpy,strict", ""),
    "torch": ([".[torch]"], "torch,torch-plain", ""),
    "jax": ([".[jax]", "jax"], "jax", ""),
    "tf": (["tf"], "tf", "tensorflow"),
    "keras-jax": ([".[jax]", "keras"], "keras-jax", "jax"),
    "keras-torch": ([".[torch]", "keras"], "keras-torch", "torch"),
}
INTEGRATIONS = {
    "core": ["numpy-users"],
    "torch": [".[torch]", "torch-users"],
    "triton": [".[torch]", "triton"],
    "jax": [".[jax]", "jax-users"],
    "tf": ["tf"],
}
TRITON_CONFORMANCE = [
    "--backend=triton",
    *(f"tests/conformance/test_{name}.py" for name in ("values", "edges", "options")),
]
BENCH = {"torch": [".[torch]"], "jax": [".[jax]", "jax"], "tf": ["tf"]}
DEMO = {"torch": [".[torch]"], "jax": [".[jax]", "jax"], "keras": [".", "tf"]}

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types", "tests", "readme", "docs", "build"]


def install(session: nox.Session, *wanted: str) -> None:
    """Requirements, and dependency groups by name, at the versions that are tested together."""
    requirements = [requirement for name in wanted for requirement in GROUPS.get(name, [name])]
    session.install("--no-compile", "-c", CONSTRAINTS, *requirements)  # most of what comes along is never imported


def install_peers(session: nox.Session, framework: str) -> None:
    """What the benchmark needs beside the framework; timm alone, as it wants a torchvision that matches torch."""
    install(session, "bench")
    if framework == "torch":
        session.install("--no-compile", "--no-deps", "-c", CONSTRAINTS, "timm")


def run_suite(session: nox.Session, backends: str, keras_backend: str = "", *arguments: str) -> None:
    """The suite on these backends, in this environment."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3"} | ({"KERAS_BACKEND": keras_backend} if keras_backend else {})
    session.run("pytest", f"--backend={backends}", "-n2", *arguments, *session.posargs, env=environment)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: style and formatting."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check", "--diff")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, on the four packages and on what a user would write."""
    install(session, ".[torch]", ".[jax]", "keras", "types")
    session.run("mypy")


@nox.session
@nox.parametrize("backend", list(BACKENDS), ids=list(BACKENDS))
def tests(session: nox.Session, backend: str) -> None:
    """Conformance suite: one framework to an environment and a process."""
    frameworks, names, keras_backend = BACKENDS[backend]
    install(session, ".", *frameworks, "test")
    run_suite(session, names, keras_backend)


@nox.session
@nox.parametrize("backend", list(INTEGRATIONS), ids=list(INTEGRATIONS))
def integrations(session: nox.Session, backend: str) -> None:
    """The real trainers, exporters and optimisers that users have, and every recipe of the documentation for them."""
    install(session, ".", *INTEGRATIONS[backend], "test")
    if backend in BENCH:
        install_peers(session, backend)
    conformance = TRITON_CONFORMANCE if backend == "triton" else []
    paths = [f"tests/integrations/{backend}", *conformance]
    session.run("pytest", "-n2", *paths, *session.posargs, env={"TF_CPP_MIN_LOG_LEVEL": "3"})


@nox.session
def readme(session: nox.Session) -> None:
    """All frameworks side by side: README, docstrings and examples run, and imports stay apart."""
    install(session, ".", ".[torch]", ".[jax]", "jax", "tf", "demo", "test")
    session.run("pytest", "-n2", "tests/together", *session.posargs, env={"TF_CPP_MIN_LOG_LEVEL": "3"})


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation with its figures drawn anew; a warning or an undocumented public name is an error."""
    install(session, ".", ".[torch]", ".[jax]", "keras", "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-j2", "docs", "docs/_build/html", env={"KERAS_BACKEND": "jax"})


@nox.session
def build(session: nox.Session) -> None:
    """Wheel and sdist, then the suite against the installed wheel from another directory."""
    install(session, "build", "test")
    elsewhere = Path(session.create_tmp()).absolute()
    shutil.rmtree(elsewhere)
    session.run("python", "-m", "build", "--outdir", str(elsewhere / "dist"))
    session.run("python", "-m", "twine", "check", "--strict", *map(str, (elsewhere / "dist").iterdir()))
    session.install("-c", CONSTRAINTS, "--force-reinstall", *map(str, (elsewhere / "dist").glob("*.whl")))
    shutil.copytree("tests", elsewhere / "tests")
    shutil.copy("pyproject.toml", elsewhere)
    session.chdir(elsewhere)
    run_suite(session, "numpy")


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Break the maths in one line, many ways, and see the suite notice each."""
    install(session, ".", "test")
    session.run("python", "tests/mutants.py", *session.posargs)


@nox.session(default=False)
@nox.parametrize("framework", list(BENCH), ids=list(BENCH))
def bench(session: nox.Session, framework: str) -> None:
    """Time and memory beside the losses that users come from: ``-- --quick`` for a look."""
    install(session, ".", *BENCH[framework])
    install_peers(session, framework)
    session.run("python", "benchmarks/run.py", "--framework", framework, *session.posargs)


@nox.session(default=False)
@nox.parametrize("backend", ["core", "torch", "jax", "tf"], ids=["core", "torch", "jax", "tf"])
def minimums(session: nox.Session, backend: str) -> None:
    """Oldest versions allowed, where they install (an old torch brings CUDA packages)."""
    allowed = [*PROJECT["project"]["dependencies"], *EXTRAS.get(backend, ["numpy>=1.26"])]
    session.install(*(requirement.replace(">=", "==") for requirement in allowed), *GROUPS["test"], *GROUPS["jax"])
    session.install("--no-deps", ".")
    run_suite(
        session, BACKENDS[backend][1], BACKENDS[backend][2], "-Wdefault"
    )  # old versions have warnings of their own


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Train on a real data set with ZLPR and with BCE: ``-- --framework torch|jax|keras``, ``-- --data FILE.npz``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--framework", choices=DEMO, default="torch")
    framework = parser.parse_known_args(session.posargs)[0].framework
    install(session, *DEMO[framework], "demo")
    session.run("python", "examples/demo.py", *session.posargs)
