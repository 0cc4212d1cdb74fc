"""`python -m lab COMMAND …` is `tulle lab COMMAND …`."""

from lab.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
