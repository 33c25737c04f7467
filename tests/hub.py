"""A hub of models on this machine: as much of Hugging Face's interface as their own client asks for."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_secret"


class Hub(ThreadingHTTPServer):
    """Keeps `files` by repository, and whether each is `private`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.files, self.private = {}, {}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        pass

    def answer(self, status, value=b"", **headers):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in self.server.files
            self.server.files.setdefault(name, {})
            self.server.private.setdefault(name, asked.get("private") or asked.get("visibility") == "private")
            return self.answer(409 if known else 200, {"url": f"{self.server.address}/{name}"})
        _, _, _, owner, name, action, _ = self.path.partition("?")[0].split("/")
        if action == "preupload":
            files = [
                {**each, "uploadMode": "regular", "shouldIgnore": False} for each in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] != "header":
                content = base64.b64decode(line["value"]["content"])
                self.server.files[f"{owner}/{name}"][line["value"]["path"]] = content
        address = f"{self.server.address}/{owner}/{name}/commit/{COMMIT}"
        return self.answer(200, {"commitUrl": address, "commitOid": COMMIT})

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        api = path.removeprefix("api/models/").split("/")
        name = "/".join(api[:2])
        if name not in self.server.files:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        files = self.server.files[name]
        if path.startswith("api/") and api[2] == "tree":
            listed = [
                {"type": "file", "path": each, "size": len(content), "oid": _oid(content)}
                for each, content in files.items()
            ]
            return self.answer(200, listed)
        if path.startswith("api/"):
            siblings = [{"rfilename": each} for each in files]
            return self.answer(200, {"_id": "1", "id": name, "sha": COMMIT, "siblings": siblings})
        content = files["/".join(api[4:])]
        return self.answer(200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
