"""Break the code in one line, many ways: the suite must notice each. Run by ``nox -s "mutants(core)"`` and its like.

Each mutant is a copy of the project with one piece of text replaced, on which its tests run until the first failure.
``--sample 10`` takes ten by chance, ``--seed`` the same ones again, ``--only TEXT`` those with this in their names.
``--check`` runs nothing: it says which mutants of any backend no longer find their text.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
from registry import ENTRIES, PACKAGES, ROOT

TABLES = {path.stem: import_module(f"mutations.{path.stem}") for path in (ROOT / "tests/mutations").glob("[!_]*.py")}
FAILED_OR_NOT_COLLECTED, PASSED = (1, 2), 0
LIMIT_S = 900


def stale(backend):
    """The mutants whose text does not stand exactly once in their file."""
    for name, mutant in TABLES[backend].MUTANTS.items():
        path = ROOT / mutant.file
        count = path.read_text(encoding="utf-8").count(mutant.old) if path.exists() else 0
        if count != 1:
            yield f"{backend}: {name}: {count} times in {mutant.file}: {mutant.old!r}"


def run(backend, tests, mutant=None):
    """What pytest says of ``tests`` on a copy of the project, with ``mutant`` in it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (*PACKAGES, "tests"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        if mutant:
            file = Path(folder, mutant.file)
            file.write_text(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        entry = ENTRIES[backend]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "--hypothesis-seed=0",
            f"--backend={','.join(entry['harness'])}",
        ]
        command += [f"tests/{test}" for test in tests]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": entry.get("keras", "tensorflow")}
        options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": LIMIT_S}
        return subprocess.run(command, **options, check=False)


def is_caught(backend, name, mutant):
    """Whether a test fails on this mutant. Prints which one, or that the mutant is alive."""
    for tests in stages(backend, mutant):
        try:
            result = run(backend, tests, mutant)
        except subprocess.TimeoutExpired:
            print(f"caught  {name}: no end after {LIMIT_S} s", flush=True)
            return True
        if result.returncode < 0:  # a read or write far outside of a tensor
            print(f"caught  {name}: killed by signal {-result.returncode}", flush=True)
            return True
        if result.returncode not in (*FAILED_OR_NOT_COLLECTED, PASSED):
            sys.exit(f"{name}: pytest could not run.\n{result.stdout}{result.stderr}")
        if result.returncode != PASSED:
            by = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", result.stdout, flags=re.MULTILINE)
            print(f"caught  {name}: {by[1] if by else 'no import'}", flush=True)
            return True
    print(f" ALIVE  {name}", flush=True)
    return False


def stages(backend, mutant):
    """The tests to run, in turns: the mutant's own, or first those that notice most mutants and then all of its table."""
    return [mutant.tests] if mutant.tests else [TABLES[backend].FIRST, TABLES[backend].TESTS]


def chosen(backend, arguments):
    mutants = {name: m for name, m in TABLES[backend].MUTANTS.items() if arguments.only in name}
    names = list(mutants)
    if arguments.sample < len(names):
        print(f"{arguments.sample} of {len(names)} by --seed {arguments.seed}", flush=True)
        names = random.Random(arguments.seed).sample(names, arguments.sample)
    return {name: mutants[name] for name in names}


def read_arguments():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--backend", choices=TABLES, default="core")
    parser.add_argument("--sample", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    return parser.parse_args()


def main():
    arguments = read_arguments()
    backend = arguments.backend
    outdated = [line for name in (TABLES if arguments.check else [backend]) for line in stale(name)]
    if outdated or arguments.check:
        sys.exit("\n".join(["Mend tests/mutations:", *outdated]) if outdated else 0)
    mutants = chosen(backend, arguments)
    tests = dict.fromkeys(test for mutant in mutants.values() for test in stages(backend, mutant)[-1])
    if (result := run(backend, tests)).returncode != PASSED:
        sys.exit(f"These fail on the code as it is, so they would catch anything.\n{result.stdout}{result.stderr}")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        caught = list(pool.map(lambda item: is_caught(backend, *item), mutants.items()))
    print(f"{sum(caught)} of {len(caught)} caught")
    sys.exit(not all(caught))


if __name__ == "__main__":
    main()
