"""`python -m rvc_engine`: see `rvc_engine.cli.main`."""

from rvc_engine.cli.main import main

if __name__ == "__main__":
    main()
