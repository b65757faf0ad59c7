"""Mutated inputs for every reader: each one is refused by name, or read faithfully

    python tests/fuzz.py [--n 2000] [--formats clf fasta] [--seed 0] [--minutes 10]

The formats, with their readers and oracles, are the entries of `formats.py`. Small valid files are changed at random
(`mutants`) and read (`check`). A reader may raise an error of the package that names the file, and the line where the
format has lines; or it may return what the oracle finds in the same bytes by other means. Anything else is a failure:
another exception, a warning that is no note on what was mended, something printed, a hang, too much memory, a value lost or invented."""

import argparse
import contextlib
import gzip
import io
import json
import re
import signal
import struct
import sys
import tempfile
import time
import warnings
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import torch
from formats import FORMATS

from plmsub.base.errors import PlmsubError
from plmsub.base.files import ReadingNote

# --- Mutations: functions of (draw, bytes) that return other bytes. `draw` asks hypothesis, which can then shrink.

ODD = [
    "",
    " ",
    "  ",
    "\t",
    "\n",
    "\n\n",
    "\r",
    "\r\n",
    "\0",
    "\ufeff",
    "\x0b",
    "\x0c",
    "\x1b[31m",
    "\x85",
    "\xa0",
    "\u2028",
    "\u200b",
    "\ud800",
    "é",
    "١",
    "１",
    "ſ",
    "😀",
    ",",
    ";",
    "|",
    "/",
    ":",
    "_",
    "-",
    ".",
    "#",
    ">",
    '"',
    "'",
    "(",
    "{",
    "*",
    "X",
    "J",
    "a",
    "NaN",
    "inf",
    "-inf",
    "0",
    "-0",
    "-1",
    "007",
    "1_000",
    "1e5",
    "1e400",
    "0x1F",
    "9" * 30,
    "9" * 5000,
    "<html>",
    "None",
    "null",
    "true",
]
ODD = [text.encode("utf-8", "surrogatepass") for text in ODD] + [b"\xff", b"\xc3", b"\xfe\xff"]
odd = st.sampled_from(ODD)


def place(draw, pieces):
    return draw(st.integers(0, max(0, len(pieces) - 1)))


def rearranged(draw, pieces, odd=odd):
    "One piece deleted, doubled, swapped with another, replaced or preceded by an odd one, or cut off with all that follow"
    i, j, new = place(draw, pieces), place(draw, pieces), [draw(odd)]
    how = draw(st.sampled_from(["delete", "double", "swap", "replace", "insert", "cut"]))
    if how == "swap" and pieces:
        pieces = list(pieces)
        pieces[i], pieces[j] = pieces[j], pieces[i]
    return {
        "delete": pieces[:i] + pieces[i + 1 :],
        "double": pieces[: i + 1] + pieces[i:],
        "swap": pieces,
        "replace": pieces[:i] + new + pieces[i + 1 :],
        "insert": pieces[:i] + new + pieces[i:],
        "cut": pieces[:i],
    }[how]


def lines(draw, data):
    return b"".join(rearranged(draw, data.splitlines(keepends=True)))


def inside_a_line(draw, data, change):
    rows = data.splitlines(keepends=True) or [b""]
    i = place(draw, rows)
    return b"".join(rows[:i] + [change(rows[i])] + rows[i + 1 :])


def columns(draw, data):
    return inside_a_line(draw, data, lambda row: b"".join(rearranged(draw, re.split(rb"([\s,;|/=]+)", row))))


def numbers(draw, data):
    return inside_a_line(draw, data, lambda row: b"".join(rearranged(draw, re.split(rb"([0-9.]+)", row))))


def characters(draw, data):
    i = place(draw, data)
    return data[:i] + draw(odd) + data[i + draw(st.integers(0, 3)) :]


def bits(draw, data):
    i = place(draw, data)
    return data[:i] + bytes(b ^ 1 << draw(st.integers(0, 7)) for b in data[i : i + 1]) + data[i + 1 :]


def separators(draw, data):
    old, new = draw(st.permutations([b" ", b"\t", b",", b";", b"|", b"\n", b">", b"/", b"_", b"."]))[:2]

    def change(text):
        return text.replace(old, new)

    return change(data) if draw(st.booleans()) else inside_a_line(draw, data, change)


def truncated(draw, data):
    return data[: place(draw, data)]


def gz(data):
    return gzip.compress(data, mtime=0)


HARMLESS = [  # to text: line ends, a byte-order mark, compression, a last line without an end
    lambda d: d.replace(b"\n", b"\r\n"),
    lambda d: d.replace(b"\n", b"\r"),
    lambda d: b"\xef\xbb\xbf" + d,
    gz,
    lambda d: d.rstrip(),
]
WHOLE = HARMLESS + [
    lambda d: b"",
    lambda d: b"\n",
    lambda d: d + d,
    lambda d: d.upper(),
    lambda d: d.lower(),
    lambda d: b"\xef\xbb\xbf" * 2 + d,
    lambda d: gz(d) * 2,
    lambda d: gz(d) + b"more",
    lambda d: gz(gz(d)),
    lambda d: d.decode("latin1").encode("utf-16"),
    lambda d: b"<!DOCTYPE html>\n<title>404</title>\n",
    lambda d: b"[" * 100_000,
    lambda d: b"PK\x03\x04" + d,
]


def whole(draw, data):
    return draw(st.sampled_from(WHOLE))(data)


def broken_gzip(draw, data):
    return draw(st.sampled_from([truncated, bits]))(draw, gz(data))


class Pairs(list):
    "A JSON object as (key, value) pairs, which may repeat a key"


class Raw(str):
    "A piece of JSON text that is written as it stands"


ODD_JSON = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    0.5,
    1e300,
    10**6,
    10**12,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "a",
    "1",
    "a\0",
    "\ud800",
    [],
    [[]],
    ["a"],
    [1, "a"],
    Pairs(),
    Pairs([("a", 1)]),
    Raw("1" * 5000),
    Raw("[" * 5000 + "]" * 5000),
    Raw("'a'"),
    Raw("1."),
    Raw("[1,]"),
]
odd_json, odd_pairs = (
    st.sampled_from(ODD_JSON),
    st.tuples(st.sampled_from(["", "a", "name", "shapes"]), st.sampled_from(ODD_JSON)),
)


def dumped(x):
    if isinstance(x, Raw):
        return x
    if isinstance(x, Pairs):
        return "{" + ", ".join(f"{json.dumps(k)}: {dumped(v)}" for k, v in x) + "}"
    return "[" + ", ".join(map(dumped, x)) + "]" if isinstance(x, list) else json.dumps(x)


def changed(draw, x):
    "JSON with one value changed somewhere, also within text that is JSON itself"
    if isinstance(x, str) and x.startswith("{"):
        return json_text(draw, x)
    if not isinstance(x, list) or not x or draw(st.integers(0, 4)) == 4:
        return draw(odd_json)
    pairs = isinstance(x, Pairs)
    if draw(st.integers(0, 2)) == 2:
        return type(x)(rearranged(draw, list(x), odd_pairs if pairs else odd_json))
    i = place(draw, x)
    return type(x)([*x[:i], (x[i][0], changed(draw, x[i][1])) if pairs else changed(draw, x[i]), *x[i + 1 :]])


def json_text(draw, text):
    try:
        tree = json.loads(text, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        tree = None  # another mutation came first
    return dumped(changed(draw, tree))


def json_values(draw, data):
    return json_text(draw, data).encode("utf-8", "surrogatepass")


def json_lines(draw, data):
    return inside_a_line(draw, data, lambda row: json_values(draw, row) + b"\n")


def header(draw, data):
    "The header of a safetensors file: JSON between its length and the tensors"
    n = int.from_bytes(data[:8], "little")
    new = json_values(draw, data[8 : 8 + n])
    return struct.pack("<Q", len(new)) + new + data[8 + n :]


def payload(draw, data):
    "A bit of the tensors themselves"
    n = 8 + int.from_bytes(data[:8], "little")
    return data[:n] + bits(draw, data[n:])


TEXT = (
    lines,
    columns,
    characters,
    numbers,
    separators,
    lines,
    columns,
    characters,
    bits,
    truncated,
    whole,
    broken_gzip,
)
JSON = (json_values,) * 6 + (lines, characters, numbers, bits, truncated, whole, broken_gzip)
BINARY = (bits, characters, truncated, whole)
EDITS = {
    ".json": JSON,
    ".jsonl": (*JSON[6:], *(json_lines,) * 6),
    ".safetensors": (*BINARY, payload, payload, *(header,) * 6),
    **dict.fromkeys((".pt", ".zip", ".tgz"), BINARY),
}  # by the ending of the file; everything else is text


class Files(dict):
    "Name -> bytes, without a long repr"


Files.__repr__ = object.__repr__


@st.composite
def mutants(draw, files):  # valid files, name -> bytes
    "The same files with one to four changes in one of them"
    name = draw(st.sampled_from(sorted(files)))
    data = files[name]
    for _ in range(draw(st.integers(1, 4))):
        data = draw(st.sampled_from(EDITS.get(Path(name).suffix, TEXT)))(draw, data)
    return Files({**files, name: data})


def harmless(files):
    "Valid files in other guises"
    texts = [name for name in files if Path(name).suffix not in EDITS]
    return [{**files, name: change(files[name])} for name in texts for change in HARMLESS]


# --- The check


class Failure(Exception):
    "A reader did what no reader may do"


class Hang(BaseException):
    "The time limit; no reader catches it by mistake"


ALL_OVER = re.compile(
    "several protein chains|no such chain|lacks columns"
)  # of messages that quote what stands in many lines


@contextlib.contextmanager
def guarded(seconds=10):  # yields a list of warnings and a stream of what was printed
    "A time limit, and an ear for what a reader says on the way"

    def stop(*_):
        raise Hang

    before, said = signal.signal(signal.SIGALRM, stop), io.StringIO()
    signal.alarm(seconds)
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("always")
            yield warned, said
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(form, files, folder, must_pass):
    "'refused' or 'accepted'; raises `Failure`"
    for name, data in files.items():
        (folder / name).unlink(missing_ok=True)  # the file before it may still be mapped into memory
        (folder / name).write_bytes(data)
    try:
        with guarded() as (warned, said):
            error, found = None, form.read(folder)
    except PlmsubError as e:
        error = e
    except Hang:
        raise Failure("it hangs") from None
    except Exception as e:
        raise Failure(f"{type(e).__name__}: {e}") from e
    other = [str(w.message) for w in warned if not issubclass(w.category, ReadingNote)]
    if other or said.getvalue():
        raise Failure(f"it says {other or said.getvalue()}")
    if error and must_pass:
        raise Failure(f"a valid file is refused: {error}")
    if error:
        return refusal(form, files, error)
    try:
        faithful = form.oracle(files)
    except Exception as e:
        raise Failure(f"accepted, but no faithful reading exists ({type(e).__name__}: {e})") from None
    if found == faithful or repr(found) == repr(faithful):
        return "accepted"  # nan equals nan in its repr only
    raise Failure("read as {}\n  and not as {}".format(*difference(found, faithful)))


def difference(a, b):
    "Where two values differ first, each in 300 characters"
    if isinstance(a, dict) and isinstance(b, dict):
        a, b = list(a.items()), list(b.items())
    if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        return next(difference(x, y) for x, y in zip(a, b) if repr(x) != repr(y))
    return f"{a!r:.300}", f"{b!r:.300}"


def refusal(form, files, error):
    if error.__cause__:
        raise Failure(f"caught by a net, not by a check: {error.__cause__!r}")
    if not str(error).isprintable() or len(str(error)) > 1000:
        raise Failure(f"the message is no readable line: {str(error)!r}")
    if not form.from_file:
        return "refused"
    if not any(name in str(error) for name in files):
        raise Failure(f"the message names no file: {error}")
    if form.lines and error.text and not error.line and not ALL_OVER.search(str(error)):
        raise Failure(f"the message quotes the file, and names no line: {error}")
    return "refused"


def shown(files, valid):
    "The lines in which mutated files differ from the valid ones"
    name = next((name for name in files if files[name] != valid[name]), None)
    if not name:
        return ""
    old, new = valid[name].split(b"\n"), files[name].split(b"\n")
    rows = [f"line {i}: {row!r:.300}" for i, row in enumerate(new, 1) if row not in old]
    return "\n    ".join([f"  in {name}", *(rows[:5] or [f"{len(new)} lines instead of {len(old)}"])])


# --- Many of them


def fuzz(name, n, seed=0, seconds=float("inf")):
    "At least `n` different mutants of a format: a row of numbers, and the smallest failing example of each failure"
    form, start, verdicts, failures = FORMATS[name], time.monotonic(), {}, []
    valid = form.files()
    with tempfile.TemporaryDirectory() as folder:

        def verdict(files, must_pass):
            try:
                verdicts[tuple(files.values())] = check(form, files, Path(folder), must_pass)
            except Failure as e:
                e.add_note(shown(files, valid))
                raise

        for files in (valid, *(harmless(valid) if form.from_file else ())):
            try:
                verdict(files, must_pass=True)
            except Failure as e:
                failures.append(f"{e}\n{e.__notes__[0]}")
        settings = hypothesis.settings(
            max_examples=min(n, 500),
            database=None,
            deadline=None,
            print_blob=False,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        )
        while len(verdicts) < n and not failures and time.monotonic() - start < seconds:
            test = hypothesis.seed(seed)(settings(hypothesis.given(mutants(valid), st.just(False))(verdict)))
            try:
                test()
            except* Failure as group:
                failures += [f"{e}\n{e.__notes__[0]}" for e in group.exceptions]
            seed += 1
    verdicts.pop(tuple(valid.values()), None)
    found = list(verdicts.values())
    return dict(
        format=name,
        inputs=len(found),
        refused=found.count("refused"),
        accepted=found.count("accepted"),
        failures=len(failures),
        seconds=round(time.monotonic() - start, 1),
    ), failures


def limit_memory(more=2 << 30):  # bytes; on Linux, where the size of a process can be read
    try:
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        pass


def main():
    parser = argparse.ArgumentParser(description="Mutated inputs for every reader")
    parser.add_argument("--n", type=int, default=2000, help="different mutants of each format")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=list(FORMATS), metavar="NAME", help=", ".join(FORMATS)
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="limit for each format")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.formats:
        FORMATS[name].files()  # made before memory is limited
    limit_memory()
    show, wrong = "{:<26}{:>9}{:>9}{:>9}{:>9}{:>9}".format, 0
    print(show("format", "inputs", "refused", "accepted", "failures", "seconds"))
    for name in given.formats:
        row, failures = fuzz(name, given.n, given.seed, 60 * given.minutes)
        print(show(*row.values()), *failures, sep="\n", flush=True)
        wrong += len(failures)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
