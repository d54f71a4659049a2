"""`python -m vaecli`, which is also how torchrun starts it."""

from vaecli.cli import main

if __name__ == "__main__":
    main()
