"""``python -m lissom``: the command, where its script is not on the path."""

from lissom.cli import main

if __name__ == "__main__":
    main()
