"""Python's http.client. Arguments: host, port and the size of /large."""

import http.client
import sys

from known import known

HOST, PORT, LARGE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def connect():
    connection = http.client.HTTPConnection(HOST, PORT, timeout=20)
    connection.connect()
    return connection


def ask(connection, method, path, status=200, **options):
    """Sends a request and reads the whole answer, on the connection that there is."""
    socket = connection.sock
    assert socket is not None, f"{method} {path}: the connection was closed before"
    connection.request(method, path, **options)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == status, (method, path, answer.status, body[:200])
    assert connection.sock is socket, f"{method} {path}: the connection was not kept"
    return answer, body


def one_connection_serves_all_kinds():
    connection = connect()
    for count in range(100):
        assert ask(connection, "GET", f"/path/{count}?q=%20")[1] == f"/path/{count}?q=%20".encode()
        answer, body = ask(connection, "HEAD", "/path/12345")
        assert (body, answer.headers["Content-Length"]) == (b"", str(len("/path/12345?")))
        answer, body = ask(connection, "GET", "/nothing", status=204)
        assert (body, answer.headers["Content-Length"]) == (b"", None)
        assert ask(connection, "POST", "/echo", body=known(count * 100))[1] == known(count * 100)
        ask(connection, "GET", "/nowhere", status=404)
        ask(connection, "DELETE", "/immediate", status=405)
    connection.close()


def an_iterable_is_sent_in_chunks():
    connection = connect()
    content = known(500_000)
    for size in (1000, 4096, 65_536, 500_000):
        pieces = (content[at : at + size] for at in range(0, len(content), size))
        answer, body = ask(connection, "POST", "/echo", body=pieces)
        assert body == content, size
        assert answer.headers["x-framing"] == "chunked", size
    assert ask(connection, "POST", "/echo", body=iter([]))[1] == b""
    connection.close()


def a_large_body_may_be_read_slowly():
    slow, other = connect(), connect()
    slow.request("GET", "/large")
    answer, content = slow.getresponse(), bytearray()
    while piece := answer.read(65_536):
        content += piece
        # Another client's requests pass the time.
        for _ in range(3):
            assert ask(other, "GET", "/path/other")[1] == b"/path/other?"
    assert content == known(LARGE)
    assert ask(slow, "GET", "/path/after")[1] == b"/path/after?"
    slow.close()
    other.close()


one_connection_serves_all_kinds()
an_iterable_is_sent_in_chunks()
a_large_body_may_be_read_slowly()
