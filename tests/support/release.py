"""What would be published, looked at: ``nox -s release`` runs this on the folder that holds the wheel and the sdist.

It prints what is wrong and fails, or prints what to do next. It uploads nothing.
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from registry import PACKAGES, ROOT

HEADING = re.compile(r"^## (\d+\.\d+\.\d+) - (unreleased|\d{4}-\d\d-\d\d)$", flags=re.MULTILINE)
GENERATED = {"PKG-INFO"}  # by the build
UNPUBLISHED = (".ci/",)
NEXT = """
{wheel} and {sdist} are ready in {folder}. To publish them:

  git tag v{version} && git push origin v{version}
  python -m twine upload {folder}/*

Then let the next version begin: its number in zlpr_core/__init__.py and CITATION.cff (without date-released),
and a heading "## {{number}} - unreleased" in CHANGELOG.md.
"""


def versions(changelog):
    """Every version with its date, or "unreleased", newest first."""
    return HEADING.findall(changelog)


def changelog_problems(changelog, version):
    """A release is the newest version of the changelog, with the day on which it comes out."""
    newest, date = (versions(changelog) or [("nothing", None)])[0]
    if newest != version:
        yield f"CHANGELOG.md starts with {newest}, but the wheel is {version}: write the section of {version}."
    elif date == "unreleased":
        yield f'CHANGELOG.md says "{version} - unreleased": put the date there, and in CITATION.cff as date-released.'


def wheel_problems(names, tracked):
    """The files of the four packages that git knows, the license, and nothing else."""
    expected = {name for name in tracked if name.split("/")[0] in PACKAGES}
    packed = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    yield from differences("The wheel", packed, expected)
    yield from (f"The wheel lacks {package}/py.typed." for package in PACKAGES if f"{package}/py.typed" not in packed)
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        yield "The wheel lacks the LICENSE."


def sdist_problems(names, tracked):
    """Everything that git knows but what only this project's own machines need, and nothing else."""
    expected = {name for name in tracked if not name.startswith(UNPUBLISHED)}
    yield from differences("The sdist", {name.partition("/")[2] for name in names} - GENERATED, expected)


def differences(archive, packed, expected):
    """One sentence for what is too much, and one for what is missing."""
    if packed - expected:
        yield f"{archive} holds what git does not know or what is not for users: {', '.join(sorted(packed - expected))}."
    if expected - packed:
        yield f"{archive} lacks {', '.join(sorted(expected - packed))}."


def git(*arguments):
    """What git says of this checkout."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def main(folder):
    """Look at the wheel and the sdist in ``folder``."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    version, tracked = wheel.name.split("-")[1], set(git("ls-files"))
    with zipfile.ZipFile(wheel) as archive:
        wheel_names = archive.namelist()
    with tarfile.open(sdist) as archive:
        sdist_names = [member.name for member in archive.getmembers() if member.isfile()]
    problems = [
        *changelog_problems((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version),
        *wheel_problems(wheel_names, tracked),
        *sdist_problems(sdist_names, tracked),
        *(f"Not committed: {line}" for line in git("status", "--porcelain")),
        *(f"The tag {tag} is there already." for tag in git("tag", "--list", f"v{version}")),
    ]
    if problems:
        sys.exit("\n".join(["Not ready to be released:", *problems]))
    print(NEXT.format(wheel=wheel.name, sdist=sdist.name, folder=folder, version=version))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
