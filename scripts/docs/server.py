"""Serves openapi.yaml as a page, and forwards every other request to the function.

    server.py PORT FUNCTION_PORT FOLDER

FOLDER holds swagger-ui-dist. The page and the function share one origin, so that a browser lets the page read every
response and every header without CORS.
"""

import http.client
import http.server
import pathlib
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "scripts/docs"
PORT, FUNCTION_PORT, SWAGGER_UI = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])

FILES = {
    "/": (HERE / "index.html", "text/html; charset=utf-8"),
    "/page.js": (HERE / "page.js", "text/javascript"),
    "/openapi.yaml": (ROOT / "openapi.yaml", "application/yaml"),
    "/swagger-ui/swagger-ui.css": (SWAGGER_UI / "swagger-ui.css", "text/css"),
    "/swagger-ui/swagger-ui-bundle.js": (SWAGGER_UI / "swagger-ui-bundle.js", "text/javascript"),
    "/swagger-ui/favicon-32x32.png": (SWAGGER_UI / "favicon-32x32.png", "image/png"),
}
# With this policy a browser loads nothing from another host. Swagger UI sets styles on its elements, and its style
# sheet contains its icons.
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
# Fields of one connection (RFC 9110 §7.6.1), and those that `send_response` writes itself.
NOT_FORWARDED = {"connection", "date", "keep-alive", "proxy-connection", "server", "te", "trailer", "transfer-encoding",
                 "upgrade"}
# Longer than a first build takes on two cores.
PATIENCE_S = 900


def forwarded(headers):
    return [(name, value) for name, value in headers if name.lower() not in NOT_FORWARDED]


class Docs(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        file, media_type = FILES.get(urllib.parse.urlsplit(self.path).path, (None, None))
        if file and self.command in ("GET", "HEAD"):
            content = file.read_bytes()
            self.send(200, [("Content-Type", media_type), ("Content-Length", str(len(content))),
                            ("Cache-Control", "no-cache"), ("Content-Security-Policy", POLICY)], content)
        else:
            self.forward()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        function = http.client.HTTPConnection("127.0.0.1", FUNCTION_PORT, timeout=PATIENCE_S)
        try:
            function.request(self.command, self.path, body or None, dict(forwarded(self.headers.items())))
            response = function.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as failure:
            content = f"No function answers on port {FUNCTION_PORT} ({failure}). Start it: make run\n".encode()
            self.send(502, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(content)))], content)
            return
        finally:
            function.close()
        headers = forwarded(response.getheaders())
        # A chunked response has no `Content-Length`.
        if content and not response.getheader("Content-Length"):
            headers.append(("Content-Length", str(len(content))))
        self.send(response.status, headers, content)

    def send(self, status, headers, content):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Docs).serve_forever()
