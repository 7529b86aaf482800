"""The client on asyncio. `rvc_train.synchronous` is generated from this room: `make synchronous`."""
