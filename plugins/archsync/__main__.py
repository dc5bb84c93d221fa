"""``python -m archsync``: the command line."""

from archsync.cli.main import archsync

if __name__ == "__main__":
    archsync(prog_name="archsync")
