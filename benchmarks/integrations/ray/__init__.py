"""The server's recovery of the masks over Ray workers, beside one core and beside `transport.RecoveryPool`."""
