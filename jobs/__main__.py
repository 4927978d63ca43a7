"""`python -m jobs` and `accelerate launch -m jobs`: the same as `facegan`."""

from jobs.cli import main

if __name__ == "__main__":
    main()
