"""`python -m symbiosis_core`: the `symbiosis` command where its script is not on the path."""

from symbiosis_core.cli import main

if __name__ == "__main__":
    main()
