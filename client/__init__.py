"""The name of `rvc_train` before version 0.2."""

raise ImportError("the package client is now called rvc_train: from rvc_train import Client")
