"""`python -m twinstep` is the command line."""

from twinstep.cli import main

if __name__ == "__main__":
    main()
