"A small server that speaks as much of the hub's API as huggingface_hub needs to make a repository, send files and fetch them."

import base64
import hashlib
import json
import re
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors",)  # stored by their checksum, as git-lfs does it


class Hub:
    "What the server keeps"

    def __init__(self):
        self.commits = defaultdict(list)  # repository -> (sha, path -> content), oldest first
        self.tags, self.large, self.asked = {}, {}, []

    def files(self, repo, revision):
        "sha and files of a revision: main, a tag or the sha of a commit"
        sha = self.tags.get((repo, revision), revision)
        commits = self.commits.get(repo, [])
        return next((c for c in reversed(commits) if sha in ("main", c[0])), None)

    def commit(self, repo, lines):
        files = dict(self.commits[repo][-1][1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[repo].append((sha, files))
        return sha


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content=b"", status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict({"Content-Length": str(len(content))}, **headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status=404, code="RepoNotFound"):
        self.answer({"error": code}, status, X_Error_Code=code)

    def handle_one(self):
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{self.command} {path}")
        for method, pattern, answer in ROUTES:
            if method == self.command and (m := re.fullmatch(pattern, path)):
                return answer(self, hub, body, *m.groups())
        self.refuse(code="EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_one


def create(self, hub, body):
    asked = json.loads(body)
    repo = f"{asked.get('organization') or 'user'}/{asked['name']}"
    if repo in hub.commits:
        return self.answer({"error": "exists", "url": f"{self.server.url}/{repo}"}, 409)
    hub.commits[repo].append(("0" * 40, {}))
    self.answer({"url": f"{self.server.url}/{repo}", "name": repo, "id": repo})


def validate(self, hub, body):
    import yaml

    front = json.loads(body)["content"].split("---")[1]
    wrong = [] if isinstance(yaml.safe_load(front), dict) else [{"message": "the front matter is no mapping"}]
    self.answer({"errors": wrong, "warnings": []}, 400 if wrong else 200)


def preupload(self, hub, body, repo, revision):
    modes = {f["path"]: "lfs" if f["path"].endswith(LARGE) else "regular" for f in json.loads(body)["files"]}
    self.answer({"files": [dict(path=p, uploadMode=mode, shouldIgnore=False) for p, mode in modes.items()]})


def batch(self, hub, body, repo):
    objects = []
    for o in json.loads(body)["objects"]:
        upload = {"href": f"{self.server.url}/large/{o['oid']}", "header": {}}
        objects.append(
            dict(o, authenticated=True, **({} if o["oid"] in hub.large else {"actions": {"upload": upload}}))
        )
    self.answer({"transfer": "basic", "objects": objects})


def put_large(self, hub, body, oid):
    assert hashlib.sha256(body).hexdigest() == oid
    hub.large[oid] = body
    self.answer()


def commit(self, hub, body, repo, revision):
    sha = hub.commit(repo, [json.loads(line) for line in body.splitlines() if line])
    self.answer({"commitUrl": f"{self.server.url}/{repo}/commit/{sha}", "commitOid": sha, "success": True})


def tag(self, hub, body, repo, revision):
    hub.tags[repo, json.loads(body)["tag"]] = revision
    self.answer({})


def about(self, hub, body, repo, revision="main"):
    if repo not in hub.commits:
        return self.refuse()
    if not (found := hub.files(repo, revision)):
        return self.refuse(code="RevisionNotFound")
    self.answer({"id": repo, "sha": found[0], "siblings": [{"rfilename": name} for name in found[1]], "tags": []})


def tree(self, hub, body, repo, revision):
    if not (found := hub.files(repo, revision)):
        return self.refuse(code="RevisionNotFound" if repo in hub.commits else "RepoNotFound")
    rows = []
    for name, content in found[1].items():
        row = dict(type="file", path=name, size=len(content), oid=hashlib.sha1(content).hexdigest())
        if name.endswith(LARGE):
            row["lfs"] = dict(oid=hashlib.sha256(content).hexdigest(), size=len(content), pointerSize=100)
        rows.append(row)
    self.answer(rows)


def resolve(self, hub, body, repo, revision, name):
    found = hub.files(repo, revision)
    if not found or name not in found[1]:
        return self.refuse(code="EntryNotFound")
    content = found[1][name]
    etag = (hashlib.sha256 if name.endswith(LARGE) else hashlib.sha1)(content).hexdigest()
    self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=found[0], Accept_Ranges="bytes")


R = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate),
    ("POST", rf"/api/models/{R}/preupload/([\w.-]+)", preupload),
    ("POST", rf"/{R}\.git/info/lfs/objects/batch", batch),
    ("PUT", r"/large/(\w+)", put_large),
    ("POST", rf"/api/models/{R}/commit/([\w.-]+)", commit),
    ("POST", rf"/api/models/{R}/tag/([\w.-]+)", tag),
    ("GET", rf"/api/models/{R}/tree/([\w.-]+)/?", tree),
    ("GET", rf"/api/models/{R}/revision/([\w.-]+)", about),
    ("GET", rf"/api/models/{R}", about),
    ("GET", rf"/{R}/resolve/([\w.-]+)/(.+)", resolve),
    ("HEAD", rf"/{R}/resolve/([\w.-]+)/(.+)", resolve),
]


@contextmanager
def hub_server():
    "A hub on this machine: what it keeps, and its address"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, server.url = Hub(), f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub, server.url
    finally:
        server.shutdown()
        server.server_close()
