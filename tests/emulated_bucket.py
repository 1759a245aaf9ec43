"""A folder served as a Google Cloud Storage bucket, as far as reading needs it.

Both clients can be pointed at it: the one in C++ that ArrayRecord uses, by
CLOUD_STORAGE_EMULATOR_ENDPOINT, and gcsfs, by STORAGE_EMULATOR_HOST.
"""

import contextlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def emulated_bucket(folder: Path, bucket: str) -> Iterator[str]:
    """Yields the address of a server that hands out the folder as `gs://<bucket>`."""

    class Handler(_Handler):
        root = folder
        name = bucket

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    name: str

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        address = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        objects = f"/storage/v1/b/{self.name}/o"
        path = address.path.removeprefix("/download")
        if path.rstrip("/") == objects:
            self._list(query.get("prefix", ""), query.get("delimiter", ""))
        elif path.startswith(objects + "/"):
            name = urllib.parse.unquote(path.removeprefix(objects + "/"))
            self._object(name, media=query.get("alt") == "media")
        elif path.startswith(f"/{self.name}/"):
            self._object(urllib.parse.unquote(path.removeprefix(f"/{self.name}/")), media=True)
        else:
            self._answer(404, b"{}")

    def _list(self, prefix: str, delimiter: str) -> None:
        items, prefixes = [], set()
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_dir() or not name.startswith(prefix):
                continue
            rest = name.removeprefix(prefix)
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self._about(name))
        self._answer(200, json.dumps({"items": items, "prefixes": sorted(prefixes)}).encode())

    def _about(self, name: str) -> dict[str, str]:
        size = str((self.root / name).stat().st_size)
        day = "2026-01-01T00:00:00.000Z"
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": self.name,
            "generation": "1",
            "metageneration": "1",
            "size": size,
            "timeCreated": day,
            "updated": day,
        }

    def _object(self, name: str, *, media: bool) -> None:
        path = self.root / name
        if not path.is_file():
            self._answer(404, b'{"error": {"code": 404, "message": "no such object"}}')
        elif not media:
            self._answer(200, json.dumps(self._about(name)).encode())
        else:
            self._content(path.read_bytes())

    def _content(self, content: bytes) -> None:
        asked = self.headers.get("Range")
        if asked is None:
            self._answer(200, content)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last), len(content) - 1) if first and last else len(content) - 1
        place = f"bytes {start}-{end}/{len(content)}"
        self._answer(206, content[start : end + 1], {"Content-Range": place})

    def _answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        # A reader that has what it wants hangs up.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)
