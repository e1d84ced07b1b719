"""Sends a deployed API each kind of request: a miss, a hit, a 304, a 404, a 405.

usage: smoke.py URL NONE|AWS_IAM|JWT ID

With AWS_IAM requests are signed with the credentials that all AWS tools find; with JWT the token is
the one in the variable TOKEN. ID is a user that exists.
"""

import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

# The largest possible id, which no user has.
UNKNOWN = 2**63 - 1


class Failed(Exception):
    pass


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body
        self.cache_status = headers.get("cache-status") or ""


class Api:
    def __init__(self, url, authorization):
        self.url = url.rstrip("/")
        self.authorize = {"NONE": lambda *request: {}, "AWS_IAM": sign, "JWT": token}[authorization]

    def ask(self, path, method="GET", headers=None):
        url = self.url + path
        headers = {**(headers or {}), **self.authorize(method, url)}
        request = urllib.request.Request(url, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return Reply(reply.status, reply.headers, reply.read())
        except urllib.error.HTTPError as reply:
            return Reply(reply.code, reply.headers, reply.read())


def sign(method, url):
    """The headers of Signature Version 4."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.session import Session

    session = Session()
    credentials = session.get_credentials()
    if credentials is None:
        raise Failed("no AWS credentials; the API needs requests that are signed (ApiAuthorization=AWS_IAM)")
    # …execute-api.REGION.amazonaws.com
    named = re.search(r"\.execute-api\.([^.]+)\.", urllib.parse.urlsplit(url).netloc)
    region = named[1] if named else session.get_config_variable("region")
    if region is None:
        raise Failed("no region, neither in the URL nor in AWS_REGION")
    request = AWSRequest(method, url)
    SigV4Auth(credentials, "execute-api", region).add_auth(request)
    return dict(request.headers)


def token(_method, _url):
    if not os.environ.get("TOKEN"):
        raise Failed("TOKEN is not set; the API needs one (ApiAuthorization=JWT)")
    return {"Authorization": f"Bearer {os.environ['TOKEN']}"}


def expect(what, reply, status, cache_status=None, headers=()):
    """Prints the response, and fails if it is not the expected one."""
    print(f"{what}: {reply.status} {reply.cache_status}")
    if reply.status != status:
        raise Failed(f"{what}: expected {status}, got {reply.status}: {reply.body[:300].decode(errors='replace')}")
    if cache_status and not re.fullmatch(f"response-boost; {cache_status}", reply.cache_status):
        raise Failed(f"{what}: expected a Cache-Status like {cache_status}, got {reply.cache_status!r}")
    for name, value in headers:
        if reply.headers.get(name) != value:
            raise Failed(f"{what}: expected {name}: {value}, got {reply.headers.get(name)}")
    return reply


def smoke(api, user):
    path = f"/users/{user}"
    first = api.ask(path)
    kept = re.fullmatch(r"response-boost; hit; ttl=(\d+)", first.cache_status)
    if kept:
        # A little longer than it says, because the entry expires within that second.
        wait = int(kept[1]) + 2
        print(f"{path} is cached already; waiting {wait} s until it expires")
        time.sleep(wait)
        first = api.ask(path)
    expect("miss", first, 200, "fwd=uri-miss; stored")
    hit = expect("hit", api.ask(path), 200, r"hit; ttl=\d+", [("etag", first.headers["etag"])])
    if hit.body != first.body:
        raise Failed("hit: the body is not the one of the miss")
    not_modified = api.ask(path, headers={"If-None-Match": first.headers["etag"]})
    expect("304", not_modified, 304, r"hit; ttl=\d+")
    problem = ("content-type", "application/problem+json")
    expect("404", api.ask(f"/users/{UNKNOWN}"), 404, headers=[problem])
    expect("404, another path", api.ask("/orders"), 404, headers=[problem])
    expect("405", api.ask(path, "DELETE"), 405, headers=[problem, ("allow", "GET, HEAD")])
    print("everything as expected")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[2] not in ["NONE", "AWS_IAM", "JWT"]:
        sys.exit(__doc__)
    try:
        smoke(Api(sys.argv[1], sys.argv[2]), sys.argv[3])
    except Failed as failed:
        sys.exit(f"error: {failed}")
    except OSError as error:
        sys.exit(f"error: {sys.argv[1]}: {error}")
