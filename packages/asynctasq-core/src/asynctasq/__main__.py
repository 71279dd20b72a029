"""`python -m asynctasq`, the same as the command `asynctasq`."""

from .cli import main

if __name__ == "__main__":
    main()
