"""The command line as a user types it, against a real server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rvc_train.cli.commands import up
from rvc_train.cli.services import free_port

SMALL = ("--width", "24", "--content", "whisper-tiny", "--pretrained", "none")


@pytest.fixture(scope="module")
def running(lasting_station):
    lasting_station.start_server()
    lasting_station.follow_script(["log", "hello"], ["train", 5, 0.05, 2], *lasting_station.MAKE_VOICE)
    lasting_station.start_worker()
    done = lasting_station.cli("dataset", "upload", str(lasting_station.samples), "--name", "samples")
    assert done.returncode == 0, done.stderr
    lasting_station.wait_until(lambda: next(lasting_station.client.datasets()).status == "ready", "the report", 60)
    return lasting_station


def test_from_submission_to_files_with_what_to_type_next(running, tmp_path):
    done = running.cli("submit", "samples", "--name", "anna", *SMALL, "--watch")
    assert done.returncode == 0, done.stderr
    assert "rvc-train download job_" in done.stdout
    assert "converts correctly only with `rvc-engine convert`" in done.stderr
    done = running.cli("download", "last", "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"anna.pth", "anna.index"}
    (tmp_path / "out" / "anna.pth").write_bytes(b"another voice")
    done = running.cli("download", "last", "-o", str(tmp_path / "out"))
    assert "has other files of these names, which stay" in done.stderr
    numbered = {"anna (2).pth", "anna (2).index"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"anna.pth", "anna.index"} | numbered
    assert (tmp_path / "out" / "anna.pth").read_bytes() == b"another voice"
    assert running.cli("download", "last", "-o", str(tmp_path / "out"), "--force").returncode == 0
    assert (tmp_path / "out" / "anna.pth").read_bytes() == (tmp_path / "out" / "anna (2).pth").read_bytes()


def test_json_is_all_there_is_on_standard_output(running, tmp_path):
    submitted = json.loads(running.cli("submit", "samples", "--name", "bea", *SMALL, "--json").stdout)
    assert submitted["name"] == "bea"
    watched = running.cli("watch", submitted["id"], "--json")
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "succeeded"
    for words in (
        ["jobs"],
        ["show", "last"],
        ["workers"],
        ["dataset", "list"],
        ["dataset", "show", "samples"],
        ["dataset", "report", "samples"],
        ["download", "last", "-o", str(tmp_path)],
        ["cancel", "last"],
        ["me"],
        ["token", "create", "anna", "--scope", "read"],
        ["token", "list"],
        ["owner", "quota", "anna", "--jobs", "3"],
        ["owner", "list"],
        ["audit"],
        ["weights", "list"],
        ["retention", "show"],
        ["retention", "set", "--keep-last", "0", "--dry-run"],
        ["retention", "run"],
        ["webhook", "add", "https://203.0.113.9/hook"],
        ["webhook", "list"],
    ):
        done = running.cli(*words, "--json")
        json.loads(done.stdout)
    lines = running.cli("logs", "last", "--json").stdout.splitlines()
    assert any("hello" in json.loads(line)["line"] for line in lines)


def test_the_events_of_all_jobs_are_printed_until_control_c(running):
    """The jobs of the tests before."""
    words = ["events", "--from-start", "--type", "succeeded", "--json"]
    command = [sys.executable, "-m", "rvc_train.cli.main", *words]
    environment = running.environment | {"RVC_TRAIN_SERVER": running.url}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as following:
        submitted = json.loads(running.cli("submit", "samples", "--name", "emma", *SMALL, "--json").stdout)
        for line in following.stdout:
            event = json.loads(line)
            assert event["type"] == "succeeded"
            if event["job_id"] == submitted["id"]:
                break
        assert event["name"] == "emma"
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130


def test_exit_codes_tell_how_a_job_ended(running):
    running.follow_script(["fail", "missing_weights", "fetch them, import them, or choose another encoder"])
    restart_worker(running)
    done = running.cli("submit", "samples", "--name", "carl", *SMALL, "--watch")
    assert done.returncode == 4
    assert "missing_weights" in done.stderr
    assert "fetch them, import them" in done.stderr
    running.follow_script(["train", 1000, 0.05, 100])
    restart_worker(running)
    assert running.cli("submit", "samples", "--name", "dora", *SMALL).returncode == 0
    assert running.cli("cancel", "last").returncode == 0
    assert running.cli("watch", "last").returncode == 5
    running.follow_script(["log", "hello"], ["train", 5, 0.05, 2], *running.MAKE_VOICE)
    restart_worker(running)


def restart_worker(running) -> None:
    """A worker reads its engine's command when it starts."""
    running.processes[-1].terminate()
    assert running.processes[-1].wait(20) == 0
    running.start_worker()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["submit", "nowhere", "--name", "x"], 2, "there is no dataset nowhere"),
        (["submit", "samples", "--name", "a\nb", *SMALL], 2, "--name: the name has characters that are not printable"),
        (["submit", "samples", "--name", "x", "--width", "24"], 2, "no base weights exist for width=24"),
        (["submit", "samples", "--name", "x", "--batch-size", "0"], 2, "--batch-size: "),
        (["submit", "samples", "--name", "x", "--config", "/nowhere.json"], 2, "/nowhere.json cannot be read"),
        (["submit", "samples", "--name", "x", "--sample-rate", "44k"], 2, "--sample-rate"),
        (["watch", "job_0000"], 2, "there is no job job_0000"),
        (["dataset", "upload", "/nowhere"], 2, "no such file or folder"),
        (["dataset", "upload", "/nowhere", "--name", "x" * 201], 2, "--name: the name has 201 characters"),
        (["dataset", "upload", "/nowhere", "--zip-names", "klingon"], 2, "--zip-names: 'klingon' is not a code page"),
        (["jobs", "--server", "http://127.0.0.1:9"], 3, "rvc-train up"),
        (["jobs", "--server", "no address"], 2, "not a server address"),
        (["jobs", "--status", "happy"], 1, "status"),
    ],
)
def test_mistakes_get_one_sentence_and_an_exit_code_and_never_a_traceback(running, words, code, sentence):
    done = running.cli(*words)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_options_win_over_the_config_file(running, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"width": 24, "pretrained": "none", "batch_size": 7, "total_epochs": 9}))
    done = running.cli("submit", "samples", "--name", "x", "--config", str(file), "--batch-size", "3", "--json")
    config = json.loads(done.stdout)["config"]
    assert (config["batch_size"], config["total_epochs"], config["width"]) == (3, 9, 24)


def test_logs_follow_to_the_end_of_the_job(running):
    running.cli("submit", "samples", "--name", "emil", *SMALL)
    done = running.cli("logs", "-f", "last")
    assert done.returncode == 0
    assert "hello" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("the voice is made")


def test_a_token_is_asked_for_and_taken_from_the_environment(station):
    station.start_server()
    assert station.cli("jobs").returncode == 0
    done = station.cli("jobs", "--token", "wrong")
    assert done.returncode == 6
    assert "--token or RVC_TRAIN_TOKEN" in done.stderr
    assert "the token that was sent is from --token" in done.stderr
    del station.environment["RVC_TRAIN_TOKEN"]
    assert station.cli("jobs").returncode == 6


@pytest.mark.parametrize("how", [pytest.param("SIGTERM to it alone", marks=pytest.mark.long), "Ctrl-C in its terminal"])
def test_up_runs_server_and_worker_and_stops_both(station, recording, how):
    station.follow_script(["train", 1000, 0.05, 100])
    del station.environment["RVC_TRAIN_PORT"]
    command = [sys.executable, "-m", "rvc_train.cli.main", "up", "--port", str(station.port), "--device", "cpu"]
    command += ["--data", str(station.folder / "data")]
    up = subprocess.Popen(
        command,
        env=station.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        station.wait_until(station.client.is_ready, "the server", 30)
        job = station.submit(station.upload(recording))
        station.wait_until(lambda: len(station.steps(job)) >= 2, "two steps")
        if how.startswith("SIGTERM"):
            up.send_signal(signal.SIGTERM)
        else:
            os.killpg(up.pid, signal.SIGINT)
        words, _ = up.communicate(timeout=30)
    finally:
        up.kill()
        up.wait()
    assert up.returncode == 0, words
    assert "server │" in words
    assert "worker │" in words
    assert words.splitlines()[-1] == "stopped"
    assert not station.client.is_ready()
    assert "job released" in words


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells children of their parent's death")
def test_up_killed_with_kill_9_leaves_nothing_running_and_loses_no_step(station, recording):
    station.follow_script(["train", 1000, 0.05, 1000])
    command = [sys.executable, "-m", "rvc_train.cli.main", "up", "--port", str(station.port)]
    command += ["--data", str(station.folder / "data")]
    # Its output goes nowhere once it is dead: server and worker must not stumble over that.
    up = subprocess.Popen(command, env=station.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        station.wait_until(station.client.is_ready, "the server", 30)
        job = station.submit(station.upload(recording))
        station.wait_until(lambda: len(station.steps(job)) >= 3, "three steps")
        started = psutil.Process(up.pid).children(recursive=True)
        assert len(started) == 3, "server, worker, engine"
    finally:
        up.kill()
        up.wait()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []
    checkpoint = station.folder / "data" / "jobs" / job.id / "workspace" / "checkpoint.json"
    assert json.loads(checkpoint.read_text())["step"] == len(station.steps(job))
    station.start_server()
    assert station.client.job(job.id).status == "queued", "the worker handed it back"


def test_up_without_a_folder_takes_the_users_says_what_is_in_it_and_names_the_one_used_last(station, tmp_path):
    last, users = tmp_path / "last", tmp_path / "share" / "rvc-train" / "data"
    for folder in (last, tmp_path / "here", tmp_path / "config" / "rvc-train"):
        folder.mkdir(parents=True)
    (last / "instance.json").touch()
    (tmp_path / "config" / "rvc-train" / "last-data-folder").write_text(f"{last}\n")
    del station.environment["RVC_TRAIN_DATA_FOLDER"]
    homes = {"XDG_DATA_HOME": str(tmp_path / "share"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment = station.environment | homes | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "rvc_train.cli.main", "up", "--device", "cpu", "--port", str(station.port)]
    log = tmp_path / "up.log"
    with log.open("wb") as file:
        up = subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=tmp_path / "here")
    try:
        station.wait_until(lambda: ": voices: 0, " in log.read_text(), "the contents of the folder", 90)
    finally:
        up.terminate()
        up.wait(170)  # longer than it gives its worker to stop
    said = log.read_text()
    assert "not read by the worker" not in said, "settings of the server go to the server alone"
    assert f"{users} is new; the data folder used last is {last}" in said
    assert f"missing in {users / 'weights'}: 586.4 MB" in said
    assert "get it with `rvc-train setup`" in said
    assert f"in {users}: voices: 0, jobs: 0" in said
    assert not list((tmp_path / "here").iterdir())
    assert (tmp_path / "config" / "rvc-train" / "last-data-folder").read_text() == f"{users}\n"


def test_a_sigterm_is_not_forgotten_where_its_exception_is_lost(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda number, handler: set_handlers.append(handler))
    monkeypatch.setattr(signal, "getsignal", lambda number: set_handlers[-1])
    set_handlers = [signal.SIG_DFL]
    assert not up._is_stopped()
    with pytest.raises(up.Stopped):
        up._raise_stopped(signal.SIGTERM, None)
    assert up._is_stopped()
    assert signal.SIG_IGN not in set_handlers, "children would inherit it"


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks with hooks on Linux only")
def test_a_sigterm_that_arrives_at_a_fork_ends_up_too(station):
    hook = "import os, signal as s; os.register_at_fork(before=lambda: os.kill(os.getpid(), s.SIGTERM))"
    command = [sys.executable, "-c", f"{hook}; import rvc_train.cli.main as c; c.main()", "up", "--device", "cpu"]
    command += ["--port", str(station.port), "--data", str(station.folder / "data")]
    done = subprocess.run(command, env=station.environment, capture_output=True, text=True, timeout=250, check=False)
    assert "Exception ignored" in done.stderr, "the hook lost it"
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "stopped")


def test_up_says_why_it_cannot_start(station):
    station.start_server()
    station.environment["RVC_TRAIN_PORT"] = str(station.port)  # as the server itself takes it
    done = station.cli("up", "--data", str(station.folder / "other"))
    assert done.returncode == 1
    assert f"{station.port} (Address already in use); choose another with --port" in done.stderr
    done = station.cli("up", "--token", "short", "--port", str(free_port()), "--data", str(station.folder / "other"))
    assert done.returncode == 1
    assert "RVC_TRAIN_TOKEN is shorter than 16 characters" in done.stderr


def test_up_starts_a_worker_again_that_died(station):
    command = [sys.executable, "-m", "rvc_train.cli.main", "up", "--port", str(station.port)]
    command += ["--data", str(station.folder / "data")]
    patched = "import rvc_train.cli.services as s, rvc_train.cli.main as c; s.SECONDS_TO_COUNT_AS_STARTED = 0; c.main()"
    command[1:3] = ["-c", patched]
    with (station.folder / "up.log").open("wb") as log:
        up = subprocess.Popen(command, env=station.environment, stdout=log, stderr=log)
    try:
        station.wait_until(lambda: station.client.is_ready() and station.client.workers() != [], "a worker", 30)
        os.kill(station.client.workers()[0].pid, signal.SIGKILL)
        station.wait_until(lambda: len(station.client.workers()) == 2, "another worker", 30)
        assert "starting it again" in (station.folder / "up.log").read_text()
    finally:
        up.terminate()
        up.wait(30)


def test_the_demo_makes_verifies_and_explains_a_voice_and_leaves_nothing_running(station):
    station.follow_script(["train", 20, 0.05, 5], *station.MAKE_VOICE)
    output = station.folder / "demo"
    command = [
        sys.executable,
        "-m",
        "rvc_train.cli.main",
        "demo",
        "--output",
        str(output),
        "--max-train-seconds",
        "3",
        "--width",
        "24",
    ]
    begun = time.time()
    environment = station.environment | {"XDG_CONFIG_HOME": str(station.folder / "config")}
    del environment["RVC_TRAIN_TOKEN"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (station.folder / "config").exists()
    assert {path.name for path in output.iterdir()} == {"sample.pth", "sample.index", "services.log"}
    assert str(output / "sample.pth") in done.stdout
    assert "not yet a good voice" in done.stdout
    assert "rvc-engine convert" in done.stdout
    assert "checkpoint" in done.stdout
    assert time.time() - begun < 60
    assert "worker stopped" in (output / "services.log").read_text()


def test_an_interrupted_demo_stops_what_it_started(station):
    station.follow_script(["train", 1000, 0.05, 5])
    output = station.folder / "demo"
    command = [sys.executable, "-m", "rvc_train.cli.main", "demo", "--output", str(output), "--width", "24"]
    demo = subprocess.Popen(
        command, env=station.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    log = output / "services.log"
    try:
        station.wait_until(lambda: log.is_file() and "engine started" in log.read_text(), "the engine", 60)
        demo.send_signal(signal.SIGINT)
        words, _ = demo.communicate(timeout=30)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130, words
    assert "server and worker are stopped" in words
    assert "worker stopped" in log.read_text()
