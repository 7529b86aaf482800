"""The user's system: processes, disks and files, GPUs, proxies of the environment, text files as editors write
them, words as shells read them."""
