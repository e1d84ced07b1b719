"""The same as in the demonstration that inspired response-boost: a decorator that creates the cache, and with it a
connection, for each request."""

import functools

from aiocache import Cache
from aiocache.serializers import JsonSerializer
from fastapi import FastAPI, HTTPException
from fastapi_aiocache import REDIS, USERS
from mangum import Mangum

app = FastAPI()


def cache_response(ttl, namespace):
    def decorate(route):
        @functools.wraps(route)
        async def answer(user_id: int):
            cache = Cache(
                Cache.REDIS,
                endpoint=REDIS.hostname,
                port=REDIS.port,
                namespace=namespace,
                serializer=JsonSerializer(),
            )
            try:
                if (kept := await cache.get(f"user:{user_id}")) is not None:
                    return kept
                loaded = await route(user_id)
                await cache.set(f"user:{user_id}", loaded, ttl=ttl)
                return loaded
            finally:
                await cache.close()

        return answer

    return decorate


@app.get("/users/{user_id}")
@cache_response(ttl=3600, namespace="per-request")
async def get_user(user_id: int):
    if user_id not in USERS:
        raise HTTPException(status_code=404, detail="User not found")
    return USERS[user_id]


handler = Mangum(app, lifespan="off")
