"""python -m densekit: the command, where its script is not on the path."""

from densekit.cli.main import main

if __name__ == "__main__":
    main()
