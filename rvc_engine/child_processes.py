"""Command line and environment of child processes that run our programs.

A child is started by `python -P -m MODULE`, which searches modules neither in the current folder nor beside a script:
a user's folder `server/` is not imported in place of ours. The user's `PYTHONPATH` is dropped for the same reason.
Where our packages are not installed (a plain checkout, or a folder in `PYTHONPATH`), the child's `PYTHONPATH` is the
folder that this process imported them from, so that parent and child have the same version.
"""

import os
import re
import site
import sys
from collections.abc import Collection, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_ADDRESSES = frozenset({*_PROXIES, *(name.upper() for name in _PROXIES), "HF_ENDPOINT", "PYPI_FILES_ENDPOINT"})
"""Variables that may contain `user:password@`, which is removed before they are passed on."""
_WINDOWS = ("SYSTEMROOT", "WINDIR", "TEMP", "TMP", "APPDATA", "LOCALAPPDATA", "USERPROFILE", "PATHEXT", "COMSPEC")
_SYSTEM = _WINDOWS if os.name == "nt" else ()
PROGRAM_VARIABLES = ("PATH", "LANG", "LC_*", "TMPDIR", "LD_LIBRARY_PATH", *_SYSTEM)
"""Variables that any program needs to start, to decode file names, and to write temporary files."""
# fmt: off
ENGINE_VARIABLES = (
    *PROGRAM_VARIABLES, "HOME", "USER", "TZ", "XDG_*",
    "CUDA_*", "NVIDIA_*", "NCCL_*", "GLOO_*", "HIP_*", "HSA_*", "ROCR_*", "MIOPEN_*", "ZE_*", "ONEAPI_*",
    "PYTORCH_*", "TORCH_*", "TORCHINDUCTOR_*", "TRITON_*", "CC", "CXX", "OMP_*", "MKL_*", "KMP_*",
    "HF_HOME", "SSL_CERT_*", "REQUESTS_CA_BUNDLE", *sorted(_ADDRESSES),
)
# fmt: on
"""Variables that the engine and its libraries read. `*` stands for the rest of a name."""
_ENGLISH = {"LANGUAGE": "en", "PYTHONUTF8": "1"}
"""Language and encoding of a child whose output a program reads, stores or logs."""
_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_|$)")
"""Names never passed on by a pattern above, such as NVIDIA_API_KEY by NVIDIA_*."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?")
_OURS = "RVC_TRAIN_"
"""Prefix of the settings of server and worker, including database password and token. The engine reads none."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def python_command(module: str, *arguments: str) -> list[str]:
    """Command that runs one of our modules, or an installed one, with this interpreter."""
    return [sys.executable, "-P", "-m", module, *arguments]


def own_command() -> list[str]:
    """Command that started this program, to run it again."""
    return [sys.executable, *sys.orig_argv[1:]]


def name_collision(name: str) -> str | None:
    """Message if a child would import another distribution's package in place of ours, such as its own `server`.

    None: our package is found, or none at all.
    """
    ours = Path(__file__).resolve().parents[1]
    users = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    found = PathFinder.find_spec(name, [*_uninstalled_folder(), *users, *site.getsitepackages()])
    places = [] if found is None else list(found.submodule_search_locations or [])
    folder = Path(places[0]).resolve() if places else None
    if folder is None or folder.parent == ours:
        return None
    return (
        f"Python would import the package {name} from {folder}, not from {ours / name}; install this program in a "
        "virtual environment of its own (python -m venv)"
    )


def inherited_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """All of `environment`, for trusted children; `PYTHONPATH` is set as the module's docstring explains."""
    return _with_search_path({name: value for name, value in environment.items() if name != "PYTHONPATH"})


def program_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that any program needs to start, and no others."""
    return _with_search_path(_select(environment, PROGRAM_VARIABLES) | _ENGLISH)


def engine_environment(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """Environment for the engine, which decodes untrusted recordings: `ENGINE_VARIABLES` without secrets.

    `more`: further names, or prefixes of names that end in `*`. Their values are passed on unchanged.
    """
    usual = {
        name: without_credentials(value) if name in _ADDRESSES else value
        for name, value in _select(environment, ENGINE_VARIABLES).items()
        if not _SECRET.search(name)
    }
    further = {name: value for name, value in _select(environment, more).items() if not name.startswith(_OURS)}
    return _with_search_path(usual | further | _ENGLISH)


def variable_names(text: str) -> tuple[str, ...]:
    """Names, and prefixes ending in `*`, of a comma-separated list. Raises ValueError for an invalid one."""
    names = tuple(word.strip() for word in text.split(",") if word.strip())
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is neither the name of a variable nor a prefix followed by *, such as AWS_*")
        if name.startswith(_OURS):
            raise ValueError(f"{name} is a setting of the server or the worker, and the engine gets none of those")
    return names


def without_credentials(address: str) -> str:
    """The address (with or without a scheme) without `user:password@` before its host."""
    scheme = _SCHEME.match(address)
    start = scheme.end() if scheme else 0
    return address[:start] + address[start:].rpartition("@")[2]


def _select(environment: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    exact = {name for name in names if not name.endswith("*")}
    beginnings = tuple(name[:-1] for name in names if name.endswith("*"))
    return {key: value for key, value in environment.items() if key in exact or key.startswith(beginnings)}


def _with_search_path(environment: dict[str, str]) -> dict[str, str]:
    folders = [*_uninstalled_folder(), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | ({"PYTHONPATH": os.pathsep.join(folders)} if folders else {})


def _uninstalled_folder() -> list[str]:
    """The folder of our packages, unless it is a site-packages folder that the interpreter searches anyway."""
    folder = Path(__file__).absolute().parents[1].resolve()
    installed = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return [] if folder in {Path(each).resolve() for each in installed} else [str(folder)]
