from __future__ import annotations

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from genrec.data import download as module
from genrec.data.download import amazon_urls, download, movielens_url
from genrec.errors import ConfigError, DataError

BODY = hashlib.shake_256(b"genrec").digest(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Publisher(ThreadingHTTPServer):
    """A publisher whose faults can be chosen; it notes the Range of every request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag = BODY, '"v1"'
        self.ranges: list[str | None] = []
        self.drops: list[int] = []  # bytes after which the next requests break off
        self.statuses: list[int] = []  # answers to the next requests
        self.supports_ranges = self.sends_length = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.gz"


class Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        status = server.statuses.pop(0) if server.statuses else 200
        if status != 200:
            self.send_error(status)
            return
        start = 0
        if asked and server.supports_ranges and self.headers.get("If-Range") == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            end = len(server.body)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        if server.sends_length:
            self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(body[: server.drops.pop(0)] if server.drops else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def publisher():
    server = Publisher()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def naps(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    return slept


def test_whole_file(publisher, tmp_path):
    target = tmp_path / "new" / "file.gz"
    assert download(publisher.url, target, SHA256, progress=False) == target
    assert target.read_bytes() == BODY
    assert os.listdir(target.parent) == ["file.gz"]
    download(publisher.url, target, SHA256)
    assert len(publisher.ranges) == 1, "what is there and right is not fetched again"


def test_goes_on_after_broken_connections(publisher, tmp_path, naps):
    publisher.drops = [100_000, 50_000]
    download(publisher.url, tmp_path / "f", SHA256)
    assert publisher.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / "f").read_bytes() == BODY
    assert naps == [1.0, 1.0], "progress resets the waiting time"


def test_next_call_goes_on_from_the_part(publisher, tmp_path):
    publisher.drops, publisher.statuses = [120_000], [200, 503, 503, 503]
    with pytest.raises(DataError, match=r"120,000 bytes are kept in .*f\.part"):
        download(publisher.url, tmp_path / "f", SHA256, retries=2)
    assert not (tmp_path / "f").exists()
    download(publisher.url, tmp_path / "f", SHA256)
    assert publisher.ranges[-1] == "bytes=120000-"
    assert sorted(os.listdir(tmp_path)) == ["f"]


def test_starts_over_when_asked_to(publisher, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 10)
    (tmp_path / "f.part.tag").write_text('"v1"')
    download(publisher.url, tmp_path / "f", SHA256, resume=False)
    assert publisher.ranges == [None]


def test_part_of_another_version_is_not_continued(publisher, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 10)
    (tmp_path / "f.part.tag").write_text('"v0"')
    download(publisher.url, tmp_path / "f")
    assert publisher.ranges == ["bytes=10-"]
    assert (tmp_path / "f").read_bytes() == BODY


def test_part_of_unknown_version_is_not_continued(publisher, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 10)
    download(publisher.url, tmp_path / "f")
    assert publisher.ranges == [None]
    assert (tmp_path / "f").read_bytes() == BODY


def test_publisher_without_ranges(publisher, tmp_path):
    publisher.supports_ranges, publisher.drops = False, [100_000]
    download(publisher.url, tmp_path / "f", SHA256)
    assert publisher.ranges == [None, "bytes=100000-"]
    assert (tmp_path / "f").read_bytes() == BODY


def test_publisher_without_ranges_that_always_breaks_off(publisher, tmp_path, naps):
    publisher.supports_ranges, publisher.drops = False, [100_000] * 20
    with pytest.raises(DataError, match="broke off after 100,000 of 300,000 bytes"):
        download(publisher.url, tmp_path / "f", retries=3)
    assert len(publisher.ranges) == 5, "one try that brings bytes, one and three more that do not"
    assert naps == [1.0, 1.0, 2.0, 4.0]


def test_publisher_without_length_or_version(publisher, tmp_path):
    publisher.sends_length, publisher.etag = False, ""
    download(publisher.url, tmp_path / "f", SHA256)
    assert sorted(os.listdir(tmp_path)) == ["f"]


def test_part_that_is_already_whole(publisher, tmp_path):
    (tmp_path / "f.part").write_bytes(BODY)
    (tmp_path / "f.part.tag").write_text('"v1"')
    download(publisher.url, tmp_path / "f", SHA256)
    assert publisher.ranges == [f"bytes={len(BODY)}-"]


def test_part_that_is_too_long(publisher, tmp_path):
    (tmp_path / "f.part").write_bytes(BODY + b"x")
    (tmp_path / "f.part.tag").write_text('"v1"')
    download(publisher.url, tmp_path / "f", SHA256)
    assert (tmp_path / "f").read_bytes() == BODY


def test_wrong_bytes(publisher, tmp_path):
    publisher.body = BODY[:-1] + b"?"
    with pytest.raises(DataError, match=f"expected {SHA256}"):
        download(publisher.url, tmp_path / "f", SHA256)
    assert os.listdir(tmp_path) == []


def test_wrong_file_already_there(publisher, tmp_path):
    (tmp_path / "f").write_text("something else")
    with pytest.raises(DataError, match="remove it"):
        download(publisher.url, tmp_path / "f", SHA256)
    assert publisher.ranges == []


def test_temporary_answers_are_tried_again(publisher, tmp_path, naps):
    publisher.statuses = [503, 429]
    download(publisher.url, tmp_path / "f", SHA256, backoff=0.5)
    assert naps == [0.5, 1.0]


def test_final_answers_are_not(publisher, tmp_path):
    publisher.statuses = [404]
    with pytest.raises(DataError, match="404"):
        download(publisher.url, tmp_path / "f")
    assert len(publisher.ranges) == 1 and os.listdir(tmp_path) == []


def test_nobody_there(publisher, tmp_path):
    url = publisher.url
    publisher.server_close()
    with pytest.raises(DataError, match="connection fails"):
        download(url, tmp_path / "f", retries=1)


def test_unwritable_folder(publisher, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        download(publisher.url, tmp_path / "file" / "f")
    assert publisher.ranges == []


def test_full_disk(publisher, tmp_path, monkeypatch):
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(module, "open", lambda *args: full, raising=False)
        with pytest.raises(DataError, match="No space left"):
            download(publisher.url, tmp_path / "f")
    assert not (tmp_path / "f").exists() and len(publisher.ranges) == 1


def test_only_web_addresses(tmp_path):
    with pytest.raises(ConfigError, match="http"):
        download("file:///etc/hostname", tmp_path / "f")


def test_publishers_addresses(monkeypatch, tmp_path):
    for version in ("2014", "2018", "2023"):
        reviews, metadata = amazon_urls(version, "Toys_and_Games")
        assert "Toys_and_Games" in reviews and "meta_Toys_and_Games" in metadata
    assert movielens_url("ml-1m").endswith("/ml-1m.zip")
    with pytest.raises(ConfigError, match="2014, 2018, 2023"):
        amazon_urls("2020", "Beauty")
    with pytest.raises(ConfigError, match="spelling"):
        amazon_urls("2014", "../Beauty")
    with pytest.raises(ConfigError, match="ml-1m"):
        movielens_url("ml-9m")
