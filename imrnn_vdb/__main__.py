"""``python -m imrnn_vdb`` is the command ``imrnn-vdb``."""

from imrnn_vdb.cli import main

if __name__ == "__main__":
    main(prog_name="imrnn-vdb")
