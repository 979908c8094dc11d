"""Arrays only: ring vectors, field elements, Shamir's scheme, bit packing. No bytes of messages, keys or states."""
