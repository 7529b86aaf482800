"""A child process runs our packages, and gets no more of the environment than it needs."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import rvc_engine
from rvc_engine import child_processes
from rvc_engine.child_processes import (
    ENGINE_VARIABLES,
    engine_environment,
    inherited_environment,
    name_collision,
    program_environment,
    python_command,
    variable_names,
    without_credentials,
)
from rvc_engine.translation.messages import available, environment_languages
from tests.systems import IS_WINDOWS, links

PACKAGE = Path(rvc_engine.__file__).parent
SECRETS = {
    "RVC_TRAIN_TOKEN": "rvc_token",
    "RVC_TRAIN_DATABASE_URL": "postgresql+psycopg://rvc:hunter2@db/rvc",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "HF_TOKEN": "hf_token",
    "NVIDIA_API_KEY": "nvapi",
    "PGPASSWORD": "hunter2",
}
SEARCH_PATH = """
import json, sys
sys.path[:0] = sys.argv[1:]
from rvc_engine.child_processes import inherited_environment
print(json.dumps(inherited_environment({"PYTHONPATH": "/theirs", "HOME": "/home/me"})))
"""


def environment_of_a_child(environment: dict[str, str]) -> dict[str, str]:
    """The environment that a real child process sees.

    On Windows the one that it would be given: a program there does not start with so few variables.
    """
    if IS_WINDOWS:
        return environment
    command = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(output)


def test_a_module_of_the_current_folder_is_never_taken_for_ours(hostile, tmp_path: Path) -> None:
    executed = hostile(tmp_path, "rvc_engine", "random", "typer", "numpy")
    done = subprocess.run(
        python_command("rvc_engine", "--help"),
        cwd=tmp_path,
        env=inherited_environment(os.environ | {"PYTHONPATH": "."}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Make RVC voices from recordings" in done.stdout
    assert not executed.exists()


@links
def test_children_find_the_packages_that_their_parent_found_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "rvc_engine").symlink_to(PACKAGE)
    command = [sys.executable, "-c", SEARCH_PATH, str(tmp_path)]
    environment = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert environment == {"PYTHONPATH": str(tmp_path), "HOME": "/home/me"}
    where = [sys.executable, "-P", "-c", "import rvc_engine; print(rvc_engine.__file__)"]
    found = subprocess.run(where, env=environment, cwd="/", capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).parent == tmp_path / "rvc_engine"


@links
def test_children_of_installed_packages_get_no_search_path(tmp_path: Path) -> None:
    venv.create(tmp_path, symlinks=True)
    (packages,) = tmp_path.glob("lib/python*/site-packages")
    (packages / "rvc_engine").symlink_to(PACKAGE)
    command = [str(tmp_path / "bin" / "python"), "-P", "-c", SEARCH_PATH]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == {"HOME": "/home/me"}


def test_the_engine_gets_what_its_libraries_read_and_no_secrets() -> None:
    passed = {
        "PATH": "/usr/bin",
        "LC_TIME": "de_DE.UTF-8",
        "XDG_CACHE_HOME": "/tmp/cache",
        "LD_LIBRARY_PATH": "/opt/cuda/lib64",
        "CUDA_VISIBLE_DEVICES": "1",
        "NCCL_SOCKET_IFNAME": "eth0",
        "GLOO_SOCKET_IFNAME": "eth0",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "HF_ENDPOINT": "https://mirror.example.org",
        "PYPI_FILES_ENDPOINT": "https://pypi.example.org",
        "SSL_CERT_FILE": "/etc/ssl/ours.pem",
        "no_proxy": "localhost,10.0.0.0/8",
    }
    theirs = {"PYTHONSTARTUP": "/home/me/startup.py", "LD_PRELOAD": "libother.so", "EDITOR": "vi"}
    seen = environment_of_a_child(engine_environment(passed | theirs | SECRETS))
    seen = {name: value for name, value in seen.items() if name not in {"LC_CTYPE", "PYTHONPATH"}}  # LC_CTYPE: Python's
    assert seen == passed | {"LANGUAGE": "en", "PYTHONUTF8": "1"}


def test_the_list_for_the_engine_is_the_documented_one() -> None:
    guide = (PACKAGE.parent / "docs" / "operations.md").read_text()
    paragraph = guide.split("### What the engine gets")[1].split("\n### ")[0].split("\n## ")[0]
    for name in ENGINE_VARIABLES:
        assert f"`{name}`" in paragraph or f"`{name.lower()}`" in paragraph, name


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://me:secret@proxy:3128", "http://proxy:3128"),
        ("http://me:s/ec@ret@proxy:3128/", "http://proxy:3128/"),
        ("me:secret@proxy:3128", "proxy:3128"),
        ("socks5h://me@proxy:1080", "socks5h://proxy:1080"),
        ("http://proxy:3128", "http://proxy:3128"),
        ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
        ("", ""),
    ],
)
def test_a_proxy_is_handed_on_without_its_password(address: str, expected: str) -> None:
    assert without_credentials(address) == expected
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        assert engine_environment({name: address})[name] == expected


def test_more_is_handed_on_by_name_or_by_its_beginning_and_as_it_is_but_never_our_own_settings() -> None:
    given = {"LD_PRELOAD": "libjemalloc.so", "HTTP_PROXY": "http://me:secret@proxy:3128", "HF_HUB_OFFLINE": "1"}
    names = variable_names(" LD_PRELOAD, HTTP_PROXY,HF_*, R*,")
    assert names == ("LD_PRELOAD", "HTTP_PROXY", "HF_*", "R*")
    seen = environment_of_a_child(engine_environment(given | SECRETS, names))
    assert given.items() <= seen.items()
    assert seen["HF_TOKEN"] == "hf_token"  # matches HF_*
    assert not {name for name in seen if name.startswith("RVC_TRAIN_")}


@pytest.mark.parametrize("text", ["*", "A B", "1A", "A*B", "RVC_TRAIN_TOKEN", "RVC_TRAIN_*"])
def test_a_list_that_names_no_variables_or_our_own_settings_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither the name of a variable|gets none of those"):
        variable_names(f"PATH,{text}")


def test_a_program_that_reads_recordings_gets_next_to_nothing() -> None:
    seen = program_environment({"PATH": "/usr/bin", "LANG": "C.UTF-8", "HOME": "/home/me", "CUDA_HOME": "/c"} | SECRETS)
    assert {name: value for name, value in seen.items() if name != "PYTHONPATH"} == {
        "PATH": "/usr/bin",
        "LANG": "C.UTF-8",
        "LANGUAGE": "en",
        "PYTHONUTF8": "1",
    }


def test_a_child_whose_output_is_stored_writes_english() -> None:
    chinese = {"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8", "LANGUAGE": "zh_CN"}
    for environment in (engine_environment(chinese), program_environment(chinese)):
        assert available(environment_languages(environment)[0]) == "en"


def test_a_package_of_our_name_that_comes_first_is_found_before_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [name_collision(name) for name in ("server", "worker", "no_such_package")] == [None, None, None]
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").write_text("raise SystemExit('this is not ours')")
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path), str(PACKAGE.parent)])
    monkeypatch.setattr("site.ENABLE_USER_SITE", False)
    monkeypatch.setattr(child_processes, "_uninstalled_folder", list)
    collision = name_collision("server")
    assert collision is not None
    assert f"from {tmp_path / 'server'}, not from {PACKAGE.parent / 'server'};" in collision
    assert name_collision("worker") is None
