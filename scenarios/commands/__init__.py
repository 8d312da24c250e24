"""Commands of `stemtwin`: parse, print, set exit codes; they import what computes only when called."""
