"""Built on a socket that answers from a script."""

from __future__ import annotations

import socket
import threading

import pytest

from bench._http_client import Connection, request_bytes, requests_per_s


@pytest.fixture
def port() -> object:
    """Answers each request with 5 bytes, head and body in pieces, the third with a 404."""
    answers = [
        (b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 5\r\n\r\nab", b"cde"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde",),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",),
    ]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            for pieces in answers:
                client.recv(65536)
                for piece in pieces:
                    client.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    thread.join()
    listener.close()


def test_bodies_are_read_whole_and_errors_are_not_counted_as_answers(port: int) -> None:
    request = request_bytes("/x", {"A": "b"})
    with Connection(port) as end:
        assert end.get(request) == 5
        assert end.get(request) == 5
        with pytest.raises(ValueError, match="404 Not Found"):
            end.get(request)


async def test_an_error_under_load_ends_the_measurement(port: int) -> None:
    with pytest.raises(ValueError, match="404 Not Found"):
        await requests_per_s(port, request_bytes("/x", {}), connections=1, during_s=30)


def test_a_request_is_plain_http() -> None:
    assert request_bytes("/x", {"A": "b"}) == b"GET /x HTTP/1.1\r\nHost: bench\r\nA: b\r\n\r\n"
