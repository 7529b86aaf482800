"""Weight files inside installed Python packages, which are not run. No torch."""

import importlib.util
from pathlib import Path


def package_file(package: str, path: str) -> Path | None:
    """A file of an installed package; None where either is missing."""
    found = importlib.util.find_spec(package)  # finds the package without running it
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        if (file := Path(folder, path)).is_file():
            return file
    return None
