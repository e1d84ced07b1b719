"""`make docs`: the API in a browser, with requests to the function of `make run`.

DOCS_SCREENSHOT=page.png stores a picture of the page, for people to look at.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import unittest
import urllib.parse

from browser import CHROMIUM, Browser
from support import MANAS, PATIENCE_S, Make, ask, free_port, needs

# Presses the button of the first operation, GET; SHOWN returns the response that the page then shows.
EXECUTE = "document.querySelector('#operations-users-getUser button.execute')"
SHOWN = """(() => {
    const live = document.querySelector('#operations-users-getUser .live-responses-table .response');
    return live && [live.querySelector('.response-col_status').innerText.trim(),
                    [...live.querySelectorAll('pre, code')].map((part) => part.innerText).join('\\n')];
})()"""


def docs(port, function_port, **variables):
    return Make("docs", f"DOCS_PORT={port}", f"PORT={function_port}", **variables)


def wait_until_open(make):
    """Waits for the line with this text, and returns the URL in it."""
    return make.wait_until_ready(r"^Ready. Open: (http://\S+)/$")


@needs(shutil.which("npm"), "no npm, which brings the page of make docs")
class Docs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        port, function_port = free_port(), free_port()
        cls.run_ = Make("run", f"PORT={function_port}")
        cls.addClassCleanup(cls.run_.interrupt)
        cls.docs = docs(port, function_port)
        cls.addClassCleanup(cls.docs.interrupt)
        cls.run_.wait_until_ready()
        cls.page = wait_until_open(cls.docs)

    def test_the_page_forwards_what_the_function_answers(self):
        for path, status in [("/users/2", 200), ("/users/4", 404), ("/users/abc", 400), ("/orders", 404)]:
            for method in ["GET", "HEAD"]:
                with self.subTest(path=path, method=method):
                    reply = ask(self.page + path, method)
                    self.assertEqual(reply.status, status)
                    self.assertEqual(bool(reply.body), method == "GET")
        reply = ask(f"{self.page}/users/2")
        self.assertRegex(reply.cache_status, "^response-boost; hit")
        tag = {"If-None-Match": reply.headers["etag"]}
        self.assertEqual(ask(f"{self.page}/users/2", headers=tag).status, 304)
        self.assertEqual(ask(f"{self.page}/users/2", "POST", body="x").status, 405)

    @needs(CHROMIUM, "no Chromium for the page of make docs")
    def test_a_browser_shows_the_api_and_executes_a_request(self):
        browser = Browser()
        self.addCleanup(browser.close)
        browser.open(self.page)
        browser.wait_for(f"!!{EXECUTE}")
        shown = browser.evaluate("document.body.innerText")
        for text in ["Users", "/users/{id}", "GET", "HEAD", "A user", "If-None-Match"]:
            self.assertIn(text, shown)

        ask(f"{self.page}/users/1")
        browser.evaluate(f"{EXECUTE}.click()")
        status, response = browser.wait_for(SHOWN)
        if os.environ.get("DOCS_SCREENSHOT"):
            browser.screenshot(pathlib.Path(os.environ["DOCS_SCREENSHOT"]))
        self.assertEqual(status, "200", browser.requests)
        body = re.search(r"\{.*?\}", response, re.DOTALL)
        self.assertEqual(json.loads(body[0]), json.loads(MANAS))
        self.assertRegex(response, r"cache-status: response-boost; hit; ttl=\d+")
        self.assertRegex(response, r'etag: "[0-9a-f]{32}"')

        hosts = {urllib.parse.urlsplit(url).netloc for url in browser.requests if not url.startswith("data:")}
        self.assertEqual(hosts, {urllib.parse.urlsplit(self.page).netloc}, browser.requests)
        self.assertIn(f"{self.page}/users/1", browser.requests)
        self.assertEqual(browser.complaints, [])


@needs(shutil.which("npm"), "no npm, which brings the page of make docs")
class DocsAlone(unittest.TestCase):
    def test_without_a_function_the_page_says_how_to_start_one(self):
        function_port = free_port()
        make = docs(free_port(), function_port)
        self.addCleanup(make.interrupt)
        reply = ask(f"{wait_until_open(make)}/users/1")
        self.assertEqual(reply.status, 502)
        self.assertRegex(reply.body, f"No function answers on port {function_port} .* Start it: make run")
        self.assertIn(f"No function answers on port {function_port} yet", make.output())
        self.assertEqual(make.interrupt(), [], "left running")

    def test_a_port_that_is_taken_or_malformed_is_named(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            for port, said in [(port, f"port {port} on 127.0.0.1 is in use"),
                               ("x", "DOCS_PORT is x; accepted: a port number")]:
                make = docs(port, free_port())
                self.addCleanup(make.interrupt)
                self.assertNotEqual(make.wait(PATIENCE_S), 0)
                self.assertIn(said, make.output())


if __name__ == "__main__":
    unittest.main()
