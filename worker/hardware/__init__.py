"""The devices of this machine: which there are, one worker for each, and what NVML reads from GPUs."""
