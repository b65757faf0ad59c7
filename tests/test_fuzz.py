"The short form of `fuzz.py`: some sixty mutants of each format, the same ones every time"

import sys

import pytest

pytest.importorskip("hypothesis")
if sys.platform == "win32":
    pytest.skip("the time limit needs SIGALRM", allow_module_level=True)

from formats import FORMATS
from fuzz import fuzz


@pytest.mark.parametrize("name", FORMATS)
def test_mutants_are_refused_by_name_or_read_faithfully(name):
    row, failures = fuzz(name, 60)
    assert not failures, "\n".join(failures)
    assert row["inputs"] >= 60 and (row["refused"] or not FORMATS[name].refuses)
