"Every test runs offline, quietly and from the same seeds, and leaves the user's own data folder alone."

import os
import random
import socket
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOWHERE = "http://127.0.0.1:9"  # the discard port: what a child process asks of the network fails at once
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models are fastest on one thread, and the workers share the cores
os.environ.update(
    PLMSUB_QUIET="1",
    MPLBACKEND="Agg",
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    http_proxy=NOWHERE,
    https_proxy=NOWHERE,
    HTTP_PROXY=NOWHERE,
    HTTPS_PROXY=NOWHERE,
    no_proxy="localhost,127.0.0.1,::1",
    NO_PROXY="localhost,127.0.0.1,::1",
)
_data = tempfile.TemporaryDirectory(prefix="plmsub-tests-")
os.environ["PLMSUB_DATA"] = _data.name


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def pytest_unconfigure(config):
    _data.cleanup()


def _local(address):
    return not isinstance(address, tuple) or str(address[0]) in ("localhost", "127.0.0.1", "::1")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    "A connection that leaves this machine is an error; servers of a test's own on this machine are not"

    def guarded(name):
        real = getattr(socket.socket, name)

        def connect(self, address):
            if not _local(address):
                raise OSError(f"tests are offline: connection to {address}")
            return real(self, address)

        return connect

    lookup = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        if host is not None and not _local((host.decode() if isinstance(host, bytes) else host,)):
            raise OSError(f"tests are offline: look-up of {host}")
        return lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(name))


@pytest.fixture(autouse=True)
def seeded():
    "The global generators start every test from the same state (the package itself takes seeds)"
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def root():
    return ROOT
