"""One file per system: a frozen configuration and a function that makes a Trainer of it."""
