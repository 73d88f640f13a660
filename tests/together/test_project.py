"""What the project says of itself agrees: versions, changelog, citation, workflow, the sessions and links on its pages."""

import importlib
import re
from importlib.metadata import version

import pytest
import release
import yaml
from registry import ENTRIES, PACKAGES, ROOT, SETTINGS

import zlpr_core

PAGES = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", ".github/**/*.md")
    for path in sorted(ROOT.glob(pattern))
    if "_build" not in path.parts
]
FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2", flags=re.DOTALL | re.MULTILINE)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


# --- versions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_the_version_of_the_distribution(package):
    assert importlib.import_module(package).__version__ == zlpr_core.__version__ == version("zlpr")


def test_the_changelog_starts_with_this_version():
    """Only that one may be unreleased, and every heading says when a version came out."""
    text = read("CHANGELOG.md")
    headings = release.versions(text)
    assert len(headings) == text.count("\n## ")
    assert headings[0][0] == zlpr_core.__version__
    assert "unreleased" not in [date for _, date in headings[1:]]
    numbers = [tuple(map(int, number.split("."))) for number, _ in headings]
    assert numbers == sorted(numbers, reverse=True)


def test_the_citation_is_of_this_version():
    """With the date on which it came out, once it did."""
    citation = yaml.safe_load(read("CITATION.cff"))
    released = release.versions(read("CHANGELOG.md"))[0][1]
    assert citation["version"] == zlpr_core.__version__
    assert str(citation.get("date-released", "unreleased")) == released
    assert citation["license"] == SETTINGS["project"]["license"]
    assert citation["references"][0]["url"] == SETTINGS["project"]["urls"]["Paper"]


# --- tests -------------------------------------------------------------------------------------------------------


def test_no_test_imports_another():
    """What several share is in tests/support."""
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(files) > 100
    assert not [name for name, text in files.items() if re.search(r"^\s*(from|import) test_", text, re.MULTILINE)]


# --- files for other tools -------------------------------------------------------------------------------------------------


def test_pre_commit_uses_the_pinned_versions():
    pinned = dict(line.split("==") for line in read("constraints.txt").splitlines() if "==" in line)
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    wanted = dict(pin.split("==") for hook in hooks for pin in hook.get("additional_dependencies", []))
    assert wanted["ruff"] == pinned["ruff"]
    assert all(pinned.get(name, number) == number for name, number in wanted.items())


def test_a_bug_report_asks_for_what_is_needed():
    form = yaml.safe_load(read(".github/ISSUE_TEMPLATE/bug.yml"))
    asked = {field["id"] for field in form["body"] if field["validations"]["required"]}
    assert {"versions", "inputs", "expected", "received"} <= asked


# --- sessions -----------------------------------------------------------------------------------------------------


def sessions():
    """The names of those in noxfile.py, and for each whether a backend may follow in brackets."""
    found = re.findall(r"@nox\.session(?:\(.*\))?\n(@nox\.parametrize.*\n)?def (\w+)\(", read("noxfile.py"))
    return {name: bool(parametrized) for parametrized, name in found}


def assert_exists(session):
    name, backend = re.fullmatch(r"(\w+)(?:\((.+)\))?", session).groups()
    assert name in sessions(), session
    if backend and backend != "<name>":
        assert sessions()[name], f"{name} takes no backend"
        assert backend in (SETTINGS["tool"]["zlpr"]["tritons"] if name == "tritons" else ENTRIES), session


@pytest.mark.parametrize("page", PAGES)
def test_sessions_that_a_page_names_exist(page):
    for named in re.findall(r"nox -s((?: \"?\w+(?:\([^)]+\))?\"?)+)", read(page)):
        for session in named.replace('"', "").split():
            assert_exists(session)


def test_sessions_that_the_workflow_names_exist():
    steps = yaml.safe_load(read(".github/workflows/tests.yml"))["env"]
    named = [session for value in steps.values() for session in value.split()]
    assert {"minimums", "prereleases", "integrations"} <= set(named)
    for session in named:
        assert_exists(session)


# --- links --------------------------------------------------------------------------------------------------------


def anchors(text):
    """Those of the headings, as code hosts and MyST name them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(page):
    """The targets of the links that lead to files of this project."""
    prose = re.sub(r"`[^`\n]+`", "", FENCE.sub("", read(page)))
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in links(page):
        file, _, anchor = link.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md"])
def test_files_that_a_page_names_exist(page):
    """Those that it names with their folder."""
    for name in re.findall(r"`((?:zlpr_\w+|tests|docs|benchmarks|examples|studies)/[\w./]*)`", read(page)):
        assert (ROOT / name).exists() or name.startswith("docs/_build/"), name


def test_there_are_links_to_check():
    """Else the test above could not fail."""
    assert len([link for page in PAGES for link in links(page)]) > 20
    assert anchors("# A `b`, and C-d\n```\n# no\n```\n") == {"a-b-and-c-d"}


# --- a release ----------------------------------------------------------------------------------------------------

TRACKED = {f"{package}/{name}" for package in PACKAGES for name in ("__init__.py", "py.typed")} | {
    "README.md",
    ".ci/run",
}
CODE = {name for name in TRACKED if name.startswith(PACKAGES)}
WHEEL = CODE | {"zlpr-1.2.3.dist-info/METADATA", "zlpr-1.2.3.dist-info/licenses/LICENSE"}
SDIST = {f"zlpr-1.2.3/{name}" for name in CODE | {"README.md", "PKG-INFO"}}
CHANGELOG = "# Changelog\n\n## 1.2.3 - 2000-01-02\n\n## 1.2.2 - 2000-01-01\n"


def test_what_may_be_released():
    assert not [*release.wheel_problems(WHEEL, TRACKED), *release.sdist_problems(SDIST, TRACKED)]
    assert not [*release.changelog_problems(CHANGELOG, "1.2.3")]


REFUSED = {
    "stray module": (release.wheel_problems(WHEEL | {"zlpr_core/stray.py"}, TRACKED), "zlpr_core/stray.py"),
    "tests in the wheel": (release.wheel_problems(WHEEL | {"tests/a.py"}, TRACKED), "The wheel holds what git does not know or what is not for users: tests/a.py."),
    "a package is missing": (release.wheel_problems({n for n in WHEEL if "zlpr_jax" not in n}, TRACKED), "The wheel lacks zlpr_jax/__init__.py, zlpr_jax/py.typed."),
    "nowhere typed": (release.wheel_problems(WHEEL - {"zlpr_tf/py.typed"}, TRACKED - {"zlpr_tf/py.typed"}), "The wheel lacks zlpr_tf/py.typed."),
    "no license": (release.wheel_problems({n for n in WHEEL if "LICENSE" not in n}, TRACKED), "The wheel lacks the LICENSE."),
    "not for users": (release.sdist_problems(SDIST | {"zlpr-1.2.3/.ci/run"}, TRACKED), "not for users: .ci/run."),
    "no README": (release.sdist_problems(SDIST - {"zlpr-1.2.3/README.md"}, TRACKED), "The sdist lacks README.md."),
    "no section": (release.changelog_problems(CHANGELOG, "1.2.4"), "CHANGELOG.md starts with 1.2.3, but the wheel is 1.2.4"),
    "no date": (release.changelog_problems(CHANGELOG.replace("2000-01-02", "unreleased"), "1.2.3"), "put the date there"),
    "no sections at all": (release.changelog_problems("# Changelog\n", "1.2.3"), "starts with nothing, but the wheel is 1.2.3"),
}  # fmt: skip


@pytest.mark.parametrize(("problems", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_may_not_be_released(problems, sentence):
    assert sentence in " ".join(problems)
