"""`python -m pyface` is the command `pyface`."""

from pyface.cli import main

if __name__ == "__main__":
    main()
