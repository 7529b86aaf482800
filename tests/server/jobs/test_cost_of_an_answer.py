"""What one answer costs, in transactions: the same numbers on every machine."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa


def test_one_job_costs_a_transaction_beside_that_of_the_token_and_a_list_page_too(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    admin = {"Authorization": "Bearer " + "a" * 32}
    with serve(tmp_path, token="a" * 32) as server, server.client() as http:
        made = http.post("/v1/tokens", json={"owner": "bob", "scopes": ["submit"]}, headers=admin).json()
        bob = {"Authorization": f"Bearer {made['secret']}"}
        dataset = http.put("/v1/datasets/a/content", content=b"RIFF", headers=bob).json()
        job = http.post("/v1/jobs", json={"name": "a", "dataset_id": dataset["id"]}, headers=bob).json()
        begun: list[str] = []

        @sa.event.listens_for(server.context.engine, "begin")
        def count(_connection: sa.Connection) -> None:
            if "AnyIO" in threading.current_thread().name:  # a request's, not a periodic task's
                begun.append(threading.current_thread().name)

        def cost(path: str) -> int:
            http.post("/v1/jobs", json={"name": "a", "dataset_id": dataset["id"]}, headers=bob).raise_for_status()
            begun.clear()
            http.get(path, headers=bob).raise_for_status()
            return len(begun)

        path = f"/v1/jobs/{job['id']}"
        assert cost(path) <= 3, "token, owner, job"
        assert [cost(path), cost("/v1/jobs"), cost("/v1/jobs?counts=true")] == [2, 2, 2]
