"""Other packages' calling conventions."""
