"""A download is complete and right, or there is no file."""

from dataclasses import replace

import pytest

from rvc_train.errors import BadDownload, ClientError, ConnectionFailed, UsageError
from rvc_train.http.files import free_paths
from rvc_train.http.transport import TRANSFER_RETRIES


def test_a_whole_file_arrives_under_its_name(server, client, offered, tmp_path):
    server.answer = offered.serve
    calls = []
    path = client.download_artifact(offered.artifact, tmp_path, lambda done, total: calls.append((done, total)))
    assert path == tmp_path / "anna.pth"
    assert path.read_bytes() == offered.content
    assert calls[-1] == (len(offered.content), len(offered.content))
    assert [file.name for file in tmp_path.iterdir()] == ["anna.pth"]


def test_a_broken_download_goes_on_where_it_broke(server, client, offered, tmp_path):
    cuts = iter([100_000, 300_000, None])
    server.answer = lambda request: offered.serve(request, next(cuts))
    path = client.download_artifact(offered.artifact, tmp_path)
    assert path.read_bytes() == offered.content
    assert [headers.get("Range") for _, _, headers, _ in server.seen] == [None, "bytes=100000-", "bytes=400000-"]


def test_the_next_command_goes_on_with_the_part_of_an_interrupted_one(server, client, offered, tmp_path):
    (tmp_path / "anna.pth.part").write_bytes(offered.content[:5000])
    server.answer = offered.serve
    client.download_artifact(offered.artifact, tmp_path)
    assert server.seen[0][2]["Range"] == "bytes=5000-"
    assert (tmp_path / "anna.pth").read_bytes() == offered.content


@pytest.mark.parametrize("length", [13, 2_000_000], ids=["shorter", "longer"])
def test_a_part_of_another_voice_of_the_same_name_is_thrown_away(server, client, offered, tmp_path, length):
    (tmp_path / "anna.pth.part").write_bytes(b"v" * length)
    server.answer = offered.serve
    client.download_artifact(offered.artifact, tmp_path)
    assert (tmp_path / "anna.pth").read_bytes() == offered.content


def test_wrong_bytes_are_an_error_and_never_kept(server, client, offered, tmp_path):
    offered.content = offered.content[:-1] + b"!"
    server.answer = offered.serve
    with pytest.raises(BadDownload, match="other bytes"):
        client.download_artifact(offered.artifact, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_already_is_not_fetched_again(server, client, offered, tmp_path):
    (tmp_path / "anna.pth").write_bytes(offered.content)
    client.download_artifact(offered.artifact, tmp_path)
    assert server.seen == []


def test_a_server_that_is_gone_leaves_the_part_for_the_next_try(server, client, offered, tmp_path, monkeypatch):
    for room in ("asynchronous", "synchronous"):
        retries = replace(TRANSFER_RETRIES, max_attempts=2)
        monkeypatch.setattr(f"rvc_train.{room}.downloads.TRANSFER_RETRIES", retries)
    cuts = iter([100_000])
    server.answer = lambda request: offered.serve(request, cut) if (cut := next(cuts, None)) else request.cut()
    with pytest.raises(ConnectionFailed, match="run the same command again"):
        client.download_artifact(offered.artifact, tmp_path)
    assert (tmp_path / "anna.pth.part").read_bytes() == offered.content[:100_000]


@pytest.mark.parametrize("name", ["../anna.pth", "/etc/anna.pth", "..", ""])
def test_a_name_that_leads_elsewhere_is_refused(client, offered, tmp_path, name):
    offered.artifact.name = name
    with pytest.raises(ClientError, match="not a file name"):
        client.download_artifact(offered.artifact, tmp_path)


def test_of_two_downloads_into_one_folder_the_second_is_refused_and_spoils_nothing(server, client, offered, tmp_path):
    def answer(request):
        with pytest.raises(UsageError, match="another download is writing"):
            client.download_artifact(offered.artifact, tmp_path)
        offered.serve(request)

    server.answer = answer
    path = client.download_artifact(offered.artifact, tmp_path)
    assert path.read_bytes() == offered.content
    assert [file.name for file in tmp_path.iterdir()] == ["anna.pth"]


def test_another_voices_file_stays_and_the_new_one_gets_a_number(server, client, offered, tmp_path):
    (tmp_path / "anna.pth").write_bytes(b"another voice")
    (tmp_path / "anna (2).pth").write_bytes(b"x" * len(offered.content))  # of the same size
    server.answer = offered.serve
    path = client.download_artifact(offered.artifact, tmp_path)
    assert path == tmp_path / "anna (3).pth"
    assert (tmp_path / "anna.pth").read_bytes() == b"another voice"
    num_requests = len(server.seen)
    assert client.download_artifact(offered.artifact, tmp_path) == path
    assert len(server.seen) == num_requests
    client.download_artifact(offered.artifact, tmp_path, replace=True)
    assert (tmp_path / "anna.pth").read_bytes() == offered.content


def test_the_files_of_a_job_get_one_number_together(offered, tmp_path):
    voice, index = offered.artifact, offered.artifact.model_copy(update={"name": "anna.index"})
    (tmp_path / "anna.index").write_bytes(offered.content)  # the same index, of another voice
    (tmp_path / "anna.pth").write_bytes(b"another voice")
    assert [path.name for path in free_paths(tmp_path, [voice, index])] == ["anna (2).pth", "anna (2).index"]
    assert [path.name for path in free_paths(tmp_path, [voice, index], replace=True)] == ["anna.pth", "anna.index"]


def test_a_name_of_an_older_server_that_windows_cannot_store_is_mended(server, client, offered, tmp_path):
    offered.artifact = offered.artifact.model_copy(update={"name": "a:b?.pth"})
    server.answer = offered.serve
    assert client.download_artifact(offered.artifact, tmp_path).name == "a_b_.pth"
