"""Variables of the environment that no program reads, or only the other one."""

import os

import pytest

from server.errors import SettingsRefused
from server.setting_names import WORKER_ONLY, check_setting_names
from server.settings import ServerSettings
from tests.programs import run_program
from worker.settings import WorkerSettings


def of_server(**variables: str) -> list[str]:
    environment = {f"RVC_TRAIN_{name.upper()}": value for name, value in variables.items()}
    return list(check_setting_names(environment, ServerSettings.model_fields, "server", WORKER_ONLY, "worker"))


def test_the_server_knows_the_workers_settings() -> None:
    assert set(WorkerSettings.model_fields) - set(ServerSettings.model_fields) == WORKER_ONLY
    assert "retry_delay_seconds" in WORKER_ONLY


def test_a_misspelt_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        SettingsRefused, match="no setting RVC_TRAIN_LEASE_SECOND; rename it to RVC_TRAIN_LEASE_SECONDS"
    ):
        of_server(lease_second="600")
    with pytest.raises(SettingsRefused, match="RVC_TRAIN_HEARTBEAT_SECONDS"):
        of_server(hartbeat_seconds="600")


def test_settings_of_the_other_program_in_a_shared_environment_prevent_no_start() -> None:
    assert of_server(port="8000", device="cpu", retry_delay_seconds="0", server="http://a", max_ratio="") == [
        "not read by the server, but by the worker: RVC_TRAIN_DEVICE, RVC_TRAIN_RETRY_DELAY_SECONDS"
    ]
    assert of_server(my_own="1") == ["not read by any program: RVC_TRAIN_MY_OWN; remove what is not needed"]


@pytest.mark.parametrize("program", ["server", "worker"])
def test_a_program_with_a_misspelt_setting_does_not_start(tmp_path, program: str) -> None:
    environment = os.environ | {"RVC_TRAIN_DATA_FOLDER": str(tmp_path), "RVC_TRAIN_MAX_RECOVERY": "1"}
    done = run_program(program, environment=environment)
    assert done.returncode == 2
    assert "there is no setting RVC_TRAIN_MAX_RECOVERY; rename it to RVC_TRAIN_MAX_RECOVERIES" in done.stderr
