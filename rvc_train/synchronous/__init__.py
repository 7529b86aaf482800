"""The client without asyncio, generated from `rvc_train.asynchronous` by `make synchronous`: edit it there."""
