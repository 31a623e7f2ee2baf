"""Run the command line as ``python -m audiointerp``."""

from audiointerp.cli import main

if __name__ == "__main__":
    main()
