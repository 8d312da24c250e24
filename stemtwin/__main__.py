"""`python -m stemtwin` is the command `stemtwin`."""

from stemtwin import main

main()
