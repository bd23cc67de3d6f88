"""`python -m phnnify` is the command `phnnify`."""

from phnnify.cli import main

if __name__ == "__main__":
    main()
