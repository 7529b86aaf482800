"""Former name of the package `rvc_train`."""

raise ImportError(
    "the package client is now rvc_train, and server.schemas is now rvc_train.schemas: from rvc_train import Client"
)
