"""Network protocols as bytes: one file per protocol. No sockets here."""
