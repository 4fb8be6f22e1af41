"""The commands of ``python -m hatband``: they do the work, ``__main__`` reads the command line."""
