"""An example of a package that extends evomerge without a fork."""
