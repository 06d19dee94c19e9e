"""Model × data pairs: what is found automatically, against the ways people choose by hand."""
