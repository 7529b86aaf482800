"""The name that `rvc_train` had before."""

raise ImportError(
    "the package client is now rvc_train, and the wire shapes of server.schemas are in rvc_train.schemas: "
    "from rvc_train import Client"
)
