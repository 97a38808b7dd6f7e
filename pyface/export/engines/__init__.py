"""One module for each way to run a generator; `pyface.export.engine` opens them."""
