"""`python train.py` is `deepal run`."""

from deepal.cli import run

if __name__ == "__main__":
    run()
