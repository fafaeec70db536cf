"""Write Debian's copyright file: boardfit's own terms, and those each bundled distribution states of itself."""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions

HEAD = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: boardfit
Comment: Below /opt/boardfit lie other projects' distributions, unchanged, each with its licence files in its .dist-info
 folder. The licences named here are those that they state of themselves.

Files: *
Copyright: 2026 the authors of boardfit
License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
"""


def terms(one: Distribution) -> str:
    """Return the licence a distribution states: its expression, a classifier, or the first line of its free text."""
    data = one.metadata
    if stated := data.get("License-Expression"):
        return stated
    found = [line.rpartition(" :: ")[2] for line in data.get_all("Classifier") or [] if line.startswith("License ::")]
    if found:
        return " and ".join(found)
    return (data.get("License") or "see its .dist-info folder").strip().splitlines()[0][:80]


def main(prefix: str) -> None:
    """Print the file for what lies in the environment at ``prefix``."""
    print(HEAD, end="")
    bundled = {one.metadata["Name"]: one for one in distributions() if str(one.locate_file("")).startswith(prefix)}
    for name, one in sorted(bundled.items(), key=lambda entry: entry[0].lower()):
        if name != "boardfit":
            author = one.metadata.get("Author") or one.metadata.get("Author-email") or f"the authors of {name}"
            folder = name.lower().replace("-", "_")
            print(f"\nFiles: opt/boardfit/lib/*/site-packages/{folder}*")
            print(f"Copyright: {' '.join(author.split())}\nLicense: {terms(one)}")
            print(f" See the files in its .dist-info folder ({name} {one.version}).")


if __name__ == "__main__":
    main(sys.argv[1])
