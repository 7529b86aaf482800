"""Children that are programs of ours: the command that starts one, and the environment that it gets.

A child is started by `python -P -m MODULE`, which looks for modules neither in the current folder nor beside a script:
a folder `server/` of the user's own is not taken for ours. The user's `PYTHONPATH` is left out for the same reason.
Where our packages are installed nowhere (a checkout that is run as it is, a folder that `PYTHONPATH` names), the folder
that this process found them in becomes the child's `PYTHONPATH`, so that parent and child are of one version.
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
"""Variables that may hold `user:password@`; they are handed on without it."""
_WINDOWS = ("SYSTEMROOT", "WINDIR", "TEMP", "TMP", "APPDATA", "LOCALAPPDATA", "USERPROFILE", "PATHEXT", "COMSPEC")
_SYSTEM = _WINDOWS if os.name == "nt" else ()
PROGRAM_VARIABLES = ("PATH", "LANG", "LC_*", "TMPDIR", "LD_LIBRARY_PATH", *_SYSTEM)
"""What any program needs to start, to read names of files, and to write temporary ones."""
# fmt: off
ENGINE_VARIABLES = (
    *PROGRAM_VARIABLES, "HOME", "USER", "TZ", "XDG_*",
    "CUDA_*", "NVIDIA_*", "NCCL_*", "GLOO_*", "HIP_*", "HSA_*", "ROCR_*", "MIOPEN_*", "ZE_*", "ONEAPI_*",
    "PYTORCH_*", "TORCH_*", "OMP_*", "MKL_*", "KMP_*",
    "HF_HOME", "SSL_CERT_*", "REQUESTS_CA_BUNDLE", *sorted(_ADDRESSES),
)
# fmt: on
"""What the engine and its libraries read. `*` stands for any rest of a name."""
_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_|$)")
"""In a name that only a prefix above fits, such as NVIDIA_API_KEY."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?")
_OURS = "RVC_TRAIN_"
"""Settings of server and worker, the database's password and the token among them. The engine reads none."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours, or of an installed package, with this interpreter."""
    return [sys.executable, "-P", "-m", module, *arguments]


def name_collision(name: str) -> str | None:
    """One sentence where a child would import another distribution's package under the name of ours.

    Others may bring a package called `server` or `worker` too. None: ours is found, or none at all.
    """
    ours = Path(__file__).resolve().parents[1]
    users = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    found = PathFinder.find_spec(name, [*_uninstalled_folder(), *users, *site.getsitepackages()])
    places = [] if found is None else list(found.submodule_search_locations or [])
    folder = Path(places[0]).resolve() if places else None
    if folder is None or folder.parent == ours:
        return None
    return (
        f"the package {name} that Python finds first is {folder}, not ours in {ours / name}; install this program "
        "into an environment of its own (python -m venv)"
    )


def inherited_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """All of `environment`, for children trusted as this process is; `PYTHONPATH` as in the module's docstring."""
    return _with_search_path({name: value for name, value in environment.items() if name != "PYTHONPATH"})


def program_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """No more of `environment` than any program needs to start."""
    return _with_search_path(_select(environment, PROGRAM_VARIABLES))


def engine_environment(environment: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """What the engine, which decodes strangers' recordings, may see of `environment`: `ENGINE_VARIABLES`, no secrets.

    `more`: further names, or beginnings of names that end in `*`. Those are handed on as they are.
    """
    usual = {
        name: without_credentials(value) if name in _ADDRESSES else value
        for name, value in _select(environment, ENGINE_VARIABLES).items()
        if not _SECRET.search(name)
    }
    further = {name: value for name, value in _select(environment, more).items() if not name.startswith(_OURS)}
    return _with_search_path(usual | further)


def variable_names(text: str) -> tuple[str, ...]:
    """The names, and beginnings of names, in a list with commas. ValueError for what cannot be one."""
    names = tuple(word.strip() for word in text.split(",") if word.strip())
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no variable's name, nor the beginning of one followed by *, such as AWS_*")
        if name.startswith(_OURS):
            raise ValueError(f"{name} is a setting of the server or the worker, and the engine gets none of those")
    return names


def without_credentials(address: str) -> str:
    """An address, with or without a scheme, without the `user:password@` before its host."""
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
    """The folder of our packages, where the interpreter would not find it by itself."""
    folder = Path(__file__).absolute().parents[1].resolve()
    installed = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return [] if folder in {Path(each).resolve() for each in installed} else [str(folder)]
