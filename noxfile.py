"""Every check and the demonstration: plain ``nox`` runs the conformance matrix, ``nox -l`` lists the rest."""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
GROUPS = PROJECT["dependency-groups"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
CONSTRAINTS = str(Path("constraints.txt").absolute())

BACKENDS = PROJECT["tool"]["zlpr"]["backends"]  # each key is explained there
SUITES = [name for name, entry in BACKENDS.items() if not {"only", "device"} & set(entry)]
ON_DEVICES = [name for name, entry in BACKENDS.items() if "device" in entry]
INTEGRATIONS = [name for name, entry in BACKENDS.items() if "integrations" in entry]
BENCH = [name for name, entry in BACKENDS.items() if entry.get("bench")]
TRITONS = PROJECT["tool"]["zlpr"]["tritons"]  # from the oldest
RELEASED = ["core", *EXTRAS]
MUTATED = sorted(path.stem for path in Path("tests/mutations").glob("[!_]*.py"))
SCHEMAS = {  # a schema that check-jsonschema brings, by its name there, and the files that follow it
    "citation-file-format": "CITATION.cff",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/*.yml",
    "github-workflows": ".github/workflows/*.yml",
}
WORKERS = ("-n2", "--dist=worksteal")  # neighbours, which share what a compiler made, stay with one worker
ROOM = 6 * 2**30  # bytes: the largest environment takes 3 GB, and pip unpacks what it installs
DEMO = {"torch": "torch", "jax": "jax", "keras": "tf"}

_environments: set[Path] = set()
_compiled = tempfile.TemporaryDirectory()

# Packages are installed uncompiled: TensorFlow takes 7 s to import if Python may keep what it compiles, else 20 s
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Inductor finds no code of an earlier run: one test passed only because it did, and failed on a new machine
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _compiled.name
# Else every process that compiles starts others for it, and tests that compile take a fourth longer (torch 2.13)
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types", "tests", "readme", "docs", "build"]


def install(session: nox.Session, *wanted: str) -> None:
    """Requirements, and dependency groups by name, at the versions that are tested together."""
    make_room(session)
    requirements = [requirement for name in wanted for requirement in GROUPS.get(name, [name])]
    session.install("--no-compile", "-c", CONSTRAINTS, *requirements)  # most of what is installed is never imported


def make_room(session: nox.Session) -> None:
    """Where the disk is nearly full, remove the environments that this run is done with: all of them take 12 GB."""
    own = Path(session.virtualenv.location)
    if shutil.disk_usage(own).free < ROOM:
        for done in _environments - {own}:
            session.log(f"The disk is nearly full: removing {done}")
            shutil.rmtree(done, ignore_errors=True)
    _environments.add(own)


def install_peers(session: nox.Session, framework: str) -> None:
    """The benchmark's peers. timm comes without its dependencies: torchvision must match torch, and is not used."""
    install(session, "bench")
    if framework == "torch":
        session.install("--no-compile", "--no-deps", "-c", CONSTRAINTS, "timm")


def install_built(session: nox.Session, folder: Path) -> None:
    """Build into ``folder`` the sdist and, from that sdist, the wheel; check both, and install the wheel."""
    install(session, "build")
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(folder))
    session.run("python", "-m", "twine", "check", "--strict", *map(str, folder.iterdir()))
    session.install("-c", CONSTRAINTS, "--force-reinstall", *map(str, folder.glob("*.whl")))


def run_unpinned(session: nox.Session, backend: str, *options: str) -> None:
    """The conformance suite on what pip chooses with these options, and without constraints.txt."""
    wanted = [r for name in (*BACKENDS[backend]["install"], "test") for r in GROUPS.get(name, [name])]
    session.install("--upgrade", "--upgrade-strategy=eager", *options, ".", *wanted)
    session.run("python", "-m", "pip", "list")
    run_suite(session, backend)


def run_suite(session: nox.Session, backend: str, *arguments: str) -> None:
    """The conformance suite on the backends of this entry, in this environment."""
    entry = BACKENDS[backend]
    files = [f"tests/conformance/test_{name}.py" for name in entry.get("only", [])]
    names = f"--backend={','.join(entry['harness'])}"
    session.run("pytest", names, *WORKERS, *files, *arguments, *session.posargs, env=environment(entry))


def install_triton(session: nox.Session, version: str) -> None:
    """Another than the pinned torch brings, beside it."""
    session.install("--no-compile", "--no-deps", f"triton=={version}.*")


def run_triton(session: nox.Session, version: str, *names: str) -> None:
    """What is tested of the Triton kernels alone, on this Triton beside the torch there is: all, or some files."""
    install_triton(session, version)
    files = [f"tests/integrations/triton/test_triton_{name}.py" for name in names] or ["tests/integrations/triton"]
    session.run("pytest", "--backend=triton", *WORKERS, *files, *session.posargs)


def environment(entry: dict[str, str]) -> dict[str, str]:
    """Variables that TensorFlow and Keras read when they are imported."""
    return {"TF_CPP_MIN_LOG_LEVEL": "3"} | ({"KERAS_BACKEND": entry["keras"]} if "keras" in entry else {})


def every_install(*without: str) -> list[str]:
    """What all backends need, to be installed side by side."""
    return list(dict.fromkeys(wanted for name in SUITES if name not in without for wanted in BACKENDS[name]["install"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: style and formatting; every mutant finds the text that it changes; YAML files follow their schemas."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check", "--diff")
    session.run("python", "tests/mutants.py", "--check")
    for schema, files in SCHEMAS.items():
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, sorted(Path().glob(files))))


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, on the four packages and on what a user would write."""
    install(session, *every_install("tf"), "types")  # Keras has the types of zlpr_tf; TensorFlow takes long to install
    session.run("mypy")


@nox.session
@nox.parametrize("backend", SUITES, ids=SUITES)
def tests(session: nox.Session, backend: str) -> None:
    """Conformance suite: one framework to an environment and a process."""
    install(session, ".", *BACKENDS[backend]["install"], "test")
    run_suite(session, backend)


def tests_on_device(backend: str) -> None:
    """The session ``tests(<backend>)``, which ``nox -s tests`` leaves out: asked for without its device it fails."""

    @nox.session(name=f"tests({backend})", default=False)
    def on_device(session: nox.Session) -> None:
        """Conformance suite on an accelerator, which must be there."""
        install(session, ".", *BACKENDS[backend]["install"], "test")
        run_suite(session, backend)


for name in ON_DEVICES:
    tests_on_device(name)


@nox.session
@nox.parametrize("backend", INTEGRATIONS, ids=INTEGRATIONS)
def integrations(session: nox.Session, backend: str) -> None:
    """The real trainers, exporters and optimisers that users have, and every recipe of the documentation for them."""
    entry = BACKENDS[backend]
    install(session, ".", *entry["install"], *entry["integrations"], "test")
    if backend in BENCH:
        install_peers(session, backend)
    path = f"tests/integrations/{backend}"
    if "only" in entry:
        install_triton(session, TRITONS[-1])
        run_suite(session, backend, path)
        run_triton(session, TRITONS[0], "arguments", "compile")  # `tritons` runs the rest
    else:
        session.run("pytest", *WORKERS, path, *session.posargs, env=environment(entry))


@nox.session
def readme(session: nox.Session) -> None:
    """All frameworks side by side: README, docstrings and examples run, and imports stay apart."""
    install(session, ".", *every_install(), "demo", "test", "pyyaml")
    session.run("pytest", *WORKERS, "tests/together", *session.posargs, env={"TF_CPP_MIN_LOG_LEVEL": "3"})


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation; a warning or an undocumented public name is an error."""
    install(session, ".", *every_install("tf"), "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-j2", "docs", "docs/_build/html", env={"KERAS_BACKEND": "jax"})


@nox.session
def build(session: nox.Session) -> None:
    """Wheel and sdist, then the suite against the installed wheel from another directory."""
    install(session, "test")
    elsewhere = Path(session.create_tmp()).absolute()
    install_built(session, elsewhere / "dist")
    shutil.rmtree(elsewhere / "tests", ignore_errors=True)
    shutil.copytree("tests", elsewhere / "tests")
    shutil.copy("pyproject.toml", elsewhere)
    session.chdir(elsewhere)
    run_suite(session, "core", "--backend=numpy")


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """Build what would be published into dist, check it against git and the changelog, and say what to do next."""
    install_built(session, Path("dist"))
    # -I: not from the checkout. NumPy is not installed here, as with a user of another array library
    session.run("python", "-I", "-c", "import zlpr_core; print('Installed and imported:', zlpr_core.__version__)")
    session.run("python", "tests/support/release.py", "dist")


@nox.session(default=False)
@nox.parametrize("version", TRITONS, ids=TRITONS)
def tritons(session: nox.Session, version: str) -> None:
    """The kernels of a GPU on a Triton that some torch brings: all options together, interpreted and compiled."""
    install(session, ".", *BACKENDS["triton"]["install"], "test")
    session.env["ZLPR_TRITON_EVERY"] = "1"
    run_triton(session, version)


@nox.session(default=False)
@nox.parametrize("backend", MUTATED, ids=MUTATED)
def mutants(session: nox.Session, backend: str) -> None:
    """Break the code in one line, many ways, and see the suite notice each: ``-- --sample 10`` for a look."""
    install(session, ".", *BACKENDS[backend]["install"], "test")
    session.run("python", "tests/mutants.py", f"--backend={backend}", *session.posargs)


@nox.session(default=False)
@nox.parametrize("framework", BENCH, ids=BENCH)
def bench(session: nox.Session, framework: str) -> None:
    """Time and memory beside the losses that users come from: ``-- --quick`` for a look."""
    install(session, ".", *BACKENDS[framework]["install"])
    install_peers(session, framework)
    session.run("python", "benchmarks/run.py", "--framework", framework, *session.posargs)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """On a machine with a GPU: conformance on it, time beside BCE, and one table: ``-- --quick`` for a look."""
    session.install("--no-compile", ".")
    for backend in ON_DEVICES:
        install(session, *BACKENDS[backend]["install"])
    install(session, "test", "jax")
    install_peers(session, "torch")
    session.run("python", "benchmarks/gpu.py", *session.posargs)


@nox.session(default=False)
@nox.parametrize("backend", RELEASED, ids=RELEASED)
def minimums(session: nox.Session, backend: str) -> None:
    """Oldest versions allowed, where they install. Run it before a release; an old torch brings CUDA packages."""
    allowed = [*PROJECT["project"]["dependencies"], *EXTRAS.get(backend, ["numpy>=2.0"])]
    peers = GROUPS["jax"] if backend == "jax" else []  # tests/frameworks/jax train with these
    session.install(*(requirement.replace(">=", "==") for requirement in allowed), *GROUPS["test"], *peers)
    session.install("--no-deps", ".")
    run_suite(session, backend, "-Wdefault")  # old versions have warnings of their own


@nox.session(default=False)
@nox.parametrize("backend", RELEASED, ids=RELEASED)
def newest(session: nox.Session, backend: str) -> None:
    """Newest versions that install. Run it before a release; an unpinned torch brings CUDA packages."""
    run_unpinned(session, backend)


@nox.session(default=False)
@nox.parametrize("backend", RELEASED, ids=RELEASED)
def prereleases(session: nox.Session, backend: str) -> None:
    """Newest versions, unfinished ones included: nightly ones too where PIP_EXTRA_INDEX_URL says where they are."""
    run_unpinned(session, backend, "--pre")


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Train on a real data set with ZLPR and with BCE: ``-- --framework torch|jax|keras``, ``-- --data FILE.npz``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--framework", choices=DEMO, default="torch")
    framework = parser.parse_known_args(session.posargs)[0].framework
    install(session, ".", *BACKENDS[DEMO[framework]]["install"], "demo")
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session(default=False)
def extreme(session: nox.Session) -> None:
    """Train a model of 670 000 labels: ``-- --quick`` for a look, ``-- --data FILE`` for one of the XMC repository."""
    install(session, ".[torch]", "bench")
    session.run("python", "examples/extreme.py", *session.posargs)


@nox.session(default=False)
def study(session: nox.Session) -> None:
    """Compare losses, tuned alike: ``-- --quick`` for a look, ``-- --data DIR`` for a folder of .npz files."""
    install(session, ".", *BACKENDS["jax"]["install"], "demo")
    session.run("python", "-m", "studies.run", *session.posargs)
