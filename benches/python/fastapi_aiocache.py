"""The design that inspired response-boost, with FastAPI, aiocache and Mangum as in their documentation: a decorator
that stores what a route returns."""

import os
from urllib.parse import urlsplit

from aiocache import Cache, cached
from aiocache.serializers import JsonSerializer
from fastapi import FastAPI, HTTPException
from mangum import Mangum

REDIS = urlsplit(os.environ["REDIS_URL"])

USERS = {
    1: {"id": 1, "name": "Manas", "email": "manas@example.com", "age": 25},
    2: {"id": 2, "name": "omkar", "email": "omkar@example.com", "age": 29},
    3: {"id": 3, "name": "anand", "email": "anand@example.com", "age": 27},
}

app = FastAPI()


@app.get("/users/{user_id}")
@cached(
    ttl=3600,
    key_builder=lambda route, user_id: f"user:{user_id}",
    cache=Cache.REDIS,
    endpoint=REDIS.hostname,
    port=REDIS.port,
    namespace="fastapi",
    serializer=JsonSerializer(),
)
async def get_user(user_id: int):
    if user_id not in USERS:
        raise HTTPException(status_code=404, detail="User not found")
    return USERS[user_id]


handler = Mangum(app, lifespan="off")
