"""`python -m genrec VERB`, which launchers such as `accelerate launch -m genrec` run."""

from genrec.cli import main

if __name__ == "__main__":
    main()
