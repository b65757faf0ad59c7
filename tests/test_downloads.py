"Downloads from a server that misbehaves in every way, and archives that do: a wrong file never stands under the right name"

import gzip
import hashlib
import io
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plmsub.base.downloads import download
from plmsub.base.errors import ConfigError, DataError
from plmsub.io.data import Release, available_releases, fetch, local, read_listing, read_manifest, unpack

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA, MD5, SIZE = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest(), len(CONTENT)
PAGE = b"\n <!DOCTYPE html>\n<html><body>Please accept our terms</body></html>"
CHECKS = [{}, dict(size=SIZE), dict(sha256=SHA), dict(md5=MD5), dict(size=SIZE, sha256=SHA)]
each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda c: "+".join(c) or "nothing known")


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    "Waiting for the disk takes most of the time, and is not what is tested here"
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(os, "sync", lambda: None, raising=False)


# --- The server


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        have = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        self.have = int(have[1]) if have else None
        self.server.asked.append(self.have or 0)
        self.n = len(self.server.asked)  # number of this request, from 1
        try:
            self.server.behaviour(self)
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.close_connection = True

    def log_message(self, *args):
        pass

    def send(self, status, body, length=..., **headers):
        "An answer; `length` None sends none, underscores in names of headers become hyphens"
        self.send_response(status)
        length = len(body) if length is ... else length
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def serve(self, content=CONTENT, stop=None, **headers):
        "As a good server does, which may stop after some bytes of the answer"
        if self.have is None:
            return self.send(200, content[:stop], len(content), **headers)
        if self.have >= len(content):
            return self.send(416, b"", Content_Range=f"bytes */{len(content)}")
        rest = content[self.have :]
        self.send(
            206, rest[:stop], len(rest), Content_Range=f"bytes {self.have}-{len(content) - 1}/{len(content)}", **headers
        )

    def chunks(self, content, end=b"0\r\n\r\n", stop=None):
        self.protocol_version = "HTTP/1.1"
        self.send(200, b"", None, Transfer_Encoding="chunked")
        for i in range(0, len(content[:stop]), 50_000):
            block = content[i : i + 50_000]
            self.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
        self.wfile.write(end)


class Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.behaviour, self.url = [], Handler.serve, f"http://127.0.0.1:{self.server_port}/model.pt"
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=0.005), daemon=True).start()

    def does(self, behaviour):
        self.asked, self.behaviour = [], behaviour
        return self


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "models" / "model.pt"


def get(server, path, **kwargs):
    return download(server.url, path, **(dict(wait=0, timeout=5) | kwargs))


def refuses(server, path, *words, **kwargs):
    "The download must fail with these words in its message, which is complete, and leave nothing under the name"
    with pytest.raises(DataError) as error:
        get(server, path, **kwargs)
    assert not path.exists()
    assert not list(path.parent.glob(".*.lock"))
    for word in (*words, server.url, str(path)):
        assert word in str(error.value)
    return error.value


def parts(path):
    return list(path.parent.glob("*.part"))


def whole(path):
    "The file is right, and nothing else is in its folder"
    return path.read_bytes() == CONTENT and [p.name for p in path.parent.iterdir()] == [path.name]


# --- Connections that break


@each_check
def test_good_server(server, path, check):
    assert get(server, path, **check) == path and whole(path)
    server.does(None)
    assert get(server, path, **check) == path and server.asked == []


@each_check
def test_cut_off_twice_goes_on(server, path, check):
    server.does(lambda h: h.serve(stop=100_000 if h.n < 3 else None, ETag='"1"'))
    get(server, path, **check)
    assert whole(path) and server.asked == [0, 100_000, 200_000]


def test_a_later_call_goes_on(server, path):
    server.does(lambda h: h.serve(stop=50_000, ETag='"1"'))
    refuses(server, path, "broke off after 100,000 of 300,000 bytes", tries=2)
    server.does(lambda h: h.serve(ETag='"1"'))
    get(server, path)
    assert whole(path) and server.asked == [100_000]


def test_reset_keeps_what_arrived(server, path):
    def reset(h):
        if h.n > 1:
            return h.serve()
        h.serve(stop=100_000)
        time.sleep(0.1)  # what was sent is on its way
        h.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(h.connection.detach())

    server.does(reset)
    get(server, path, sha256=SHA)
    assert whole(path) and len(server.asked) == 2


def test_stall_ends_and_goes_on(server, path):
    def stall(h):
        h.serve(stop=100_000 if h.n == 1 else None)
        if h.n == 1:
            time.sleep(1.5)

    server.does(stall)
    get(server, path, sha256=SHA, timeout=0.3)
    assert whole(path) and server.asked == [0, 100_000]


def test_stall_before_the_answer(server, path):
    server.does(lambda h: time.sleep(1))
    refuses(server, path, "timed out", tries=2, timeout=0.2)


def test_chunked(server, path):
    server.does(lambda h: h.chunks(CONTENT))
    get(server, path)
    assert whole(path)


@each_check
def test_chunked_and_cut_off(server, path, check):
    server.does(lambda h: h.chunks(CONTENT, b"", 100_000))
    refuses(server, path, **check)


def test_no_server(server, path):
    server.shutdown()
    server.server_close()
    refuses(server, path, "Connection refused" if os.name == "posix" else "")


@pytest.mark.parametrize(
    "status, requests", [(404, 1), (403, 1), (410, 1), (500, 3), (503, 3), (429, 3), (204, 1), (304, 1)]
)
def test_status(server, path, status, requests):
    server.does(lambda h: h.send(status, b""))
    refuses(server, path, f"the server answers {status}")
    assert len(server.asked) == requests


@pytest.mark.parametrize("header", ["nonsense", "-5", "", "1e3"])
def test_a_length_that_is_no_number(server, path, header):
    server.does(lambda h: h.send(200, CONTENT, header))
    refuses(server, path, "how long")
    get(server, path, size=SIZE)
    assert whole(path)


def test_an_answer_that_is_not_http(server, path):
    server.does(lambda h: h.wfile.write(b"SSH-2.0-OpenSSH\r\n"))
    refuses(server, path)


# --- Lies about length


def test_length_too_long(server, path):
    server.does(lambda h: h.send(200, CONTENT, SIZE + 10))
    refuses(server, path, "broke off after 300,000 of 300,010")
    get(server, path, size=SIZE)  # here it is known better
    assert whole(path)


def test_length_too_long_and_checksum(server, path):
    def lie(h):
        return h.send(200, CONTENT, SIZE + 10) if h.have is None else h.serve()

    server.does(lie)
    get(server, path, sha256=SHA)
    assert whole(path) and server.asked == [0, SIZE]


@pytest.mark.parametrize("check", CHECKS[1:], ids="+".join)
def test_length_too_short(server, path, check):
    server.does(lambda h: h.send(200, CONTENT, SIZE - 10))
    refuses(server, path, "expected", **check)
    assert parts(path) == []


@pytest.mark.parametrize("length", [None, SIZE + 10])
def test_more_than_expected(server, path, length):
    server.does(lambda h: h.send(200, CONTENT + b"x" * 10, length))
    refuses(server, path, "expected 300,000", size=SIZE)
    assert parts(path) == []


def test_an_end_that_cannot_be_told(server, path):
    server.does(lambda h: h.send(200, CONTENT, None))
    refuses(server, path, "does not say how long")
    get(server, path, sha256=SHA)
    assert whole(path)


@pytest.mark.parametrize("check", CHECKS[1:], ids="+".join)
def test_cut_off_without_a_length(server, path, check):
    server.does(lambda h: h.send(200, CONTENT[:100_000], None))
    refuses(server, path, **check)


def test_an_empty_answer(server, path):
    server.does(lambda h: h.send(200, b""))
    refuses(server, path, "empty")
    download(server.url, path, size=0)
    assert path.read_bytes() == b""


# --- Ranges refused


def interrupted(server, path, then, **headers):
    "The first attempt leaves 100,000 bytes, later requests are answered by `then`"
    server.does(lambda h: h.serve(stop=100_000, **headers) if h.n == 1 else then(h))


@each_check
@pytest.mark.parametrize(
    "tag",
    [{}, dict(ETag='"1"'), dict(Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")],
    ids=["", "ETag", "Last-Modified"],
)
@pytest.mark.parametrize(
    "then",
    [
        lambda h: h.send(200, CONTENT),  # no ranges
        lambda h: h.send(416, b"") if h.have else h.serve(),
        lambda h: h.send(416, PAGE, Content_Type="text/html") if h.have else h.serve(),
        lambda h: (
            h.send(206, CONTENT[50_000:], Content_Range=f"bytes 50000-{SIZE - 1}/{SIZE}") if h.have else h.serve()
        ),  # another offset
        lambda h: h.send(206, CONTENT, Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}"),
        lambda h: h.send(206, CONTENT[100_000:]) if h.have else h.serve(),  # does not say what it sends
        lambda h: h.send(206, CONTENT, Content_Range="bytes=?") if h.have else h.serve(),
        lambda h: h.send(206, CONTENT[100_000:], Content_Range=f"bytes 100000-{SIZE - 1}/*") if h.have else h.serve(),
    ],
    ids=["200", "416", "416 page", "offset", "from 0", "no Content-Range", "nonsense", "unknown size"],
)
def test_ranges_refused(server, path, then, tag, check):
    interrupted(server, path, lambda h: then(h), **tag)
    get(server, path, **check)
    assert whole(path)


def test_a_server_that_always_sends_another_piece(server, path):
    server.does(lambda h: h.send(206, CONTENT[5:], Content_Range=f"bytes 5-{SIZE - 1}/{SIZE}"))
    refuses(server, path, "another piece")


def test_no_ranges_and_always_cut_off(server, path):
    server.does(lambda h: h.send(200, CONTENT[:100_000], SIZE))
    refuses(server, path, "broke off", sha256=SHA)
    assert server.asked == [0, 100_000, 100_000]


def test_pieces_in_small_answers(server, path):
    def small(h):
        end = min((h.have or 0) + 100_000, SIZE)
        h.send(206, CONTENT[h.have or 0 : end], Content_Range=f"bytes {h.have or 0}-{end - 1}/{SIZE}", ETag='"1"')

    get(server.does(small), path)
    assert whole(path) and server.asked == [0, 100_000, 200_000]


# --- Files that change, parts of something else


@pytest.mark.parametrize(
    "before, after",
    [
        (dict(ETag='"1"'), dict(ETag='"2"')),
        (dict(ETag='"1"'), {}),
        ({}, dict(ETag='"2"')),
        ({}, {}),
        (dict(Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT"), dict(Last_Modified="Fri, 02 Jan 2026 00:00:00 GMT")),
    ],
)
@pytest.mark.parametrize("check", [{}, dict(size=SIZE)], ids=["nothing known", "size"])
def test_versions_are_not_glued(server, path, before, after, check):
    server.does(lambda h: h.serve(OTHER, stop=100_000, **before) if h.n == 1 else h.serve(**after))
    get(server, path, **check)
    assert whole(path)


def test_versions_are_not_glued_with_a_checksum(server, path):
    interrupted(server, path, lambda h: h.serve(OTHER))
    refuses(server, path, "sha256", sha256=SHA)
    assert parts(path) == []


@pytest.mark.parametrize(
    "content", [OTHER[:100_000], OTHER, OTHER + OTHER, b""], ids=["shorter", "as long", "longer", "empty"]
)
@each_check
def test_a_wrong_part_does_no_harm_for_long(server, path, content, check):
    server.does(lambda h: h.serve(stop=100_000, ETag='"1"'))
    refuses(server, path, tries=1, **check)
    [part] = parts(path)
    if not check or check == dict(size=SIZE):
        content = CONTENT[: len(content)] if content else b""  # nobody could tell
    part.write_bytes(content)
    server.does(lambda h: h.serve(ETag='"1"'))
    get(server, path, **check)
    assert whole(path)


@each_check
def test_a_part_from_another_address(server, path, check):
    server.does(lambda h: h.serve(OTHER, stop=100_000, ETag='"1"'))
    with pytest.raises(DataError):
        download(server.url + "?old", path, wait=0, tries=1, **check)
    server.does(lambda h: h.serve(ETag='"1"'))
    get(server, path, **check)
    assert whole(path)


def test_a_whole_part_only_needs_its_name(server, path):
    server.does(lambda h: h.serve(stop=100_000))
    refuses(server, path, tries=1, sha256=SHA)
    parts(path)[0].write_bytes(CONTENT)
    get(server.does(Handler.serve), path, sha256=SHA)
    assert whole(path) and server.asked == [SIZE]


def test_wrong_content_is_not_asked_for_again(server, path):
    server.does(lambda h: h.serve(OTHER))
    for check in (dict(sha256=SHA), dict(md5=MD5), dict(sha256="0" * 64, md5=MD5)):
        server.asked.clear()
        refuses(server, path, "expected", **check)
        assert len(server.asked) == 1 and parts(path) == []


# --- Pages in place of data


@each_check
@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "application/octet-stream", None])
def test_page(server, path, kind, check):
    server.does(lambda h: h.send(200, PAGE, **({"Content_Type": kind} if kind else {})))
    refuses(server, path, "web page", **check)
    assert parts(path) == []


@pytest.mark.parametrize(
    "text", [b"<HTML><body>", b"\xef\xbb\xbf<!doctype html>", b"<head>", b'<?xml version="1.0"?><Error/>']
)
def test_page_without_a_type(server, path, text):
    server.does(lambda h: h.send(200, text))
    refuses(server, path, "web page")


def test_text_called_a_page(server, path):
    server.does(lambda h: h.send(200, b"Access denied", Content_Type="text/html"))
    refuses(server, path, "web page")


def test_page_in_pieces_too_small_to_tell(server, path):
    def drip(h):
        h.send(200, PAGE[:4], len(PAGE))
        time.sleep(0.1)
        h.wfile.write(PAGE[4:])

    refuses(server.does(drip), path, "web page")


@each_check
def test_page_between_two_pieces_keeps_the_first(server, path, check):
    server.does(
        lambda h: h.serve(stop=100_000, ETag='"1"') if h.n == 1 else h.send(200, PAGE, Content_Type="text/html")
    )
    refuses(server, path, "web page", **check)
    server.does(lambda h: h.serve(ETag='"1"'))
    get(server, path, **check)
    assert whole(path) and server.asked == [100_000]


def test_a_page_that_is_wanted(server, tmp_path):
    server.does(lambda h: h.send(200, PAGE, Content_Type="text/html"))
    assert download(server.url, tmp_path / "page.html").read_bytes() == PAGE


def test_a_page_that_is_there_already(server, path):
    path.parent.mkdir()
    path.write_bytes(PAGE)
    with pytest.raises(DataError, match="this is another file: it is a web page"):
        get(server, path)
    assert path.read_bytes() == PAGE


# --- Redirects


@each_check
def test_redirect(server, path, check):
    def redirect(h):
        return (
            h.send(302, b"", Location="/storage/1")
            if h.path == "/model.pt"
            else h.serve(stop=100_000 if h.n == 2 else None, ETag='"1"')
        )

    get(server.does(redirect), path, **check)
    assert whole(path) and server.asked == [0, 0, 100_000, 100_000]


@pytest.mark.parametrize(
    "to",
    [
        "/model.pt",
        "file:///etc/hostname",
        "ftp://127.0.0.1:1/model.pt",
        "http://127.0.0.1:x/",
        "http://[",
        "http://",
        "data:text/plain,x",
    ],
)
def test_redirect_to_nowhere(server, path, to):
    server.does(lambda h: h.send(302, b"", Location=to))
    refuses(server, path, tries=1)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "file:///etc/hostname", "/etc/hostname", ""])
def test_other_addresses(path, url):
    with pytest.raises(ConfigError, match="http"):
        download(url, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[",
        "http://127.0.0.1:x/",
        "http://127.0.0.1:1/a b",
        "http://127.0.0.1:1/\n",
        "http://127.0.0.1:1/é",
    ],
)
def test_broken_addresses(path, url):
    with pytest.raises(DataError):
        download(url, path, wait=0)
    assert not path.exists()


# --- The disk


def test_another_file_is_there(server, path):
    path.parent.mkdir()
    path.write_bytes(OTHER)
    for check in (dict(size=7), dict(sha256=SHA), dict(md5=MD5)):
        with pytest.raises(DataError, match="this is another file"):
            get(server, path, **check)
    assert path.read_bytes() == OTHER and server.asked == []


def test_folders_and_files_in_the_way(server, path):
    path.mkdir(parents=True)
    with pytest.raises(DataError, match="not a file"):
        get(server, path)
    (path / "file").touch()
    with pytest.raises(DataError, match="cannot be read or written"):
        get(server, path / "file" / "model.pt")
    with pytest.raises(DataError, match="cannot be read or written"):
        get(server, path.with_name("m" * 300))


LIMITED = """
import resource, sys
from plmsub.base.downloads import download
from plmsub.base.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)) # writing beyond fails, as on a full disk
try: download(sys.argv[1], sys.argv[2], wait=0)
except DataError as e: print(e)
"""


def python(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.skipif(os.name != "posix", reason="needs limits on the size of files")
def test_no_room(server, path):
    process = python(LIMITED, server.url, path)
    said, complaints = process.communicate(timeout=30)
    assert process.returncode == 0 and complaints == ""
    assert "cannot be read or written (File too large)" in said and not path.exists() and len(server.asked) == 1


# --- Several processes, and processes that are killed

FETCH = """
import sys
from plmsub.base.downloads import download
download(sys.argv[1], sys.argv[2], wait=0, sha256=(sys.argv[3:] or [None])[0])
"""


def slowly(h, stop=None, pause=0.02):
    "A good server on a slow line"
    h.serve(stop=0, ETag='"1"')
    for i in range(h.have or 0, SIZE, 10_000):
        h.wfile.write(CONTENT[i : i + 10_000])
        time.sleep(pause)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


def arrived(path):
    return sum(p.stat().st_size for p in parts(path))


@pytest.mark.parametrize("check", [(), (SHA,)], ids=["nothing known", "sha256"])
def test_killed_and_started_again(server, path, check):
    process = python(FETCH, server.url, path, *check)
    server.does(slowly)
    wait_for(lambda: arrived(path) >= 50_000)
    process.kill()
    process.communicate()
    have = arrived(path)
    assert 50_000 <= have < SIZE and not path.exists()
    server.does(lambda h: h.serve(ETag='"1"'))
    get(server, path, sha256=check[0] if check else None)
    assert whole(path) and server.asked == [have]


def test_two_processes_want_the_same_file(server, path):
    server.does(slowly)
    both = [python(FETCH, server.url, path) for _ in range(2)]
    for process in both:
        assert process.communicate(timeout=30) == ("", "") and process.returncode == 0
    assert whole(path) and server.asked == [0]


def test_one_of_two_is_killed_and_the_other_goes_on(server, path):
    server.does(slowly)
    first = python(FETCH, server.url, path, SHA)
    wait_for(lambda: arrived(path) >= 20_000)
    second = python(FETCH, server.url, path, SHA)
    wait_for(lambda: arrived(path) >= 150_000)
    first.kill()
    first.communicate()
    assert second.communicate(timeout=30) == ("", "") and second.returncode == 0
    assert whole(path) and len(server.asked) == 2 and server.asked[1] >= 150_000


def test_two_threads_want_the_same_file(server, path):
    server.does(lambda h: slowly(h, pause=0.005))
    threads = [threading.Thread(target=get, args=(server, path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole(path) and server.asked == [0]


# --- Releases


def test_the_manifest_that_ships():
    releases = read_manifest()
    groups = {"cath", "paper", "models", "contacts", "folding", "corpus", "localization", "mutations", "secondary"}
    assert {r.group for r in releases.values()} == groups
    assert all(r.url.startswith("https://") if r.url else r.by_hand for r in releases.values())
    assert all(r.file == f"models/{r.name}.pt" for r in releases.values() if r.group in ("models", "contacts"))


def test_the_copy_of_cath_is_the_release(tmp_path):
    from plmsub.base.files import shared_dir

    if shared_dir() is None:
        pytest.skip("needs the real CATH files")
    release = read_manifest()["cath-s20"]
    (tmp_path / "cath").mkdir()
    (tmp_path / release.file).write_bytes((shared_dir() / release.file).read_bytes())
    assert fetch("cath-s20", tmp_path) == local("cath-s20", tmp_path) == tmp_path / release.file


MANIFEST = json.dumps(
    [
        dict(name=f"r{i}", group="g", url="http://127.0.0.1/x", file=f"g/{i}", about="a", bytes=i, sha256="0" * 64)
        for i in range(2)
    ]
)


def test_damaged_manifests(tmp_path):
    chance = random.Random(0)
    bits = [
        "null",
        "[]",
        "{}",
        '""',
        "-1",
        "1e999",
        "NaN",
        '"../x"',
        '"name"',
        "{",
        "]",
        ",",
        "\x00",
        "é",
        "9" * 5000,
        "[" * 3000,
    ]
    for _ in range(300):
        text = MANIFEST
        for _ in range(chance.randint(1, 3)):
            i, j = sorted(chance.sample(range(len(text)), 2))
            text = text[:i] + chance.choice(bits + [text[i:j] * 2, ""]) + text[chance.choice([i, j]) :]
        (tmp_path / "m.json").write_text(text)
        try:
            releases = read_manifest(tmp_path / "m.json")
        except DataError as e:
            assert "m.json" in str(e)
        else:
            assert all(isinstance(r, Release) for r in releases.values())


def huggingface(files):
    return dict(
        sha="f" * 40, siblings=[dict(rfilename=n, size=s, lfs=h and dict(sha256=h, size=s)) for n, s, h in files]
    )


def zenodo(files, url):
    return dict(files=[dict(key=n, size=s, checksum=f"md5:{h}", links=dict(self=f"{url}/{n}")) for n, s, h in files])


def library(server, said):
    "A server with a listing and the files of it"

    def answer(h):
        if h.path.startswith("/api/"):
            return h.send(200, json.dumps(said).encode(), Content_Type="application/json")
        if h.path in ("/m/r/resolve/" + "f" * 40 + "/runs/mask%20%231.ckpt", "/files/mask.ckpt"):
            return h.serve()
        if h.path == "/m/r/resolve/" + "f" * 40 + "/README.md":
            return h.serve(b"Hello")
        h.send(404, b"")

    server.does(answer)


def releases(server):
    base = server.url.removesuffix("/model.pt")
    return dict(
        hf=Release("hf", "paper", f"{base}/api/models/m/r?blobs=true", "paper/hf", "a", listing="huggingface"),
        zenodo=Release("zenodo", "paper", f"{base}/api/records/1", "paper/zenodo", "a", listing="zenodo"),
    )


def test_huggingface(server, tmp_path):
    library(server, huggingface([("runs/mask #1.ckpt", SIZE, SHA), ("README.md", 5, None)]))
    known = releases(server)
    assert local("hf", tmp_path, known) is None
    folder = fetch("hf", tmp_path, known)
    assert folder == local("hf", tmp_path, known) == tmp_path / "paper" / "hf"
    assert (folder / "runs" / "mask #1.ckpt").read_bytes() == CONTENT and (folder / "README.md").read_text() == "Hello"
    server.does(None)
    assert fetch("hf", tmp_path, known) == folder and server.asked == []
    (folder / "README.md").unlink()
    assert available_releases(tmp_path, known).here.tolist() == ["in part", "no"]
    (folder / "README.md").write_text("Hello!")
    assert available_releases(tmp_path, known).here.tolist() == ["another file", "no"]


def test_zenodo(server, tmp_path):
    library(server, zenodo([("mask.ckpt", SIZE, MD5)], server.url.removesuffix("/model.pt") + "/files"))
    assert (fetch("zenodo", tmp_path, releases(server)) / "mask.ckpt").read_bytes() == CONTENT


def test_zenodo_with_another_file(server, tmp_path):
    library(server, zenodo([("mask.ckpt", SIZE, "0" * 32)], server.url.removesuffix("/model.pt") + "/files"))
    with pytest.raises(DataError, match="md5"):
        fetch("zenodo", tmp_path, releases(server))
    assert list((tmp_path / "paper" / "zenodo").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "..", "", "a//b", "a\\..\\x", "C:x", "x\n", " ", "a/./b", None, 7, ["x"]]
)
def test_listings_that_leave_the_folder(server, tmp_path, name):
    for kind, said in (("hf", huggingface([(name, 5, None)])), ("zenodo", zenodo([(name, 5, MD5)], server.url))):
        library(server, said)
        with pytest.raises(DataError):
            fetch(kind, tmp_path, releases(server))
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    "said",
    [
        [],
        {},
        7,
        "x",
        None,
        dict(files=[], siblings=[]),
        dict(files=7, siblings=7),
        dict(files=[7], siblings=[7]),
        dict(files=[{}], siblings=[{}]),
        huggingface([("a", -1, None)]),
        huggingface([("a", None, None)]),
        huggingface([("a", "5", None)]),
        huggingface([("a", 5, "abc")]),
        huggingface([("a", 5, None)] * 2),
        huggingface([("a", 5, None)]) | dict(sha=7),
        zenodo([("a", 5, "x")], "http://127.0.0.1"),
        zenodo([("a", 5, MD5)], "file:///etc"),
        zenodo([("a", 5, MD5)], None),
        dict(files=[dict(key="a", size=5, checksum=7, links=7)]),
    ],
)
def test_malformed_listings(server, tmp_path, said):
    library(server, said)
    for name in ("hf", "zenodo"):
        with pytest.raises(DataError):
            fetch(name, tmp_path, releases(server))
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_listing_that_is_there_is_not_thrown_away(tmp_path, server):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "hf.json").write_text("[]")
    with pytest.raises(DataError, match="hf.json"):
        fetch("hf", tmp_path, releases(server))
    assert (tmp_path / "paper" / "hf.json").exists() and available_releases(
        tmp_path, releases(server)
    ).here.tolist() == [
        "another file",
        "no",
    ]
    with pytest.raises(DataError):
        read_listing(tmp_path / "paper" / "hf.json", releases(server)["hf"])


# --- Archives


def member(name, content=b"ATOM\n", **settings):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for k, v in settings.items():
        setattr(info, k, v)
    return info, content


def tgz(path, *members, compress=True):
    with tarfile.open(path, "w:gz" if compress else "w") as t:
        for info, content in members:
            t.addfile(info, io.BytesIO(content))
    return path


def packed(path, *members):
    with zipfile.ZipFile(path, "w") as z:
        for name, content, mode in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16
            z.writestr(info, content)
    return path


def unpack_refused(archive, folder, words=""):
    with pytest.raises(DataError, match=words) as error:
        unpack(archive, folder)
    assert (
        not folder.exists() and [p.name for p in folder.parent.iterdir() if p.name.startswith(f".{folder.name}")] == []
    )
    return str(error.value)


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a/../b", "..", "a\\..\\..\\x", "C:\\x", "a\nb", "dompdb//..//x", ".../x"]
)
def test_archives_that_leave_the_folder(tmp_path, name):
    for archive in (
        tgz(tmp_path / "a.tgz", member("ok"), member(name)),
        packed(tmp_path / "a.zip", ("ok", b"1", 0o100644), (name, b"1", 0o100644)),
    ):
        assert "leads out of the folder" in unpack_refused(
            archive, tmp_path / "new", re.escape(repr(name)[1:-1].replace("\\\\", "\\"))
        )
    assert {p.name for p in tmp_path.iterdir()} == {"a.tgz", "a.zip"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path, kind):
    unpack_refused(
        tgz(tmp_path / "a.tgz", member("ok"), member("bad", b"", type=kind, linkname="ok")),
        tmp_path / "new",
        "is a link|neither.*bad",
    )


def test_links_in_zip(tmp_path):
    unpack_refused(packed(tmp_path / "a.zip", ("bad", b"/etc/hostname", 0o120777)), tmp_path / "new", "is a link.*bad")


def test_members_that_collide(tmp_path):
    for names in (("a", "a"), ("a", "./a"), ("a", "a/b"), ("a/b", "a")):
        unpack_refused(tgz(tmp_path / "a.tgz", *(member(n) for n in names)), tmp_path / "new", "twice|both")


def test_good_archives(tmp_path):
    folder = member("dompdb", b"", type=tarfile.DIRTYPE)
    plain = tgz(tmp_path / "a.pdb.tgz", folder, member("./dompdb/1oaiA00"), member("dompdb/107lA01", b"", mode=0))
    zipped = packed(
        tmp_path / "a.zip",
        ("dompdb/", b"", 0o40755),
        ("dompdb/1oaiA00", b"ATOM\n", 0),
        ("dompdb/107lA01", b"", 0o100644),
    )
    for archive in (plain, zipped):
        new = unpack(archive, tmp_path / f"{archive.name}-new")
        assert {p.relative_to(new).as_posix(): p.read_bytes() for p in new.rglob("*") if p.is_file()} == {
            "dompdb/1oaiA00": b"ATOM\n",
            "dompdb/107lA01": b"",
        }
        (new / "mine").touch()
        assert unpack(archive, new) == new and (new / "mine").exists()
        (new / "dompdb" / "1oaiA00").unlink()
        with pytest.raises(DataError, match="there already"):
            unpack(archive, new)
    assert unpack(plain) == tmp_path / "a.pdb" and unpack(zipped) == tmp_path / "a"


def test_archives_without_a_known_ending(tmp_path):
    archive = tgz(tmp_path / "archive", member("a"))
    with pytest.raises((DataError, ConfigError)):
        unpack(archive)
    assert unpack(archive, tmp_path / "new").is_dir()


def test_an_attempt_that_was_killed(tmp_path):
    archive = tgz(tmp_path / "a.tgz", member("a"))
    (tmp_path / ".new.part").mkdir()
    (tmp_path / ".new.part" / "old").touch()
    assert [p.name for p in unpack(archive, tmp_path / "new").iterdir()] == ["a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tgz", "new"]


def test_no_room_to_unpack(tmp_path, monkeypatch):
    archive = tgz(tmp_path / "a.tgz", member("a"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), dict(free=3)))
    unpack_refused(archive, tmp_path / "new", "room for 3")


@pytest.mark.parametrize(
    "pack",
    [
        tgz,
        lambda path, *members: tgz(path, *members, compress=False),
        lambda path, *members: packed(path, *((i.name, c, 0) for i, c in members)),
    ],
)
def test_damaged_archives(tmp_path, pack):
    chance = random.Random(0)
    content = {f"dompdb/{i}": chance.randbytes(chance.randrange(2000)) for i in range(8)}
    whole = pack(tmp_path / "good", *(member(n, c) for n, c in content.items())).read_bytes()
    archive, refused = tmp_path / "bad", 0
    for k in range(150):
        data = bytearray(whole)
        if k % 3 == 0:
            data = data[: chance.randrange(len(data))]
        else:
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        archive.write_bytes(gzip.compress(data, 1) if whole[:2] == b"do" else data)
        try:
            folder = unpack(archive, tmp_path / f"new{k}")
        except DataError:
            refused += 1
        else:
            assert (
                whole[:2] == b"do"
                or {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}.items()
                <= content.items()
            )
    assert refused > 50 and not list(tmp_path.glob(".*"))
