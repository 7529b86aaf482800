"""`python -m rvc_engine`: see `rvc_engine.cli`."""

from rvc_engine.cli import main

if __name__ == "__main__":
    main()
