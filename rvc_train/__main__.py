"""`python -m rvc_train`: see `rvc_train.cli.main`. For systems where the folder of programs is not searched."""

from rvc_train.cli.main import main

if __name__ == "__main__":
    main()
