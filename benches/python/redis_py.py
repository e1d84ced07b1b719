"""The alternative without a framework: redis-py, as in its documentation."""

import json
import os

import redis

cache = redis.Redis.from_url(os.environ["REDIS_URL"])


def handler(event, context):
    user_id = event["pathParameters"]["id"]
    key = f"redis-py:user:{user_id}"
    body = cache.get(key)
    if body is None:
        user = {"id": int(user_id), "name": "Manas", "email": "manas@example.com", "age": 25}
        body = json.dumps(user).encode()
        cache.set(key, body, ex=3600)
    return {
        "statusCode": 200,
        "headers": {"content-type": "application/json"},
        "body": body.decode(),
    }
