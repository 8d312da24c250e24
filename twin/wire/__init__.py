"""What travels over a network, as bytes: one file is one protocol. No sockets here."""
