"""The programs `rvc-engine` and `rvc_training_pipeline.py`: options in, a config and a request to `pipeline` out."""
