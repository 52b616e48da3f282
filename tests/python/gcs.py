"""A small fake of GCS, as far as its XML interface is used: objects in memory, and in a log from which it begins again.

usage: gcs.py PORT FOLDER
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import os
import pickle
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

OBJECTS: dict = {}
UPLOADS: dict = {}
LOCK = threading.Lock()
LAST = [1]
LOG: list = []


def keep(kind: str, key: str, value) -> None:
    """Sets or removes (`None`) an object, an upload or a part of one, now and for whoever begins again. The lock is held."""
    apply(kind, key, value)
    pickle.dump((kind, key, value), LOG[0])
    LOG[0].flush()


def apply(kind: str, key: str, value) -> None:
    if kind == "part":
        UPLOADS[key]["parts"][value[0]] = value[1]
        return
    all_of_them = {"object": OBJECTS, "upload": UPLOADS}[kind]
    if value is None:
        all_of_them.pop(key, None)
    else:
        all_of_them[key] = value
        LAST[0] = max(LAST[0], value.get("generation", 0))


def begin(folder: Path) -> None:
    """Takes up what an earlier server had: all but what it was killed at."""
    log = folder / "objects.log"
    if log.exists():
        whole = 0
        with open(log, "rb") as kept, contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                apply(*pickle.load(kept))
                whole = kept.tell()
        os.truncate(log, whole)
    LOG.append(open(log, "ab"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    #: An answer's head and body go out together: sent one by one, each would wait 40 ms for the other side.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def log_message(self, *_) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        length = headers.get("content_length") or str(len(body))
        if "content_length" not in headers:
            self.send_header("content-length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        self.answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def parts(self):
        url = urlsplit(self.path)
        return unquote(url.path).lstrip("/"), parse_qs(url.query, keep_blank_values=True)

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            pieces = []
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
                if size == 0:
                    return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def put_object(self, name: str, data: bytes):
        """Stores it, unless a condition does not hold."""
        wanted = self.headers.get("x-goog-if-generation-match")
        with LOCK:
            there = OBJECTS.get(name)
            if wanted is not None and int(wanted) != (there["generation"] if there else 0):
                return None
            made = {"data": data, "generation": LAST[0] + 1, "at": time.time(), "tag": f'"{hashlib.md5(data).hexdigest()}"'}
            keep("object", name, made)
            return made

    def do_PUT(self) -> None:
        name, query = self.parts()
        data = self.body()
        if "partNumber" in query:
            with LOCK:
                if query["uploadId"][0] not in UPLOADS:
                    self.fail(404, "NoSuchUpload")
                    return
                keep("part", query["uploadId"][0], (int(query["partNumber"][0]), data))
            self.answer(200, ETag=f'"{hashlib.md5(data).hexdigest()}"')
            return
        source = self.headers.get("x-goog-copy-source")
        if source is not None:
            with LOCK:
                found = OBJECTS.get(unquote(source).lstrip("/"))
            if found is None:
                self.fail(404, "NoSuchKey")
                return
            data = found["data"]
        made = self.put_object(name, data)
        if made is None:
            self.fail(412, "PreconditionFailed")
        else:
            body = b"<CopyObjectResult/>" if source else b""
            self.answer(200, body, ETag=made["tag"], x_goog_generation=str(made["generation"]))

    def do_POST(self) -> None:
        name, query = self.parts()
        self.body()
        if "uploads" in query:
            found = uuid.uuid4().hex
            with LOCK:
                keep("upload", found, {"name": name, "parts": {}})
            text = f"<InitiateMultipartUploadResult><UploadId>{found}</UploadId></InitiateMultipartUploadResult>"
            self.answer(200, text.encode())
            return
        with LOCK:
            upload = UPLOADS.get(query["uploadId"][0])
            if upload is not None:
                keep("upload", query["uploadId"][0], None)
        if upload is None:
            self.fail(404, "NoSuchUpload")
            return
        made = self.put_object(name, b"".join(upload["parts"][n] for n in sorted(upload["parts"])))
        if made is None:
            self.fail(412, "PreconditionFailed")
            return
        text = f"<CompleteMultipartUploadResult><ETag>{escape(made['tag'])}</ETag></CompleteMultipartUploadResult>"
        self.answer(200, text.encode(), x_goog_generation=str(made["generation"]))

    def do_DELETE(self) -> None:
        name, query = self.parts()
        with LOCK:
            kind, key = ("upload", query["uploadId"][0]) if "uploadId" in query else ("object", name)
            found = (UPLOADS if kind == "upload" else OBJECTS).get(key)
            if found is not None:
                keep(kind, key, None)
        if found is None:
            self.fail(404, "NoSuchKey")
        else:
            self.answer(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name, query = self.parts()
        if name == "_all":
            with LOCK:
                sizes = {name: len(one["data"]) for name, one in OBJECTS.items()}
            self.answer(200, json.dumps(sizes).encode())
        elif name == "_uploads":
            with LOCK:
                names = [one["name"] for one in UPLOADS.values()]
            self.answer(200, json.dumps(names).encode())
        elif "uploads" in query:
            self.list_uploads(name.strip("/"), query)
        elif "list-type" in query:
            self.list(name.strip("/"), query)
        elif name == "":
            self.answer(200)
        else:
            self.get(name)

    def get(self, name: str) -> None:
        with LOCK:
            found = OBJECTS.get(name)
        if found is None:
            self.fail(404, "NoSuchKey")
            return
        data, status, more = found["data"], 200, {}
        ranged = self.headers.get("range")
        if ranged is not None:
            first, _, last = ranged.removeprefix("bytes=").partition("-")
            if first:
                begin, end = int(first), min(int(last) + 1 if last else len(data), len(data))
            else:
                begin, end = max(len(data) - int(last), 0), len(data)
            if begin >= len(data):
                self.fail(416, "InvalidRange")
                return
            more = {"content_range": f"bytes {begin}-{end - 1}/{len(data)}"}
            data, status = data[begin:end], 206
        head = {"ETag": found["tag"], "Last_Modified": email.utils.formatdate(found["at"], usegmt=True)}
        head["x_goog_generation"] = str(found["generation"])
        self.answer(status, data, **head, **more, content_length=str(len(data)))

    def list_uploads(self, bucket: str, query: dict) -> None:
        prefix, after = query.get("prefix", [""])[0], query.get("key-marker", [""])[0]
        with LOCK:
            found = sorted((one["name"].partition("/")[2], key) for key, one in UPLOADS.items() if one["name"].startswith(f"{bucket}/"))
        found = [one for one in found if one[0].startswith(prefix) and one > (after, query.get("upload-id-marker", ["~"])[0])]
        texts = [f"<Upload><Key>{escape(name)}</Key><UploadId>{key}</UploadId></Upload>" for name, key in found[:2]]
        if len(found) > 2:
            texts.append(f"<NextKeyMarker>{escape(found[1][0])}</NextKeyMarker><NextUploadIdMarker>{found[1][1]}</NextUploadIdMarker>")
        texts.append(f"<IsTruncated>{'true' if len(found) > 2 else 'false'}</IsTruncated>")
        self.answer(200, f"<ListMultipartUploadsResult>{''.join(texts)}</ListMultipartUploadsResult>".encode())

    def list(self, bucket: str, query: dict) -> None:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        limit = int(query.get("max-keys", ["1000"])[0])
        with LOCK:
            names = sorted(name.partition("/")[2] for name in OBJECTS if name.startswith(f"{bucket}/"))
            found, folders, last, more = [], [], "", False
            for name in names:
                if not name.startswith(prefix) or name <= after:
                    continue
                rest = name[len(prefix):]
                folder = prefix + rest.split(delimiter)[0] + delimiter if delimiter and delimiter in rest else None
                if folder is not None and (folder in folders or folder <= after):
                    continue
                if len(found) + len(folders) >= limit:
                    more = True
                    break
                if folder is not None:
                    folders.append(folder)
                    last = folder + "\U0010ffff"
                else:
                    found.append((name, OBJECTS[f"{bucket}/{name}"]))
                    last = name
        texts = []
        for name, one in found:
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(one["at"])) + f".{int(one['at'] * 1000) % 1000:03d}Z"
            size = len(one["data"])
            texts.append(f"<Contents><Key>{escape(name)}</Key><LastModified>{at}</LastModified>"
                         f"<ETag>{escape(one['tag'])}</ETag><Size>{size}</Size></Contents>")
        texts += [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        self.answer(200, f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>{''.join(texts)}{token}</ListBucketResult>".encode())


class Server(ThreadingHTTPServer):
    daemon_threads = True
    #: With the 5 of the library, a client that opens many connections at once has some of them cut.
    request_queue_size = 256


if __name__ == "__main__":
    begin(Path(sys.argv[2]))
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    server.serve_forever()
